"""The logs on disk: three formats of one shape, chosen by the ending of the file's name.

    .txt    the plain reading, a line each: 74.3,25.7
    .csv    time,client,name,humidity,temperature,n
    .db     SQLite, table reading with these six columns, NULL where the CSV is empty

A format is a class in `LOGS`. It is opened with a path and what reports a mended file, has `path`,
`append(rows)`, which makes the rows readable, and `flush()`, which puts them on the disk. All raise
OSError, and have then undone what they began: append the same rows again, and no line is torn, none
doubled. CONTRIBUTING.md lists what else has to know of a new format.
"""

from __future__ import annotations

import errno
import os
import re
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, Union

from dht22.datagram import parse
from dht22.log.linefile import LineFile, Warn, lock, refuse_device, was_moved
from dht22.log.rows import Rows, csv_lines, rfc3339, text_lines

# The columns of a CSV: what stands in each, and how that may begin where a line is torn.
COLUMNS = {
    "time": (
        rb"(?:19|20)[0-9]{2}-[0-9]{2}-[0-9]{2}T(?:[01][0-9]|2[0-3]):[0-9]{2}:[0-9]{2}\.[0-9]{3}Z",
        rb"[0-9TZ:.-]{0,24}",
    ),
    "client": (rb"[0-9a-f:.]{2,45}", rb"[0-9a-f:.]{0,45}"),
    "name": (rb"[A-Za-z0-9._-]{1,32}", rb"[A-Za-z0-9._-]{0,32}"),
    "humidity": (rb"[0-9]{1,3}\.[0-9]", rb"[0-9.]{0,5}"),
    "temperature": (rb"-?[0-9]{1,2}\.[0-9]", rb"[0-9.-]{0,5}"),
    "n": (rb"[1-8][0-9]{15}", rb"[0-9]{0,16}"),
}
WHOLE = {column: whole for column, (whole, _) in COLUMNS.items()}
IS_WHOLE = {column: re.compile(whole).fullmatch for column, whole in WHOLE.items()}
READING = WHOLE["humidity"] + b"," + WHOLE["temperature"]
NAMED = rb"(%b),%b,(%b)" % (WHOLE["name"], READING, WHOLE["n"])  # groups 1 and 2
PLAIN = rb"," + READING + rb","
ROW = WHOLE["time"] + b"," + WHOLE["client"] + rb",(?:" + PLAIN + b"|" + NAMED + b")"
NAMED_ROW = re.compile(rb"Z,[^,\n]*," + NAMED + rb"\r?\n")  # in a block of rows, for a quick search
NOT_A_ROW = "not a row as the server writes it"
CSV_HEADER = ",".join(COLUMNS).encode() + b"\n"


def beginning(columns: Sequence[bytes]) -> re.Pattern[bytes]:
    """Return what matches a line that is torn in any of its columns."""
    pattern = columns[-1]
    for column in columns[-2::-1]:
        pattern = rb"%b(?:,%b)?" % (column, pattern)
    return re.compile(pattern)


TEXT_WHOLE = re.compile(READING)
TEXT_TORN = beginning([rb"-?[0-9]{0,3}(?:\.[0-9]{0,20})?"] * 2)  # the course's log has decimals
CSV_WHOLE = re.compile(ROW)
CSV_TORN = beginning([torn for _, torn in COLUMNS.values()])


def is_reading(line: bytes) -> bool:
    """Tell whether a text log may hold `line`: the course's own log has more decimals than ours."""
    try:
        return parse(line + b"\n")[1] is None
    except ValueError:
        return False


class LoggedReading(NamedTuple):
    """A row of a .csv, or of a .db as such a row."""

    time: float  # seconds since 1970
    stamp: str  # the same as it is in the row
    client: str  # IP address
    name: str  # empty for a plain reading
    humidity: float  # %
    temperature: float  # °C
    n: str  # empty for a plain reading

    @property
    def sensor(self) -> str:
        """Return what a sensor is known by: its name or, without one, its address."""
        return self.name or self.client


def parse_row(line: bytes) -> LoggedReading:
    """Return what is in one whole line of a .csv, with or without its line end.

    Raise ValueError with the reason if it is not a row.
    """
    fields = line.rstrip(b"\r\n").split(b",")
    if len(fields) != len(COLUMNS):
        raise ValueError(NOT_A_ROW)
    stamp, client, name, humidity, temperature, n = fields
    is_named = IS_WHOLE["name"](name) and IS_WHOLE["n"](n)
    is_stamped = IS_WHOLE["time"](stamp) and IS_WHOLE["client"](client)
    if not is_stamped or not (is_named or name == n == b""):
        raise ValueError(NOT_A_ROW)
    time = datetime.fromisoformat(stamp[:-1].decode() + "+00:00").timestamp()
    parse(humidity + b"," + temperature)  # raises what is out of range
    return LoggedReading(
        *(time, stamp.decode(), client.decode(), name.decode()),
        *(float(humidity), float(temperature), n.decode()),
    )


def open_for_reading(path: str) -> sqlite3.Connection:
    """Open a database of readings to read it, whether the server has it open or not."""
    # While the server has it open there is a -wal to be read, too. Without one, as beside a rotated
    # one, reading would leave ours behind: hence immutable.
    way = "" if os.path.exists(f"{path}-wal") else "&immutable=1"
    return sqlite3.connect(f"{Path(path).absolute().as_uri()}?mode=ro{way}", uri=True)


class TextLog:
    """`datalog.txt`: the course's log, a plain reading a line."""

    def __init__(self, path: str, warn: Warn) -> None:
        self.path = path
        self.file = LineFile(path, warn, b"", is_reading, TEXT_WHOLE, TEXT_TORN)
        self.flush = self.file.flush

    def append(self, rows: Rows) -> None:
        self.file.append(text_lines(rows))


