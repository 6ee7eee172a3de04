"""A place in a log, right behind a line, and how it is found again in a copy of the file.

A copy may be packed, or somebody has edited it, cut it or restored an old one. So the offset counts
only if the last line that was read stands right before it. Else that line is looked for; else the
latest of a few earlier places that is still there; else the file is read from its start. What is
read again is doubled, but nothing is passed over.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from io import BufferedIOBase
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from dht22.log.formats import ROW
from dht22.log.linefile import without_windows
from dht22.log.rotated import BLOCK, length, noting, unpacked

WHOLE_ROW = re.compile(ROW)
FIRST_ROW = 10  # lines among which it is; the server writes it right behind the header
PLACES = 10  # that are remembered: some 100 bytes each in the publisher's file


class Place(NamedTuple):
    """An offset, and the line that ends there: without line end and byte order mark."""

    offset: int
    line: bytes


class Position(NamedTuple):
    """A place in one of the files of a log, and what was read before."""

    file: bytes = b""  # the first row of the file under way
    offset: int = 0
    line: bytes = b""  # the last one that was read; it ends at the offset
    earlier: tuple[Place, ...] = ()  # places in that file
    finished: tuple[bytes, ...] = ()  # the first rows of the files that were read to their end

    def places(self) -> tuple[Place, ...]:
        """Return the earlier places and this one, thinned out: each about half as far back."""
        if not WHOLE_ROW.fullmatch(self.line):
            return self.earlier  # it could not be told from other lines
        kept: list[Place] = []
        for place in (*self.earlier, Place(self.offset, self.line)):
            back = self.offset - place.offset
            if not kept or 2 * back <= self.offset - kept[-1].offset:
                kept.append(place)
        del kept[PLACES - 1 : -1]
        return tuple(kept)


def lines(file: BufferedIOBase) -> Iterator[bytes]:
    """Yield the whole lines of a file from its start, those longer than a block in pieces."""
    with noting([]):
        file.seek(0)
        yield from iter(lambda: file.readline(BLOCK), b"")


def bare(line: bytes) -> bytes:
    """Return a line without line end and byte order mark."""
    return without_windows(line.removesuffix(b"\n"))


def is_whole_row(line: bytes) -> bool:
    return line.endswith(b"\n") and WHOLE_ROW.fullmatch(bare(line)) is not None


def first_row(path: Path) -> bytes:
    """Return the first row of the file at `path`, nothing if it has none; raise OSError."""
    with unpacked(path) as file:
        return first_of(file)


def first_of(file: BufferedIOBase) -> bytes:
    return next((bare(line) for line in islice(lines(file), FIRST_ROW) if is_whole_row(line)), b"")


def last_row(path: Path) -> bytes:
    """Return the last whole row of the file at `path`; raise OSError."""
    last = b""
    with unpacked(path) as file:
        for line in lines(file):
            if is_whole_row(line):
                last = line
    return bare(last)


def halves(file: BufferedIOBase) -> list[Place]:
    """Return places in a file that is not packed, each half as far from its end as the one before.

    All before the last one is passed over.
    """
    places: list[Place] = []
    back = size = file.seek(0, os.SEEK_END)
    while len(places) < PLACES and back > BLOCK:
        back //= 2
        file.seek(size - back)
        file.readline(BLOCK)
        line = file.readline(BLOCK)
        if is_whole_row(line):
            places.append(Place(file.tell(), bare(line)))
    return places


def rows_before(path: Path, end: int, size: int) -> Iterator[bytes]:
    """Yield the rows in a file up to an offset, the last `size` bytes of them; raise OSError."""
    with open(path, "rb") as file:
        start = max(0, end - size)
        file.seek(start)
        block = file.read(end - start)
    for line in block.splitlines(keepends=True)[start > 0 :]:
        if is_whole_row(line):
            yield bare(line)


def holds(file: BufferedIOBase, row: bytes) -> bool:
    """Tell whether a row is in a file."""
    return any(bare(line) == row for line in lines(file))


def locate(file: BufferedIOBase, position: Position) -> Place:
    """Return where to read on in a copy of the file of a position."""
    last = Place(position.offset, position.line)
    if ends_at(file, last):
        return last
    wanted = [position.line, *(place.line for place in reversed(position.earlier))]
    found: dict[bytes, int] = {}
    offset = 0
    for line in lines(file):
        offset += len(line)
        if bare(line) in wanted and is_whole_row(line):
            found.setdefault(bare(line), offset)
    return next((Place(found[line], line) for line in wanted if line in found), Place(0, b""))


def ends_at(file: BufferedIOBase, place: Place) -> bool:
    """Tell whether a line ends where it did."""
    with noting([]):
        start = file.seek(start_of(place))
        return is_end(file.read(place.offset - start), place)
    return False


def start_of(place: Place) -> int:
    """Return an offset before the line of a place, which may have any line end."""
    return max(0, place.offset - len(place.line) - len(b"\r\n"))


def is_end(before: bytes, place: Place) -> bool:
    """Tell whether the bytes right before the offset of a place are its line."""
    return place.offset == 0 or before.endswith((place.line + b"\n", place.line + b"\r\n"))


def bytes_behind(path: Path, position: Position) -> int:
    """Return how much of a copy follows the last line that was read, -1 if that is not in it."""
    with unpacked(path) as file:
        place = locate(file, position)
    return length(path) - place.offset if place.line == position.line else -1
