"""What there is to say of a sensor: figures, gaps, what is missing, what is suspicious."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from dht22.report.times import UTC, Zone, stamp
from dht22.silence import is_silent

if TYPE_CHECKING:
    from numpy import ndarray
    from pandas import DataFrame

UNITS = {
    "humidity": "humidity (%)",
    "temperature": "temperature (°C)",
    "dew_point": "dew point (°C)",
}
FIGURES = ["min", "mean", "max", "std"]
# Over water, -45 to 60 °C; Sonntag 1990, in the WMO's Guide to Instruments (No. 8)
MAGNUS = (17.62, 243.12)
GAP = 2.5  # intervals
SECOND = 10**9  # nanoseconds

# Lower spikes are never suspicious: the sensor's own accuracy; DHT22 datasheet
ACCURACY = {"humidity": 2.0, "temperature": 0.5}
# Nor are those that are no more than so many times as high as the highest spike of this share of
# the sensor's readings. Tried with a year of hourly weather of each of four places, a month of
# minutes, and a DHT22 read each 2.4 s: at most 1 of 4,000 was suspicious. Of readings that were
# halved, doubled or set to 0 eight of ten or more were, at the windiest place six of ten.
USUAL_SHARE, USUAL_TIMES = 0.95, 5.0
CACHED = 1 << 15  # readings


def dew_point(humidity: ndarray, temperature: ndarray) -> ndarray:
    """Return the dew point in °C by the Magnus formula; dry air, 0 %, has none: NaN."""
    import numpy

    b, c = MAGNUS
    moist: ndarray = numpy.where(humidity > 0, humidity, numpy.nan)
    gamma: ndarray = numpy.log(moist / 100) + b * temperature / (c + temperature)
    found: ndarray = c * gamma / (b - gamma)
    return found


def spikes(values: ndarray, gap: ndarray) -> ndarray:
    """Return how far each reading stands out, 0 if it lies between its neighbours.

    A spike is one reading or two, higher or lower than the neighbours on both sides, by more than
    these differ from each other. Behind a gap there is no neighbour.
    """
    import numpy

    piece: ndarray = numpy.cumsum(gap)
    heights: ndarray = numpy.zeros(len(values))
    for begin in range(0, len(values), CACHED):  # in the processor's cache it is 4 times as fast
        for before, after in (1, 1), (2, 1), (1, 2):
            first, beyond = max(begin, before), min(begin + CACHED, len(values) - after)
            if first >= beyond:
                continue
            left, right = (
                slice(first - before, beyond - before),
                slice(first + after, beyond + after),
            )
            low = numpy.minimum(values[left], values[right])
            high = numpy.maximum(values[left], values[right])
            height = numpy.maximum(values[first:beyond] - high, low - values[first:beyond])
            stands_out = (height > high - low) & (piece[left] == piece[right])
            here = heights[first:beyond]
            numpy.maximum(here, height * stands_out, out=here)
    return heights


def suspicious(values: ndarray, gap: ndarray, accuracy: float) -> ndarray:
    """Tell which readings stand out further than is usual for this sensor."""
    import numpy

    heights = spikes(values, gap)
    rare = len(values) - 1 - int(USUAL_SHARE * (len(values) - 1))  # so many stand out further
    high: ndarray = heights[heights > accuracy / USUAL_TIMES]
    usual = numpy.partition(high, -1 - rare)[-1 - rare] if len(high) > rare else 0.0
    found: ndarray = heights > max(accuracy, USUAL_TIMES * usual)
    return found


def examine(readings: DataFrame) -> DataFrame:
    """Return one sensor's readings, sorted by time, with what there is to say of each of them.

    `seconds` is the time since the reading before, `gap` tells whether that is a gap.
    """
    import numpy
    from pandas import DataFrame

    if not readings.time.is_monotonic_increasing:
        readings = readings.sort_values("time", kind="mergesort")  # stable
    times = readings.time.to_numpy()
    seconds: ndarray = numpy.full(len(times), numpy.nan)
    if not numpy.isnat(times[0]):
        seconds[1:] = numpy.diff(times).astype("int64") / SECOND
    interval = usual_interval(seconds)
    gap: ndarray = (seconds > GAP * interval) & (interval > 0)
    columns = {name: readings[name].to_numpy() for name in ("time", *ACCURACY)}
    for quantity, accuracy in ACCURACY.items():
        columns[f"suspicious_{quantity}"] = suspicious(columns[quantity], gap, accuracy)
    columns["dew_point"] = dew_point(columns["humidity"], columns["temperature"])
    return DataFrame({**columns, "seconds": seconds, "gap": gap}, copy=False)


def usual_interval(seconds: ndarray) -> float:
    """Return the median of what is known of the times between readings, NaN if nothing is."""
    import numpy

    return float(numpy.median(seconds[1:])) if len(seconds) > 1 else numpy.nan


def summary(readings: DataFrame, zone: Zone = UTC, end: datetime | None = None) -> dict[str, Any]:
    """Return the figures of one sensor's examined readings, ready for JSON.

    If the sensor is silent at `end`, that is told. A log without times has no gaps, nothing missing
    and nothing suspicious.
    """

    figures = {
        quantity: {figure: plain(getattr(readings[quantity], figure)()) for figure in FIGURES}
        for quantity in UNITS
    }
    if readings.time.isna().any():
        unknown = "first", "last", "interval", "missing", "share", "silent", "suspicious"
        return {"readings": len(readings), **dict.fromkeys(unknown), "gaps": [], **figures}
    first, last = readings.time.iloc[0].to_pydatetime(), readings.time.iloc[-1].to_pydatetime()
    seconds = readings.seconds.to_numpy()
    interval = usual_interval(seconds)
    known = interval > 0
    silence = (end - last).total_seconds() if end else 0.0
    return {
        "readings": len(readings),
        "first": stamp(first, zone),
        "last": stamp(last, zone),
        "interval": plain(interval),
        "missing": int(missing(seconds[1:], interval).sum()) if known else 0,
        "share": share(len(readings), (last - first).total_seconds(), interval),
        "silent": silence if is_silent(silence, interval if known else 0.0) else None,
        "gaps": gaps(readings, interval, zone),
        **figures,
        "suspicious": int((readings.suspicious_humidity | readings.suspicious_temperature).sum()),
    }


def gaps(readings: DataFrame, interval: float, zone: Zone) -> list[dict[str, Any]]:
    """Return the gaps between examined readings, ready for JSON."""
    ends = readings.gap.to_numpy().nonzero()[0]
    return [
        {
            "from": stamp(readings.time.iloc[end - 1].to_pydatetime(), zone),
            "to": stamp(readings.time.iloc[end].to_pydatetime(), zone),
            "seconds": float(readings.seconds.iloc[end]),
            "missing": int(missing(readings.seconds.iloc[end], interval)),
        }
        for end in ends
    ]


def missing(seconds: ndarray, interval: float) -> ndarray:
    """Return how many readings are missing in pauses of some length."""
    import numpy

    count: ndarray = numpy.maximum(numpy.rint(seconds / interval) - 1, 0)
    return count


def plain(value: float) -> float | None:
    """Return a figure for JSON: ten decimals, and None where there is none."""
    return None if value != value else round(float(value), 10)


def share(readings: int, seconds: float, interval: float) -> float | None:
    """Return which share of the readings that an interval promises is there, 0 to 1."""
    if not interval > 0:
        return None
    return min(1.0, readings / (round(seconds / interval) + 1))  # both ends are readings
