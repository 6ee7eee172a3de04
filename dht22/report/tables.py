"""Logs as one table of readings: any number of files, of any age, rotated and packed.

A log is read a block of lines at a time. A block of nothing but rows as the server writes them is
checked with one regular expression; any other block is checked line by line.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from io import BufferedIOBase, BytesIO
from pathlib import Path
from shutil import copyfileobj
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

from dht22.console import say
from dht22.datagram import HUMIDITY_RANGE, TEMPERATURE_RANGE, parse
from dht22.log.formats import (
    COLUMNS,
    CSV_HEADER,
    NOT_A_ROW,
    READING,
    ROW,
    TEXT_WHOLE,
    open_for_reading,
    parse_row,
)
from dht22.log.rotated import BLOCK as PIECE
from dht22.log.rotated import NO_LOGS, is_damage, rotated, unpacked

if TYPE_CHECKING:  # imported where it is used: --help and --last do not need it
    from pandas import DataFrame, Series

# The server's name for it, and what rotation adds: datalog.csv.1, datalog.csv-20261121.gz
LOG_NAME = re.compile(r"(.*(\.csv|\.db|\.txt))(?:[.-][0-9][0-9-]*)?(\.gz|\.xz|\.bz2)?", re.DOTALL)
# What stands beside logs and is none: `report.py datalog*` passes over it
BESIDE = (*NO_LOGS, ".publish")
LINE_END = rb"\r?\n"
ROWS = {".txt": re.compile(READING + LINE_END), ".csv": re.compile(ROW + LINE_END)}
ROWS[".db"] = ROWS[".csv"]
# A line as in the CSV, and only one, whatever somebody has put into the database
SELECT = """
    SELECT replace(time || ',' || client || ',' || ifnull(name, '') || ','
        || humidity || ',' || temperature || ',' || ifnull(n, ''), char(10), '?') || char(10)
    FROM reading"""
BLOCK = 1 << 21  # bytes
SHOWN = 5  # skipped lines, of all logs together; the rest is a number


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


def with_rotated(log: LogFile) -> list[LogFile]:
    """Return the newest log that rotation left beside this one, and this one, if they are there."""
    left = [Path(path) for path in rotated(str(log.path))]
    newest = [path for path in left if LOG_NAME.fullmatch(path.name)][-1:]
    return [log_at(path) for path in [*newest, log.path] if path.exists()]


class Unreadable(Exception):
    """No reading can be had from a log; the text names it, with the reason."""


# Lines


def blocks(log: LogFile) -> Iterator[bytes]:
    """Yield the lines of a log in blocks, those of a database as in a .csv; raise Unreadable."""
    try:
        with unpacked(log.path) as file:
            yield from database_blocks(log, file) if log.ending == ".db" else file_blocks(log, file)
    except (ImportError, OSError, sqlite3.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise Unreadable(f"{log.path} ({reason})") from None


def file_blocks(log: LogFile, file: BufferedIOBase) -> Iterator[bytes]:
    """Yield the lines of a file in blocks; a damaged packed one is read as far as it goes."""
    lines = bytearray()
    try:
        for piece in iter(lambda: file.read1(PIECE), b""):
            lines += piece
            if len(lines) >= BLOCK:
                end = lines.rfind(b"\n") + 1
                yield bytes(lines[:end])
                del lines[:end]
    except Exception as error:
        if not is_damage(error):
            raise
        say(f"{log.path}: read as far as it goes ({error})")
    yield bytes(lines)


def database_blocks(log: LogFile, file: BufferedIOBase) -> Iterator[bytes]:
    """Yield the rows of a database, 10,000 at a time, as lines."""
    with plain_copy(log, file) as path, closing(open_for_reading(str(path))) as database:
        database.text_factory = bytes
        rows = database.execute(SELECT)
        for some in iter(lambda: rows.fetchmany(10_000), []):
            # All of a row is NULL when one value is where none belongs.
            yield b"".join(row or b"NULL\n" for (row,) in some)


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


class Skipped:
    """The lines that are no rows: counted, and the first few shown."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, log: LogFile, number: int, line: bytes, reason: ValueError) -> None:
        self.count += 1
        if self.count <= SHOWN:
            say(f"{log.path} line {number} skipped ({reason}): {line[:80]!r}")

    def conclude(self) -> None:
        if self.count > SHOWN:
            say(f"more lines skipped: {self.count - SHOWN:,}")


# Tables


def tables(log: LogFile, skipped: Skipped) -> Iterator[DataFrame]:
    """Yield the readings of a log, a table for each block of lines."""
    number = 1
    for block in blocks(log):
        rows = block[len(CSV_HEADER) :] if block.startswith(CSV_HEADER) else block
        try:
            if ROWS[log.ending].sub(b"", rows):
                raise ValueError(NOT_A_ROW)
            readings = table(rows, log)
        except ValueError:
            rows = b"".join(rows_of(block, log, number, skipped))
            readings = table(rows, log)
        if len(readings):
            yield readings
        number += block.count(b"\n")


