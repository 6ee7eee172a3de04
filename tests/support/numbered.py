"""A client of a named sensor whose readings are all different, and what the server logs of it."""

import socket
from collections import namedtuple
from datetime import datetime

HEADER = "time,client,name,humidity,temperature,n\n"
Row = namedtuple("Row", "time client name reading n")

QUICK = "from dht22.pi import delivery; delivery.RESEND = 0.05; delivery.RESEND_MOST = 0.1, 0.1\n"

# A driver whose readings are all different, from number `first` on; it notes each with its time.
NUMBERED = """
import itertools, time
from dht22.pi import sensor as room
from dht22.pi import spool
clock = time.time

def open_numbered(sensor, pin, first={first}):
    notes = open({notes!r}, "a+", buffering=1)
    notes.seek(0)
    numbers = itertools.count(first + len(notes.readlines()))

    def read():
        number = next(numbers)
        values = number % 1000 / 10, number // 1000 / 10
        notes.write(f"{{room.format_in_range(*values)}} {{clock():.6f}}\\n")
        return values

    return room.Driver("simulated", "its readings are numbered", read, 1, 0.0, made_up=True)

room.DRIVERS["simulated"] = open_numbered
"""


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


def free_port():
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as free:
        free.bind(("::", 0))
        return free.getsockname()[1]
