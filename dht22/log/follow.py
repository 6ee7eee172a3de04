"""The rows of a log from a remembered position on, wherever rotation takes them.

    follower = Follower(Path("datalog.csv"), position)
    for position in follower.read():
        print(position.line)

`read()` returns what is new, a block at most, and never waits. Keep the position of the last row
that you are done with: a Follower that is given it goes on with the next row, and so does one that
is told to `rewind()` to it. `skip()` passes over all that is there.

A file is known by its first row, whether it was renamed, packed, copied or truncated since. Inodes
and times are no help: both are used again. Files of the same first row are copies of one; a file
without a row is none. An example, each file with its rows, and the position:

    datalog.csv       a b c    in the file `a` behind `b`
    datalog.csv.1     a b c    the log was renamed: still in `a` behind `b`, so `c` comes next
    datalog.csv       d        seen before `a` was read to its end: then `a` is finished
    datalog.csv.1     d e      renamed once more before `d` was read, the older one packed:
    datalog.csv.2.gz  a b c    its first row is `a`, which is finished;
    datalog.csv       f        the files that are not are `d`, which is older, and then `f`

While the live log is the file under way, it alone is read. A file that was renamed is left only
when a later one has a row: until then the server may still write to it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from dht22.console import Once, say
from dht22.log.formats import CSV_HEADER
from dht22.log.linefile import LONGEST_LINE
from dht22.log.position import (
    WHOLE_ROW,
    Place,
    Position,
    bare,
    bytes_behind,
    first_of,
    first_row,
    halves,
    holds,
    is_end,
    last_row,
    locate,
    start_of,
)
from dht22.log.rotated import BLOCK, PACKED, PackedFile, PlainFile, rotated, unpacked

TITLE = CSV_HEADER.rstrip()
SHOWN = 80  # bytes of a line that is no row
RESTED = 60.0  # seconds; a packed file that ends early and is older than that is damaged
FINISHED = 100  # files that are remembered even if they are gone
ABSENT = 60.0  # seconds between two looks; a renaming can hide a file for a moment


class Follower:
    """A log and what rotation leaves beside it, read as one."""

    def __init__(self, path: Path, position: Position) -> None:
        self.path = path
        self.position = position  # behind the last line that was read
        self.once = Once()  # until the next row
        # By first row: the file under way, and the one before it in case of a rewind.
        self.opened: dict[bytes, PlainFile | PackedFile] = {}
        self.exhausted: set[tuple[int, ...]] = set()  # copies of it, by `state_of`
        self.missed: dict[bytes, float] = {}  # finished files that are gone, since when (monotonic)

    def read(self) -> list[Position]:
        """Return the position behind each new row (the row is its `line`), none at the end.

        Raise OSError.
        """
        while True:
            before = self.position
            rows = self.rows()
            if not rows and self.position == before:
                # The server writes to one file at a time: once a later one has a row, this one
                # grows no more. It may have grown until then.
                onward = self.onward()
                rows = self.rows()
                if not rows and self.position == before and not self.change_copy():
                    if not onward or self.may_grow():
                        return []
                    self.turn(onward)
            if rows:
                self.once.clear()
                return rows

    def rewind(self, position: Position) -> None:
        """Go back to a position that was returned before."""
        self.position = position
        self.exhausted.clear()
        for first, file in [*self.opened.items()]:
            if isinstance(file, PackedFile):
                self.close(first)

    def skip(self) -> None:
        """Pass over all that is there; raise OSError."""
        *finished, first = self.files() or [b""]
        self.position = Position(first, finished=tuple(finished))
        self.open()
        opened = self.opened.get(first)
        if isinstance(opened, PlainFile):  # a packed one is unpacked as a whole
            *earlier, last = halves(opened.file) or [Place(0, b"")]
            self.position = Position(first, *last, tuple(earlier), tuple(finished))
        before = None
        while self.position != before:
            before = self.position
            self.rows()

    def flush(self) -> None:
        """Put on the disk what was read: no position may be ahead of it after a power cut."""
        if os.name == "posix":  # Windows does that only for who may write
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
        """Return the first row of the file to read after this one, nothing while there is none."""
        current, live = self.position.file, self.live()
        if current and current == live:
            return b""
        # The live log is among them even if it was finished: it may have come back, and grow.
        unread = [
            first for first in self.files() if first not in self.position.finished or first == live
        ]
        if current in unread and current == unread[-1]:
            return b""  # no later one has a row
        return next((first for first in unread if first != current), b"")

    def turn(self, onward: bytes) -> None:
        """Finish the file under way and go on with another."""
        current = self.position.file
        if current and current not in self.opened:
            say(f"{self.path}: the file that was read last is gone, and what was unread of it")
        for first in self.opened.keys() - {current}:
            self.close(first)
        self.exhausted.clear()
        finished = dict.fromkeys((*self.position.finished, current))
        finished.pop(b"", None)
        self.position = Position(onward, finished=self.still_there(finished))

    def still_there(self, finished: Iterable[bytes]) -> tuple[bytes, ...]:
        """Return the finished files without those, of many, that have been gone for a while."""
        every = tuple(finished)
        if len(every) <= FINISHED:
            return every
        there, now = self.files(), time.monotonic()
        self.missed = {first: self.missed.get(first, now) for first in every if first not in there}
        return tuple(first for first in every if now - self.missed.get(first, now) < ABSENT)

    def may_grow(self) -> bool:
        """Tell whether a packed file that ends early may be just being written."""
        file = self.opened.get(self.position.file)
        if not isinstance(file, PackedFile) or not file.damage:
            return False
        if abs(time.time() - os.fstat(file.file.fileno()).st_mtime) < RESTED:
            self.close(self.position.file)
            return True
        say(f"{file.path}: read as far as it goes ({file.damage[0]})")
        return False

    # Which copy of it

    def open(self) -> None:
        """Open the file under way: the live log, else the copy with most that is unread."""
        self.close(self.position.file)
        while self.position.file not in self.opened:
            copies = self.files().get(self.position.file, [])
            if not copies:
                return
            with suppress(FileNotFoundError):  # it was renamed just now: look again
                self.open_copy(self.best(copies))

    def best(self, copies: list[Path]) -> Path:
        """Return the copy to open; where the last line is in none, the one changed last."""
        if len(copies) == 1 or copies[-1] == self.path:
            return copies[-1]
        # One that is not packed before one that is: that may be just being written.
        return max(
            reversed(copies),
            key=lambda path: (bytes_behind(path, self.position), path.suffix not in PACKED),
        )

    def open_copy(self, path: Path) -> None:
        """Open a copy of the file under way, and find the position in it."""
        current = self.position.file
        file = unpacked(path)
        if first_of(file) != current:  # another one was renamed to this just now
            file.close()
            return
        place = locate(file, self.position)
        earlier = tuple(each for each in self.position.earlier if each.offset < place.offset)
        self.position = Position(current, *place, earlier, self.position.finished)
        is_packed = path.suffix in PACKED
        self.opened[current] = (
            PackedFile(path, file, start_of(place)) if is_packed else PlainFile(file)
        )

    def change_copy(self) -> bool:
        """Go on in another copy of the file under way if that has more; tell whether one has."""
        current = self.position.file
        opened = self.opened.get(current)
        if not opened:
            return False
        copies = self.files().get(current, []) if self.live() != current else [self.path]
        try:
            for path in reversed(copies):
                if self.has_more(path, opened):
                    self.close(current)
                    self.open_copy(path)
                    return True
        except FileNotFoundError:  # it was renamed just now: look again
            return True
        return False

    def has_more(self, path: Path, opened: PlainFile | PackedFile) -> bool:
        """Tell whether a copy has what the open one, which was read to its end, has not."""
        copy, this = os.stat(path), os.fstat(opened.file.fileno())
        if os.path.samestat(copy, this):
            return False
        if path == self.path:  # an editor has replaced it: the server appends to this one now
            return True
        if state_of(copy) in self.exhausted:
            return False
        # Each is read to its end once: of two that were edited each may lack rows of the other.
        self.exhausted |= {state_of(copy), state_of(this)}
        behind = bytes_behind(path, self.position)
        if behind >= 0:
            return behind > 0
        if copy.st_mtime_ns < this.st_mtime_ns:
            return False
        # Its end was cut off, and then it was written to; or it is just being copied or packed.
        with opened.again() as file:
            return not holds(file, last_row(path))

    # What is in it

    def rows(self) -> list[Position]:
        """Return the positions behind the rows that follow; move on behind the lines that do."""
        block = self.block()
        if block is None:
            self.open()
            block = self.block()
        if not block:
            return []
        if len(block) >= BLOCK and b"\n" not in block:
            self.pass_over_long_line()
            return []
        current, offset, row, _, finished = self.position
        earlier = self.position.places()
        rows = []
        for line in block.split(b"\n")[:-1]:
            offset += len(line) + 1
            row = bare(line)
            if WHOLE_ROW.fullmatch(row):
                rows.append(Position(current, offset, row, earlier, finished))
            elif row != TITLE:
                self.say_passed_over(row)
        self.position = Position(current, offset, row[-LONGEST_LINE:], earlier, finished)
        return rows

    def pass_over_long_line(self) -> None:
        """Move on behind a line that is longer than a block, once its end is there."""
        current, offset, _, _, finished = self.position
        start, length, row = offset, 0, b""
        while not length:
            block = self.opened[current].read(offset, BLOCK)
            if not block:
                return
            length = block.find(b"\n") + 1
            row = (row + block[: length or BLOCK])[-LONGEST_LINE:]
            offset += length or len(block)
        self.say_passed_over(row, f" ({offset - start} bytes)")
        self.position = Position(current, offset, bare(row), self.position.places(), finished)

    def say_passed_over(self, line: bytes, size: str = "") -> None:
        self.once.say("line", f"{self.path}: passed over what is no row{size}: {line[:SHOWN]!r}")

    def block(self) -> bytes | None:
        """Return what follows the position in the open file; None if its line is not there."""
        current, offset, line, *_ = self.position
        if current not in self.opened:
            return None
        place = Place(offset, line)
        start = start_of(place)
        block = self.opened[current].read(start, offset - start + BLOCK)
        return block[offset - start :] if is_end(block[: offset - start], place) else None


def state_of(found: os.stat_result) -> tuple[int, ...]:
    """Return what changes when a file is replaced or written to."""
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
