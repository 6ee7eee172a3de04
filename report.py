#!/usr/bin/env python3
# /// script
# requires-python = ">=3.9"
# dependencies = ["pandas>=1.5", "matplotlib>=3.6"]
# ///
"""Look at a log: the figures of each sensor, and a picture.

    $ python3 report.py --plot report.png
    attic
        readings: 1,365
                           min  mean   max  std
        humidity (%)     43.30 53.30 58.80 5.45
        temperature (°C)  6.90 17.02 23.20 3.51
        dew point (°C)   -0.62  7.33 10.38 1.70
        suspicious: 1
        from 2026-11-21T00:00:20.002Z to 2026-11-21T23:59:20.021Z, usually every 60.0 s
        gaps: 1, readings missing: 75
        from 2026-11-21T03:09:20.007Z to 2026-11-21T04:25:20.063Z             1:16:00         75 missing

    kitchen
        readings: 1,365
                           min  mean   max  std
        humidity (%)     46.10 49.67 94.00 4.59
        temperature (°C) 20.20 21.05 22.90 0.58
        dew point (°C)    8.48 10.08 20.29 1.71
        suspicious: 1
        from 2026-11-21T00:00:00.008Z to 2026-11-21T23:59:00.002Z, usually every 60.0 s
        gaps: 1, readings missing: 75
        from 2026-11-21T03:09:00.073Z to 2026-11-21T04:25:00.067Z             1:16:00         75 missing

A named sensor goes by its name, a plain one by its address. Times are in UTC, as in the log. The interval is the
median; a gap is more than 2.5 of it, and the five longest are listed. Suspicious is a reading far from the median
of the 15 around it: counted, marked in the picture, never removed. std is the sample standard deviation, the dew
point that over water. Doubled rows are used once, lines that are no rows are skipped: said on stderr.

Needs pandas and matplotlib: `uv run report.py` and `pipx run ./report.py` bring them along. Exit code: 0 = done,
1 = no reading or no pandas, 2 = usage.
"""

import json
import os
import re
import sqlite3
import sys
from argparse import ArgumentTypeError
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from datetime import datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from dht22.console import Parser, say
from dht22.datagram import parse
from dht22.logs import TEXT_WHOLE

if TYPE_CHECKING:  # imported where they are used: --help needs neither
    from matplotlib.figure import Figure
    from pandas import DataFrame, Series

COLUMNS = ["time", "client", "name", "humidity", "temperature", "n"]
HEADER = ",".join(COLUMNS).encode()
# Only a named sensor's row ends with an n. Whether the day exists and the reading is one is checked apart.
ROW = re.compile(
    rb"((?:19|20)[0-9]{2}-[0-9]{2}-[0-9]{2}T(?:[01][0-9]|2[0-3]):[0-9]{2}:[0-9]{2}\.[0-9]{3})Z,"
    rb"[0-9A-Fa-f:.]+,([A-Za-z0-9._-]{1,32})?,([^,]+,[^,]+),(?(2)[1-8][0-9]{15})(?:\r?\n)?"
)
ROWS = """SELECT time || ',' || client || ',' || ifnull(name, '') || ',' || humidity || ',' || temperature || ','
          || ifnull(n, '') || char(10) FROM reading"""

UNITS = {
    "humidity": "humidity (%)",
    "temperature": "temperature (°C)",
    "dew_point": "dew point (°C)",
}
FIGURES = ["min", "mean", "max", "std"]
MAGNUS = (
    17.62,
    243.12,
)  # over water, -45 to 60 °C; Sonntag 1990, in the WMO's Guide to Instruments (No. 8)
GAP = 2.5  # intervals
SAID = 5  # lines skipped, and gaps of a sensor, the longest first; the rest is a number

# Suspicious is what a Hampel filter (Davies and Gather 1993) would replace. 3.5 scaled MADs are usual for one look
# (Iglewicz and Hoaglin 1993); 15 readings estimate the spread roughly, and we look at each reading: hence 5.
WINDOW = 15  # readings; a step in the middle moves their median along
THRESHOLD = 5 * 1.4826  # MADs; 1.4826 of them are a standard deviation where the noise is normal
ACCURACY = {
    "humidity": 2.0,
    "temperature": 0.5,
}  # DHT22 datasheet; closer to the median is never suspicious

