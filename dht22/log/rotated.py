"""What rotation leaves beside a log. A packed file is read as the others, as far as it goes."""

from __future__ import annotations

import glob
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from io import BufferedIOBase, FileIO
from pathlib import Path

try:
    from lzma import LZMAError
except ImportError:  # some Pythons are built without it
    LZMAError = EOFError  # type: ignore[misc, assignment]

PACKED = {".gz": "gzip", ".xz": "lzma", ".bz2": "bz2"}  # the modules that unpack
# Endings of what lies beside a log and is none: SQLite's, a publisher's position, a user's files
BESIDE = "-wal", "-shm", "-journal", ".publish", ".new", "~"
# A log by its name: what the server calls it, its ending, what rotation adds, how it is packed
LOG_NAME = re.compile(
    r"(.*(\.csv|\.db|\.txt))(?:[.-][0-9][0-9-]*|\.old)?(\.gz|\.xz|\.bz2)?", re.DOTALL
)
DAMAGE = EOFError, zlib.error, LZMAError  # what these modules raise besides OSError
BLOCK = 1 << 16  # bytes, some 700 rows; up to this much is lost before a damage
HOLE = bytes(512)  # the least that a disk writes, when a power cut has kept it from that


def rotated(path: str) -> list[str]:
    """Return what rotation has left of a log, the oldest first.

    Rotation may be told to use any names, so each file counts that begins as the log, but BESIDE.
    """
    beside = [*glob.glob(glob.escape(path) + ".*"), *glob.glob(glob.escape(path) + "-*")]
    files = [each for each in beside if not each.endswith(BESIDE) and os.path.isfile(each)]
    return sorted(files, key=modified)


def modified(path: str) -> float:
    """Return when a file was modified, 0 if it is gone by now."""
    try:
        return os.path.getmtime(path)
    except OSError:
        return 0.0


class PlainFile:
    """A file that is not packed. It may be truncated and written again: nothing of it is kept."""

    def __init__(self, file: BufferedIOBase) -> None:
        self.file = file

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes, less at the end."""
        descriptor = self.file.fileno()
        if hasattr(os, "pread"):
            return os.pread(descriptor, size, offset)
        os.lseek(descriptor, offset, os.SEEK_SET)  # Windows
        return os.read(descriptor, size)

    def again(self) -> BufferedIOBase:
        """Open the file a second time, even if it was removed since."""
        return open(os.dup(self.file.fileno()), "rb")


class PackedFile:
    """A packed file, read forward only: to go back would be to unpack it from its start."""

    def __init__(self, path: Path, file: BufferedIOBase, start: int) -> None:
        self.path = path
        self.file = file
        self.start = file.seek(start)  # where `kept` was
        self.kept = b""
        self.damage: list[str] = []

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes, less at the end. The offset must not decrease between calls."""
        self.kept = self.kept[offset - self.start :]
        self.start = offset
        with noting(self.damage):
            while len(self.kept) < size:
                piece = self.file.read1(BLOCK)
                if not piece:
                    break
                self.kept += piece
        return self.kept[:size]

    def again(self) -> BufferedIOBase:
        """Open the file a second time; raise FileNotFoundError if it was renamed since."""
        return unpacked(self.path)


class WithoutHoles(FileIO):
    """The bytes of a packed file, up to where a power cut has left a hole in it.

    Unpacked, NULs become lines that look like readings; that they are damage is noticed late.
    """

    whole = False  # NULs need be no damage: a text log of equal lines may be packed to them

    def read(self, size: int | None = -1) -> bytes:
        """Return `size` bytes, less at the end and before a hole; raise EOFError in a hole."""
        assert size is not None and size > 0  # it is read in pieces
        start = self.tell()
        found: bytes = super().read(size + len(HOLE))
        if HOLE in found:
            self.whole = self.whole or is_whole(Path(os.fsdecode(self.name)))
            if not self.whole:
                found = found[: found.find(HOLE)]
                if not found:
                    raise EOFError("NUL bytes in it, as after a power cut")
        self.seek(start + len(found[:size]))
        return found[:size]

    def __del__(self) -> None:
        self.close()  # those modules close only what they have opened themselves


def unpacked(path: Path) -> BufferedIOBase:
    """Open a file, and unpack it if its ending tells that it is packed."""
    is_packed = path.suffix in PACKED
    return opened(path, WithoutHoles(path) if is_packed else path)


def opened(path: Path, what: FileIO | Path) -> BufferedIOBase:
    file: BufferedIOBase = import_module(PACKED.get(path.suffix, "io")).open(what, "rb")
    return file


def is_whole(path: Path) -> bool:
    """Tell whether a packed file can be unpacked to its end; raise OSError."""
    damage: list[str] = []
    with opened(path, path) as file, noting(damage):
        while file.read1(BLOCK):
            pass
    return not damage


@contextmanager
def noting(damage: list[str]) -> Iterator[None]:
    """Note in `damage` why a packed file cannot be unpacked any further."""
    try:
        yield
    except (OSError, *DAMAGE) as error:
        if not is_damage(error):
            raise
        damage.append(str(error))


def is_damage(error: Exception) -> bool:
    """Tell whether an error comes from what is in a packed file, not from the disk."""
    return isinstance(error, DAMAGE) or isinstance(error, OSError) and error.errno is None


def length(path: Path) -> int:
    """Return the bytes in a file, of a packed one those that can be unpacked; raise OSError."""
    if path.suffix not in PACKED:
        return path.stat().st_size
    size = 0
    with unpacked(path) as file, noting([]):
        for piece in iter(lambda: file.read1(BLOCK), b""):
            size += len(piece)
    return size
