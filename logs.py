"""The logs on disk: formats of one shape, chosen by the ending of the file's name.

    .txt    the plain reading, a line each: 74.3,25.7
    .csv    time,client,name,humidity,temperature,n
    .db     SQLite, table reading with these six columns, NULL where the CSV is empty

Each has `append(rows)`, which makes the rows readable, and `flush()`, which puts them on the disk. Both raise
OSError, and have then undone what they began: append the same rows again, and no line is torn, none doubled.
"""
from __future__ import annotations

import errno
import os
import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from functools import lru_cache
from io import FileIO
from typing import IO, NamedTuple, Union

from datagram import LIMIT, parse

try:
    import fcntl
except ImportError:  # Windows: there the port alone keeps a second server out
    fcntl = None  # type: ignore[assignment]

# time (seconds since 1970), client (IP address), name, reading, n; name and n are empty for a plain reading
Row = tuple[float, str, str, str, str]
Warn = Callable[[str], None]

LINE = 2 * LIMIT  # bytes; no line of ours is longer
READING = rb"[0-9]{1,3}\.[0-9],-?[0-9]{1,2}\.[0-9]"
DB_COLUMNS = ["time", "client", "name", "humidity", "temperature", "n"]


class Format(NamedTuple):
    """What the lines of a log look like: whole, and torn by a power cut."""

    header: bytes
    whole: re.Pattern[bytes]
    torn: re.Pattern[bytes]


TEXT = Format(b"", re.compile(READING),
              re.compile(rb"-?[0-9]{0,3}(\.[0-9]{0,20})?(,(-?[0-9]{0,3}(\.[0-9]{0,20})?)?)?"))
CSV = Format(b"time,client,name,humidity,temperature,n\n",
             re.compile(rb"[0-9T:.-]{23}Z,[0-9a-f:.]{2,45},(,%b,|[A-Za-z0-9._-]{1,32},%b,[0-9]{16})"
                        % (READING, READING)),
             re.compile(rb"[0-9TZ:.-]{0,24}(,[0-9a-f:.]{0,45}(,[A-Za-z0-9._-]{0,32}"
                        rb"(,[0-9.]{0,5}(,[0-9.-]{0,5}(,[0-9]{0,16})?)?)?)?)?"))


def is_reading(line: bytes) -> bool:
    """Tell whether a text log may hold `line`: the course's own log has more decimals than ours."""
    try:
        return bool(parse(line + b"\n"))
    except ValueError:
        return False


def lock(file: IO[bytes]) -> None:
    """Keep other servers out of a log, not its readers; raise OSError if there is one already."""
    try:
        if fcntl:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OSError(errno.EBUSY, "another server logs to it") from None


def was_moved(path: str, file: IO[bytes]) -> bool:
    """Tell whether `file` is no longer what is found at `path`: renamed or removed."""
    try:
        return not os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except FileNotFoundError:
        return True


@lru_cache(maxsize=64)  # the plain readings of a batch share their time
def rfc3339(time: float) -> str:
    """Return `time` in UTC to the millisecond, as 2026-11-21T10:00:02.123Z."""
    return datetime.fromtimestamp(time, timezone.utc).isoformat(timespec="milliseconds")[:-6] + "Z"


class LineFile:
    """A file that is only appended to, whole lines at a time, and made anew after it was renamed or removed."""

    def __init__(self, path: str, lines: Format, warn: Warn) -> None:
        self.path = path
        self.lines = lines
        self.warn = warn
        self.before = 0  # the size before the last append
        self.undone = True  # unless that append failed and could not be cut off
        self.file = self.open()
        self.append(b"")  # an empty file gets its header

    def open(self) -> FileIO:
        """Open the file, make it when missing; refuse one that is not ours or that another server has."""
        file = open(self.path, "a+b", buffering=0)  # noqa: SIM115
        try:
            lock(file)
            self.mend(file)
        except OSError:
            file.close()
            raise
        return file

    def mend(self, file: FileIO) -> None:
        """Complete or cut off a torn last line; raise OSError, the file untouched, if it is no log of ours."""
        size = end = file.seek(0, os.SEEK_END)
        block = b""
        while end and not block:  # a power cut can leave NULs at the end
            start = max(0, end - LINE)
            file.seek(start)
            block = file.read(end - start).rstrip(b"\0")
            end = start + len(block)
        *lines, torn = block.split(b"\n")
        file.seek(0)
        first = file.read(LINE)
        if lines and not first.startswith(self.lines.header):
            raise OSError(errno.EINVAL, f"its first line is not {self.lines.header.decode().strip()}")
        for line in [first.split(b"\n")[0], lines[-1]] if lines else []:
            if not (self.lines.whole.fullmatch(line) or line + b"\n" == self.lines.header or is_reading(line)):
                raise OSError(errno.EINVAL, f"no log of readings: a line in it is {ascii(line[:60])[1:]}")
        complete = self.lines.whole.fullmatch(torn)
        if not (complete or self.lines.torn.fullmatch(torn) or (not lines and self.lines.header.startswith(torn))):
            raise OSError(errno.EINVAL, f"no log of readings: it ends in {ascii(torn[-60:])[1:]}")
        keep = end if complete else end - len(torn)
        if keep < size:
            self.warn(f"{self.path}: cut off a torn end, {ascii(torn)[1:]} and {size - end} NUL bytes")
            file.truncate(keep)
        if complete:
            self.warn(f"{self.path}: completed the last line, {ascii(torn)[1:]}")
            file.write(b"\n")

    def append(self, lines: bytes) -> None:
        """Append whole lines; raise OSError, and nothing is appended, if they do not fit."""
        self.undo()
        if was_moved(self.path, self.file):
            file = self.open()
            self.file.close()
            self.file = file
        self.before = os.fstat(self.file.fileno()).st_size
        rest = memoryview(lines if self.before else self.lines.header + lines)
        try:
            while rest:
                rest = rest[self.file.write(rest):]
        except OSError:
            self.fail()
            raise

    def flush(self) -> None:
        """Put what was appended on the disk; raise OSError, and the last append is undone, if that fails."""
        try:
            os.fsync(self.file.fileno())
        except OSError:  # Linux drops the pages then: trying again without writing again would lose them
            self.fail()
            raise

    def fail(self) -> None:
        """Cut off what the last append wrote: now, else before the next one."""
        self.undone = False
        with suppress(OSError):
            self.undo()

    def undo(self) -> None:
        if not self.undone:
            if os.fstat(self.file.fileno()).st_size > self.before:  # else somebody has emptied it
                self.file.truncate(self.before)
            self.undone = True