COLOURS = [
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
]  # Okabe and Ito 2008; legible on paper
MARKERS = "os^Dv"  # for who sees no colours; noise would fill the blanks of a dashed line
LEGEND = 14  # sensors named; with more the lines cannot be told apart anyway


def check(line: bytes, ending: str) -> None:
    """Raise ValueError with the reason unless `line` is one of a log with this ending."""
    if ending == ".txt":
        reading = line
        if not line.endswith(b"\n") and not TEXT_WHOLE.fullmatch(line):
            raise ValueError("torn")
        if line.count(b",") != 1:  # parse() takes a named reading as well
            raise ValueError("not a plain reading")
    else:
        row = ROW.fullmatch(line)
        if not row:
            raise ValueError("not a row as the server writes it")
        datetime.fromisoformat(row[1].decode())
        reading = row[3]
    parse(reading)


def dew_point(humidity: "Series", temperature: "Series") -> "Series":
    """Return the dew point in °C by the Magnus formula; dry air, 0 %, has none."""
    import numpy

    b, c = MAGNUS
    gamma = numpy.log(humidity.where(humidity > 0) / 100) + b * temperature / (c + temperature)
    return c * gamma / (b - gamma)


def suspicious(readings: "Series", accuracy: float) -> "Series":
    """Tell which readings are further from the median of their neighbours than noise explains."""
    deviation = (readings - readings.rolling(WINDOW, center=True, min_periods=1).median()).abs()
    mad = deviation.rolling(WINDOW, center=True, min_periods=1).median()
    return deviation > (THRESHOLD * mad).clip(lower=accuracy)


def examine(readings: "DataFrame") -> "DataFrame":
    """Return the readings of one sensor, sorted by time, with what there is to say of each in new columns."""
    readings = readings.sort_values("time")
    seconds = readings.time.diff().dt.total_seconds()
    interval = seconds.dropna().median()
    return readings.assign(
        seconds=seconds,
        gap=(seconds > GAP * interval) & (interval > 0),
        dew_point=dew_point(readings.humidity, readings.temperature),
        **{
            f"suspicious_{quantity}": suspicious(readings[quantity], accuracy)
            for quantity, accuracy in ACCURACY.items()
        },
    )


def rfc3339(time: Any) -> str:
    """Return `time` as it stands in the log."""
    return str(time.isoformat(timespec="milliseconds")) + "Z"


def summary(readings: "DataFrame") -> dict[str, Any]:
    """Return the figures of one sensor's examined readings, ready for JSON; a log without times has only those."""
    timed = readings.time.notna().all()
    interval = readings.seconds.dropna().median()
    gaps = readings.assign(before=readings.time.shift())[readings.gap]
    return {
        "readings": len(readings),
        "first": rfc3339(readings.time.min()) if timed else None,
        "last": rfc3339(readings.time.max()) if timed else None,
        "interval": interval if timed and len(readings) > 1 else None,
        "gaps": [
            {
                "from": rfc3339(gap.before),
                "to": rfc3339(gap.time),
                "seconds": gap.seconds,
                "missing": round(gap.seconds / interval) - 1,
            }
            for gap in gaps.itertuples()
        ],
        **json.loads(
            readings[list(UNITS)].agg(FIGURES).to_json()
        ),  # ten decimals, and null where there is none
        "suspicious": int((readings.suspicious_humidity | readings.suspicious_temperature).sum())
        if timed
        else None,
    }


def table(name: str, readings: "DataFrame", every: Optional[timedelta]) -> str:
    """Return the figures of one sensor as text, with the mean of each time span `every`."""
    sensor = summary(readings)
    figures = readings[list(UNITS)].agg(FIGURES).T.rename(index=UNITS)
    lines = [
        name,
        f"readings: {sensor['readings']:,}",
        figures.to_string(float_format="%.2f", na_rep="-"),
    ]
    if sensor["first"]:
        usual = f", usually every {sensor['interval']:.1f} s" if sensor["interval"] else ""
        missing = sum(gap["missing"] for gap in sensor["gaps"])
        lines += [
            f"suspicious: {sensor['suspicious']}",
            f"from {sensor['first']} to {sensor['last']}{usual}",
            f"gaps: {len(sensor['gaps'])}, readings missing: {missing:,}",
        ]
    for gap in sorted(sensor["gaps"], key=lambda gap: -gap["seconds"])[:SAID]:
        length = str(timedelta(seconds=round(gap["seconds"])))
        lines.append(
            f"from {gap['from']} to {gap['to']}  {length:>18}  {gap['missing']:>9,} missing"
        )
    if every:
        spans = readings.groupby(readings.time.dt.floor(every))[list(UNITS)].mean()
        lines.append(spans.rename(columns=UNITS).to_string(float_format="%.2f", na_rep="-"))
    return "\n".join(lines).replace("\n", "\n    ") + "\n"


