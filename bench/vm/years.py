"""Type the commands of docs/years.md on two machines that boot with systemd, and let them run.

    python3 years.py BUILT FOLDER

The commands are taken out of the page and typed over ssh, as its reader does; each is shown with
its exit code and what it said. There is no sensor: `--driver simulated` is added to the client's
file. Then both machines are restarted and lose their power, processes are killed and stopped, the
logs are rotated, and the Pi starts with a clock that is behind. Last comes what is `wrong`.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import time
from datetime import datetime, timezone
from itertools import pairwise
from pathlib import Path

from machine import HERE, KERNEL, own_network

PAGE = (HERE.parent.parent / "docs" / "years.md").read_text(encoding="utf-8")
QEMU = (
    "qemu-system-x86_64 -M pc -cpu max -accel tcg -m 512 -smp 1"
    " -display none -nodefaults -device virtio-rng-pci"
)
INTERVAL = 2.0  # seconds, the client's own
OUTAGE = 60  # seconds by which the Pi's clock is behind after the power cut
SIMULATED = "sudo sed -i '/^OPTIONS/d' {0}; echo OPTIONS={1} --driver simulated | sudo tee -a {0}"


class Guest:
    """A machine of house.sh."""

    def __init__(self, built: Path, folder: Path, name: str, user: str, number: int) -> None:
        self.built = built
        self.name = name
        self.user = user
        self.number = number
        self.image = folder / f"{name}.img"
        self.console = folder / f"{name}.console"
        self.port = 2200 + number
        self.wrong: list[str] = []
        shutil.copy(built / f"{name}.img", self.image)

    def start(self, behind: int = 0) -> None:
        """Switch it on, with a clock that is behind by so many seconds; return when it is up."""
        other = 3 - self.number
        clock = datetime.fromtimestamp(time.time() - behind, timezone.utc)
        words = [*QEMU.split(), "-kernel", self.built / "vmlinux", "-initrd", self.built / "initrd"]
        words += ["-append", f"{KERNEL} fs=ext4 init=/sbin/init"]
        words += ["-serial", f"file:{self.console}", "-rtc", f"base={clock:%Y-%m-%dT%H:%M:%S}"]
        words += ["-drive", f"if=none,id=d,format=raw,file={self.image}"]
        words += ["-device", "virtio-blk-pci,drive=d"]
        house = f"socket,id=house,udp=127.0.0.1:770{other},localaddr=127.0.0.1:770{self.number}"
        words += ["-netdev", house]
        words += [
            "-device",
            f"virtio-net-pci,netdev=house,mac=52:54:00:00:00:0{self.number},romfile=",
        ]
        words += ["-netdev", f"user,id=in,restrict=on,hostfwd=tcp:127.0.0.1:{self.port}-:22"]
        words += ["-device", "virtio-net-pci,netdev=in,romfile="]
        self.process = subprocess.Popen([*map(str, words)], stdin=subprocess.DEVNULL)
        self.wait_until_up()

    def wait_until_up(self) -> None:
        end = time.monotonic() + 900
        while self.ssh("true", tries=1)[0]:
            assert time.monotonic() < end, f"{self.name} does not come up, see {self.console}"
            time.sleep(1)

    def cut(self) -> None:
        self.process.kill()
        self.process.wait()

    def ssh(self, command: str, seconds: float = 300, tries: int = 5) -> tuple[int, str]:
        """Run a command; return its exit code and what it said. 255 is ssh's own: not run."""
        words = ["ssh", "-q", "-i", self.built / "ssh_key", "-p", self.port]
        words += ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
        words += ["-o", "ConnectTimeout=60", f"{self.user}@127.0.0.1", command]
        for _ in range(tries):
            try:
                done = subprocess.run(
                    [*map(str, words)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    timeout=seconds,
                )
            except subprocess.TimeoutExpired:
                return 1, "no end"
            if done.returncode != 255:
                break
        return done.returncode, done.stdout.decode(errors="replace").strip()

    def type(self, command: str, folder: str = ".") -> str:
        """Type a command, and show what it did; any exit code but 0 is wrong. Return its output."""
        code, said = self.ssh(f"cd {folder} && {command}")
        print(f"{self.name}$ {command}")
        for line in said.splitlines()[:12]:
            print(f"    {line[:150]}")
        if code:
            print(f"    exit code {code}")
            self.wrong.append(f"{self.name}$ {command}: exit code {code}")
        return said

    def expect(self, what: str, command: str, seconds: float = 60) -> None:
        """Wait until a command succeeds: that is what is expected."""
        end = time.monotonic() + seconds
        while self.ssh(command)[0]:
            if time.monotonic() > end:
                self.wrong.append(f"{self.name}: not {what}")
                print(f"    WRONG: not {what}")
                return
            time.sleep(1)
        print(f"    {what}")


def blocks(heading: str) -> list[list[str]]:
    """Return the commands of each block under a heading of the page."""
    section = PAGE[PAGE.index(f"## {heading}") :].partition("\n## ")[0]
    found = re.findall(r"(?:^    .*\n)+", section, re.MULTILINE)
    return [[line[4:] for line in block.splitlines()] for block in found]


def in_text(start: str) -> str:
    """Return the command within a sentence of the page that begins so."""
    found = re.search(rf"`({re.escape(start)}[^`]*)`", PAGE)
    assert found, start
    return found[1]


def set_up(desktop: Guest, pi: Guest) -> None:
    """Follow the page from its beginning to the publisher."""
    commands, tail, options = blocks("The desktop")
    for command in commands:
        desktop.type(command, "logger")
    desktop.expect("the server runs", "systemctl is-active dht22-server")
    desktop.expect("it tells its address", address_is_told(desktop))
    desktop.type(f"timeout 3 {tail[0]}; true")
    desktop.type(in_text("sudo usermod -aG"))
    for command in [*options, "echo OPTIONS= | sudo tee /etc/default/dht22-server", options[1]]:
        desktop.type(command)  # and then without, so that there are many readings
    desktop.type(in_text("scp -r deploy pi@"), "logger")
    desktop.type(
        "scp -r client.py dht_read.py dht22 requirements.txt pi@raspberrypi.local:", "logger"
    )
    for command in blocks("The Pi")[0]:
        pi.type(command)
    pi.type(SIMULATED.format("/etc/dht22/kitchen.conf", ""))
    pi.expect("the client sends", "sudo journalctl -u dht22-client@kitchen | grep 'sending to'")
    pi.type(in_text("sudo journalctl -u dht22-client"))
    for command in blocks("The Pi")[1]:
        pi.type(command)
    pi.type(SIMULATED.format("/etc/dht22/attic.conf", "--pin 4"))
    pi.type(in_text("sudo systemctl restart dht22-client@attic"))
    pi.expect(
        "the second client sends", "sudo journalctl -u dht22-client@attic | grep 'sending to'"
    )
    for name in "kitchen", "attic":
        desktop.expect(f"{name} is logged", logged_lately(name))
    for command in blocks("The publisher")[0]:
        desktop.type(command, "logger")
    desktop.expect("the publisher runs", "sudo journalctl -u dht22-publish | grep publishing")


def address_is_told(desktop: Guest) -> str:
    return f"{in_text('sudo journalctl -u dht22-server')} | grep 'client.py 192.168.1.5'"


def logged_lately(name: str) -> str:
    """Return a command that succeeds if the log has a reading of the last minute."""
    return (
        f"sudo tail -n 20 /var/lib/dht22/datalog.csv | grep ,{name}, | tail -n 1 | cut -d, -f1 |"
        " xargs -I@ sh -c '[ $(($(date +%s) - $(date -d @ +%s))) -lt 60 ]'"
    )


def all_is_well(desktop: Guest, pi: Guest) -> None:
    for name in "kitchen", "attic":
        desktop.expect(f"{name} is logged, and nothing waits", logged_lately(name), 240)


def disturb(desktop: Guest, pi: Guest) -> None:
    """Restart, kill, stop and rotate what can be; after each all has to be well again."""
    for _ in range(2):
        for guest in desktop, pi:
            print(f"{guest.name}$ sudo reboot")
            guest.ssh("sudo reboot", tries=1)
        time.sleep(20)
        for guest in desktop, pi:
            guest.wait_until_up()
        all_is_well(desktop, pi)
    desktop.expect("it tells its address", address_is_told(desktop))
    desktop.type("sudo pkill -9 -f '/opt/dht22/[s]erver.py'")
    all_is_well(desktop, pi)
    pi.type("sudo pkill -9 -f '/opt/dht22/[c]lient.py'")
    all_is_well(desktop, pi)
    desktop.type(
        "sudo systemctl stop dht22-server && sleep 15 && sudo systemctl start dht22-server"
    )
    all_is_well(desktop, pi)
    desktop.type("systemctl list-timers --no-pager logrotate.timer")
    for _ in range(3):
        desktop.type("sudo logrotate -f /etc/logrotate.d/dht22")
        time.sleep(6)
    desktop.type("sudo systemctl start logrotate.service")
    all_is_well(desktop, pi)
    desktop.type("sudo ls -l /var/lib/dht22")


def cut_the_house(desktop: Guest, pi: Guest) -> None:
    """Cut the power of both while readings wait; the Pi's clock is behind then, and is set late."""
    client = "sudo journalctl -b -u dht22-client@kitchen"
    desktop.ssh("sudo systemctl disable time-server")
    desktop.type("sudo systemctl stop dht22-server")
    stopped = datetime.now(timezone.utc)
    time.sleep(20)
    print(f"power cut; the clock of the Pi is {OUTAGE} s behind, and nothing sets it")
    cut = datetime.now(timezone.utc)
    desktop.cut()
    pi.cut()
    time.sleep(OUTAGE / 4)
    desktop.start()
    pi.start(behind=OUTAGE)
    pi.expect("what waited waits for the clock", f"{client} | grep 'until the clock is set'", 300)
    desktop.type("sudo systemctl start time-server")
    pi.expect("the clock is set", "ls /run/systemd/timesync/synchronized", 300)
    all_is_well(desktop, pi)
    pi.type(client)
    for name in "kitchen", "attic":
        rows = logged(desktop, name)
        count = sum(stopped.isoformat() < row[0] < cut.isoformat() for row in rows)
        print(f"{name}: {count} readings while the server was stopped before the cut")
        if count < 20 / INTERVAL - 2:
            pi.wrong.append(f"{name}: what waited has not its right time")


def use_keys(desktop: Guest, pi: Guest) -> None:
    """Make keys as keys.md tells, and give them to both ends as the page tells."""
    desktop.type("umask 077; python3 server.py --new-key kitchen > kitchen.key", "logger")
    desktop.type("umask 077; python3 server.py --new-key attic > attic.key", "logger")
    desktop.type("umask 077; cat kitchen.key attic.key > keys", "logger")
    on_desktop, on_pi = blocks("Keys")
    for command in on_desktop:
        desktop.type(command, "logger")
    desktop.type("scp kitchen.key attic.key pi@raspberrypi.local:", "logger")
    for name in "kitchen", "attic":
        for command in on_pi:
            pi.type(command.replace("kitchen", name))
            if "printf" in command:
                conf, key = f"/etc/dht22/{name}.conf", f"/etc/dht22/{name}.key"
                pi.type(SIMULATED.format(conf, f"--key {key}"))
    desktop.type("sudo systemctl restart dht22-server")
    all_is_well(desktop, pi)
    desktop.type("python3 client.py 127.0.0.1 --driver simulated --count 1", "logger")
    desktop.expect("unsigned is refused", "sudo journalctl -u dht22-server | grep 'refused 1'")


def upgrade(desktop: Guest, pi: Guest) -> None:
    on_desktop, on_pi = blocks("Upgrading")
    for command in on_desktop:
        desktop.type(command, "logger")
    for command in on_pi:
        pi.type(command)
    all_is_well(desktop, pi)


def logged(desktop: Guest, name: str) -> list[list[str]]:
    """Return the rows of a sensor in the logs, rotated ones too, in the order of logging."""
    files = "zcat -f $(ls -v -r /var/lib/dht22/datalog.csv*)"
    rows = [line.split(",") for line in desktop.ssh(f"sudo sh -c '{files}'")[1].splitlines()]
    return [row for row in rows if row[2] == name]


def check_log(desktop: Guest) -> None:
    """See that no reading stands twice or out of order, and show the longest pauses."""
    for name in "kitchen", "attic":
        rows = logged(desktop, name)
        numbers = [int(row[5]) for row in rows]
        times = [datetime.fromisoformat(row[0][:-1]) for row in rows]
        if any(after <= before for before, after in pairwise(numbers)):
            desktop.wrong.append(f"{name}: twice, or not in order")
        pauses = sorted(((b - a).total_seconds(), a) for a, b in pairwise(times))[-8:]
        shown = ", ".join(f"{seconds:.1f} s from {at:%H:%M:%S}" for seconds, at in pauses)
        print(f"{name}: {len(numbers)} readings; longest pauses: {shown}")
        if pauses[0][0] < 0:
            desktop.wrong.append(f"{name}: times go back")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("built", type=Path, help="the folder of build.sh and house.sh")
    parser.add_argument("folder", type=Path, help="for this trial; what is in it is deleted")
    options = parser.parse_args()
    own_network()
    built, folder = options.built.resolve(), options.folder.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    desktop = Guest(built, folder, "desktop", "you", 1)
    pi = Guest(built, folder, "pi", "pi", 2)
    try:
        desktop.start()
        pi.start()
        desktop.type(
            "cat /etc/debian_version; uname -r; python3 --version; systemctl --version | head -1"
        )
        for step in set_up, disturb, cut_the_house, use_keys, upgrade:
            print(
                f"\n## {step.__name__.replace('_', ' ')}, {datetime.now():%H:%M:%S}\n", flush=True
            )
            step(desktop, pi)
        check_log(desktop)
    finally:
        for guest in desktop, pi:
            if hasattr(guest, "process"):
                guest.cut()
    wrong = desktop.wrong + pi.wrong
    for line in wrong:
        print(f"WRONG: {line}")
    print(f"wrong: {len(wrong) or 'nothing'}")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
