"""Logs as one table of readings: any number of files, of any age, in any order.

Of a block of nothing but rows as the server writes them the few shapes that they have are checked,
then the numbers; any other block is checked line by line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dht22.console import counted, say
from dht22.datagram import HUMIDITY_RANGE, N_RANGE, TEMPERATURE_RANGE
from dht22.log.formats import COLUMNS, CSV_HEADER, NOT_A_ROW, READING, WHOLE
from dht22.log.linefile import BYTE_ORDER_MARK
from dht22.log.rotated import LOG_NAME, rotated
from dht22.report.lines import (
    ALL,
    Chosen,
    LogFile,
    Unreadable,
    blocks,
    check_line,
    in_order,
    log_at,
    stamp_of,
)

if TYPE_CHECKING:  # imported where it is used: --help and --last do not need it
    from numpy import ndarray
    from pandas import DataFrame, Series

NUMBERS = "humidity", "temperature", "n"  # columns
# A row with a 1 for each digit
DIGITS = bytes.maketrans(b"0123456789", b"1" * 10)
SHAPE = rb"1111-11-11T11:11:11\.111Z,%b,(?:,%b,|%b,%b,1{16})\r?" % (
    *(WHOLE["client"], READING),
    *(WHOLE["name"], READING),
)
SHAPES = {".txt": re.compile(READING + rb"\r?"), ".csv": re.compile(SHAPE)}
SHAPES[".db"] = SHAPES[".csv"]
# Read behind the rows of a block, and dropped again. Where all names are like 007, or true and
# false, pandas 3.1 makes numbers of them; a name that is none keeps it from that.
NO_NUMBER = {".txt": b"0,0\n", ".csv": b",-,-,0,0,\n", ".db": b",-,-,0,0,\n"}
# Rows, at least, that are put together while a log is read. Columns of this length have more than
# 32 MiB each, and their memory goes back to the system as soon as they are no longer needed.
LARGE = 4_500_000
SHOWN = 5  # skipped lines, of all logs together; the rest is a number


def with_rotated(log: LogFile) -> list[LogFile]:
    """Return the newest log that rotation left beside this one, and this one, if they are there."""
    left = [Path(path) for path in rotated(str(log.path))]
    newest = [path for path in left if LOG_NAME.fullmatch(path.name)][-1:]
    return [log_at(path) for path in [*newest, log.path] if path.exists()]


class Part(NamedTuple):
    """Some readings, as columns of the same length: sensor, time, humidity, temperature, n.

    The column `sensor` has numbers: the places of `names`.
    """

    names: list[str]
    columns: dict[str, ndarray]


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


def parts(log: LogFile, skipped: Skipped, chosen: Chosen) -> Iterator[Part]:
    """Yield the readings of a log that are wanted, those of a block of lines at a time."""
    since = stamp_of(chosen.since)
    number = None if since else 1  # of a line; not known where the reading begins further back
    for block in blocks(log, since):
        rows = block[len(CSV_HEADER) :] if block.startswith(CSV_HEADER) else block
        try:
            if not have_shape(rows, log.ending):
                raise ValueError(NOT_A_ROW)
            part = parse_rows(rows, log)
            count = len(part.columns["time"]) + (rows is not block)
        except ValueError:
            rows = b"".join(rows_of(block, log, number, skipped))
            part = parse_rows(rows, log)
            count = block.count(b"\n")
        number = number and number + count
        part = wanted(part, chosen)
        if len(part.columns["time"]):
            yield part


def have_shape(rows: bytes, ending: str) -> bool:
    """Tell whether each line is a row, if its digits are right: there are few shapes to check."""
    shapes = rows.translate(DIGITS).split(b"\n")
    return shapes.pop() == b"" and all(map(SHAPES[ending].fullmatch, set(shapes)))


def wanted(part: Part, chosen: Chosen) -> Part:
    """Return those readings of a part that are wanted."""
    import numpy

    if chosen == ALL:
        return part
    time, sensor = part.columns["time"], part.columns["sensor"]
    mask: ndarray = numpy.ones(len(time), bool)
    if chosen.since:
        mask &= time >= numpy.datetime64(chosen.since)
    if chosen.until:
        mask &= time < numpy.datetime64(chosen.until)
    if chosen.names:
        mask &= numpy.array([*map(chosen.has, part.names)], bool)[sensor]
    return Part(part.names, {name: column[mask] for name, column in part.columns.items()})


def rows_of(block: bytes, log: LogFile, number: int | None, skipped: Skipped) -> Iterator[bytes]:
    """Yield the lines of a block that are rows; the number of its first line is `number`."""
    for line in BytesIO(block):
        row = line.removeprefix(BYTE_ORDER_MARK)  # of an editor on Windows
        try:
            if row.strip() != CSV_HEADER.strip():
                check_line(row, log.ending)
                yield row.rstrip(b"\r\n") + b"\n"
        except ValueError as reason:
            skipped.add(log, number, line, reason)
        number = number and number + 1


def parse_rows(rows: bytes, log: LogFile) -> Part:
    """Return rows of the right shape; raise ValueError if one is no reading of a real time."""
    import numpy
    from pandas import read_csv

    columns = ["humidity", "temperature"] if log.ending == ".txt" else list(COLUMNS)
    fields = read_csv(
        BytesIO(rows + NO_NUMBER[log.ending]),
        header=None,
        names=columns,
        usecols=[column for column in columns if column != "time"],
        keep_default_na=False,  # a sensor may be called nan
        na_values={"n": [""]},
        # An n is below 2 ** 53: exact
        dtype={"client": "category", "name": "category", **dict.fromkeys(NUMBERS, float)},
        low_memory=False,
    )[:-1]
    humidity: ndarray = fields.humidity.to_numpy()
    temperature: ndarray = fields.temperature.to_numpy()
    right: ndarray = (HUMIDITY_RANGE[0] <= humidity) & (humidity <= HUMIDITY_RANGE[1])
    right &= (TEMPERATURE_RANGE[0] <= temperature) & (temperature <= TEMPERATURE_RANGE[1])
    if log.ending == ".txt":
        names = [log.name]
        sensor: ndarray = numpy.zeros(len(fields), int)
        time: ndarray = numpy.full(len(fields), "NaT", "datetime64[ms]")
        n: ndarray = numpy.full(len(fields), numpy.nan)
    else:
        time, n = beginnings(rows, 23).astype("datetime64[ms]"), fields.n.to_numpy()
        right &= (numpy.datetime64("1900") <= time) & (time < numpy.datetime64("2100"))
        right &= numpy.isnan(n) | (N_RANGE[0] <= n) & (n < N_RANGE[1])
        clients, own = fields.client.cat, fields.name.cat
        names = [*own.categories, *clients.categories]
        is_named = numpy.array([name != "" for name in own.categories], bool)[own.codes]
        address = clients.codes.astype(int) + len(own.categories)
        sensor = numpy.where(is_named, own.codes, address)
    if not right.all():
        raise ValueError(NOT_A_ROW)
    sensor = sensor.astype(smallest(len(names)))
    values: list[ndarray] = [sensor, time.astype("datetime64[ns]"), humidity, temperature, n]
    return Part(names, dict(zip(("sensor", "time", *NUMBERS), values)))


def smallest(count: int) -> Any:
    """Return the smallest type for so many numbers from 0 on: few bytes are sorted quickly."""
    import numpy

    return numpy.min_scalar_type(-count)


def beginnings(lines: bytes, length: int) -> ndarray:
    """Return the first bytes of each line."""
    import numpy

    block = numpy.frombuffer(lines, numpy.uint8)
    ends: ndarray = numpy.flatnonzero(block == ord("\n"))
    begins: ndarray = numpy.append(0, ends + 1)[: len(ends)]
    table: ndarray = block[begins[:, None] + numpy.arange(length)]
    return table.view(f"S{length}").ravel()


def read(
    logs: Sequence[LogFile], progress: Callable[[str], None], chosen: Chosen = ALL
) -> tuple[DataFrame, int, int]:
    """Return the readings that are wanted, how many rows stood twice, how many lines were skipped.

    The logs come in any order. The readings of each sensor come one after the other, as they stand
    in its logs, the oldest log first. Raise Unreadable.
    """
    import numpy
    from pandas import Categorical, DataFrame

    skipped = Skipped()
    files = []
    for log in logs:
        found = [*gathered(parts(log, skipped, chosen), log, progress)]
        if found:
            files.append(found)
        if log.ending == ".txt":
            say(f"{log.path} has neither times nor names: statistics only")
    skipped.conclude()
    if not files:
        raise Unreadable(f"{', '.join(str(log.path) for log in logs)} ({chosen.none()})")
    # By their first time; a text log's is NaT, the smallest
    files.sort(key=lambda found: int(found[0].columns["time"][0].astype("int64")))
    if len(files) > 1:
        for number, found in enumerate(files):
            for part in found:
                part.columns["file"] = numpy.full(len(part.columns["n"]), number)
    names, columns = by_sensor([part for found in files for part in found])
    sensor = Categorical.from_codes(columns.pop("sensor"), names)
    readings = DataFrame({**columns, "sensor": sensor}, copy=False)
    again = doubled(readings)
    if again.any():
        readings = readings[~again]
        say(f"rows that stand twice, used once: {again.sum():,}")
    warn_of_clock(readings)
    for column in readings.columns.difference(["time", "sensor", "humidity", "temperature"]):
        del readings[column]
    return readings, int(again.sum()), skipped.count


def gathered(
    parts: Iterator[Part], log: LogFile, progress: Callable[[str], None]
) -> Iterator[Part]:
    """Yield the parts of a log, of a long one most of them as few large ones."""
    small, rows, before = [], 0, 0
    for part in parts:
        small.append(part)
        rows += len(part.columns["time"])
        progress(f"{counted(before + rows, 'row')} of {log.path} read")
        if rows >= LARGE:
            yield by_sensor(small)
            small, rows, before = [], 0, before + rows
    yield from small  # these few are put together at the end, with all others


def by_sensor(parts: list[Part]) -> Part:
    """Return parts as one, sensor by sensor. They are emptied: memory may be small."""
    import numpy

    numbers: dict[str, int] = {}  # of the sensors
    pieces = []  # of one sensor each: its number, the part, where it begins and ends in that
    for place, part in enumerate(parts):
        sensor = part.columns.pop("sensor")
        order = numpy.argsort(sensor, kind="stable")
        for name, column in part.columns.items():
            part.columns[name] = column[order]
        begins: ndarray = numpy.flatnonzero(numpy.diff(sensor[order], prepend=-1))
        ends = [*begins[1:], len(sensor)]
        for begin, end in zip(begins, ends):
            name = part.names[sensor[order[begin]]]
            pieces.append((numbers.setdefault(name, len(numbers)), place, begin, end))
    pieces.sort()
    number: ndarray = numpy.array([number for number, *_ in pieces], smallest(len(numbers)))
    columns: dict[str, ndarray] = {}
    columns["sensor"] = numpy.repeat(number, [end - begin for *_, begin, end in pieces])
    for name in list(parts[0].columns):
        sorted_parts = [part.columns.pop(name) for part in parts]
        columns[name] = numpy.concatenate([sorted_parts[place][a:b] for _, place, a, b in pieces])
    return Part(list(numbers), columns)


def each_sensor(readings: DataFrame) -> Iterator[tuple[str, DataFrame]]:
    """Yield the name of each sensor and its part of the readings, addresses first."""
    import numpy

    begins: ndarray = numpy.append(0, numpy.flatnonzero(numpy.diff(readings.sensor.cat.codes)) + 1)
    names = readings.sensor.iloc[begins]
    parts = dict(zip(names, zip(begins, numpy.append(begins[1:], len(readings)))))
    for name in sorted(parts, key=in_order):
        begin, end = parts[name]
        yield name, readings.iloc[begin:end]


def warn_of_clock(readings: DataFrame) -> None:
    """Report the sensors whose rows are not in the order of their times."""
    time, sensor = readings.time.to_numpy(), readings.sensor.cat.codes.to_numpy()
    back = (time[1:] < time[:-1]) & (sensor[1:] == sensor[:-1])
    if back.any():
        names = ", ".join(readings.sensor[1:][back].unique()[:SHOWN])
        say(f"a clock went backwards ({names}), sorted by time: {back.sum():,}")


def doubled(readings: DataFrame) -> Series:
    """Tell which rows stood before: a named one anywhere, a plain one in another file."""
    from pandas import Series

    again = Series(False, readings.index)
    n, sensor = readings.n.to_numpy(), readings.sensor.cat.codes.to_numpy()
    if ((n[1:] <= n[:-1]) & (sensor[1:] == sensor[:-1])).any():  # else each n is a new one
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