def draw(sensors: "dict[str, DataFrame]") -> "Figure":
    """Return a figure of examined readings: a line a sensor, gaps left open, suspicious readings marked."""
    from matplotlib.dates import ConciseDateFormatter
    from matplotlib.figure import Figure  # not pyplot: no display, no state
    from pandas import Timedelta, concat

    figure = Figure(figsize=(12, 7))
    axes = figure.subplots(len(ACCURACY), sharex=True, gridspec_kw={"hspace": 0.08})
    for number, (name, readings) in enumerate(sensors.items()):
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        label = (
            f" {name}" if number < LEGEND else None
        )  # the blank: a legend leaves out what begins with _
        begins = readings.gap | readings.seconds.isna()
        lone = readings[begins & begins.shift(-1, fill_value=True)]  # a line does not show these
        openings = readings.loc[readings.gap, ["time"]] - Timedelta(
            "1ms"
        )  # rows without values break it
        line = concat([readings, openings]).sort_values("time")
        for quantity, axis in zip(ACCURACY, axes):
            marked = readings[readings[f"suspicious_{quantity}"]]
            axis.plot(
                line.time,
                line[quantity],
                color=colour,
                linewidth=1,
                label=label,
                marker=marker,
                markevery=len(line) // 12 + 1,
                markersize=8,
                markeredgecolor="white",
            )
            axis.plot(lone.time, lone[quantity], ".", color=colour)
            axis.plot(marked.time, marked[quantity], "kx")
    for quantity, axis in zip(ACCURACY, axes):
        axis.set_ylabel(UNITS[quantity])
        axis.grid(alpha=0.3)
    axis.set_xlabel("time (UTC)")
    axis.xaxis.set_major_formatter(ConciseDateFormatter(axis.xaxis.get_major_locator()))
    axis.plot([], [], "kx", label="suspicious")
    more = f"the first {LEGEND} of {len(sensors)} sensors" if len(sensors) > LEGEND else None
    figure.legend(
        *axis.get_legend_handles_labels(),
        loc="lower center",
        bbox_to_anchor=(0.5, 0.9),
        ncol=4,
        title=more,
    )
    return figure


def lines(log: Path) -> Iterator[bytes]:
    """Yield the lines of `log`; those of a database as they would stand in a .csv."""
    if log.suffix != ".db":
        with log.open("rb") as file:
            yield from file
        return
    log = log.resolve()
    # While a server has the log open its -wal is there; without one, reading would leave a -wal of ours behind.
    way = "" if Path(f"{log}-wal").exists() else "&immutable=1"
    with closing(sqlite3.connect(f"{log.as_uri()}?mode=ro{way}", uri=True)) as database:
        database.text_factory = bytes
        for (row,) in database.execute(ROWS):
            yield row or b"NULL"  # all of it, when one is where none belongs


def read(log: Path) -> "tuple[DataFrame, int, int]":
    """Return the readings of `log`, how many rows stood twice, and how many lines were skipped.

    Raises OSError, sqlite3.Error, or EOFError if there is no reading.
    """
    from pandas import NaT, Timedelta, read_csv

    rows, skipped = BytesIO(), 0
    for number, line in enumerate(lines(log), 1):
        if line.strip() == HEADER:
            continue
        try:
            check(line, log.suffix)
            rows.write(line)
        except ValueError as reason:
            skipped += 1
            if skipped <= SAID:
                say(f"{log} line {number} skipped ({reason}): {line[:80]!r}")
    if skipped > SAID:
        say(f"more lines skipped: {skipped - SAID:,}")
    if not rows.tell():
        raise EOFError("no reading in it")
    rows.seek(0)
    if log.suffix == ".txt":
        say(f"{log} has neither times nor names: statistics only")
        return read_csv(rows, names=COLUMNS[3:5]).assign(time=NaT, sensor=log.name), 0, skipped
    readings = read_csv(
        rows,
        names=COLUMNS,
        parse_dates=["time"],
        keep_default_na=False,
        na_values={"n": [""]},
        dtype={"client": str, "name": str, "n": "Int64"},
    )
    again = readings.n.notna() & readings.duplicated(["name", "n"])
    readings = readings[~again].assign(
        time=readings.time.dt.tz_localize(None),
        sensor=readings.name.where(readings.name != "", readings.client),
    )
    if again.any():
        say(f"rows doubled (same name and n), used once: {again.sum():,}")
    back = readings.groupby("sensor").time.diff() < Timedelta(0)
    if back.any():
        names = ", ".join(readings.sensor[back].unique()[:SAID])
        say(f"a clock went backwards ({names}), sorted by time: {back.sum():,}")
    return readings, int(again.sum()), skipped


