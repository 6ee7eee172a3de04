#!/bin/bash
# Build a guest with Debian's kernel for 64-bit ARM, whose own dht11 driver reads simulated sensors.
#
#     ./build.sh FOLDER             a quarter of an hour, most of it for the Debian, which is kept
#
# FOLDER/kernel, FOLDER/initrd and FOLDER/tree.dtb boot it: run.py does.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
project=$(realpath "$here/../../..") folder=$(realpath -m "$1")
packages=python3,linux-image-arm64,linux-headers-arm64,gcc,make,busybox-static
mkdir -p "$folder"
cd "$folder"

if [ ! -e tree/etc/debian_version ]; then
    nice mmdebstrap --arch=arm64 --variant=minbase --include="$packages" "${SUITE:-trixie}" tree \
        "${MIRROR:-http://deb.debian.org/debian}"
fi
version=$(basename tree/usr/lib/modules/*)
modules=/usr/lib/modules/$version
cp "tree/boot/vmlinuz-$version" kernel

# Our module, and Debian's dht11, as it is.
mkdir -p tree/usr/src/dht_line
cp -u "$here"/{dht_line.c,Makefile} tree/usr/src/dht_line
chroot tree make -C "$modules/build" M=/usr/src/dht_line

# The initrd is all there is: Python, the modules, and this project.
rm -rf root
mkdir -p root/{bin,dev,proc,sys,tmp,etc,modules,usr/bin,usr/lib} root/usr/lib/aarch64-linux-gnu
ln -s usr/lib root/lib
cp -r "$project"/*.py "$project"/dht22 root
cp "$here/guest.py" root/init
cp tree/usr/bin/busybox root/bin/busybox
cp -r tree/usr/bin/python3* root/usr/bin
cp -r tree/usr/lib/python3* root/usr/lib
cp -P tree/usr/lib/ld-linux-aarch64.so.1 root/usr/lib
cp tree/usr/lib/aarch64-linux-gnu/ld-linux-aarch64.so.1 root/usr/lib/aarch64-linux-gnu
for library in c m z expat ssl crypto lzma bz2 sqlite3 ffi zstd; do
    cp -P tree/usr/lib/aarch64-linux-gnu/lib$library.so* root/usr/lib/aarch64-linux-gnu
done
cp tree/usr/src/dht_line/dht_line.ko root/modules
for name in iio/industrialio iio/humidity/dht11; do
    xz -dc "tree$modules/kernel/drivers/$name.ko.xz" > "root/modules/$(basename $name).ko"
done
find root -name __pycache__ -prune -exec rm -r {} +
chroot tree python3 --version
(cd root && find . | cpio -o -H newc --quiet | gzip -1) > initrd

# The machine's own device tree, with the sensors in it, as the overlay of the Pi describes them.
qemu-system-aarch64 -M virt,dumpdtb=machine.dtb -cpu cortex-a53 -m 512 -display none
{
    dtc -q -I dtb -O dts machine.dtb
    cat <<'DTS'
/ {
    sensors: sensors {
        compatible = "dht22,line";
        gpio-controller;
        #gpio-cells = <2>;
        interrupt-controller;
        #interrupt-cells = <2>;
    };
    dht11@b {
        compatible = "dht11";
        gpios = <&sensors 11 0>;
    };
    dht11@4 {
        compatible = "dht11";
        gpios = <&sensors 4 0>;
    };
};
DTS
} > tree.dts
dtc -q -I dts -O dtb tree.dts > tree.dtb
ls -la kernel initrd tree.dtb
