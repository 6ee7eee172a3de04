#!/bin/bash
# Build two machines that boot with systemd: `desktop`, user you, and `raspberrypi`, user pi. After
# build.sh; years.py lets them run.
#
#     ./house.sh BUILT              makes BUILT/desktop.img and BUILT/pi.img
#
# On the desktop the files of the project are in /home/you/logger, as a user has them. PAHO, a folder
# with a wheel of paho-mqtt 2, stands for the internet, which the machines cannot reach.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
project=$(realpath "$here/../..") paho=$(realpath "${PAHO:-.}")
cd "$1"
[ -e ssh_key ] || ssh-keygen -q -t ed25519 -N '' -f ssh_key

make() { # name of the image, host name, user, address
    rm -rf house && cp -a tree house
    rm -rf house/opt/dht22 house/sbin/guest house/var/lib/dht22
    chroot house userdel dht22
    echo "$2" > house/etc/hostname
    printf '127.0.0.1 localhost\n127.0.1.1 %s\n::1 localhost\n' "$2" > house/etc/hosts
    printf '/dev/vda / ext4 defaults,noatime 0 1\n' > house/etc/fstab
    chroot house useradd -m -s /bin/bash "$3"
    echo "$3 ALL=(ALL) NOPASSWD: ALL" > "house/etc/sudoers.d/$3"
    ssh="house/home/$3/.ssh"
    mkdir -p "$ssh"
    cp ssh_key "$ssh/id_ed25519"
    cp ssh_key.pub "$ssh/authorized_keys"
    echo "StrictHostKeyChecking no" > "$ssh/config"
    chmod -R go= "$ssh"
    # eth0 is the network in the house, eth1 the way in for years.py.
    printf '[Match]\nName=eth0\n[Network]\nAddress=%s/24\n' "$4" > house/etc/systemd/network/lan.network
    printf '[Match]\nName=eth1\n[Network]\nAddress=10.0.2.15/24\nLinkLocalAddressing=no\n' \
        > house/etc/systemd/network/way-in.network
    chroot house systemctl -q enable systemd-networkd
    chroot house systemctl -q mask serial-getty@ttyS0
    touch house/etc/.updated house/var/.updated # else the first boot takes minutes
    ln -sf /usr/share/zoneinfo/Europe/Berlin house/etc/localtime
    printf '[Time]\nNTP=192.168.1.5\nFallbackNTP=\n' > house/etc/systemd/timesyncd.conf
    mkdir house/opt/paho
    cp "$paho"/paho_mqtt-*.whl house/opt/paho 2> /dev/null || true
    printf '[global]\nno-index = true\nfind-links = /opt/paho\n' > house/etc/pip.conf
}

image() { # name
    chroot house chown -R "$2:$2" "/home/$2"
    rm -f "$1.img" && mke2fs -q -t ext4 -d house "$1.img" 1600M && rm -rf house
}

make desktop desktop you 192.168.1.5
mkdir house/home/you/logger
cp -r "$project"/{*.py,requirements.txt,dht22,deploy,docs} house/home/you/logger
install -m 755 "$here/time_server.py" house/opt/time_server.py
cat > house/etc/systemd/system/time-server.service <<'UNIT'
[Service]
ExecStart=/opt/time_server.py
[Install]
WantedBy=multi-user.target
UNIT
chroot house systemctl -q enable time-server
chroot house systemctl -q disable systemd-timesyncd
printf 'listener 1883\nallow_anonymous true\n' > house/etc/mosquitto/conf.d/open.conf
echo "192.168.1.5 broker.local" >> house/etc/hosts
image desktop you

make pi raspberrypi pi 192.168.1.7
chroot house groupadd -f gpio # as on Raspberry Pi OS
chroot house systemctl -q disable mosquitto
image pi pi
ls -la desktop.img pi.img
