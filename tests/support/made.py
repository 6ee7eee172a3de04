"""Logs that are made up for the tests of report.py and its modules."""

import math
import random
import sqlite3
from datetime import datetime, timedelta

HEADER = "time,client,name,humidity,temperature,n\n"
START = datetime(2026, 11, 21)
MINUTE = 60_000  # milliseconds
COLUMNS = (
    "time TEXT, client TEXT, name TEXT, humidity REAL, temperature REAL, n INTEGER, "
    "UNIQUE (name, n)"
)


def stamp(ms):
    """Return the time that is `ms` after the start, as it stands in a log."""
    return (START + timedelta(milliseconds=ms)).isoformat(timespec="milliseconds") + "Z"


def row(ms, humidity=50.0, temperature=20.0, name="kitchen", n=None):
    """Return a row of the log; unless given, a named reading's n is made from its time."""
    number = (2 * 10**15 + ms if n is None else n) if name else ""
    return f"{stamp(ms)},192.168.1.7,{name},{humidity:.1f},{temperature:.1f},{number}\n"


def content(*rows):
    """Return what a CSV with these rows, text or bytes, holds."""
    lines = (line if isinstance(line, bytes) else line.encode() for line in rows)
    return HEADER.encode() + b"".join(lines)


def write(path, *rows):
    path.write_bytes(content(*rows))
    return path


def write_db(path, *rows):
    """Write the same rows as a database; the connection stays open, as the server's does."""
    server = sqlite3.connect(path)
    server.execute("PRAGMA journal_mode=WAL")
    server.execute(f"CREATE TABLE reading ({COLUMNS})")
    fields = [[field or None for field in line.strip().split(",")] for line in rows]
    server.executemany("INSERT INTO reading VALUES (?, ?, ?, ?, ?, ?)", fields)
    server.commit()
    return server


def many(path, rows, sensors=200):
    """Write rows of many sensors, a reading a minute each."""
    with path.open("w", newline="") as log:
        log.write(HEADER)
        for i in range(rows // sensors):
            for k in range(sensors):
                humidity, temperature = 40 + (i + k) % 20 / 10, 20 + i % 7 / 10
                log.write(row(i * MINUTE + k, humidity, temperature, f"sensor-{k}"))
    return path


def write_day(path):
    """Write a day of a kitchen and an attic: a power cut, cooking, two damaged frames."""
    chance = random.Random(4)
    rows = []
    for minute in range(1440):
        if 190 <= minute < 265:
            continue
        sun = max(0, math.sin(math.tau * (minute - 420) / 1440))
        cooked = [(minute - meal) / 30 for meal in (425, 735, 1110) if minute > meal]
        steam = sum(40 * x * math.exp(-x) for x in cooked)
        kitchen = 47 + steam + chance.gauss(0, 0.3), 20.5 + sun + steam / 12 + chance.gauss(0, 0.1)
        attic = 58 - 14 * sun + chance.gauss(0, 0.3), 14 + 9 * sun + chance.gauss(0, 0.1)
        if minute == 600:
            kitchen = kitchen[0] * 2, kitchen[1]
        if minute == 1300:
            attic = attic[0], attic[1] / 2
        rows.append(row(minute * MINUTE + chance.randrange(100), *kitchen))
        rows.append(row(minute * MINUTE + 20_000 + chance.randrange(100), *attic, name="attic"))
    return write(path, *rows)
