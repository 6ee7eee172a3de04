"""The lines of logs in blocks: rotated, packed and damaged ones, databases too, from a time on."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Container, Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from io import BufferedIOBase
from ipaddress import ip_address
from pathlib import Path
from shutil import copyfileobj
from tempfile import TemporaryDirectory
from typing import NamedTuple

from dht22.console import say
from dht22.datagram import parse
from dht22.log.formats import TEXT_WHOLE, open_for_reading, parse_row
from dht22.log.rotated import BLOCK, DAMAGE, LOG_NAME, is_damage, unpacked

# A line as in the CSV, and only one, whatever somebody has put into the database
SELECT = """
    SELECT replace(time || ',' || client || ',' || ifnull(name, '') || ','
        || humidity || ',' || temperature || ',' || ifnull(n, ''), char(10), '?') || char(10)
    FROM reading WHERE rowid >= ?"""
OLDER = "SELECT min(rowid) FROM reading WHERE rowid >= ? AND rowid < ? AND time >= ?"
BLOCK_OF_LINES = 3_000_000  # bytes, at least
# Looked at before the beginning of what is wanted: two full spools. What a spool has kept is
# delivered late, and stands behind its time.
LATE_BYTES, LATE_ROWS = 20_000_000, 280_000


class Chosen(NamedTuple):
    """Which readings are wanted: in UTC, without a zone; of these sensors, or of all."""

    since: datetime | None = None
    until: datetime | None = None  # and before that
    names: frozenset[str] = frozenset()  # or the address of a sensor without a name

    def has(self, sensor: str) -> bool:
        return not self.names or sensor in self.names

    def missing(self, sensors: Container[str]) -> bool:
        """Report which of the names are not among the sensors; tell whether there are any."""
        names = [name for name in sorted(self.names, key=in_order) if name not in sensors]
        for name in names:
            say(self._replace(names=frozenset([name])).none())
        return bool(names)

    def none(self) -> str:
        """Return the words for: there is no such reading."""
        words = "no reading"
        if self.names:
            words += f" of {', '.join(sorted(self.names, key=in_order))}"
        if self.since:
            words += f" since {self.since.isoformat(timespec='seconds')}Z"
        if self.until:
            words += f" before {self.until.isoformat(timespec='seconds')}Z"
        return words if self != ALL else f"{words} in it"


ALL = Chosen()


def in_order(sensor: str) -> tuple[int, int, str]:
    """Return what a sensor is sorted by: addresses as numbers, then names."""
    try:
        address = ip_address(sensor)
    except ValueError:
        return 7, 0, sensor
    return address.version, int(address), sensor


def stamp_of(time: datetime | None) -> bytes:
    """Return a time in UTC as a row begins with it, nothing if there is none."""
    return time.isoformat(timespec="milliseconds").encode() if time else b""


class LogFile(NamedTuple):
    """A file of readings, by what its name tells."""

    path: Path
    name: str  # without what rotation added
    ending: str  # .csv, .db or .txt
    packing: str  # .gz, .xz, .bz2 or nothing


def log_at(path: Path) -> LogFile:
    """Return the log at `path`; raise ValueError if its name is not that of a log."""
    match = LOG_NAME.fullmatch(path.name)
    if not match:
        raise ValueError("the ending is .csv, .db or .txt, before what rotation adds")
    return LogFile(path, match[1], match[2], match[3] or "")


class Unreadable(Exception):
    """No reading can be had from a log; the text names it, with the reason."""


def blocks(log: LogFile, since: bytes = b"", newest_first: bool = False) -> Iterator[bytes]:
    """Yield the lines of a log in blocks, those of a database as in a .csv; raise Unreadable.

    With `since`, a time as it is in a row, most of what is older is left out.
    """
    try:
        with unpacked(log.path) as file:
            if log.ending == ".db":
                found = database_blocks(log, file, since)
            elif log.packing or not since:
                found = file_blocks(log, file)
            elif newest_first:
                yield from (lines for _, lines in newer_blocks(file, since))
                return
            else:
                end = file.seek(0, os.SEEK_END)
                file.seek(min((start for start, _ in newer_blocks(file, since)), default=end))
                found = file_blocks(log, file)
            yield from reversed([*found]) if newest_first else found
    except (ImportError, OSError, sqlite3.Error, *DAMAGE) as error:
        reason = getattr(error, "strerror", None) or error
        raise Unreadable(f"{log.path} ({reason})") from None


def newer_blocks(file: BufferedIOBase, since: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the blocks of lines that are not all older than a time, and where each begins.

    The last one comes first. It ends at LATE_BYTES that are older throughout: the last week of
    years takes as long as a week.
    """
    start = found = file.seek(0, os.SEEK_END)
    rest = b""  # of the line that begins further ahead
    while start and found - start < LATE_BYTES:
        beyond, start = start, max(0, start - BLOCK_OF_LINES)
        file.seek(start)
        lines = file.read(beyond - start) + rest
        begins = start and (lines.find(b"\n") + 1 or len(lines))
        rest, lines = lines[:begins], lines[begins:]
        if has_newer(lines, since):
            found = start + begins
            yield found, lines