def rows_of(block: bytes, log: LogFile, number: int, skipped: Skipped) -> Iterator[bytes]:
    """Yield the lines of a block that are rows; the number of its first line is `number`."""
    for line in BytesIO(block):
        try:
            if line.strip() != CSV_HEADER.strip():
                check_line(line, log.ending)
                yield line.rstrip(b"\r\n") + b"\n"
        except ValueError as reason:
            skipped.add(log, number, line, reason)
        number += 1


def table(rows: bytes, log: LogFile) -> DataFrame:
    """Return rows as a table; raise ValueError if there is a day or a reading that cannot be."""
    from numpy import array
    from pandas import Categorical, DataFrame, Series, read_csv

    columns = ["humidity", "temperature"] if log.ending == ".txt" else COLUMNS
    fields = read_csv(
        BytesIO(b",".join(map(str.encode, columns)) + b"\n" + rows),
        usecols=lambda column: column != "time",
        keep_default_na=False,  # a sensor may be called nan
        na_values={"n": [""]},
        dtype={"client": object, "name": object, "n": float},  # n is below 2 ** 53: exact
    )
    is_humidity = fields.humidity.between(*HUMIDITY_RANGE)
    is_temperature = fields.temperature.between(*TEMPERATURE_RANGE)
    if not (is_humidity & is_temperature).all():
        raise ValueError("out of range")
    if log.ending == ".txt":
        times = array(["NaT"], "datetime64[ns]").repeat(len(fields))
        sensors = Series(log.name, fields.index, dtype=object)
        fields["n"] = float("nan")
    else:
        times = array([line[:23] for line in rows.split(b"\n")[:-1]], "datetime64[ms]")
        sensors = fields.name.where(fields.name != "", fields.client)
    return DataFrame(
        {
            "time": times.astype("datetime64[ns]"),
            "sensor": Categorical(sensors),
            "humidity": fields.humidity,
            "temperature": fields.temperature,
            "n": fields.n,
        }
    )


def read(logs: Sequence[LogFile], progress: Callable[[str], None]) -> tuple[DataFrame, int, int]:
    """Return the readings of all logs, how many rows stood twice, and how many lines were skipped.

    The logs come in any order. Raise Unreadable.
    """
    skipped = Skipped()
    files, count = [], 0
    for log in logs:
        found = []
        for readings in tables(log, skipped):
            found.append(readings)
            count += len(readings)
            progress(f"{count:,} rows read")
        if found:
            files.append(joined(found))
        if log.ending == ".txt":
            say(f"{log.path} has neither times nor names: statistics only")
    progress("")
    skipped.conclude()
    if not files:
        raise Unreadable(f"{', '.join(str(log.path) for log in logs)} (no reading in it)")
    # By their first time; a text log's is NaT, the smallest
    files.sort(key=lambda readings: int(readings.time.to_numpy()[0].astype("int64")))
    if len(files) > 1:
        for number, readings in enumerate(files):
            readings["file"] = number
    readings = joined(files)
    again = doubled(readings)
    if again.any():
        readings = readings[~again]
        say(f"rows that stand twice, used once: {again.sum():,}")
    warn_of_clock(readings)
    return readings, int(again.sum()), skipped.count


def warn_of_clock(readings: DataFrame) -> None:
    """Report the sensors whose rows are not in the order of their times."""
    from pandas import Timedelta

    back = readings.groupby("sensor", observed=True).time.diff() < Timedelta(0)
    if back.any():
        names = ", ".join(readings.sensor[back].unique()[:SHOWN])
        say(f"a clock went backwards ({names}), sorted by time: {back.sum():,}")


def joined(parts: Sequence[DataFrame]) -> DataFrame:
    """Return tables as one; pandas.concat would make texts of the sensors."""
    from numpy import concatenate
    from pandas import DataFrame
    from pandas.api.types import union_categoricals

    if len(parts) == 1:
        return parts[0]
    columns = {
        column: concatenate([part[column].to_numpy() for part in parts])
        for column in parts[0].columns
        if column != "sensor"
    }
    return DataFrame({**columns, "sensor": union_categoricals([part.sensor for part in parts])})


def doubled(readings: DataFrame) -> Series:
    """Tell which rows stood before: a named one anywhere, a plain one in another file."""
    again = readings.n.notna() & readings.duplicated(["sensor", "n"])
    if "file" not in readings:
        return again
    whole = ["time", "sensor", "humidity", "temperature"]
    plain = readings[readings.n.isna() & readings.time.notna()]
    plain = plain[plain.duplicated(whole, keep=False)]
    # Equal lines of one file are different readings: the first of them is the first in other files.
    nth = plain.groupby([*whole, "file"], observed=True).cumcount()
    again[plain.index] = plain.assign(nth=nth).duplicated([*whole, "nth"])
    return again
