"""What the server writes to its logs: rows, and what a text and a CSV log hold of them.

Nearly all that is received together is plain readings. They stay columns from the socket to the
logs (`PlainRows`), which costs half as much as a tuple for each; all others are lists of rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from functools import lru_cache
from itertools import repeat
from operator import itemgetter
from typing import Union

# time (seconds since 1970), client (IP address), name, reading, n; a plain reading has neither
# name nor n. A tuple with names would cost the server a tenth of its time.
Row = tuple[float, str, str, str, str]
name_of, reading_of = itemgetter(2), itemgetter(3)


class PlainRows:
    """Plain readings as columns: their times, clients and readings. To iterate yields the rows."""

    def __init__(self, times: Sequence[float], clients: list[str], readings: list[str]) -> None:
        self.times = times
        self.clients = clients
        self.readings = readings

    def __len__(self) -> int:
        return len(self.readings)

    def __iter__(self) -> Iterator[Row]:
        return zip(self.times, self.clients, repeat(""), self.readings, repeat(""))


Rows = Union[Sequence[Row], PlainRows]


def divided(rows: Rows) -> tuple[Rows, Rows]:
    """Return the plain rows and the named ones, each in their order."""
    if isinstance(rows, PlainRows) or not any(map(name_of, rows)):
        return rows, []
    return [row for row in rows if not name_of(row)], [row for row in rows if name_of(row)]


def senders_of(rows: Rows) -> list[str]:
    """Return of each row what its sensor is known by: its name or, without one, its address."""
    if isinstance(rows, PlainRows):
        return rows.clients
    return [name or client for _, client, name, _, _ in rows]


def text_lines(rows: Rows) -> bytes:
    """Return the lines of a .txt."""
    readings = rows.readings if isinstance(rows, PlainRows) else map(reading_of, rows)
    return ("\n".join(readings) + "\n").encode("ascii")


def csv_lines(rows: Rows) -> bytes:
    """Return the lines of a .csv."""
    if isinstance(rows, PlainRows) and rows.times.count(rows.times[0]) == len(rows):
        stamp = rfc3339(rows.times[0])  # received together, under load: half the work
        columns = zip(rows.clients, rows.readings)
        lines = [f"{stamp},{client},,{reading},\n" for client, reading in columns]
    else:
        lines = [
            f"{rfc3339(time)},{client},{name},{reading},{n}\n"
            for time, client, name, reading, n in rows
        ]
    return "".join(lines).encode("ascii")


@lru_cache(maxsize=64)  # the plain readings of a batch share their time
def rfc3339(time: float) -> str:
    """Return `time` in UTC to the millisecond, as 2026-11-21T10:00:02.123Z."""
    microseconds = round(time * 1_000_000)
    return f"{whole_second(microseconds // 1_000_000)}.{microseconds // 1000 % 1000:03}Z"


@lru_cache(maxsize=64)  # this takes longer than all the rest, and few seconds are under way at once
def whole_second(time: int) -> str:
    """Return a whole second in UTC, as 2026-11-21T10:00:02."""
    return datetime.fromtimestamp(time, timezone.utc).isoformat()[:19]