def has_newer(lines: bytes, since: bytes) -> bool:
    """Tell whether one of the lines is not older."""
    newest = lines[lines.rfind(b"\n", 0, -1) + 1 :]  # mostly enough
    return newest >= since or max(lines.split(b"\n")) >= since


def file_blocks(log: LogFile, file: BufferedIOBase) -> Iterator[bytes]:
    """Yield the lines of a file in blocks; a damaged packed one is read as far as it goes."""
    lines = bytearray()
    try:
        for piece in iter(lambda: file.read1(BLOCK), b""):
            lines += piece
            if len(lines) >= BLOCK_OF_LINES:
                end = lines.rfind(b"\n") + 1
                yield bytes(lines[:end])
                del lines[:end]
    except Exception as error:
        if not is_damage(error):
            raise
        say(f"{log.path}: read as far as it goes ({error})")
    yield bytes(lines)


def database_blocks(log: LogFile, file: BufferedIOBase, since: bytes) -> Iterator[bytes]:
    """Yield the rows of a database, 10,000 at a time, as lines."""
    with plain_copy(log, file) as path, closing(open_for_reading(str(path))) as database:
        database.text_factory = bytes
        rows = database.execute(SELECT, [first_row(database, since) if since else 0])
        for some in iter(lambda: rows.fetchmany(10_000), []):
            # All of a row is NULL when one value is where none belongs.
            yield b"".join(row or b"NULL\n" for (row,) in some)


def first_row(database: sqlite3.Connection, since: bytes) -> int:
    """Return the number of a row before which all are older, looked for as in `newer_blocks`."""
    (last,) = database.execute("SELECT max(rowid) FROM reading").fetchone()
    newer = (last or 0) + 1
    while newer is not None:
        found: int = newer
        bounds = found - LATE_ROWS, found, since.decode()
        (newer,) = database.execute(OLDER, bounds).fetchone()
    return found


@contextmanager
def plain_copy(log: LogFile, file: BufferedIOBase) -> Iterator[Path]:
    """Lend the path of a database, or of an unpacked copy."""
    if not log.packing:
        yield log.path.resolve()
        return
    with TemporaryDirectory() as folder:
        path = Path(folder, log.name)
        with path.open("wb") as copy:
            copyfileobj(file, copy)
        yield path


def check_line(line: bytes, ending: str) -> None:
    """Raise ValueError with the reason unless `line` is one of a log with this ending."""
    if ending == ".txt":
        if not line.endswith(b"\n") and not TEXT_WHOLE.fullmatch(line):
            raise ValueError("torn")
        if line.count(b",") != 1:  # parse() takes a named reading as well
            raise ValueError("not a plain reading")
        parse(line)
        return
    parse_row(line)