class CsvLog:
    """`datalog.csv`: knows when and who as well."""

    def __init__(self, path: str, warn: Warn) -> None:
        self.path = path
        self.file = LineFile(path, warn, CSV_HEADER, CSV_WHOLE.fullmatch, CSV_WHOLE, CSV_TORN)
        self.flush = self.file.flush

    def append(self, rows: Rows) -> None:
        self.file.append(csv_lines(rows))


CREATE_TABLE = (
    "CREATE TABLE reading (time TEXT NOT NULL, client TEXT NOT NULL, name TEXT,"
    " humidity REAL NOT NULL, temperature REAL NOT NULL, n INTEGER, UNIQUE (name, n))"
)
INSERT = "INSERT OR IGNORE INTO reading VALUES (?, ?, nullif(?, ''), ?, ?, nullif(?, ''))"
WAL_PAGES = 100  # of 4 KiB, after which SQLite's write-ahead log is emptied: it may fill a disk


class DbLog:
    """`datalog.db`: for SQL. A batch is one transaction, and on the disk when `append` returns."""

    def __init__(self, path: str, warn: Warn) -> None:
        self.path = path
        refuse_device(path)
        # This file stays open: closing it would end the locks that SQLite has on it.
        self.file = open(path, "a+b", buffering=0)  # noqa: SIM115
        try:
            if sys.platform != "darwin":  # there this lock would keep SQLite itself out
                lock(self.file)
            self.file.seek(0)
            if self.file.read(16) not in (b"", b"SQLite format 3\0"):
                raise OSError(errno.EINVAL, "not an SQLite database")
            self.connect()
        except OSError:
            self.file.close()
            raise

    def connect(self) -> None:
        """Make the database ready to be appended to; raise OSError if it is not of readings."""
        self.connection = sqlite3.connect(self.path, timeout=1, isolation_level=None)
        try:
            self.prepare()
        except (OSError, sqlite3.Error) as error:
            self.connection.close()
            raise error if isinstance(error, OSError) else as_os_error(error) from None

    def prepare(self) -> None:
        execute = self.connection.execute
        self.refuse_foreign()
        # What a killed predecessor committed and did not flush counts from now on. It comes first:
        # on a small disk it makes room.
        try:
            execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.OperationalError as error:
            if "full" not in str(error):  # that is reported when a reading cannot be written
                raise
        execute("PRAGMA journal_mode = WAL")
        execute("PRAGMA synchronous = FULL")
        execute("PRAGMA fullfsync = ON")  # for macOS, as `sync` in linefile
        execute(f"PRAGMA wal_autocheckpoint = {WAL_PAGES}")
        execute(f"PRAGMA journal_size_limit = {WAL_PAGES * 4096}")
        with self.transaction():
            if not execute("SELECT 1 FROM sqlite_master").fetchone():
                execute(CREATE_TABLE)
                execute("PRAGMA user_version = 1")

    def refuse_foreign(self) -> None:
        """Raise OSError unless the database is empty or has our table."""
        tables = self.connection.execute("SELECT name, sql FROM sqlite_master WHERE sql NOT NULL")
        found = dict(tables.fetchall())
        if found and found.get("reading") != CREATE_TABLE:
            raise OSError(errno.EINVAL, "a database, but its table is not that of our readings")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Do what is in the block as a whole or not at all; raise OSError."""
        try:
            self.connection.execute("BEGIN IMMEDIATE")
            yield
            self.connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise as_os_error(error) from None
        finally:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")

    def append(self, rows: Rows) -> None:
        # Unlike a LineFile, a database is not begun again: its -wal would be left behind, with rows
        # in it. They wait until it is back, or the server is started again.
        if was_moved(self.path, self.file):
            raise OSError(errno.ENOENT, "moved away")
        values = [
            (rfc3339(time), client, name, *reading.split(","), n)
            for time, client, name, reading, n in rows
        ]
        with self.transaction():
            self.connection.executemany(INSERT, values)

    def flush(self) -> None:
        pass  # `append` has done it


def is_full(error: sqlite3.Error) -> bool:
    """Tell whether SQLite found the disk full.

    It calls that an I/O error where there is no room for the -shm, as after a power cut.
    """
    return str(error) in ("database or disk is full", "disk I/O error")


def as_os_error(error: sqlite3.Error) -> OSError:
    return OSError(errno.ENOSPC if is_full(error) else errno.EIO, str(error))


def ending(path: str) -> str:
    return os.path.splitext(path)[1]


def open_log(path: str, warn: Warn) -> Log:
    """Open a log of the format that its ending tells; raise OSError.

    A full disk is no error: while it has no room for what a log begins with, nothing is appended.
    """
    try:
        return LOGS[ending(path)](path, warn)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        return UnopenedLog(path, warn)


class UnopenedLog:
    """A log that cannot be opened because its disk is full: each `append` tries again."""

    def __init__(self, path: str, warn: Warn) -> None:
        self.path = path
        self.warn = warn
        self.log: Log | None = None

    def append(self, rows: Rows) -> None:
        if not self.log:
            self.log = LOGS[ending(self.path)](self.path, self.warn)
        self.log.append(rows)

    def flush(self) -> None:
        if self.log:
            self.log.flush()


Log = Union[TextLog, CsvLog, DbLog, UnopenedLog]
# In the order in which they are written. When the server is killed between two of them, named
# readings are sent again, and written again to the earlier ones: .db ignores that, .txt has them
# twice. So formats without names and n come first. The last one in use has each once: from it, at
# the next start, the acknowledged readings are recovered (see server/writer.py).
LOGS: dict[str, type[Log]] = {".txt": TextLog, ".db": DbLog, ".csv": CsvLog}
