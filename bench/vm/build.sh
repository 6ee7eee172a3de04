#!/bin/bash
# Build what the power cuts need in FOLDER: a kernel, a small initrd, and the root of a Debian.
#
#     ./build.sh FOLDER             a few minutes and 3 GB; SUITE=bookworm: another Debian than trixie
#
# FOLDER/tree is the root, FOLDER/root.img the same as an image, with this project in /opt/dht22 and
# guest.py as its first process; FOLDER/vmlinux and FOLDER/initrd boot it. When the project has
# changed, run it again: the Debian is kept.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
project=$(realpath "$here/../..") folder=$(realpath -m "$1")
suite=${SUITE:-trixie} mirror=${MIRROR:-http://deb.debian.org/debian}
packages=systemd,systemd-sysv,udev,dbus,libpam-systemd,systemd-resolved,systemd-timesyncd,python3
packages+=,python3-paho-mqtt,python3-venv,mosquitto,logrotate,linux-image-amd64,initramfs-tools
packages+=,sudo,iproute2,openssh-server,e2fsprogs,dosfstools,f2fs-tools,zstd,xz-utils,kmod,procps
packages+=,cron,less,psmisc,busybox-static,passwd,login,tzdata,avahi-daemon,libnss-mdns
mkdir -p "$folder"
cd "$folder"

if [ ! -e tree/etc/debian_version ]; then
    nice mmdebstrap --variant=minbase --include="$packages" "$suite" tree "$mirror"
fi
version=$(basename tree/usr/lib/modules/*)

# The kernel, unpacked (it is inside of vmlinuz): without KVM that saves some seconds a boot.
python3 - "tree/boot/vmlinuz-$version" vmlinux <<'PYTHON'
import lzma, subprocess, sys

packed = open(sys.argv[1], "rb").read()
if b"\x28\xb5\x2f\xfd" in packed:
    start = packed.index(b"\x28\xb5\x2f\xfd")
    kernel = subprocess.run(["zstd", "-dc"], input=packed[start:], capture_output=True).stdout
else:
    kernel = lzma.LZMADecompressor().decompress(packed[packed.index(b"\xfd7zXZ\0") :])
assert kernel.startswith(b"\x7fELF")
open(sys.argv[2], "wb").write(kernel)
PYTHON

# The initrd: busybox and the modules for the disk, and nothing that waits.
insert() { # module: load it and what it needs, in this order
    while read -r kind path _; do
        [ "$kind" = insmod ] || continue
        name=$(basename "$path" .xz)
        case $path in
            *.xz) xz -dc "$path" > "early/modules/$name" ;;
            *) cp "$path" "early/modules/$name" ;;
        esac
        loaded=$(echo "${name%.ko}" | tr - _)
        echo "    [ -e /sys/module/$loaded ] || \$b insmod /modules/$name"
    done < <(chroot tree modprobe -S "$version" -D "$1" | sed "s#insmod /#insmod $folder/tree/#")
}
rm -rf early
mkdir -p early/{bin,dev,proc,sys,root,modules}
cp tree/usr/bin/busybox early/bin/busybox
ln -s busybox early/bin/sh
{
    cat <<'INIT'
#!/bin/sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
read words < /proc/cmdline
INIT
    for module in virtio_pci virtio_blk virtio_net virtio_rng ext4; do insert $module; done
    echo 'case $words in *fs=vfat*)'
    for module in vfat nls_cp437 nls_ascii nls_utf8; do insert $module; done
    echo ';; *fs=f2fs*)'
    insert f2fs
    cat <<'INIT'
;; esac
while [ ! -b /dev/vda ]; do $b usleep 10000; done
case $words in
    *init=*) $b mount -t ext4 -o rw /dev/vda /root; init=/sbin/init ;;
    *) $b mount -t ext4 -o ro,noload /dev/vda /root; init=/sbin/guest ;;
esac
for each in proc sys dev; do $b mount -o move /$each /root/$each; done
exec $b switch_root /root $init
INIT
} > early/init
chmod +x early/init
(cd early && find . | cpio -o -H newc --quiet | gzip -1) > initrd

# The root for the cuts. It is never written.
rm -rf tree/opt/dht22
mkdir -p tree/opt/dht22 tree/var/lib/dht22
cp -r "$project"/*.py "$project"/dht22 "$project"/deploy "$here"/lossy tree/opt/dht22
find tree/opt/dht22 -name __pycache__ -prune -exec rm -r {} +
chroot tree id dht22 > /dev/null 2>&1 || chroot tree useradd --system dht22
install -m 755 "$here/guest.py" tree/sbin/guest
install -m 644 "$here/numbered.py" tree/opt/dht22
chroot tree python3 -m compileall -q /opt/dht22
size=$(($(du -sm --exclude=var/cache --exclude=usr/share/doc tree | cut -f1) + 200))
rm -f root.img state.*
mke2fs -q -t ext4 -d tree root.img "${size}M"
ls -la vmlinux initrd root.img
