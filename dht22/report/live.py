"""A window with the last minutes of each sensor, drawn again twice a second."""

from __future__ import annotations

from datetime import timedelta
from io import BytesIO
from typing import TYPE_CHECKING

from dht22.log.follow import Follower
from dht22.log.position import Position
from dht22.report.figures import examine
from dht22.report.lines import LogFile, blocks, is_row
from dht22.report.picture import fill, sketch
from dht22.report.tables import by_sensor, parse_rows, with_rotated
from dht22.report.times import UTC, Zone, now, stamp
from dht22.stop import Stop

if TYPE_CHECKING:
    from pandas import DataFrame

PAUSE = 0.5  # seconds between two looks at the log


class NoWindow(Exception):
    """No window can be opened; the text is the reason."""


class Recent:
    """The rows of the last minutes, across rotation; the log need not exist yet."""

    def __init__(self, log: LogFile, minutes: int) -> None:
        self.log = log
        self.period = timedelta(minutes=minutes)
        self.follower = Follower(log.path, Position())
        self.follower.skip()
        self.rows: dict[bytes, None] = {}  # in order; what both of these find is in it once
        oldest = self.oldest()
        for block in (block for each in with_rotated(log) for block in blocks(each)):
            for line in BytesIO(block):
                if line >= oldest and line.endswith(b"\n") and is_row(line, log.ending):
                    self.rows[line] = None

    def oldest(self) -> bytes:
        """Return the time since which rows are kept, as it stands in them."""
        return stamp(now() - self.period, UTC).encode()

    def sensors(self) -> dict[str, DataFrame]:
        """Return the examined readings by sensor, the latest beside its name; raise OSError."""
        new = self.follower.read()
        while new:
            lines = [each.line + b"\n" for each in new]
            self.rows.update(dict.fromkeys(lines))
            new = self.follower.read()
        oldest = self.oldest()
        self.rows = {line: None for line in self.rows if line >= oldest}
        sensors: dict[str, DataFrame] = {}
        if not self.rows:
            return sensors
        for name, rows in by_sensor([parse_rows(b"".join(self.rows), self.log)]).groupby(
            "sensor", observed=True
        ):
            humidity, temperature = rows.humidity.iloc[-1], rows.temperature.iloc[-1]
            # No marks: somebody may just breathe on the sensor
            sensors[f"{name}  {humidity} %  {temperature} °C"] = examine(rows).assign(
                suspicious_humidity=False, suspicious_temperature=False
            )
        return dict(sorted(sensors.items()))


def watch(log: LogFile, minutes: int, zone: Zone) -> None:
    """Show the window until it is closed; raise NoWindow, Unreadable or OSError."""
    try:
        from tkinter import TclError, Tk
    except ImportError as error:
        raise NoWindow(f"{error}: sudo apt install python3-tk") from None
    import matplotlib
    from pandas import Timedelta, Timestamp

    try:
        Tk().destroy()
    except TclError as error:
        raise NoWindow(error) from None
    matplotlib.use("TkAgg")
    from matplotlib import pyplot

    stop = Stop()  # Tk swallows a KeyboardInterrupt
    figure = pyplot.figure(log.path.name, figsize=(10, 6))
    recent = Recent(log, minutes)
    figure.show()
    while pyplot.fignum_exists(figure.number) and not stop.asked:
        sensors, end = recent.sensors(), Timestamp(now())
        figure.clear()
        if sensors:
            shown = end - Timedelta(minutes=minutes), end
            sketches = {name: sketch(rows, shown, False) for name, rows in sensors.items()}
            fill(figure, sketches, zone, shown)
        else:
            text = f"{log.path}: no reading in the last {minutes} minutes"
            figure.text(0.5, 0.5, text, ha="center")
        figure.canvas.draw()
        figure.canvas.start_event_loop(PAUSE)
