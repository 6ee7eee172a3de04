"""The plot: humidity and temperature over time, as a line for each sensor, or as a map of many."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any

from dht22.figures import ACCURACY, GAP, UNITS, UTC, Zone

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame, Timestamp

# Okabe and Ito 2008: legible on paper, and for readers who cannot tell all colours apart
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
MARKERS = "os^Dv"  # for readers who cannot tell the colours apart
LINES = 12  # sensors; more lines than these cannot be told apart
ROWS = 300  # sensors in a map
CELLS = 400  # of a map, from left to right
BESIDE = {"loc": "lower center", "bbox_to_anchor": (0.5, 0.9)}  # above the axes: it covers no data


def draw(sensors: dict[str, DataFrame], zone: Zone = UTC) -> Figure:
    """Return a figure of examined readings by sensor, its times in a zone."""
    return draw_lines(sensors, zone) if len(sensors) <= LINES else draw_map(sensors, zone)


def draw_lines(sensors: dict[str, DataFrame], zone: Zone) -> Figure:
    """Return a figure with a line a sensor, gaps left open, suspicious readings marked."""
    from matplotlib.figure import Figure  # not pyplot: no display, no state
    from pandas import Timedelta, concat

    figure = Figure(figsize=(12, 7))
    axes = figure.subplots(len(ACCURACY), sharex=True, gridspec_kw={"hspace": 0.08})
    for number, (name, readings) in enumerate(sensors.items()):
        begins = readings.gap | readings.seconds.isna()
        lone = readings[begins & begins.shift(-1, fill_value=True)]  # a line does not show these
        # Rows without values break the line
        openings = readings.loc[readings.gap, ["time"]] - Timedelta("1ms")
        line = concat([readings, openings]).sort_values("time")
        look = {
            "color": COLOURS[number % len(COLOURS)],
            "marker": MARKERS[number % len(MARKERS)],
            "markevery": len(line) // 12 + 1,
            "label": f" {name}",  # the blank: a legend leaves out what begins with _
        }
        for quantity, axis in zip(ACCURACY, axes):
            marked = readings[readings[f"suspicious_{quantity}"]]
            axis.plot(
                line.time,
                line[quantity],
                linewidth=1,
                markersize=8,
                markeredgecolor="white",
                **look,
            )
            axis.plot(lone.time, lone[quantity], ".", color=look["color"])
            axis.plot(marked.time, marked[quantity], "kx")
    for quantity, axis in zip(ACCURACY, axes):
        axis.set_ylabel(UNITS[quantity])
        axis.grid(alpha=0.3)
    label_times(axes[-1], sensors, zone)
    axes[-1].plot([], [], "kx", label="suspicious")
    handles = axes[-1].get_legend_handles_labels()
    longest = max(map(len, sensors))
    figure.legend(*handles, ncol=max(1, min(6, 120 // (longest + 8))), **BESIDE)
    return figure


def draw_map(sensors: dict[str, DataFrame], zone: Zone) -> Figure:
    """Return a figure with a row a sensor, its readings as colours, gaps left white."""
    from matplotlib.dates import date2num
    from matplotlib.figure import Figure

    shown = dict(list(sensors.items())[:ROWS])
    height = 1.5 + 0.17 * len(shown)  # inches
    figure = Figure(figsize=(14, height))
    axes = figure.subplots(1, len(ACCURACY), sharey=True, gridspec_kw={"wspace": 0.03})
    first, last = period(shown)
    edges = [date2num(first + (last - first) * column / CELLS) for column in range(CELLS + 1)]
    for quantity, axis in zip(ACCURACY, axes):
        cells = [map_row(readings, quantity, first, last) for readings in shown.values()]
        mesh = axis.pcolormesh(edges, range(len(shown) + 1), cells, cmap="cividis", rasterized=True)
        # Without use_gridspec=False Matplotlib 3.3 knows no location
        place: dict[str, Any] = {
            "location": "top",
            "fraction": 0.5 / height,
            "pad": 0.2 / height,
            "aspect": 30,
        }
        figure.colorbar(mesh, ax=axis, label=UNITS[quantity], use_gridspec=False, **place)
        for row, readings in enumerate(shown.values()):
            times = readings.time[readings[f"suspicious_{quantity}"]]
            axis.plot(times, [row + 0.5] * len(times), "wx", markersize=5, markeredgewidth=2.5)
            axis.plot(times, [row + 0.5] * len(times), "kx", markersize=5)
        label_times(axis, shown, zone)
    axes[0].set_yticks([row + 0.5 for row in range(len(shown))])
    axes[0].set_yticklabels(shown, fontsize=8)
    axes[0].set_ylim(len(shown), 0)  # the first on top
    if len(sensors) > ROWS:
        figure.suptitle(f"the first {ROWS} of {len(sensors):,} sensors")
    return figure


def map_row(readings: DataFrame, quantity: str, first: Timestamp, last: Timestamp) -> list[float]:
    """Return the mean reading in each cell of a sensor's row; suspicious ones do not count."""
    width = (last - first) / CELLS
    calm = readings[~readings[f"suspicious_{quantity}"]]
    column = ((calm.time - first) // width).clip(upper=CELLS - 1)
    means = calm[quantity].groupby(column).mean().reindex(range(CELLS))
    interval = readings.seconds.median()
    reach = int(GAP * interval / width.total_seconds()) if interval > 0 else 0
    # Where the cells are finer than the readings, a reading lasts until the next one.
    cells: list[float] = (means.ffill(limit=reach) if reach else means).tolist()
    return cells


def period(sensors: dict[str, DataFrame]) -> tuple[Timestamp, Timestamp]:
    """Return the first and last time of all sensors, at least a second apart."""
    from pandas import Timedelta

    first = min(readings.time.iloc[0] for readings in sensors.values())
    last = max(readings.time.iloc[-1] for readings in sensors.values())
    return first, max(last, first + Timedelta("1s"))


def label_times(axis: Axes, sensors: dict[str, DataFrame], zone: Zone) -> None:
    """Label the x axis: which days in which zone, and hours where the days are few."""
    from dateutil.tz import tzlocal
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
    from pandas import date_range

    first, last = period(sensors)
    weeks = [*date_range(first, last, freq="7D"), last]
    local = [time.to_pydatetime().replace(tzinfo=UTC).astimezone(zone) for time in weeks]
    names = ", ".join(dict.fromkeys(str(time.tzname()) for time in local))
    days = " to ".join(dict.fromkeys(str(time.date()) for time in (local[0], local[-1])))
    tz: Any = zone or tzlocal()
    locator = AutoDateLocator(tz=tz)
    axis.xaxis.set_major_locator(locator)
    ticks = list(locator())
    steps = [later - earlier for earlier, later in zip(ticks, ticks[1:])]
    if steps and median(steps) < 1:  # day
        # 2:00 does not exist when clocks are set forward: its tick would get too near to midnight.
        even = [tick for tick, step in zip(ticks[1:], steps) if step > 0.6 * median(steps)]
        ticks = ticks[:1] + even
    axis.set_xticks(ticks)
    formatter = ConciseDateFormatter(locator, tz=tz, show_offset=False)
    formatter.zero_formats[2] = "%b-%d"  # the first of a month among other days
    axis.xaxis.set_major_formatter(formatter)
    axis.set_xlabel(f"time ({names}), {days}")
