"""A virtual machine whose power can be cut: QEMU, a root that is never written, and a data disk."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
MAKE = {
    "ext4": ["mke2fs", "-q", "-t", "ext4", "-F"],
    "vfat": ["mkfs.vfat", "-F", "16"],
    "f2fs": ["mkfs.f2fs", "-q", "-f"],
}
KERNEL = (
    "console=ttyS0 quiet loglevel=3 panic=-1 mitigations=off nokaslr cryptomgr.notests"
    " random.trust_cpu=on net.ifnames=0"
)
QEMU = (
    "qemu-system-x86_64 -M pc -cpu max -accel tcg -m 256 -smp 1"
    " -display none -nodefaults -no-reboot -device virtio-rng-pci"
)


def own_network() -> None:
    """Go on in a network of our own: what the guest says reaches nobody else, no port is in use."""
    if os.environ.get("OWN_NETWORK") != "yes":
        os.environ["OWN_NETWORK"] = "yes"
        script = 'ip link set lo up && exec "$@"'
        again = ["sh", "-c", script, "sh", sys.executable, *sys.argv]
        os.execvp("unshare", ["unshare", "-rn", *again])


class Hung(Exception):
    """A guest did not say in time what it was to say: without KVM its kernel hangs now and then."""


class Machine:
    """A guest, from one start to the next power cut.

    With `booted` it boots each time, which takes 8 s. Else it goes on from where a boot had got
    before it looked at the data disk, in 2 s; the boot id and the uptime are then always the same.
    """

    def __init__(
        self, built: Path, folder: Path, fs: str, mount: str, size: int, seed: int, booted: bool
    ) -> None:
        self.built = built  # by build.sh
        self.folder = folder
        self.fs = fs
        self.mount = mount
        self.size = size  # of the data disk, MiB
        self.rng = random.Random(seed)
        self.booted = booted
        self.image = folder / "data.img"
        self.job_image = folder / "job.img"
        self.boots = 0
        self.behind = 0.0  # seconds by which the guest's clock is behind at the next start
        self.guest: subprocess.Popen[bytes] | None = None
        self.disk: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True)
        self.fresh()

    def fresh(self) -> None:
        """Begin with an empty data disk."""
        self.image.unlink(missing_ok=True)
        with open(self.image, "wb") as file:
            file.truncate(self.size << 20)
        make = [*MAKE[self.fs], self.image]
        subprocess.run(make, check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)

    def command(self, data_disk: str, forward: str = "") -> list[str]:
        """Return the words that start QEMU."""
        out = self.folder / "out.img"
        with open(out, "wb") as file:
            file.truncate((self.size + 64) << 20)
        words = [*QEMU.split(), "-kernel", self.built / "vmlinux", "-initrd", self.built / "initrd"]
        words += ["-append", f"{KERNEL} fs={self.fs}"]
        words += ["-serial", f"file:{self.console_path}", "-serial", f"file:{self.notes_path}"]
        disks = [
            f"readonly=on,file={self.built / 'root.img'}",
            f"cache=writeback,{data_disk}",
            f"file={self.job_image}",
            f"file={out}",
        ]
        for number, disk in enumerate(disks):
            words += ["-drive", f"if=none,id=d{number},format=raw,{disk}"]
            words += ["-device", f"virtio-blk-pci,drive=d{number}"]
        network = "user,id=net" + (f",hostfwd={forward}" if forward else "")
        words += ["-netdev", network, "-device", "virtio-net-pci,netdev=net,romfile="]
        return [str(word) for word in words]

    def launch(self, words: list[str]) -> None:
        with open(self.folder / "qemu.log", "a") as log:
            self.guest = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def name_files(self) -> None:
        """Name the files of the next boot: what the guest says, and what a client notes there."""
        self.boots += 1
        self.console_path = self.folder / f"console.{self.boots:04}"
        self.notes_path = self.folder / f"notes.{self.boots:04}"

    def saved(self) -> Path:
        """Return the file with a guest that was booted up to where it waits for its job."""
        state = self.built / f"state.{self.fs}.{self.size}"
        if state.exists():
            return state
        self.name_files()
        monitor = self.folder / "monitor"
        self.job_image.write_bytes(bytes(8192))
        self.launch([*self.command(f"file={self.image}"), "-qmp", f"unix:{monitor},server,nowait"])
        self.says("READY")
        time.sleep(1)  # until what it has just done is done
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(monitor))
            with sock.makefile("rw") as lines:
                lines.readline()  # the greeting
                ask(lines, "qmp_capabilities")
                ask(lines, "migrate", uri=f"exec:cat > {shlex.quote(str(state))}.new")
                while ask(lines, "query-migrate")["status"] != "completed":
                    time.sleep(0.05)
        self.guest.kill()
        self.guest.wait()
        os.rename(f"{state}.new", state)
        return state

    def start(
        self, job: dict[str, Any], forward: str = "", may_lose: bool = True, fuse: int = 0
    ) -> None:
        """Switch it on. `forward` is a hostfwd of QEMU's user network, `fuse` that of disk.py."""
        incoming = []
        if not self.booted:
            incoming = ["-incoming", f"exec:cat {shlex.quote(str(self.saved()))}"]
        self.name_files()
        disk = self.start_disk(fuse) if may_lose else f"file={self.image}"
        line = json.dumps({"fs": self.fs, "mount": self.mount, **job}).encode() + b"\n"
        assert len(line) < 8100
        self.job_image.write_bytes(line.ljust(8192, b"\0"))
        self.launch([*self.command(disk, forward), *incoming])
        self.says("AWAKE")
        with open(self.job_image, "r+b") as file:
            file.write(line + f"{time.time() + 0.02 - self.behind:.3f}\n".encode())

    def start_disk(self, fuse: int) -> str:
        """Start the disk that forgets; return what QEMU has to be told of it."""
        path = self.folder / "disk.sock"
        self.gone = self.folder / "disk.sock.gone"
        for each in path, self.gone:
            each.unlink(missing_ok=True)
        seed = self.rng.randrange(1 << 30)
        words = map(str, [sys.executable, HERE / "disk.py", path, self.image, seed, fuse])
        with open(self.folder / "disk.log", "a") as log:
            self.disk = subprocess.Popen([*words], stdout=log, start_new_session=True)
        while not path.exists():
            time.sleep(0.005)
        return f"file.driver=nbd,file.server.type=unix,file.server.path={path}"

    def console(self) -> str:
        path = self.console_path
        return path.read_bytes().decode(errors="replace") if path.exists() else ""

    def says(self, pattern: str, seconds: float = 120) -> None:
        """Wait for a line on the console; raise Hung."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if re.search(pattern, self.console(), re.MULTILINE):
                return
            if self.guest.poll() is not None:
                break
            time.sleep(0.005)
        raise Hung(f"{self.console_path}: no {pattern!r}\n{self.console()[-2000:]}")

    def burn(self, seconds: float) -> None:
        """Wait until the fuse has blown, but not for ever."""
        end = time.monotonic() + seconds
        while not self.gone.exists() and time.monotonic() < end:
            time.sleep(0.001)

    def cut(self) -> float:
        """Cut the power; return when that was."""
        now = time.time()
        if self.guest:
            self.guest.send_signal(signal.SIGKILL)
            self.guest.wait()
        if self.disk:
            self.disk.wait(60)
            self.disk = None
        return now

    def content(self) -> Path:
        """Boot once more, and return a folder with what is on the data disk."""
        self.start({"copy": True}, may_lose=False)
        self.says("COPIED")
        self.guest.wait(60)
        out = self.folder / "content"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        with tarfile.open(self.folder / "out.img") as tar:
            tar.extractall(out)
        return out


def ask(monitor: Any, what: str, **arguments: str) -> Any:
    """Ask QEMU something over its monitor; return the answer."""
    monitor.write(json.dumps({"execute": what, "arguments": arguments}) + "\n")
    monitor.flush()
    while True:
        answer = json.loads(monitor.readline())
        if "return" in answer:
            return answer["return"]
        assert "error" not in answer, answer
