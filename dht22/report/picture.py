"""The plot: humidity and temperature over time, as a line for each sensor, or as a map of many."""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from dht22.report.figures import ACCURACY, GAP, UNITS
from dht22.report.times import UTC, Zone, clock_changes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy import ndarray
    from pandas import DataFrame, Timestamp

    Period = tuple[Timestamp, Timestamp]  # the first and last time to be shown

# Okabe and Ito 2008: legible on paper, and for readers who cannot tell all colours apart
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
MARKERS = "os^Dv"  # for readers who cannot tell the colours apart
LINES = 12  # sensors; more lines than these cannot be told apart
ROWS = 300  # sensors in a map
COLUMNS = 1000  # of a line that can be told apart in a picture of 12 inches
STRETCHED = 100  # times as long as nine tenths of the readings, an axis is of little use
CELLS = 400  # of a map, from left to right


class Sketch(NamedTuple):
    """What a picture shows of one sensor; of each quantity times and values."""

    lines: dict[str, tuple[ndarray, ndarray]]  # NaN breaks them where a gap is
    marks: dict[str, tuple[ndarray, ndarray]]  # of what is suspicious
    cells: dict[str, list[ndarray]]  # instead of lines in a map: the highest above the lowest
    gaps: ndarray  # the times at which they end


def thinned(times: ndarray, values: ndarray, gap: ndarray, width: float) -> tuple[ndarray, ndarray]:
    """Return the times and values that a picture can show of a line, its columns `width` s wide.

    Of each column of pixels these are the first, lowest, highest and last reading, so that no
    spike is lost. Where a gap is passed the line is broken by a NaN. `times` (datetime64) are
    sorted, `gap` tells which readings come after a gap. The columns are counted from 1970: a line
    that grows at its end keeps the points that it had.
    """
    import numpy

    if not len(times):
        return times, values
    column: ndarray = times.astype("datetime64[ns]").astype("int64") // max(1, round(width * 1e9))
    first: ndarray = numpy.append(0, numpy.flatnonzero(numpy.diff(column)) + 1)
    beyond: ndarray = numpy.append(first[1:], len(column))  # the first of the next column
    kept = [first, beyond - 1]
    for extreme in numpy.fmin, numpy.fmax:
        reached = values == numpy.repeat(extreme.reduceat(values, first), beyond - first)
        places: ndarray = numpy.flatnonzero(reached)
        # Of those that are as low, or as high, the first
        kept.append(places[numpy.diff(column[places], prepend=column[0] - 1) > 0])
    shown: ndarray = numpy.unique(numpy.concatenate(kept))
    times, values = times[shown], values[shown].astype(float)
    broken: ndarray = numpy.flatnonzero(numpy.diff(numpy.cumsum(gap)[shown])) + 1
    return numpy.insert(times, broken, times[broken]), numpy.insert(values, broken, numpy.nan)


def period(readings: DataFrame) -> Period:
    """Return the first and last time of all sensors, at least a second apart."""
    from pandas import Timedelta

    first, last = readings.time.min(), readings.time.max()
    return first, max(last, first + Timedelta("1s"))


def sketch(readings: DataFrame, shown: Period, as_map: bool) -> Sketch:
    """Return what a picture of some period shows of one sensor's examined readings."""
    times, gap = readings.time.to_numpy(), readings.gap.to_numpy()
    width = length(shown) / COLUMNS
    found = Sketch({}, {}, {}, times[gap])
    for quantity in ACCURACY:
        values = readings[quantity].to_numpy()
        marked = readings[f"suspicious_{quantity}"].to_numpy()
        found.marks[quantity] = times[marked], values[marked]
        if as_map:
            found.cells[quantity] = cells(readings, quantity, shown)
        else:
            found.lines[quantity] = thinned(times, values, gap, width)
    return found


