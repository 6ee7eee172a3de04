#!/bin/bash
# Boot what build.sh has built, and show what comes of 200 polls of two sensors: ./run.sh FOLDER
#
# -icount: a clock that counts instructions, so that the edges of a frame are where they belong
# however slow this machine is; sleep=off: who waits in the guest does not wait here.
set -euo pipefail
cd "$1"
qemu-system-aarch64 -M virt -cpu cortex-a53 -m 512 -smp 1 -icount shift=1,sleep=off \
    -display none -nodefaults -no-reboot -kernel kernel -initrd initrd -dtb tree.dtb \
    -append "console=ttyAMA0 quiet loglevel=1 log_buf_len=4M panic=-1 rdinit=/init" \
    -serial stdio < /dev/null | tee console
grep -q "^wrong: nothing" console
