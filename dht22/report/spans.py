"""The figures of each hour or day, also where clocks are changed, in one pass over the readings."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, NamedTuple

from dht22.report.figures import FIGURES, UNITS, plain, usual_interval
from dht22.report.times import Zone, clock_changes, offset

if TYPE_CHECKING:
    from numpy import ndarray
    from pandas import DataFrame

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
EPOCH = datetime(1970, 1, 1)
FOREVER = 1 << 62  # nanoseconds


class Spans(NamedTuple):
    """The figures of those time spans that have readings, as lists of one length."""

    begins: list[str]  # as RFC 3339 writes them; of whole days the date alone
    readings: list[int]
    shares: list[float]  # of the expected readings, 0 to 1; NaN where no interval is known
    figures: list[list[float]]  # of each quantity the lowest, the mean and the highest


class Period(NamedTuple):
    """A time over which the clocks of a zone are not changed, in nanoseconds since 1970."""

    begin: int
    end: int
    offset: int  # what they are ahead of UTC


def spans(readings: DataFrame, every: timedelta, zone: Zone) -> Spans:
    """Return the figures of each time span of one sensor's examined readings.

    A span of more than an hour goes by the clock on the wall: a day may have 23, 24 or 25 hours. Of
    shorter spans, those in the hour that comes twice when clocks are set back come twice, too.
    """
    import numpy

    times: ndarray = readings.time.to_numpy().astype("datetime64[ns]").astype("int64")
    first_time, last_time = (readings.time.iloc[place].to_pydatetime() for place in (0, -1))
    periods = periods_of(first_time - every, last_time + every, zone)
    length, by_wall = nanoseconds(every), every > HOUR
    number: ndarray = number_of_period(times, periods)
    offsets: ndarray = numpy.array([period.offset for period in periods])
    walls: ndarray = (times + offsets[number]) // length * length  # where each one's span begins
    is_new: ndarray = numpy.diff(walls, prepend=walls[0] - 1) != 0
    if not by_wall:
        is_new |= numpy.diff(number, prepend=number[0]) != 0
    first: ndarray = numpy.flatnonzero(is_new)
    counts: ndarray = numpy.diff(numpy.append(first, len(times)))
    walls, number = walls[first], number[first]

    begins: ndarray = numpy.full(len(first), FOREVER)
    lengths: ndarray = numpy.zeros(len(first), "int64")  # between the first reading and the last
    for place, period in enumerate(periods):
        begin = numpy.maximum(walls - period.offset, period.begin)
        end = numpy.minimum(walls - period.offset + length, period.end)
        here = (begin < end) & (by_wall | (number == place))
        begins[here] = numpy.minimum(begins, begin)[here]
        inside: ndarray = numpy.minimum(end, times[-1]) - numpy.maximum(begin, times[0])
        lengths[here] += numpy.maximum(inside, 0)[here]
    interval = usual_interval(readings.seconds.to_numpy())
    return Spans(
        dates(walls) if every % DAY == timedelta(0) else stamps(begins, periods, every),
        counts.tolist(),
        shares(counts, lengths, interval).tolist(),
        [each for quantity in UNITS for each in figures(readings[quantity].to_numpy(), first)],
    )


def nanoseconds(length: timedelta) -> int:
    return length // timedelta(microseconds=1) * 1000


def periods_of(first: datetime, last: datetime, zone: Zone) -> list[Period]:
    """Return the periods from a time to another, in UTC; nothing is before the first one."""
    changes = clock_changes(first, last, zone)
    begins = [-FOREVER, *(nanoseconds(change - EPOCH) for change in changes)]
    offsets = [nanoseconds(offset(time, zone)) for time in (first, *changes)]
    return [*map(Period, begins, [*begins[1:], FOREVER], offsets)]


def number_of_period(times: ndarray, periods: list[Period]) -> ndarray:
    import numpy

    begins: ndarray = numpy.array([period.begin for period in periods])
    number: ndarray = numpy.array(begins.searchsorted(times, "right") - 1)
    return number


def shares(counts: ndarray, lengths: ndarray, interval: float) -> ndarray:
    """Return which share of the readings that are expected in some lengths of time is there.

    None is expected before a sensor's first reading, or after its last one.
    """
    import numpy

    if not interval > 0:
        return numpy.full(len(counts), numpy.nan)
    expected: ndarray = numpy.rint(lengths / (interval * 1e9))
    if len(counts) == 1:
        expected += 1  # both ends are readings
    share: ndarray = numpy.minimum(1.0, counts / numpy.maximum(1, expected))
    return share


def figures(values: ndarray, first: ndarray) -> list[list[float]]:
    """Return the lowest, the mean and the highest value from each place to the next one."""
    import numpy

    known = ~numpy.isnan(values)
    with numpy.errstate(invalid="ignore"):  # 0 / 0 is NaN, as it should be
        total: ndarray = numpy.add.reduceat(numpy.where(known, values, 0.0), first)
        mean: ndarray = total / numpy.add.reduceat(known.astype(float), first)
    low: ndarray = numpy.fmin.reduceat(values, first)
    high: ndarray = numpy.fmax.reduceat(values, first)
    return [numpy.round(each, 10).tolist() for each in (low, mean, high)]


def dates(walls: ndarray) -> list[str]:
    found: list[str] = walls.astype("datetime64[ns]").astype("datetime64[D]").astype(str).tolist()
    return found


def stamps(begins: ndarray, periods: list[Period], every: timedelta) -> list[str]:
    """Return when spans begin in a zone as RFC 3339 writes it."""
    import numpy

    number = number_of_period(begins, periods)
    walls: ndarray = begins + numpy.array([period.offset for period in periods])[number]
    unit = "m" if every % MINUTE == timedelta(0) else "s"
    texts = walls.astype("datetime64[ns]").astype(f"datetime64[{unit}]").astype(str).tolist()
    zones = [timezone(timedelta(microseconds=period.offset // 1000)) for period in periods]
    ends = [EPOCH.replace(tzinfo=zone).isoformat()[19:].replace("+00:00", "Z") for zone in zones]
    return [text + ends[place] for text, place in zip(texts, number.tolist())]


def as_dicts(spans: Spans) -> list[dict[str, Any]]:
    """Return spans for JSON, a dict each."""
    found = []
    for begin, count, share, *values in zip(*spans[:3], *spans.figures):
        known = share if share == share else None
        span: dict[str, Any] = {"from": begin, "readings": count, "share": known}
        for quantity in UNITS:
            three, values = values[:3], values[3:]
            span[quantity] = dict(zip(FIGURES, map(plain, three)))
        found.append(span)
    return found
