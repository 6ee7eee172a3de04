#!/usr/bin/python3
"""The first process of the guest whose power is cut: mounts the data disk, runs what a job names.

The job is a line of JSON that the host writes to a small disk, /dev/vdc; the line after it is the
time. Until the job is there the guest waits, so that the host can save it in that state and let it
go on from there again and again, as if it had just been booted. All is said on the first serial
line, which is a file of the host.

    services    commands by name, as the units run them: again and again, in the folder of the data
    environment of these
    before      commands to run before, as root
    rotate      seconds, about, from one forced run of logrotate to the next
    fill        seconds, about, for which the disk is full, and then has room again
    copy        write what is on the data disk to /dev/vdd, as a tar, and switch off
"""

import fcntl
import json
import mmap
import os
import pwd
import random
import subprocess
import threading
import time

STATE = "/var/lib/dht22"
RESTART = 0.3  # seconds; the units have 5, but a machine that is cut has no time
FORGET = 0x1261  # BLKFLSBUF: forget what was read from a disk before
CHECKS = {
    "ext4": ["e2fsck", "-p"],
    "vfat": ["fsck.vfat", "-a", "-w"],
    "f2fs": ["fsck.f2fs", "-a"],
}
WARM = (  # what a trial needs, so that it is in memory
    *(f"python3 /opt/dht22/{name}.py --help" for name in ("server", "client", "publish")),
    "python3 -c 'import sqlite3, lzma, gzip, bz2, paho.mqtt.client, json, hmac, fnmatch'",
    "logrotate --version; gzip --version; tar --version; chown --version; sed --version",
    "e2fsck -V; fsck.vfat --help; fsck.f2fs -V",
)


def say(text):
    os.write(1, f"{time.time():.3f} {text}\n".encode())


class JobDisk:
    """What the host writes to a disk while the guest looks."""

    def __init__(self):
        self.file = os.open("/dev/vdc", os.O_RDONLY | os.O_DIRECT)
        self.buffer = mmap.mmap(-1, 8192)

    def wait(self, number):
        """Return the line with this number as soon as it is there."""
        while True:
            os.preadv(self.file, [self.buffer], 0)
            lines = self.buffer[:].rstrip(b"\0").split(b"\n")
            if len(lines) > number + 1:
                return json.loads(lines[number])
            time.sleep(0.01)


def run(*command, **options):
    """Run a command; return its exit code and what it said."""
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        **options,
    )
    return done.returncode, done.stdout.decode(errors="replace").strip()


def must(*command):
    code, text = run(*command)
    if code:
        say(f"FAILED {' '.join(command)}: {code} {text}")


def mount_data(kind, options):
    """Check and mount the data disk, as a boot does."""
    code, text = run(*CHECKS[kind], "/dev/vdb")
    say(f"fsck {code} {text[-300:]!r}")
    if kind == "vfat":  # it knows no owners
        user = pwd.getpwnam("dht22")
        options += f",uid={user.pw_uid},gid={user.pw_gid}"
    must("mount", "-t", kind, "-o", options, "/dev/vdb", STATE)
    if kind != "vfat":
        must("chown", "dht22:dht22", STATE)


def keep_running(name, words, environment):
    """Run a command as the units do; say what it says."""
    user = pwd.getpwnam("dht22")
    while True:
        process = subprocess.Popen(
            words,
            cwd=STATE,
            user=user.pw_uid,
            group=user.pw_gid,
            extra_groups=[],
            umask=0o027,
            env={"PATH": "/usr/bin:/bin", "XDG_STATE_HOME": "/var/lib", **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        say(f"START {name}")
        for line in process.stdout:
            say(f"{name}: {line.decode(errors='replace').rstrip()}")
        say(f"EXIT {name} {process.wait()}")
        time.sleep(RESTART)


def rotate(seconds):
    """Let logrotate do again and again what it does each month."""
    config = "/run/logrotate.conf"
    with open(config, "w") as out, open("/opt/dht22/deploy/logrotate.conf") as file:
        out.write(file.read())
    os.chmod(config, 0o644)
    while True:
        time.sleep(random.uniform(0.3, 2 * seconds))
        code, text = run("logrotate", "-f", "-s", "/run/status", config)
        say(f"ROTATED {code} {text!r}")


def fill(seconds):
    """Fill the disk, and give it room again."""
    path = f"{STATE}/filler"
    while True:
        time.sleep(random.uniform(0.3, 2 * seconds))
        try:
            with open(path, "wb", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass
        except OSError as error:
            say(f"FULL {error.strerror}")
        time.sleep(random.uniform(0.3, seconds))
        os.unlink(path)
        say("ROOM")


def prepare():
    """Do what needs neither the data disk nor the job."""
    for where in "/run", "/tmp":
        must("mount", "-t", "tmpfs", "tmpfs", where)
    must("ip", "link", "set", "lo", "up")
    must("ip", "addr", "add", "10.0.2.15/24", "dev", "eth0")
    must("ip", "link", "set", "eth0", "up")
    must("ip", "route", "add", "default", "via", "10.0.2.2")
    for command in WARM:
        run("sh", "-c", command)


def main():
    prepare()
    disk = JobDisk()
    say("READY")
    job = disk.wait(0)
    say("AWAKE")
    time.clock_settime(time.CLOCK_REALTIME, disk.wait(1))
    with open("/dev/vdb", "rb") as file:
        fcntl.ioctl(file, FORGET)
    mount_data(job["fs"], job["mount"])
    say("MOUNTED")
    if job.get("copy"):
        must("tar", "--owner=0", "--group=0", "-C", STATE, "-cf", "/dev/vdd", ".")
        os.sync()
        say("COPIED")
        os.system("/bin/busybox poweroff -f")
    for command in job.get("before", []):
        say(f"{command}: {run('sh', '-c', command, cwd=STATE)}")
    environment = job.get("environment", {})
    threads = [
        (keep_running, (name, words, environment)) for name, words in job["services"].items()
    ]
    threads += [(each, (job[each.__name__],)) for each in (rotate, fill) if job.get(each.__name__)]
    for target, arguments in threads:
        threading.Thread(target=target, args=arguments, daemon=True).start()
    while True:  # the first process must not end
        time.sleep(1000)


if __name__ == "__main__":
    console = os.open("/dev/ttyS0", os.O_RDWR | os.O_NOCTTY)
    for number in 0, 1, 2:
        os.dup2(console, number)
    os.environ["PATH"] = "/usr/sbin:/usr/bin:/sbin:/bin"
    try:
        main()
    except BaseException as error:
        say(f"FAILED guest {error!r}")
        time.sleep(1000)