def log(text: str) -> Path:
    """Convert `text` to the path of a log; its ending tells what is in it."""
    if not text.endswith((".csv", ".db", ".txt")):
        raise ArgumentTypeError(f"{text!r} is no log (the ending is .csv, .db or .txt)")
    return Path(text)


def picture(text: str) -> Path:
    """Convert `text` to the path of a picture."""
    if not text.endswith(".png"):
        raise ArgumentTypeError(f"{text!r} is no picture (the ending is .png)")
    return Path(text)


def span(text: str) -> timedelta:
    """Convert `text`, such as 30s, 10min, 1h or 1d, to a time span."""
    match = re.fullmatch("([1-9][0-9]{0,4})(s|min|h|d)", text)
    if not match:
        raise ArgumentTypeError(f"{text!r} is no time span (such as 30s, 10min, 1h or 1d)")
    return timedelta(seconds=int(match[1]) * {"s": 1, "min": 60, "h": 3600, "d": 86400}[match[2]])


def get_parser() -> Parser:
    parser = Parser("report.py", __doc__)
    parser.add_argument(
        "log",
        nargs="?",
        type=log,
        default="datalog.csv",
        metavar="LOG",
        help="a .csv, .db or .txt of the server (default: %(default)s)",
    )
    parser.add_argument(
        "--plot", type=picture, metavar="FILE.png", help="draw humidity and temperature over time"
    )
    parser.add_argument(
        "--every", type=span, metavar="1h", help="add the means of each time span (s, min, h or d)"
    )
    parser.add_argument("--json", action="store_true", help="print the figures for a program")
    return parser


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Print the report of a log; return 0, or end with 1 (no reading, no pandas) or 2 (usage)."""
    parser = get_parser()
    args = parser.parse_args(argv)
    if args.log.suffix == ".txt" and (args.plot or args.every):
        parser.error("a .txt log has no times to plot or to resample by; give the .csv or the .db")
    with suppress(KeyboardInterrupt):
        try:
            readings, doubled, skipped = read(args.log)
            sensors = {name: examine(rows) for name, rows in readings.groupby("sensor")}
            if args.plot:
                figure = draw(sensors)
        except ImportError as error:
            parser.fail(
                f"cannot start ({error}); python3 -m pip install pandas matplotlib, or uv run report.py"
            )
        except (OSError, EOFError, sqlite3.Error) as error:
            parser.fail(
                f"cannot read {args.log} ({getattr(error, 'strerror', error)}); has the server logged there?"
            )
        if args.plot:
            try:
                figure.savefig(args.plot, bbox_inches="tight")
            except OSError as error:
                parser.fail(
                    f"cannot write {args.plot} ({error.strerror}); is the folder there, and yours?"
                )
        if args.json:
            named = {name: summary(rows) for name, rows in sensors.items()}
            report = json.dumps(
                {"sensors": named, "doubled": doubled, "skipped": skipped}, indent=2
            )
        else:
            report = "\n".join(table(name, rows, args.every) for name, rows in sensors.items())
        try:
            print(report, flush=True)
        except OSError as error:
            os.dup2(
                os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
            )  # or Python tries once more as it exits
            if not isinstance(error, BrokenPipeError):  # `| head` has seen enough
                parser.fail(f"cannot print the report ({error.strerror}); is the disk full?")
    return 0


if __name__ == "__main__":
    sys.exit(main())
