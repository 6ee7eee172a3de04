"""A small disk, which fills and is given room again."""

import os
import subprocess
from contextlib import suppress
from pathlib import Path

from support.tools import inside_of, needs, needs_namespaces, until


class Disk:
    """A tmpfs in a namespace of mounts, which lives as long as this.

    A command sees it at `path` after the words `inside`; from outside it is seen at `folder`.
    """

    def __init__(self, path, options):
        needs_namespaces()
        needs("nsenter")
        path.mkdir()
        mount = f'mount -t tmpfs -o {options} tmpfs "$1" && exec sleep 1000'
        command = ["unshare", "-rm", "sh", "-c", mount, "sh", path]
        self.path = path
        self.holder = subprocess.Popen(command, cwd=path.parent)
        self.folder = Path(f"/proc/{self.holder.pid}/root{path}")
        until(lambda: os.readlink(f"/proc/{self.holder.pid}/exe").endswith("sleep"), "the disk")
        self.inside = [*inside_of(self.holder), "-w", "--"]

    def is_full(self):
        return (self.folder / "filler").exists()

    def fill(self):
        fill(self.folder)

    def give_room(self):
        give_room(self.folder)

    def resize(self, size):
        remount = ["mount", "-o", f"remount,size={size}", "tmpfs", self.path]
        subprocess.run([*self.inside, *remount], check=True)

    def close(self):
        self.holder.kill()
        self.holder.wait()


def fill(folder, pages_left=0):
    """Take the room that is left on a disk, and what was set free since, but for a few pages."""
    with open(folder / "filler", "ab", buffering=0) as filler:
        with suppress(OSError):
            while True:
                filler.write(bytes(4096))
        filler.truncate(max(0, filler.tell() - 4096 * pages_left))


def give_room(folder):
    (folder / "filler").unlink(missing_ok=True)