class TextLog:
    """`datalog.txt`: the course's log, a plain reading a line."""

    def __init__(self, path: str, warn: Warn) -> None:
        self.path = path
        self.file = LineFile(path, TEXT, warn)
        self.flush = self.file.flush

    def append(self, rows: Sequence[Row]) -> None:
        self.file.append("".join([row[3] + "\n" for row in rows]).encode("ascii"))


class CsvLog:
    """`datalog.csv`: knows when and who as well."""

    def __init__(self, path: str, warn: Warn) -> None:
        self.path = path
        self.file = LineFile(path, CSV, warn)
        self.flush = self.file.flush

    def append(self, rows: Sequence[Row]) -> None:
        self.file.append("".join([f"{rfc3339(time)},{client},{name},{reading},{n}\n"
                                  for time, client, name, reading, n in rows]).encode("ascii"))


class DbLog:
    """`datalog.db`: for SQL. A batch is one transaction, and on the disk when `append` returns."""

    def __init__(self, path: str, warn: Warn) -> None:
        self.path = path
        # SQLite's own locks would let a second server in. This file stays open: closing it would end those.
        self.file = open(path, "a+b")  # noqa: SIM115
        lock(self.file)
        self.file.seek(0)
        if self.file.read(16) not in (b"", b"SQLite format 3\0"):
            raise OSError(errno.EINVAL, "no SQLite database")
        self.connection = sqlite3.connect(path, timeout=1, isolation_level=None)
        with self.transaction() as execute:
            columns = [row[1] for row in execute("PRAGMA table_info(reading)")]
            if columns != DB_COLUMNS and execute("SELECT 1 FROM sqlite_master").fetchone():
                raise OSError(errno.EINVAL, "a database, but not one of readings")
            execute("CREATE TABLE IF NOT EXISTS reading (time TEXT NOT NULL, client TEXT NOT NULL, name TEXT,"
                    " humidity REAL NOT NULL, temperature REAL NOT NULL, n INTEGER, UNIQUE (name, n))")
        self.connection.execute("PRAGMA journal_mode = WAL")
        self.connection.execute("PRAGMA synchronous = FULL")

    @contextmanager
    def transaction(self) -> Iterator[Callable[..., sqlite3.Cursor]]:
        """Commit what is executed, or nothing of it; raise OSError."""
        try:
            self.connection.execute("BEGIN IMMEDIATE")
            yield self.connection.execute
            self.connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise OSError(errno.EIO, str(error)) from None
        finally:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")

    def append(self, rows: Sequence[Row]) -> None:
        if was_moved(self.path, self.file):
            raise OSError(errno.ENOENT, "renamed or removed under way; a .db is rotated with the server stopped")
        with self.transaction():
            self.connection.executemany(
                "INSERT OR IGNORE INTO reading VALUES (?, ?, nullif(?, ''), ?, ?, nullif(?, ''))",
                [(rfc3339(time), client, name, *reading.split(","), n) for time, client, name, reading, n in rows])

    def flush(self) -> None:
        pass


Log = Union[TextLog, CsvLog, DbLog]
LOGS: dict[str, type[Log]] = {".txt": TextLog, ".db": DbLog, ".csv": CsvLog}  # in the order in which they are written