def cells(readings: DataFrame, quantity: str, shown: Period) -> list[ndarray]:
    """Return the highest and the lowest reading in each cell of a sensor's row, NaN where none is.

    Where the cells are finer than the readings, a reading lasts until the next one.
    """
    width = (shown[1] - shown[0]) / CELLS
    column = ((readings.time - shown[0]) // width).clip(upper=CELLS - 1)
    groups = readings[quantity].groupby(column)
    interval = readings.seconds.median()
    reach = int(GAP * interval / width.total_seconds()) if interval > 0 else 0
    rows = [extreme.reindex(range(CELLS)) for extreme in (groups.max(), groups.min())]
    return [(row.ffill(limit=reach) if reach else row).to_numpy() for row in rows]


def draw(sensors: dict[str, Sketch], shown: Period, zone: Zone = UTC) -> Figure:
    """Return a figure of sketches by sensor, its times in a zone."""
    from matplotlib.figure import Figure  # not pyplot: no display, no state

    rows = min(len(sensors), ROWS)
    figure = Figure(figsize=(12, 7) if rows <= LINES else (14, 1.5 + 0.17 * rows))  # inches
    fill(figure, sensors, zone, shown)
    return figure


def fill(figure: Figure, sensors: dict[str, Sketch], zone: Zone, shown: Period) -> None:
    """Draw sketches by sensor into an empty figure, for the period that is shown."""
    if len(sensors) <= LINES:
        draw_lines(figure, sensors, zone, shown)
    else:
        draw_map(figure, sensors, zone, shown)


def draw_lines(figure: Figure, sensors: dict[str, Sketch], zone: Zone, shown: Period) -> None:
    """Draw a line for each sensor, gaps left open, suspicious readings marked."""
    # A name in the legend takes so many inches, a line of it 0.22; the axes begin below it.
    width, height = figure.get_size_inches()
    columns = max(1, min(6, int(width / (0.8 + 0.085 * max(map(len, sensors))))))
    lines = ceil((len(sensors) + 2) / columns)
    place = {"hspace": 0.08, "top": 0.94 - 0.22 * lines / height}
    axes = figure.subplots(len(ACCURACY), sharex=True, gridspec_kw=place)
    for number, (name, found) in enumerate(sensors.items()):
        look = {
            "color": COLOURS[number % len(COLOURS)],
            "marker": MARKERS[number % len(MARKERS)],
            "label": f" {name}",  # the blank: a legend leaves out what begins with _
            "linewidth": 1,
            "markersize": 8,
            "markeredgecolor": "white",
        }
        draw_line(axes, found, look)
        # A gap may be narrower than a line: each has a stroke at the foot of the picture
        foot = {"color": look["color"], "transform": axes[-1].get_xaxis_transform()}
        axes[-1].plot(found.gaps, [0.02 + 0.03 * number] * len(found.gaps), "|", **foot)
    for quantity, axis in zip(ACCURACY, axes):
        axis.set_ylabel(UNITS[quantity])
        axis.grid(alpha=0.3)
    if any(len(times) for found in sensors.values() for times, _ in found.marks.values()):
        axes[-1].plot([], [], "kx", label="suspicious")
    if any(len(found.gaps) for found in sensors.values()):
        axes[-1].plot([], [], "k|", label="gap")
    handles = axes[-1].get_legend_handles_labels()
    figure.legend(*handles, ncol=columns, loc="upper center", bbox_to_anchor=(0.5, 0.98))
    margin = (shown[1] - shown[0]) / 25
    axes[-1].set_xlim(shown[0] - margin, shown[1] + margin)
    label_times(axes[-1], shown, zone)


def draw_line(axes: Iterable[Axes], found: Sketch, look: dict[str, Any]) -> None:
    """Draw one sensor's humidity and temperature."""
    import numpy

    for quantity, axis in zip(ACCURACY, axes):
        times, values = found.lines[quantity]
        # A reading with a gap on both sides is not seen in a line: it gets a dot
        broken = numpy.isnan(numpy.concatenate([[numpy.nan], values, [numpy.nan]]))
        lone = broken[:-2] & broken[2:]
        axis.plot(times, values, markevery=len(times) // 12 + 1, **look)
        axis.plot(times[lone], values[lone], ".", color=look["color"])
        axis.plot(*found.marks[quantity], "kx")


def draw_map(figure: Figure, sensors: dict[str, Sketch], zone: Zone, shown: Period) -> None:
    """Draw a row for each sensor, its readings as colours, gaps left white."""
    from matplotlib.dates import date2num

    names, found = list(sensors)[:ROWS], list(sensors.values())[:ROWS]
    width, height = figure.get_size_inches()
    place: dict[str, Any] = {
        "wspace": 0.06,
        "left": (0.3 + 0.07 * max(map(len, names))) / width,
        "top": 1 - 0.4 / height,
        "bottom": 0.6 / height,
    }
    axes = figure.subplots(1, len(ACCURACY), sharey=True, gridspec_kw=place)
    first, last = shown
    edges = [date2num(first + (last - first) * column / CELLS) for column in range(CELLS + 1)]
    halves = [row / 2 for row in range(2 * len(found) + 1)]
    for quantity, axis in zip(ACCURACY, axes):
        rows = [row for each in found for row in each.cells[quantity]]
        mesh = axis.pcolormesh(edges, halves, rows, cmap="cividis", rasterized=True)
        # Without use_gridspec=False Matplotlib 3.3 knows no location
        place = {
            "location": "top",
            "fraction": 0.5 / height,
            "pad": 0.2 / height,
            "aspect": 30,
        }
        figure.colorbar(mesh, ax=axis, label=UNITS[quantity], use_gridspec=False, **place)
        for row, each in enumerate(found):
            times, _ = each.marks[quantity]
            axis.plot(times, [row + 0.5] * len(times), "wx", markersize=5, markeredgewidth=2.5)
            axis.plot(times, [row + 0.5] * len(times), "kx", markersize=5)
        label_times(axis, shown, zone)
    axes[0].set_yticks([row + 0.5 for row in range(len(found))])
    axes[0].set_yticklabels(names, fontsize=min(8, 50 * height / len(names)))  # 72 are an inch
    axes[0].set_ylim(len(found), 0)  # the first on top
    if len(sensors) > ROWS:
        figure.suptitle(f"the first {ROWS} of {len(sensors):,} sensors", y=1 - 0.1 / height)


def label_times(axis: Axes, shown: Period, zone: Zone) -> None:
    """Label the x axis: which days in which zone, and hours where the days are few."""
    from dateutil.tz import tzlocal
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    inches = axis.get_window_extent().width / axis.figure.dpi
    most = max(6, min(11, round(1.5 * inches)))  # labels that have room
    locator = AutoDateLocator(tz=zone or tzlocal(), maxticks=most)
    axis.xaxis.set_major_locator(locator)
    axis.set_xticks(without_crowding(list(locator())))
    formatter = ConciseDateFormatter(locator, tz=zone or tzlocal(), show_offset=False)
    formatter.zero_formats[2] = "%b-%d"  # the first of a month among other days
    axis.xaxis.set_major_formatter(formatter)
    axis.set_xlabel(name_of_period(shown, zone))


def without_crowding(ticks: list[float]) -> list[float]:
    """Return ticks, in days, without those that are too near to the one before.

    2:00 does not exist when clocks are set forward: its tick would stand at 3:00.
    """
    steps = [later - earlier for earlier, later in zip(ticks, ticks[1:])]
    if not steps or median(steps) >= 1:
        return ticks  # months are of different lengths
    wide = [tick for tick, step in zip(ticks[1:], steps) if step > 0.6 * median(steps)]
    return [*ticks[:1], *wide]


def name_of_period(shown: Period, zone: Zone) -> str:
    """Return the words for a period: `time (CET, CEST), 2026-03-28 to 2026-03-29`."""
    first, last = (time.to_pydatetime() for time in shown)
    times = [first, *clock_changes(first, last, zone), last]
    local = [time.replace(tzinfo=UTC).astimezone(zone) for time in times]
    zones = ", ".join(dict.fromkeys(str(time.tzname()) for time in local))
    days = " to ".join(dict.fromkeys(str(time.date()) for time in (local[0], local[-1])))
    return f"time ({zones}), {days}"


def mostly(readings: DataFrame, shown: Period) -> str:
    """Return which days have nine tenths of the readings, if the rest makes the axis far longer."""
    import numpy

    times = readings.time.to_numpy()
    places = [int(part * (len(times) - 1)) for part in (0.05, 0.95)]
    first, last = numpy.partition(times, places)[places]
    if not 0 < (last - first) / numpy.timedelta64(1, "s") * STRETCHED < length(shown):
        return ""
    days = " to ".join(dict.fromkeys(str(time.astype("datetime64[D]")) for time in (first, last)))
    return f"nine tenths of the readings are of {days}; choose them by --since and --until"


def length(shown: Period) -> float:
    """Return how long a period is, in seconds."""
    return float((shown[1] - shown[0]).total_seconds())
