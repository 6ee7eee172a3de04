"""What there is to say of a sensor: figures, gaps, suspicious readings, time spans."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from dht22.report.times import UTC, Zone, stamp

if TYPE_CHECKING:
    from pandas import DataFrame, Series, Timestamp

UNITS = {
    "humidity": "humidity (%)",
    "temperature": "temperature (°C)",
    "dew_point": "dew point (°C)",
}
FIGURES = ["min", "mean", "max", "std"]
# Over water, -45 to 60 °C; Sonntag 1990, in the WMO's Guide to Instruments (No. 8)
MAGNUS = (17.62, 243.12)
GAP = 2.5  # intervals
NOTHING, MINUTE = timedelta(0), timedelta(minutes=1)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)

# Suspicious is what a Hampel filter (Davies and Gather 1993) would replace. 3.5 scaled MADs are
# usual for one look (Iglewicz and Hoaglin 1993). We look at each reading, and 15 of them estimate
# the spread only roughly: hence 5.
WINDOW = 15  # readings; a step in the middle moves their median along
THRESHOLD = 5 * 1.4826  # MADs; 1.4826 of them are a standard deviation where the noise is normal
# Closer to the median is never suspicious; DHT22 datasheet
ACCURACY = {"humidity": 2.0, "temperature": 0.5}


def dew_point(humidity: Series, temperature: Series) -> Series:
    """Return the dew point in °C by the Magnus formula; dry air, 0 %, has none."""
    import numpy

    b, c = MAGNUS
    gamma = numpy.log(humidity.where(humidity > 0) / 100) + b * temperature / (c + temperature)
    return c * gamma / (b - gamma)


def suspicious(readings: Series, accuracy: float) -> Series:
    """Tell which readings are further from the median of their neighbours than noise explains."""
    window = {"window": WINDOW, "center": True, "min_periods": 1}
    deviation = (readings - readings.rolling(**window).median()).abs()
    far = deviation > accuracy
    if not far.any():
        return far
    # The MADs of the others, nearly all, would cost a tenth of the report's time.
    near = far.astype(float).rolling(**window).max() > 0
    mad = deviation[near].rolling(**window).median().reindex(deviation.index)
    return far & (deviation > THRESHOLD * mad)


def examine(readings: DataFrame) -> DataFrame:
    """Return one sensor's readings, sorted by time, with what there is to say of each of them."""
    from pandas import Timedelta

    if not readings.time.is_monotonic_increasing:
        readings = readings.sort_values("time", kind="mergesort")  # stable
    seconds = readings.time.diff() / Timedelta("1s")
    interval = seconds.dropna().median()
    return readings[["time", "humidity", "temperature"]].assign(
        seconds=seconds,
        gap=(seconds > GAP * interval) & (interval > 0),
        dew_point=dew_point(readings.humidity, readings.temperature),
        **{
            f"suspicious_{quantity}": suspicious(readings[quantity], accuracy)
            for quantity, accuracy in ACCURACY.items()
        },
    )


def summary(readings: DataFrame, zone: Zone = UTC) -> dict[str, Any]:
    """Return the figures of one sensor's examined readings, ready for JSON.

    A log without times has neither gaps nor suspicious readings.
    """
    timed = readings.time.notna().all()
    interval = readings.seconds.dropna().median()
    gaps = readings.assign(before=readings.time.shift())[readings.gap]
    suspects = int((readings.suspicious_humidity | readings.suspicious_temperature).sum())
    return {
        "readings": len(readings),
        "first": stamp(readings.time.min().to_pydatetime(), zone) if timed else None,
        "last": stamp(readings.time.max().to_pydatetime(), zone) if timed else None,
        "interval": interval if timed and len(readings) > 1 else None,
        "gaps": [
            {
                "from": stamp(begin.to_pydatetime(), zone),
                "to": stamp(end.to_pydatetime(), zone),
                "seconds": seconds,
                "missing": round(seconds / interval) - 1,
            }
            for begin, end, seconds in zip(gaps.before, gaps.time, gaps.seconds)
        ],
        **{
            quantity: {figure: plain(getattr(readings[quantity], figure)()) for figure in FIGURES}
            for quantity in UNITS
        },
        "suspicious": suspects if timed else None,
    }


# Time spans


def wall_clock(times: Series, zone: Zone) -> Series:
    """Return times in UTC as a clock on the wall of a zone shows them."""
    if zone is UTC:
        return times
    # Clocks are changed at full quarters of an hour: one look at the zone's rules for each will do.
    quarters = times.dt.floor("15min")
    offsets = {
        quarter: quarter.to_pydatetime().replace(tzinfo=UTC).astimezone(zone).utcoffset()
        for quarter in quarters.drop_duplicates()
    }
    return times + quarters.map(offsets)


def utc(wall: Timestamp) -> Timestamp:
    """Return the time in UTC when the local clock on the wall shows `wall`."""
    return type(wall)(wall.to_pydatetime().astimezone(UTC).replace(tzinfo=None))


def spans(readings: DataFrame, every: timedelta, zone: Zone) -> list[dict[str, Any]]:
    """Return the figures of each time span of examined readings, ready for JSON.

    A span of more than an hour goes by the clock on the wall: a day may have 23, 24 or 25 hours.
    """
    walls = wall_clock(readings.time, zone)
    starts = walls.dt.floor(every)
    by_wall = zone is not UTC and every > HOUR
    if not by_wall:  # in UTC: 2:00 to 3:00 comes twice when clocks are set back, and is two spans
        starts = readings.time - (walls - starts)
    groups = readings[list(UNITS)].groupby(starts)
    table = groups.agg(FIGURES[:3])
    interval = readings.seconds.dropna().median()
    result = []
    for start, count in groups.size().items():
        begin, end = start, start + every
        if by_wall:
            begin, end = utc(start), utc(end)
        text = stamp(begin.to_pydatetime(), zone, "seconds" if every < MINUTE else "minutes")
        figures = table.loc[start]
        result.append(
            {
                "from": text[:10] if every % DAY == NOTHING else text,
                "readings": int(count),
                "share": share(int(count), begin, end, readings.time, interval),
                **{
                    quantity: {figure: plain(figures[quantity, figure]) for figure in FIGURES[:3]}
                    for quantity in UNITS
                },
            }
        )
    return result


def plain(value: float) -> float | None:
    """Return a figure for JSON: ten decimals, and None where there is none."""
    return None if value != value else round(float(value), 10)


def share(
    count: int, begin: Timestamp, end: Timestamp, times: Series, interval: float
) -> float | None:
    """Return which share of the readings expected from `begin` to `end` are there, 0 to 1.

    None are expected before the first of `times` and after the last.
    """
    first, last = times.iloc[0], times.iloc[-1]
    if not interval > 0:
        return None
    expected = round((min(end, last) - max(begin, first)).total_seconds() / interval)
    if begin <= first and last < end:
        expected += 1  # both ends are readings
    return min(1.0, count / float(max(1, expected)))
