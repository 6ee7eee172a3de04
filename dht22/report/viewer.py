"""What one viewer sees: a tile for each sensor, and the plots of the time that was chosen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from html import escape

import numpy
from bokeh.document import Document
from bokeh.models import CustomJS, Div, InlineStyleSheet, RadioButtonGroup

from dht22.report.figures import dew_point
from dht22.report.latest import AHEAD
from dht22.report.lines import in_order
from dht22.report.page import MOST_LINES, TEMPLATE, Plots
from dht22.report.recent import Recent, milliseconds
from dht22.report.times import Zone, now, stamp
from dht22.silence import is_silent

PAUSE = 500  # ms, from one look at what is new to the next
MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000  # ms
SPANS = {
    "10 min": 10 * MINUTE,
    "1 h": HOUR,
    "1 d": DAY,
    "1 w": 7 * DAY,
    "1 month": 30 * DAY,
    "all": 0,
}
READINGS = 20  # of a sensor are seen at first, at least
EDGE = 40  # a part of the time shown is still to come: the latest reading is not on the edge
TILES = """
:host > div, .tiles { width: 100% }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 8px }
.tile { border: 1px solid #bbb; border-radius: 4px; padding: 6px 10px; overflow-wrap: anywhere }
.tile hr { display: inline-block; width: 28px; margin: 0 8px 0 0; border: 0; border-top: 5px }
.tile hr { vertical-align: middle }
.reading { font-size: 150%; font-weight: bold; white-space: nowrap }
.silent { background: #a40000; color: #fff; border-color: #a40000 }
"""
TILE = """
<div class="tile {state}"><div><hr style="{css}">{name}</div>
<div class="reading">{humidity:.1f} % &ensp;{temperature:.1f} °C</div>
<div>dew point {dew_point} °C</div><div>{age}</div></div>
"""


class Viewer:
    """The contents of one viewer's page, which keeps up with the log."""

    def __init__(self, recent: Recent, zone: Zone, document: Document) -> None:
        self.recent = recent
        self.zone = zone
        self.document = document
        self.plots = Plots(zone, now())
        self.plots.upper.on_change("inner_width", self.plots.measure)
        self.head = Div()
        self.head.js_on_change("text", CustomJS(code="heard()"))
        self.tiles = Div(stylesheets=[InlineStyleSheet(css=TILES)])
        self.buttons = RadioButtonGroup(labels=[*SPANS], active=self.first_button())
        self.buttons.on_change("active", lambda attr, old, new: self.show_span())
        self.add_sensors()
        self.show_span()
        self.update()
        document.title = recent.log.path.name
        document.template = TEMPLATE
        document.template_variables["live"] = True
        for root in self.head, self.tiles, self.buttons, self.plots.layout():
            root.sizing_mode = "stretch_width"
            document.add_root(root)
        document.add_periodic_callback(self.update, PAUSE)

    def update(self) -> None:
        """Show what is new."""
        with self.in_one_message():
            self.add_sensors()
            self.head.text = self.headline()
            self.tiles.text = f'<div class="tiles">{"".join(self.all_tiles())}</div>'
            self.update_lines()

    @contextmanager
    def in_one_message(self) -> Iterator[None]:
        """Send what changes in this block at once, so that the browser draws it once."""
        self.document.hold("combine")
        try:
            yield
        finally:
            self.document.unhold()

    # The plots

    def add_sensors(self) -> None:
        """Give each new sensor a line."""
        new = self.recent.sensors.keys() - self.plots.lines.keys()
        for name in sorted(new, key=in_order)[: MOST_LINES - len(self.plots.lines)]:
            self.plots.add(name)

    def first_button(self) -> int:
        """Return the number of the shortest span, up to now, with enough readings of a sensor."""
        end = milliseconds(now())
        lengths = [
            max(0, end - sensor.latest()[0]) + READINGS * 1000 * sensor.interval()
            for sensor in self.recent.sensors.values()
        ]
        wanted = min(lengths, default=0)
        return next(k for k, span in enumerate(SPANS.values()) if not span or span >= wanted)

    def show_span(self) -> None:
        """Show what the button that was pressed stands for."""
        if self.buttons.active is not None:
            with self.in_one_message():
                self.plots.show(*self.span())
                self.shown = self.plots.shown()
                self.plots.draw(self.recent.sensors)

    def span(self) -> tuple[float, float]:
        """Return from when to when the button that is pressed shows, in ms."""
        end = milliseconds(now())
        firsts = [sensor.first() for sensor in self.recent.sensors.values()]
        span = [*SPANS.values()][self.buttons.active] or end - min(firsts, default=end - DAY)
        return end - span, end + span / EDGE

    def update_lines(self) -> None:
        """Add to the lines what is new; draw them anew if the viewer has moved."""
        shown = self.plots.shown()
        if shown != self.shown:
            if shown[:2] != self.shown[:2]:
                self.buttons.active = None  # the viewer looks there for a while
            self.shown = shown
            self.plots.draw(self.recent.sensors)
        elif self.buttons.active is not None and self.span()[1] - shown.end > shown.column:
            self.plots.show(*self.span())
            self.shown = self.plots.shown()
        for name, line in self.plots.lines.items():
            line.extend(self.recent.sensors[name], self.shown)

    # The words

    def headline(self) -> str:
        """Return which log is shown, the time, and what there is to say of it as HTML."""
        clock = stamp(now(), self.zone, "seconds")[:19].replace("T", " ")
        lines = [f"<b>{escape(self.recent.log.path.name)}</b>, {clock} {escape(self.plots.zone)}"]
        if self.recent.trouble:
            lines.append(escape(self.recent.trouble))
        elif not self.recent.sensors:
            lines.append("no reading yet; it will be here when the server has logged one")
        more = len(self.recent.sensors) - len(self.plots.lines)
        if more > 0:
            lines.append(f"{more:,} sensors are left out: report.py --live --name chooses")
        return "<br>".join(lines)

    def all_tiles(self) -> Iterator[str]:
        """Yield the tile of each sensor as HTML."""
        latest = [self.recent.sensors[name].latest() for name in self.plots.lines]
        times, humidity, temperature = numpy.array(latest).reshape(-1, 3).T
        dew_points = dew_point(humidity, temperature)
        for number, (name, line) in enumerate(self.plots.lines.items()):
            age = milliseconds(now()) - times[number]
            silent = is_silent(age / 1000, self.recent.sensors[name].interval())
            yield TILE.format(
                name=escape(name),
                css=line.css,
                humidity=humidity[number],
                temperature=temperature[number],
                dew_point=f"{dew_points[number]:.1f}".replace("nan", "-"),  # dry air has none
                state="silent" if silent else "",
                age=state_of(age, silent),
            )


def state_of(age: float, silent: bool) -> str:
    """Return in words how old a sensor's latest reading is, `age` in ms."""
    if age < -1000 * AHEAD:
        return f"{in_words(-age)} ahead: a clock was wrong"
    return f"silent for {in_words(age)}" if silent else f"{in_words(age)} ago"


def in_words(length: float) -> str:
    """Return a length of time, in ms, to its largest unit: `5 min`."""
    for unit, ms in ("d", DAY), ("h", HOUR), ("min", MINUTE):
        if length >= ms:
            return f"{length // ms:.0f} {unit}"
    return f"{max(0, length) // 1000:.0f} s"
