"""The latest reading of each sensor, and what is wrong with it: for cron, without pandas."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime, timezone
from statistics import median
from typing import Any

from dht22.log.formats import LoggedReading, parse_row
from dht22.report.lines import Chosen, LogFile, blocks, in_order, stamp_of
from dht22.silence import is_silent

RECENT = 15  # readings of a sensor, whose median pause is its interval
AHEAD = 60.0  # seconds; further in the future a clock was wrong

SENDER = re.compile(rb"Z,([^,\n]*,[^,\n]*),")  # in a row: its client and its name

Limits = dict[str, tuple[float, float]]  # of quantities: the lowest and the highest that is good


def limits(text: str) -> tuple[float, float]:
    """Convert `text`, such as -30..-15, to the lowest and the highest that is good."""
    match = re.fullmatch(r"(-?[0-9]+(?:\.[0-9]+)?)\.\.(-?[0-9]+(?:\.[0-9]+)?)", text)
    if not match or float(match[1]) > float(match[2]):
        raise ArgumentTypeError(f"{text!r} is not LOW..HIGH (such as 5..30 or -30..-15)")
    return float(match[1]), float(match[2])


def latest(
    logs: Iterable[LogFile], at: datetime, chosen: Chosen, limits: Limits
) -> dict[str, dict[str, Any]]:
    """Return each sensor's latest reading at a time, and what is wrong with it, for JSON.

    Times are in UTC, without a zone; addresses come before names. Raise Unreadable.
    """
    recent: dict[str, list[LoggedReading]] = defaultdict(list)
    for log in logs:
        for name, readings in recent_of(log, chosen).items():
            recent[name] += readings
    return {name: condition(recent[name], at, limits) for name in sorted(recent, key=in_order)}


def recent_of(log: LogFile, chosen: Chosen) -> dict[str, list[LoggedReading]]:
    """Return the last readings of each sensor in a log that are wanted, the newest first.

    Cron asks often: most blocks tell no more than that they hold the sensors that are known.
    """
    since, until = stamp_of(chosen.since), stamp_of(chosen.until) or b"9"
    recent: dict[str, list[LoggedReading]] = defaultdict(list)
    for block in blocks(log, since, newest_first=True):
        senders = {sensor_of(*sender.split(b",")) for sender in set(SENDER.findall(block))}
        if all(len(recent[sender]) >= RECENT or not chosen.has(sender) for sender in senders):
            continue
        for line in reversed(block.split(b"\n")):
            fields = line.split(b",")
            if len(fields) != 6 or not since <= fields[0] < until:
                continue
            sender = sensor_of(*fields[1:3])
            if len(recent[sender]) < RECENT and chosen.has(sender):
                with suppress(ValueError):  # it is not a row
                    recent[sender].append(parse_row(line))
    return {sender: readings for sender, readings in recent.items() if readings}


def sensor_of(client: bytes, name: bytes) -> str:
    return (name or client).decode("ascii", "replace")


def condition(readings: list[LoggedReading], at: datetime, limits: Limits) -> dict[str, Any]:
    """Return the latest of a sensor's readings by time, and what is wrong with it then."""
    by_time = {reading.time: reading for reading in readings}  # one may be in two logs
    readings = [by_time[time] for time in sorted(by_time)][-RECENT:]
    pauses = [later.time - earlier.time for earlier, later in zip(readings, readings[1:])]
    interval = round(median(pauses), 3) if pauses else None
    last = readings[-1]
    age = round(at.replace(tzinfo=timezone.utc).timestamp() - last.time, 3)
    outside = [
        quantity
        for quantity, (lowest, highest) in limits.items()
        if not lowest <= getattr(last, quantity) <= highest
    ]
    return {
        "time": datetime.fromisoformat(last.stamp[:-1]),
        "humidity": last.humidity,
        "temperature": last.temperature,
        "age": age if age < -AHEAD else max(0.0, age),
        "interval": interval,
        "silent": is_silent(age, interval or 0.0),
        "ahead": age < -AHEAD,
        "outside": outside,
    }


def is_bad(sensor: dict[str, Any]) -> bool:
    """Tell whether something is wrong with a sensor's latest reading."""
    return bool(sensor["silent"] or sensor["ahead"] or sensor["outside"])
