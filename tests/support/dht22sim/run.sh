#!/bin/sh
# Run a command as on a Raspberry Pi with a DHT22: the sensor is dht22sim, /proc and /dev are the Pi's.
# usage: unshare --map-root-user --mount run.sh DHT22SIM FOLDER PIN COMMAND...
# FOLDER holds `schedule` (see dht22sim.c) and `cpuinfo` (what this Pi says in /proc/cpuinfo).
set -e
sim=$1 folder=$2 pin=$3 pi=$2/pi
shift 3

# A tmpfs ends with the namespace, and never holds up a page to write it back.
mkdir -p "$pi"
mount -t tmpfs tmpfs "$pi"
mkdir -p "$pi/dev" "$pi/proc/sys" "$pi/proc/device-tree/soc"
cp "$folder/cpuinfo" "$pi/proc"
head -c 8 /dev/zero > "$pi/proc/device-tree/soc/ranges"  # peripherals at 0, so the registers at 2 MiB
truncate -s 3M "$pi/dev/gpiomem"
for device in null zero random urandom; do
	touch "$pi/dev/$device"
	mount --bind "/dev/$device" "$pi/dev/$device"
done
mount --rbind /proc/sys "$pi/proc/sys"  # boot_id

"$sim" "$pi/dev/gpiomem" "$pin" "$folder/schedule" &
mount --rbind "$pi/dev" /dev
mount --rbind "$pi/proc" /proc
exec "$@"
