"""Logs as one table of readings: any number of files, of any age, in any order.

A block of nothing but rows as the server writes them is checked with one regular expression; any
other block is checked line by line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from dht22.console import say
from dht22.datagram import HUMIDITY_RANGE, TEMPERATURE_RANGE
from dht22.log.formats import COLUMNS, CSV_HEADER, NOT_A_ROW, READING, ROW
from dht22.log.rotated import LOG_NAME, rotated
from dht22.report.lines import (
    ALL,
    Chosen,
    LogFile,
    Unreadable,
    blocks,
    check_line,
    log_at,
    stamp_of,
)

if TYPE_CHECKING:  # imported where it is used: --help and --last do not need it
    from pandas import DataFrame, Series

LINE_END = rb"\r?\n"
ROWS = {".txt": re.compile(READING + LINE_END), ".csv": re.compile(ROW + LINE_END)}
ROWS[".db"] = ROWS[".csv"]
SHOWN = 5  # skipped lines, of all logs together; the rest is a number


def with_rotated(log: LogFile) -> list[LogFile]:
    """Return the newest log that rotation left beside this one, and this one, if they are there."""
    left = [Path(path) for path in rotated(str(log.path))]
    newest = [path for path in left if LOG_NAME.fullmatch(path.name)][-1:]
    return [log_at(path) for path in [*newest, log.path] if path.exists()]


class Skipped:
    """The lines that are no rows: counted, and the first few shown."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, log: LogFile, number: int | None, line: bytes, reason: ValueError) -> None:
        self.count += 1
        if self.count <= SHOWN:
            which = "a line" if number is None else f"line {number}"
            say(f"{log.path} {which} skipped ({reason}): {line[:80]!r}")

    def conclude(self) -> None:
        if self.count > SHOWN:
            say(f"more lines skipped: {self.count - SHOWN:,}")


def tables(log: LogFile, skipped: Skipped, chosen: Chosen) -> Iterator[DataFrame]:
    """Yield the readings of a log that are wanted, a table for each block of lines."""
    since = stamp_of(chosen.since)
    number = None if since else 1  # of a line; not known where the reading begins further back
    for block in blocks(log, since):
        rows = block[len(CSV_HEADER) :] if block.startswith(CSV_HEADER) else block
        try:
            if ROWS[log.ending].sub(b"", rows):
                raise ValueError(NOT_A_ROW)
            readings = table(rows, log)
        except ValueError:
            rows = b"".join(rows_of(block, log, number, skipped))
            readings = table(rows, log)
        readings = wanted(readings, chosen)
        if len(readings):
            yield readings
        number = number and number + block.count(b"\n")


def wanted(readings: DataFrame, chosen: Chosen) -> DataFrame:
    """Return those readings of a table that are wanted."""
    if chosen.since:
        readings = readings[readings.time >= chosen.since]
    if chosen.until:
        readings = readings[readings.time < chosen.until]
    if chosen.names:
        readings = readings[readings.sensor.isin(chosen.names)]
    return readings


def rows_of(block: bytes, log: LogFile, number: int | None, skipped: Skipped) -> Iterator[bytes]:
    """Yield the lines of a block that are rows; the number of its first line is `number`."""
    for line in BytesIO(block):
        try:
            if line.strip() != CSV_HEADER.strip():
                check_line(line, log.ending)
                yield line.rstrip(b"\r\n") + b"\n"
        except ValueError as reason:
            skipped.add(log, number, line, reason)
        number = number and number + 1


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


def read(
    logs: Sequence[LogFile], progress: Callable[[str], None], chosen: Chosen = ALL
) -> tuple[DataFrame, int, int]:
    """Return the readings that are wanted, how many rows stood twice, how many lines were skipped.

    The logs come in any order. Raise Unreadable.
    """
    skipped = Skipped()
    files, count = [], 0
    for log in logs:
        found = []
        for readings in tables(log, skipped, chosen):
            found.append(readings)
            count += len(readings)
            progress(f"{count:,} rows read")
        if found:
            files.append(joined(found))
        if log.ending == ".txt":
            say(f"{log.path} has neither times nor names: statistics only")
    skipped.conclude()
    if not files:
        raise Unreadable(f"{', '.join(str(log.path) for log in logs)} ({chosen.none()})")
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
