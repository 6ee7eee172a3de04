"""The page's plots: humidity above temperature on one time axis, a line for each sensor."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy
from bokeh.embed import file_html
from bokeh.layouts import gridplot
from bokeh.models import (
    BoxZoomTool,
    ColumnDataSource,
    CustomJS,
    DataRange1d,
    DatetimeTickFormatter,
    HoverTool,
    Legend,
    LegendItem,
    Model,
    PanTool,
    Range1d,
    WheelZoomTool,
    ZoomInTool,
    ZoomOutTool,
)
from bokeh.plotting import figure
from bokeh.resources import INLINE
from numpy import ndarray
from pandas import DataFrame

from dht22.console import say
from dht22.report.figures import ACCURACY, GAP, UNITS
from dht22.report.picture import COLOURS, thinned
from dht22.report.recent import Rows, Sensor, from_table
from dht22.report.times import UTC, Zone

TEMPLATE = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
DASHES = ["solid", "dashed", "dotted"]  # the next one when all colours are taken; also a tile's
HEIGHT = 250  # pixels, of a plot
KEY, LETTER = 45, 8  # pixels, of a line in the legend and of each letter of its name
DASH = 4  # columns of pixels, of a reading that no line reaches
COLUMNS = 1000  # of pixels, until the browser tells
LAST_COLUMNS = 100, 4000  # whatever the browser tells
MOST_LINES = 100  # more take a browser too long
MOST_ADDED = 500  # readings, to a line until it is thinned again
IN_A_FILE = 10_000  # columns of all lines together: it stays below 3 MB
SHORTEST = 10_000  # ms that can be zoomed in to
YEARS = -2_208_988_800_000, 7_258_118_400_000  # ms: 1900 to 2200
INK = "#111"  # large and black enough for the sun
WORDS = {
    "axis_label_text_color": INK,
    "axis_label_text_font_size": "14px",
    "axis_label_text_font_style": "normal",
    "major_label_text_color": INK,
    "major_label_text_font_size": "13px",
    "minor_tick_line_color": None,
}
HAS_WINDOW_AXIS = "window_axis" in figure.properties()  # from Bokeh 3.7 on
# What `Plots.arrange` does, for a file, which has no report.py
ARRANGE = """
legend.ncols = Math.max(1, Math.min(Math.floor(cb_obj.inner_width / entry), legend.items.length))
"""
DATE, CLOCK, SECONDS = "%Y-%m-%d", "%H:%M", "%H:%M:%S"
TICKS = {"hours": CLOCK, "hourmin": CLOCK, "minutes": CLOCK, "minsec": SECONDS, "seconds": SECONDS}


class Shown(NamedTuple):
    """What a viewer has before him: from when to when, in ms, and how many columns of pixels."""

    start: float
    end: float
    columns: int

    @property
    def column(self) -> float:
        """Return how long a column of pixels is, in ms."""
        return (self.end - self.start) / self.columns

    def with_margins(self) -> tuple[float, float]:
        """Return from when to when lines are drawn: further, for those who move on."""
        margin = (self.end - self.start) / 2
        return self.start - margin, self.end + margin


class Line:
    """One sensor's humidity and temperature in the plots, its times `offset` ms ahead of UTC."""

    def __init__(self, name: str, number: int, figures: dict[str, figure], offset: int) -> None:
        self.offset = offset
        colour = COLOURS[number % len(COLOURS)]
        dash = DASHES[number // len(COLOURS) % len(DASHES)]
        self.css = f"border-top-color: {colour}; border-top-style: {dash}"  # the same for a tile
        look = {"line_color": colour, "line_dash": dash, "line_width": 2}
        self.sources = {quantity: ColumnDataSource() for quantity in figures}
        self.glyphs = [
            plot.line("time", "value", source=self.sources[quantity], name=name, **look)
            for quantity, plot in figures.items()
        ]
        self.glyphs[0].js_link("visible", self.glyphs[1], "visible")
        self.last = 0.0  # time of the last reading in it
        self.interval = 0.0  # ms, usual in it
        self.drawn, self.added = 0, 0  # readings: at once, and since then
        self.late = 0  # the sensor's when it was drawn

    def draw(self, sensor: Sensor, shown: Shown) -> None:
        """Draw the readings that can be seen, and some on either side."""
        start, end = shown.with_margins()
        rows = sensor.between(start, end)
        times = rows["time"]
        self.last = float(times[-1]) if len(times) else start
        self.interval = float(numpy.median(numpy.diff(times))) if len(times) > 1 else 0.0
        self.drawn, self.added, self.late = len(times), 0, sensor.late
        for quantity, source in self.sources.items():
            source.data = self.points(rows, quantity, YEARS[0], shown.column)

    def extend(self, sensor: Sensor, shown: Shown) -> None:
        """Add the readings that are new."""
        rows = sensor.between(self.last, shown.with_margins()[1])
        number = len(rows["time"])
        self.added += number
        if self.late != sensor.late or self.added > min(self.drawn, MOST_ADDED):
            self.draw(sensor, shown)
        elif number:
            for quantity, source in self.sources.items():
                source.stream(self.points(rows, quantity, self.last, shown.column))
            self.last = float(rows["time"][-1])

    def points(self, rows: Rows, quantity: str, before: float, column: float) -> dict[str, Any]:
        """Return the points of a line that can be told apart, with a NaN where it is broken.

        `before` is the time of the reading before them, `column` what a column of pixels shows, in
        ms. A reading between two gaps would not be seen: it becomes a dash.
        """
        if not len(rows["time"]):  # without any point, the legend would not show the line
            return {"time": [before], "value": [numpy.nan]}
        gap = numpy.diff(rows["time"], prepend=before) > GAP * self.interval
        stamps: ndarray = rows["time"].astype("datetime64[ms]")
        stamps, values = thinned(stamps, rows[quantity], gap, column / 1000)
        times: ndarray = stamps.astype("i8")
        if gap[0]:
            times, values = numpy.insert(times, 0, times[0]), numpy.insert(values, 0, numpy.nan)
        broken = numpy.isnan(numpy.concatenate([[0], values, [numpy.nan]]))
        lone = numpy.flatnonzero(broken[:-2] & ~broken[1:-1] & broken[2:])
        times = numpy.insert(times, lone + 1, times[lone] + round(DASH * column))
        values = numpy.insert(values, lone + 1, values[lone])
        return {"time": (times + self.offset).astype(float), "value": values.astype("f4")}


class Plots:
    """The two plots. All times have the offset from UTC that a zone has at one time, `at`."""

    def __init__(self, zone: Zone, at: datetime) -> None:
        there = at.replace(tzinfo=UTC).astimezone(zone)
        self.zone = str(there.tzname())
        self.offset = (there.utcoffset() or timedelta()) // timedelta(milliseconds=1)
        self.columns = COLUMNS
        self.measured = False  # once it is, the legend is drawn anew: Bokeh may do so too early
        self.range = Range1d(start=0, end=1, min_interval=SHORTEST)
        kinds = WheelZoomTool, PanTool, BoxZoomTool, ZoomInTool, ZoomOutTool
        self.tools = [kind(dimensions="width") for kind in kinds]  # of both plots
        self.figures = {quantity: self.figure(quantity) for quantity in ACCURACY}
        self.upper, lower = self.figures.values()
        self.upper.xaxis.visible = False
        lower.xaxis.axis_label = f"time ({self.zone})"
        self.legend = Legend(click_policy="hide", orientation="horizontal", location="top_left")
        self.legend.update(border_line_color=None, label_text_color=INK, margin=0, padding=5)
        self.upper.add_layout(self.legend, "above")
        self.lines: dict[str, Line] = {}

    def figure(self, quantity: str) -> figure:
        """Return the empty plot of a quantity."""
        plot = figure(
            frame_height=HEIGHT,
            sizing_mode="stretch_width",
            x_range=self.range,
            x_axis_type="datetime",
            y_range=DataRange1d(only_visible=True),
            y_axis_label=UNITS[quantity],
            tools=self.tools,
            active_scroll=self.tools[0],
        )
        if HAS_WINDOW_AXIS:
            plot.window_axis = "x"  # the y axis spans what is seen, not what is drawn beside it
        for axis in plot.axis:
            axis.update(**WORDS)
        dates = DatetimeTickFormatter(**dict.fromkeys(TICKS, DATE), days="%Y", months="", years="")
        plot.xaxis.formatter = DatetimeTickFormatter(
            **TICKS, days="%b %d", months="%b %Y", years="%Y", context=dates, context_which="start"
        )
        unit = UNITS[quantity].partition("(")[2].rstrip(")")
        pointed_at = {
            "sensor": "$name",
            quantity: f"@value{{0.0}} {unit}",
            "time": f"@time{{%F %T}} {self.zone}",
        }
        hover = HoverTool(tooltips=[*pointed_at.items()], formatters={"@time": "datetime"})
        plot.add_tools(hover)
        return plot

    def add(self, name: str) -> None:
        """Add the line of a sensor, still without readings."""
        self.lines[name] = Line(name, len(self.lines), self.figures, self.offset)
        item = LegendItem(label=name, renderers=self.lines[name].glyphs[:1])
        self.legend.items = [*self.legend.items, item]
        if self.measured:
            self.arrange()

    def arrange(self) -> None:
        """Give the legend as many columns as there is room for."""
        self.legend.ncols = max(1, min(self.columns // self.entry(), len(self.lines)))

    def entry(self) -> int:
        """Return how wide the longest name in the legend may be, in pixels."""
        return KEY + LETTER * max(map(len, self.lines), default=0)

    def measure(self, attr: str, old: int, width: int) -> None:
        """Note how wide the browser shows the plots."""
        least, most = LAST_COLUMNS
        self.columns = min(max(width, least), most)
        self.measured = True
        self.arrange()

    def show(self, start: float, end: float) -> None:
        """Show the time from `start` to `end`, both in ms."""
        end = max(end, start + SHORTEST)
        self.range.update(start=start + self.offset, end=end + self.offset)

    def shown(self) -> Shown:
        """Return what is shown; the browser tells, and nobody knows what browser that is."""
        start, end = self.range.start, self.range.end
        if not YEARS[0] < start < end < YEARS[1]:
            start, end = 0, SHORTEST
        return Shown(start - self.offset, end - self.offset, self.columns)

    def draw(self, sensors: Mapping[str, Sensor]) -> None:
        """Draw all lines anew."""
        for name, line in self.lines.items():
            line.draw(sensors[name], self.shown())

    def layout(self) -> Model:
        """Return the plots one above the other, with one row of tools."""
        plots = gridplot(
            [[plot] for plot in self.figures.values()],
            sizing_mode="stretch_width",
            toolbar_location="above",
            toolbar_options={"logo": None},
        )
        plots.styles = {"overflow": "hidden"}  # on a phone, of a very long name in the legend
        return plots


def in_one_file(tables: Mapping[str, DataFrame], zone: Zone, title: str) -> str:
    """Return the plots of examined readings as HTML that needs neither a network nor report.py.

    Sensors that there is no room for are left out, and that is reported.
    """
    if len(tables) > MOST_LINES:
        say(f"{len(tables) - MOST_LINES:,} sensors are left out of {title}.html: --name chooses")
    sensors = {name: from_table(table) for name, table in [*tables.items()][:MOST_LINES]}
    first = min(sensor.first() for sensor in sensors.values())
    last = max(sensor.latest()[0] for sensor in sensors.values())
    plots = Plots(zone, datetime.fromtimestamp(last / 1000, UTC))
    plots.show(first, last)
    for name in sensors:
        plots.add(name)
    plots.arrange()
    if HAS_WINDOW_AXIS:  # before, a legend that grows would cover the plot
        arrange = CustomJS(args={"legend": plots.legend, "entry": plots.entry()}, code=ARRANGE)
        plots.upper.js_on_change("inner_width", arrange)
    plots.columns = min(COLUMNS, IN_A_FILE // len(sensors))
    plots.draw(sensors)
    return str(file_html(plots.layout(), INLINE, title, template=TEMPLATE))
