"""The rows of a log from a remembered position on, wherever rotation takes them.

    follower = Follower(Path("datalog.csv"), position, say)
    for position in follower.read():
        print(position.line)

`read()` returns what is new, a block at most, and never waits. Keep the position of the last row
that you are done with: a Follower that is given it goes on with the next row, and so does one that
is told to `rewind()` to it. `skip()` passes over all that is there.

A file is known by its first row, whether it was renamed, packed, copied or truncated since. Inodes
and times are no help: both are used again. Files of the same first row are one; a file without a
row is none.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from io import BufferedIOBase
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from dht22.log.formats import CSV_HEADER, ROW
from dht22.log.rotated import (
    BLOCK,
    PACKED,
    PackedFile,
    PlainFile,
    length,
    noting,
    rotated,
    unpacked,
)

WHOLE_ROW = re.compile(ROW + rb"\n")
FIRST = 10  # lines among which a file's first row is; the server writes it right behind the header
RESTED = 60.0  # seconds; a packed file that ends early and is older than that is damaged


class Position(NamedTuple):
    """A place in a log, right behind a line."""

    file: bytes = b""  # the first row of the file under way
    offset: int = 0  # in that file
    line: bytes = b""  # the last one read; it ends at the offset
    finished: tuple[bytes, ...] = ()  # the first rows of the files that were read to their end


class Follower:
    """A log and what rotation leaves beside it, read as one."""

    def __init__(self, path: Path, position: Position, warn: Callable[[str], None]) -> None:
        self.path = path
        self.position = position  # behind the last line that was read
        self.warn = warn
        self.warned = ""
        # By first row: the file under way, and the one before it in case of a rewind.
        self.opened: dict[bytes, PlainFile | PackedFile] = {}

    def read(self) -> list[Position]:
        """Return the positions behind the rows that are new, none at the end; raise OSError."""
        while True:
            # Looked for before this file is read to its end: the server writes to one file at a
            # time, so once another has a row this one grows no more.
            onward = self.onward()
            lines = self.lines()
            rows = [position for position in lines if WHOLE_ROW.fullmatch(position.line)]
            if rows:
                self.warned = ""
                return rows
            if not lines:
                if not onward or self.may_grow():
                    return []
                self.turn(onward)

    def rewind(self, position: Position) -> None:
        """Go back to a position that was returned before."""
        self.position = position
        for first, file in [*self.opened.items()]:
            if isinstance(file, PackedFile):
                self.close(first)

    def skip(self) -> None:
        """Pass over all that is there; raise OSError."""
        *finished, first = self.files() or [b""]
        self.position = Position(first, finished=tuple(finished))
        file = self.open()
        if file:
            offset, line = behind(file.file, None)
            self.position = self.position._replace(offset=offset, line=line)
            self.close(first)

    def flush(self) -> None:
        """Put on the disk what was read: no position may be ahead of it after a power cut."""
        for file in self.opened.values():
            os.fsync(file.file.fileno())

    def close(self, first: bytes) -> None:
        if first in self.opened:
            self.opened.pop(first).file.close()

    # Which file

    def files(self) -> dict[bytes, list[Path]]:
        """Return the files of the log by first row: oldest change first, the live one last."""
        while True:
            found: dict[bytes, list[Path]] = {}
            with suppress(FileNotFoundError):  # it was renamed just now
                inodes = self.inodes()
                for path in inodes:
                    first = first_row(path)
                    found[first] = [*found.pop(first, []), path]
                live = self.live()
                found[live] = [*found.pop(live, []), self.path]
                found.pop(b"", None)
                if self.inodes() == inodes:  # else one may have been missed: look again
                    return found

    def inodes(self) -> dict[Path, int]:
        """Return the inode of each file that rotation has left: oldest change first."""
        return {Path(each): os.stat(each).st_ino for each in rotated(str(self.path))}

    def live(self) -> bytes:
        """Return the first row of the live log, nothing if it has none."""
        with suppress(FileNotFoundError):
            return first_row(self.path)
        return b""

    def onward(self) -> bytes:
        """Return the first row of the file to read next; nothing if this one is the last."""
        live = self.live()
        current, finished = self.position.file, self.position.finished
        if current and current == live:
            return b""
        # The oldest first. The live log is among them even if it was finished: it may have grown.
        unread = [first for first in self.files() if first not in finished or first == live]
        if unread[-1:] == [current]:
            return b""
        return next((first for first in unread if first != current), b"")

    def turn(self, onward: bytes) -> None:
        """Finish the file under way and go on with another."""
        current, _, _, finished = self.position
        if current and current not in self.opened:
            self.warn(
                f"{self.path}: the file that was read last is gone, and what was unread of it"
            )
        for first in self.opened.keys() - {current}:
            self.close(first)
        self.position = Position(onward, finished=(*finished, current) if current else finished)

    def open(self) -> PlainFile | PackedFile | None:
        """Open the file under way and find the position in it; return None if it is gone."""
        current = self.position.file
        self.close(current)
        while True:
            paths = self.files().get(current, [])
            if not paths:
                return None
            with suppress(FileNotFoundError):  # it was renamed just now
                path = self.best(paths)
                file = unpacked(path)
                if first_of(file) == current:
                    offset, line = locate(file, self.position)
                    self.position = self.position._replace(offset=offset, line=line)
                    packed = path.suffix in PACKED
                    start = offset - len(line)
                    self.opened[current] = (
                        PackedFile(path, file, start) if packed else PlainFile(file)
                    )
                    return self.opened[current]
                file.close()

    def best(self, paths: list[Path]) -> Path:
        """Return the one of these copies to read: the live log if it reaches the position."""
        if len(paths) == 1:
            return paths[0]
        lengths = {path: length(path) for path in paths}
        if lengths.get(self.path, 0) >= self.position.offset:
            return self.path
        return max(paths, key=lengths.__getitem__)

    def may_grow(self) -> bool:
        """Tell whether a packed file that ends early may be just being written."""
        file = self.opened.get(self.position.file)
        if not isinstance(file, PackedFile) or not file.damage:
            return False
        if abs(time.time() - os.fstat(file.file.fileno()).st_mtime) < RESTED:
            self.close(self.position.file)
            return True
        self.warn(f"{file.path}: read as far as it goes ({file.damage[0]})")
        return False

    # What is in it

    def lines(self) -> list[Position]:
        """Return the positions behind the whole lines that follow, and move on."""
        block = self.block()
        if block is None or (not block and self.is_replaced()):
            self.open()
            block = self.block()
        lines = []
        for line in (block or b"").split(b"\n")[:-1]:
            current, offset, _, finished = self.position
            self.position = Position(current, offset + len(line) + 1, line + b"\n", finished)
            lines.append(self.position)
            if not WHOLE_ROW.fullmatch(self.position.line) and self.position.line != CSV_HEADER:
                self.warn_once(f"{self.path}: passed over what is no row: {line[:80]!r}")
        return lines

    def block(self) -> bytes | None:
        """Return what follows the position in the open file; None if its line is not there."""
        current, offset, line, _ = self.position
        if current not in self.opened:
            return None
        block = self.opened[current].read(offset - len(line), len(line) + BLOCK)
        return block[len(line) :] if block.startswith(line) else None

    def is_replaced(self) -> bool:
        """Tell whether the live log is now a copy of the open file: an editor leaves one."""
        current = self.position.file
        with suppress(FileNotFoundError):
            return current == self.live() and not os.path.samestat(
                os.stat(self.path), os.fstat(self.opened[current].file.fileno())
            )
        return False

    def warn_once(self, line: str) -> None:
        """Warn, but not of the same twice before the next row."""
        if line != self.warned:
            self.warn(line)
        self.warned = line


def first_row(path: Path) -> bytes:
    """Return the first row of the file at `path`, nothing if it has none; raise OSError."""
    with unpacked(path) as file:
        return first_of(file)


def first_of(file: BufferedIOBase) -> bytes:
    with noting([]):
        for line in islice(iter(lambda: file.readline(BLOCK), b""), FIRST):
            if WHOLE_ROW.fullmatch(line):
                return line
    return b""


def locate(file: BufferedIOBase, position: Position) -> tuple[int, bytes]:
    """Return the offset at which to go on, and the line before it."""
    _, offset, line, _ = position
    with noting([]):
        file.seek(offset - len(line))
        if file.read(len(line)) == line:
            return offset, line  # the last line that was read stands where it stood
    found, last = behind(file, line)
    if last == line:
        return found, line  # it stands elsewhere
    if found < offset:
        return found, last  # nothing new: an earlier copy, or a write was undone
    return 0, b""


def behind(file: BufferedIOBase, wanted: bytes | None) -> tuple[int, bytes]:
    """Return the offset behind a line, else behind the last one, and the line that it is behind."""
    offset, last = 0, b""
    with noting([]):
        file.seek(0)
        for line in file:
            if line.endswith(b"\n"):
                offset += len(line)
                last = line
            if line == wanted:
                break
    return offset, last
