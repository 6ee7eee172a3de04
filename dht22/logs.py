"""The logs on disk: formats of one shape, chosen by the ending of the file's name.

    .txt    the plain reading, a line each: 74.3,25.7
    .csv    time,client,name,humidity,temperature,n
    .db     SQLite, table reading with these six columns, NULL where the CSV is empty

Each has `append(rows)`, which makes the rows readable, and `flush()`, which puts them on the disk. Both raise
OSError, and have then undone what they began: append the same rows again, and no line is torn, none doubled.
Those that know who sent a reading have `last()`: the highest n of each name, in rotated files too.
"""

from __future__ import annotations

import errno
import glob
import gzip
import os
import re
import sqlite3
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime, timezone
from functools import lru_cache
from io import BufferedIOBase
from operator import itemgetter
from typing import Union
from urllib.parse import quote

from dht22.datagram import parse
from dht22.linefile import LINE, LineFile, Warn, lock, was_moved

# time (seconds since 1970), client (IP address), name, reading, n; name and n are empty for a plain reading
Row = tuple[float, str, str, str, str]

NAMES = 10_000  # remembered
READING = rb"[0-9]{1,3}\.[0-9],-?[0-9]{1,2}\.[0-9]"
TEXT_WHOLE = re.compile(READING)
TEXT_TORN = re.compile(rb"-?[0-9]{0,3}(\.[0-9]{0,20})?(,(-?[0-9]{0,3}(\.[0-9]{0,20})?)?)?")
CSV_HEADER = b"time,client,name,humidity,temperature,n\n"
CSV_WHOLE = re.compile(
    rb"[0-9T:.-]{23}Z,[0-9a-f:.]{2,45},(,%b,|[A-Za-z0-9._-]{1,32},%b,[0-9]{16})"
    % (READING, READING)
)
CSV_NAMED = re.compile(rb"Z,[^,\n]*,([A-Za-z0-9._-]{1,32}),[0-9.]+,[0-9.-]+,([0-9]{16})\n")
CSV_TORN = re.compile(
    rb"[0-9TZ:.-]{0,24}(,[0-9a-f:.]{0,45}(,[A-Za-z0-9._-]{0,32}"
    rb"(,[0-9.]{0,5}(,[0-9.-]{0,5}(,[0-9]{0,16})?)?)?)?)?"
)
DB_COLUMNS = ["time", "client", "name", "humidity", "temperature", "n"]


def is_reading(line: bytes) -> bool:
    """Tell whether a text log may hold `line`: the course's own log has more decimals than ours."""
    try:
        return parse(line + b"\n")[1] is None
    except ValueError:
        return False


@lru_cache(maxsize=64)  # the plain readings of a batch share their time
def rfc3339(time: float) -> str:
    """Return `time` in UTC to the millisecond, as 2026-11-21T10:00:02.123Z."""
    return datetime.fromtimestamp(time, timezone.utc).isoformat(timespec="milliseconds")[:-6] + "Z"


class TextLog:
    """`datalog.txt`: the course's log, a plain reading a line."""

    def __init__(self, path: str, warn: Warn) -> None:
        self.path = path
        self.file = LineFile(path, warn, b"", is_reading, TEXT_WHOLE, TEXT_TORN)
        self.flush = self.file.flush

    def append(self, rows: Sequence[Row]) -> None:
        self.file.append(("\n".join(map(itemgetter(3), rows)) + "\n").encode("ascii"))


