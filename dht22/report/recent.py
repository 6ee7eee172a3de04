"""The readings that the page shows: loaded from a log once, then kept up to date from its end."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

import numpy
from numpy import ndarray
from pandas import DataFrame

from dht22.console import say
from dht22.log.follow import Follower
from dht22.log.formats import parse_row
from dht22.log.position import Position
from dht22.log.rotated import rotated
from dht22.report.latest import RECENT
from dht22.report.lines import Chosen, LogFile, Unreadable, log_at
from dht22.report.tables import each_sensor, read
from dht22.report.times import UTC, now

# Readings by time: a column for each of these. Times are milliseconds since 1970 in UTC.
Rows = dict[str, ndarray]
COLUMNS = {"time": "i8", "humidity": "f4", "temperature": "f4"}
PERIOD = timedelta(days=30)  # that is loaded, unless more or less is asked for
ROOM = 1000  # readings, at least, that there is room for when arrays are made anew
BLOCKS = 20  # of the log, at most, at one look: the page is to answer meanwhile


class Sensor:
    """One sensor's readings, by time."""

    def __init__(self, rows: Rows) -> None:
        self.arrays = rows  # with room at their ends
        self.count = len(rows["time"])
        self.late = 0  # how often readings came that belong between others

    def rows(self, first: int, beyond: int) -> Rows:
        """Return some of the readings, from the place `first` to before `beyond`."""
        return {column: array[first:beyond] for column, array in self.arrays.items()}

    def between(self, start: float, end: float) -> Rows:
        """Return the readings after one time, until another."""
        times = self.arrays["time"][: self.count]
        # Whole numbers: for a fraction numpy would make a copy of all times
        bounds = int(start), int(end)
        return self.rows(*(int(numpy.searchsorted(times, each, "right")) for each in bounds))

    def first(self) -> int:
        """Return the time of the first reading."""
        return int(self.arrays["time"][0])

    def latest(self) -> tuple[int, float, float]:
        """Return the time, the humidity and the temperature of the latest reading."""
        time, humidity, temperature = (array[self.count - 1] for array in self.arrays.values())
        return int(time), float(humidity), float(temperature)

    def interval(self) -> float:
        """Return the usual time between two readings in seconds, 0 if there is one reading."""
        times = self.rows(max(0, self.count - RECENT), self.count)["time"]
        return float(numpy.median(numpy.diff(times))) / 1000 if len(times) > 1 else 0.0

    def add(self, rows: Rows, oldest: int) -> None:
        """Add readings; where there is no room for them, forget those before the time `oldest`."""
        rows = by_time(rows)
        if self.count and rows["time"][0] <= self.latest()[0]:
            rows = by_time(joined(self.rows(0, self.count), rows))
            self.late += 1
            self.count = 0
        number = len(rows["time"])
        if self.count + number > len(self.arrays["time"]):
            kept = self.rows(0, self.count)
            kept = {column: array[kept["time"] >= oldest] for column, array in kept.items()}
            self.count = len(kept["time"])
            room = number + (self.count + number) // 4 + ROOM
            space: Rows = {column: numpy.empty(room, kind) for column, kind in COLUMNS.items()}
            self.arrays = joined(kept, space)
        for column, array in self.arrays.items():
            array[self.count : self.count + number] = rows[column]
        self.count += number


def by_time(rows: Rows) -> Rows:
    """Return readings in the order of their times, those that stand twice once."""
    order = numpy.argsort(rows["time"], kind="stable")
    rows = {column: array[order] for column, array in rows.items()}
    differs = [array[1:] != array[:-1] for array in rows.values()]
    first: ndarray = numpy.append(True, numpy.logical_or.reduce(differs))
    return {column: array[first] for column, array in rows.items()}


def joined(rows: Rows, more: Rows) -> Rows:
    return {column: numpy.concatenate([array, more[column]]) for column, array in rows.items()}


def from_table(table: DataFrame) -> Sensor:
    """Return the sensor whose readings are in a table, of one at least."""
    columns = {column: table[column].to_numpy() for column in COLUMNS}
    columns["time"] = columns["time"].astype("datetime64[ms]")
    return Sensor(by_time({each: columns[each].astype(kind) for each, kind in COLUMNS.items()}))


def milliseconds(time: datetime) -> int:
    """Return a time in UTC, without a zone, in milliseconds since 1970."""
    return round(time.replace(tzinfo=UTC).timestamp() * 1000)


class Recent:
    """The readings of a log since some time ago, by sensor; the log need not exist yet."""

    def __init__(self, log: LogFile, chosen: Chosen, progress: Callable[[str], None]) -> None:
        """Load what is chosen; raise OSError if the log cannot be read."""
        self.log = log
        self.period = now() - chosen.since if chosen.since else PERIOD
        self.names = chosen.names
        self.sensors: dict[str, Sensor] = {}
        self.trouble = ""  # with the log, in words
        # From here on; what is written while the log is loaded is found twice, and used once.
        self.follower = Follower(log.path, Position())
        self.follower.skip()
        self.load(progress)

    def load(self, progress: Callable[[str], None]) -> None:
        """Read the log, and what rotation left of it in the period."""
        chosen = Chosen(now() - self.period, names=self.names)
        since = (datetime.now() - self.period).timestamp()
        logs = [self.log] if self.log.path.exists() else []
        for path in rotated(str(self.log.path)):
            with suppress(FileNotFoundError, ValueError):  # renamed just now; no log by its name
                if os.stat(path).st_mtime > since:
                    logs.append(log_at(Path(path)))
        try:
            table, _, _ = read(logs, progress, chosen)
        except Unreadable as error:
            if logs and chosen.none() not in str(error):
                say(f"not loaded: {error}")
            return
        self.sensors = {name: from_table(part) for name, part in each_sensor(table)}

    def look(self) -> None:
        """Take in what is new in the log; note what is wrong with it."""
        try:
            self.read()
            self.trouble = ""
        except OSError as error:
            self.trouble = f"{self.log.path} cannot be read ({error.strerror})"

    def read(self) -> None:
        """Take in what is new in the log; raise OSError."""
        found: dict[str, list[tuple[int, float, float]]] = defaultdict(list)
        for _ in range(BLOCKS):
            new = self.follower.read()
            if not new:
                break
            for position in new:
                with suppress(ValueError):  # a 30th of February
                    row = parse_row(position.line)
                    time = round(row.time * 1000)
                    found[row.sensor].append((time, row.humidity, row.temperature))
        oldest = milliseconds(now() - self.period)
        for name, readings in found.items():
            if not self.names or name in self.names:
                columns = zip(COLUMNS.items(), zip(*readings))
                rows = {each: numpy.array(column, kind) for (each, kind), column in columns}
                if name in self.sensors:
                    self.sensors[name].add(rows, oldest)
                else:
                    self.sensors[name] = Sensor(by_time(rows))
