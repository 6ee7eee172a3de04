"""Times and spans: as they are typed, in tables, and as they are shown."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from datetime import datetime, timedelta, timezone, tzinfo
from typing import Optional

# A time zone: UTC, or None for the local one, which astimezone() takes for that.
Zone = Optional[tzinfo]
UTC = timezone.utc
UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86400}  # seconds
LONGEST = timedelta(days=36525)  # a century: tables end in 2262
TIME = re.compile(
    "[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"(T[0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{3})?)?(Z|[+-][0-9]{2}:[0-9]{2})?)?"
)


def now() -> datetime:
    """Return the time in UTC, as tables hold it: without a zone."""
    return datetime.now(UTC).replace(tzinfo=None)


def stamp(time: datetime, zone: Zone, precision: str = "milliseconds") -> str:
    """Return a time of a table as RFC 3339 writes it in a zone."""
    there = time.replace(tzinfo=UTC).astimezone(zone)
    return there.isoformat(timespec=precision).replace("+00:00", "Z")


def span(text: str) -> timedelta:
    """Convert `text`, such as 30s, 10min, 1h or 1d, to a time span."""
    match = re.fullmatch("([1-9][0-9]{0,4})(s|min|h|d)", text)
    length = timedelta(seconds=int(match[1]) * UNITS[match[2]]) if match else LONGEST
    if length >= LONGEST:
        raise ArgumentTypeError(f"{text!r} is not a time span (such as 30s, 10min, 1h or 1d)")
    return length


def time(text: str) -> datetime | timedelta:
    """Convert `text` to a time, with or without its zone, or to a span before now."""
    try:
        if TIME.fullmatch(text):
            return datetime.fromisoformat(text.replace("Z", "+00:00"))
        return span(text)
    except (ArgumentTypeError, ValueError):
        raise ArgumentTypeError(
            f"{text!r} is not a time (such as 2026-11-20, 2026-11-20T08:00, or 7d before now)"
        ) from None


def in_utc(time: datetime | timedelta | None, zone: Zone, now: datetime) -> datetime | None:
    """Return what `time` has converted as a time in UTC, without a zone.

    A time without a zone is one of `zone`, a span is before `now`. Raise OverflowError for what no
    clock shows.
    """
    if isinstance(time, timedelta):
        return now - time
    if time is None:
        return None
    if time.tzinfo is None and zone:
        time = time.replace(tzinfo=zone)
    return time.astimezone(UTC).replace(tzinfo=None)


def offset(time: datetime, zone: Zone) -> timedelta:
    """Return what a zone's clocks are ahead of UTC at a time in UTC."""
    return time.replace(tzinfo=UTC).astimezone(zone).utcoffset() or timedelta(0)


def clock_changes(first: datetime, last: datetime, zone: Zone) -> list[datetime]:
    """Return when a zone's clocks are changed between two times, all in UTC.

    They are looked for day by day: no zone changes its clocks twice a day.
    """
    changes = []
    time = first
    while zone is not UTC and time < last:
        following = min(time + timedelta(days=1), last)
        if offset(following, zone) != offset(time, zone):
            following = change_between(time, following, zone)
            changes.append(following)
        time = following
    return changes


def change_between(before: datetime, after: datetime, zone: Zone) -> datetime:
    """Return the full second at which a zone's clocks are changed between two times."""
    old = offset(before, zone)
    before = before.replace(microsecond=0)
    after = after.replace(microsecond=0) + timedelta(seconds=1)
    while after - before > timedelta(seconds=1):
        middle = before + (after - before) // timedelta(seconds=2) * timedelta(seconds=1)
        before, after = (middle, after) if offset(middle, zone) == old else (before, middle)
    return after