class CsvLog:
    """`datalog.csv`: knows when and who as well."""

    def __init__(self, path: str, warn: Warn) -> None:
        self.path = path
        self.warn = warn
        self.file = LineFile(path, warn, CSV_HEADER, CSV_WHOLE.fullmatch, CSV_WHOLE, CSV_TORN)
        self.flush = self.file.flush

    def last(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for path in [*rotated(self.path), self.path]:
            try:
                with gzip.open(path) if path.endswith(".gz") else open(path, "rb") as file:
                    for block in blocks(file):
                        for name, n in dict(CSV_NAMED.findall(block)).items():
                            remember(found, name.decode("ascii"), int(n))
            except (OSError, EOFError, zlib.error) as error:
                if path == self.path:
                    raise
                self.warn(
                    f"{path}: read as far as it goes ({error}); duplicates of what is behind are not known"
                )
        return found

    def append(self, rows: Sequence[Row]) -> None:
        self.file.append(
            "".join(
                [
                    f"{rfc3339(time)},{client},{name},{reading},{n}\n"
                    for time, client, name, reading, n in rows
                ]
            ).encode("ascii")
        )


def rotated(path: str) -> list[str]:
    """Return what rotation has left of a log, the oldest first."""
    beside = [*glob.glob(glob.escape(path) + ".*"), *glob.glob(glob.escape(path) + "-*")]
    files = [each for each in beside if not each.endswith(("-wal", "-shm", "-journal"))]
    return sorted(filter(os.path.isfile, files), key=modified)


def modified(path: str) -> float:
    """Return when a file was modified, 0 if it is gone by now."""
    try:
        return os.path.getmtime(path)
    except OSError:
        return 0.0


def blocks(file: BufferedIOBase) -> Iterator[bytes]:
    """Yield a file in blocks of whole lines; what follows its last line end is left out."""
    rest = b""
    for block in iter(lambda: file.read1(1 << 20), b""):
        lines, _, rest = (rest + block).rpartition(b"\n")
        yield lines + b"\n"
        rest = rest[-LINE:]  # no line of ours is longer


def remember(found: dict[str, int], name: str, n: int) -> None:
    """Note the highest n of a name; of too many names the latest are kept."""
    found[name] = max(n, found.pop(name, 0))
    if len(found) > NAMES:
        del found[next(iter(found))]


class DbLog:
    """`datalog.db`: for SQL. A batch is one transaction, and on the disk when `append` returns."""

    def __init__(self, path: str, warn: Warn) -> None:
        self.path = path
        self.warn = warn
        # SQLite's own locks would let a second server in. This file stays open: closing it would end those.
        self.file = open(path, "a+b")  # noqa: SIM115
        if sys.platform.startswith(
            "linux"
        ):  # elsewhere the two kinds of lock are one, and SQLite is locked out
            lock(self.file)
        self.file.seek(0)
        if self.file.read(16) not in (b"", b"SQLite format 3\0"):
            raise OSError(errno.EINVAL, "no SQLite database")
        try:
            self.connection = sqlite3.connect(path, timeout=1, isolation_level=None)
            with self.transaction() as execute:
                columns = [row[1] for row in execute("PRAGMA table_info(reading)")]
                if columns != DB_COLUMNS and execute("SELECT 1 FROM sqlite_master").fetchone():
                    raise OSError(errno.EINVAL, "a database, but not one of readings")
                execute(
                    "CREATE TABLE IF NOT EXISTS reading (time TEXT NOT NULL, client TEXT NOT NULL, name TEXT,"
                    " humidity REAL NOT NULL, temperature REAL NOT NULL, n INTEGER, UNIQUE (name, n))"
                )
                execute(
                    "PRAGMA user_version = 1"
                )  # a write: what it cannot write, SQLite opens for reading only
            self.connection.execute("PRAGMA journal_mode = WAL")
            self.connection.execute("PRAGMA synchronous = FULL")
            # What a killed predecessor committed, and did not flush, counts from now on.
            self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:
            raise OSError(errno.EIO, str(error)) from None

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
            raise OSError(
                errno.ENOENT,
                "renamed or removed under way; a .db is rotated with the server stopped",
            )
        with self.transaction():
            self.connection.executemany(
                "INSERT OR IGNORE INTO reading VALUES (?, ?, nullif(?, ''), ?, ?, nullif(?, ''))",
                [
                    (rfc3339(time), client, name, *reading.split(","), n)
                    for time, client, name, reading, n in rows
                ],
            )

    def flush(self) -> None:
        pass

    def last(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for path in [*rotated(self.path), self.path]:
            query = (
                "mode=ro" if path == self.path else "immutable=1"
            )  # which leaves no files beside a rotated one
            try:
                with closing(
                    sqlite3.connect(f"file:{quote(os.fsencode(path))}?{query}", uri=True)
                ) as connection:
                    for name, n in connection.execute(
                        "SELECT name, max(n) FROM reading WHERE name IS NOT NULL GROUP BY name ORDER BY max(n)"
                    ):
                        remember(found, name, n)
            except sqlite3.Error as error:
                if path == self.path:
                    raise OSError(errno.EIO, str(error)) from None
                self.warn(f"{path}: not read ({error}); duplicates of what is in it are not known")
        return found


Log = Union[TextLog, CsvLog, DbLog]
LOGS: dict[str, type[Log]] = {
    ".txt": TextLog,
    ".db": DbLog,
    ".csv": CsvLog,
}  # in the order in which they are written
