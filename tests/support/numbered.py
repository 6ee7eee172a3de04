"""A client of a named sensor whose readings are all different, and what the server logs of it."""

from collections import namedtuple
from datetime import datetime

from support.made import HEADER

Row = namedtuple("Row", "time client name reading n")

QUICK = {"pi.delivery.RESEND": 0.05, "pi.delivery.RESEND_MOST": (0.1, 0.1)}  # timers of a Script

# A driver whose readings are all different: the k-th ever taken is k/10 %. It notes each in a file,
# with the time when it was read: on the clock that never steps, and on the one that may be wrong.
NUMBERED = """
import time
from contextlib import suppress
from dht22.pi import sensor

clock = time.time

def open_numbered(*_):
    notes = open({notes!r}, "a+b", buffering=0)
    notes.seek(0)
    number = {first} + len(notes.readlines())

    def read():
        nonlocal number
        values = number % 1000 / 10, {temperature} + number // 1000 / 10
        note = b"%.1f,%.1f %.6f %.6f\\n" % (*values, time.monotonic(), clock())
        number += 1
        for _ in range(2):  # the first may meet a fault that is meant for the client
            with suppress(OSError):
                notes.write(note)
                break
        return values

    return sensor.Driver("simulated", "its readings are numbered", read, 1, 0.0, made_up=True)

sensor.DRIVERS["simulated"] = open_numbered
"""


def numbered(notes, first=0, temperature=0):
    """Return the `setup` of a client with that driver, which begins with number `first`."""
    return NUMBERED.format(notes=str(notes), first=first, temperature=temperature)


def whole_lines(path):
    """Return the whole lines of a file that may be being written, none while there is no file."""
    content = path.read_text() if path.exists() else ""
    return content[: content.rfind("\n") + 1].splitlines()


def taken(notes, clock=1):
    """Return each reading that was taken, and when; clock: 1, the one that never steps, or 2."""
    fields = [line.split() for line in whole_lines(notes)]
    return {each[0]: float(each[clock]) for each in fields}


def rows(path):
    """Return the rows of a CSV, whose lines have to be whole; none while there is no file."""
    content = path.read_text() if path.exists() else HEADER
    assert content.startswith(HEADER) and content.endswith("\n")
    fields = [line.split(",") for line in content.splitlines()[1:]]
    return [
        Row(
            datetime.fromisoformat(at[:-1] + "+00:00").timestamp(),
            client,
            name,
            f"{humidity},{temperature}",
            n,
        )
        for at, client, name, humidity, temperature, n in fields
    ]


def logged(path):
    return [row.reading for row in rows(path)]


def size(path):
    return path.stat().st_size if path.exists() else 0
