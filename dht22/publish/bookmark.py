"""A position in a log, kept in a file that is replaced as a whole, by one publisher at a time.

    {"log": "datalog.csv", "file": "2026-11-21T10:00:00.000Z,192.168.1.7,kitchen,74.3,25.7,...",
    "offset": 4097, "line": "...", "earlier": [[2048, "..."]], "finished": ["...", "..."]}

Until the first position is known, as while the end of a long log is looked for, it has the name of
the log alone: so an empty file is one that a power cut has emptied.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from contextlib import suppress
from io import BufferedRandom, BufferedWriter
from pathlib import Path
from typing import IO, Any

from dht22.console import say
from dht22.log.linefile import lock, replace, was_moved
from dht22.log.position import Place, Position


class Bookmark:
    """The file at `path`, for the log of the name `log`; raise OSError if another has it."""

    def __init__(self, path: Path, log: str) -> None:
        self.path = path
        self.log = log
        self.file: BufferedRandom | BufferedWriter = self.open()

    def open(self) -> BufferedRandom:
        """Open the file and lock it; create it if it is missing."""
        while True:
            was_there = self.path.exists()
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise OSError(errno.EINVAL, "not a regular file")
            file = open(fd, "r+b")  # noqa: SIM115
            lock(file)
            if was_moved(str(self.path), file):
                file.close()  # another publisher has just replaced it
                continue
            if not was_there and found.st_size == 0:
                self.begin(file)
            return file

    def begin(self, file: IO[bytes]) -> None:
        """Write the name of the log into a new file."""
        try:
            file.write(as_text({"log": self.log}))
            file.flush()
        except OSError:
            with suppress(OSError):
                self.path.unlink()
            raise

    def load(self) -> Position | None:
        """Return the position, None at the first start; raise ValueError if it cannot be used."""
        self.file.seek(0)
        text = self.file.read()
        try:
            found = json.loads(text)
            log = str(found["log"])
            position = position_of(found) if len(found) > 1 else None
        except (ValueError, KeyError, TypeError, AttributeError):
            if not is_torn(text):
                raise ValueError("it was not written by publish.py") from None
            torn = f"{self.path} is empty or torn, as after a power cut"
            say(f"{torn}; {self.log} is published from its beginning on")
            return Position()
        if log != self.log:
            raise ValueError(f"it belongs to {log}")
        return position

    def save(self, position: Position) -> None:
        """Put a position on the disk; raise OSError, and the one before stays."""
        try:
            file = replace(str(self.path), [self.text(position)], old=self.file)
        except OSError:
            if self.file.closed:  # Windows
                self.file = self.open()
            raise
        self.file.close()
        self.file = file

    def text(self, position: Position) -> bytes:
        file, offset, line, earlier, finished = position
        return as_text(
            {
                "log": self.log,
                "file": file.decode("latin-1"),
                "offset": offset,
                "line": line.decode("latin-1"),
                "earlier": [(each.offset, each.line.decode("latin-1")) for each in earlier],
                "finished": [each.decode("latin-1") for each in finished],
            }
        )


def as_text(found: dict[str, object]) -> bytes:
    return json.dumps(found).encode() + b"\n"


def position_of(found: dict[str, Any]) -> Position:
    """Return the position in a file; raise KeyError, ValueError, TypeError or AttributeError."""
    return Position(
        found["file"].encode("latin-1"),
        int(found["offset"]),
        found["line"].encode("latin-1"),
        tuple(Place(int(offset), line.encode("latin-1")) for offset, line in found["earlier"]),
        tuple(each.encode("latin-1") for each in found["finished"]),
    )


def is_torn(text: bytes) -> bool:
    """Tell whether this can be what a power cut has left of our file: nothing, NULs, a part."""
    rest, start = text.rstrip(b"\0"), b'{"log": '
    return rest.startswith(start) or start.startswith(rest)
