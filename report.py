#!/usr/bin/env python3
# /// script
# requires-python = ">=3.9"
# dependencies = ["pandas>=1.1.5", "matplotlib>=3.3"]
# ///
"""Look at logs: the figures of each sensor, and a picture.

    $ python3 report.py --every 1d --plot report.png
    attic
        readings: 1,365
                            min   mean    max    std
        humidity (%)      43.30  53.30  58.80   5.45
        temperature (°C)   6.90  17.02  23.20   3.51
        dew point (°C)    -0.62   7.33  10.38   1.70
        suspicious: 1
        from 2026-11-21T00:00:20.002Z to 2026-11-21T23:59:20.021Z, usually every 60.0 s
        gaps: 1, readings missing: 75
        from 2026-11-21T03:09:20.007Z to 2026-11-21T04:25:20.063Z: 1:16:00, 75 missing

                                        humidity (%)        temperature (°C)    dew point (°C)
        from        readings  arrived   min   mean   max     min   mean   max     min   mean   max
        2026-11-21     1,365   94.7 %  43.3  53.30  58.8    6.9  17.02  23.2   -0.6   7.33  10.4

    kitchen
        readings: 1,365
                            min   mean    max    std
        humidity (%)      46.10  49.67  94.00   4.59
        temperature (°C)  20.20  21.05  22.90   0.58
        dew point (°C)     8.48  10.08  20.29   1.71
        suspicious: 1
        from 2026-11-21T00:00:00.008Z to 2026-11-21T23:59:00.002Z, usually every 60.0 s
        gaps: 1, readings missing: 75
        from 2026-11-21T03:09:00.073Z to 2026-11-21T04:25:00.067Z: 1:16:00, 75 missing

                                        humidity (%)        temperature (°C)    dew point (°C)
        from        readings  arrived   min   mean   max     min   mean   max     min   mean   max
        2026-11-21     1,365   94.7 %  46.1  49.67  94.0   20.2  21.05  22.9    8.5  10.08  20.3

    $ python3 report.py --last
    attic    2026-11-21T23:59:20.021Z   57.9,14.1   0:00:40 ago, usually every 60.0 s
    kitchen  2026-11-21T23:59:00.002Z   46.6,20.6   0:01:00 ago, usually every 60.0 s

Any number of logs, of any age, in any order: `report.py datalog.csv*` takes rotated and packed
ones (.gz, .xz, .bz2) too. A row found in two of them is used once: a named sensor's by its
name and n, a plain one if all of it is in another file. Lines that are no rows are skipped.
Both are reported on stderr. A .txt log has neither times nor names: it gives figures only.

A named sensor goes by its name, a plain one by its address. Times are in UTC, as in the log;
--local shows them in the time zone of this computer. The interval is the median; a gap is more
than 2.5 of it, and the five longest are listed. Suspicious is a reading far from the median of
the 15 around it: counted, marked in the picture, never removed. std is the sample standard
deviation, the dew point is that over water. Arrived is the share of the readings that the
interval promises, between the sensor's own first and last one.

--live opens a window with the last 10 minutes of one .csv, drawn again twice a second: breathe on
the sensor and see. Its button, q or Ctrl+C closes it. It needs a display and python3-tk.

--last is for cron and monitoring: a sensor is silent when its latest reading is older than 5 of its
intervals, and than a minute, and then the exit code is 1. The newest rotated log counts too.

Needs pandas, and for a picture matplotlib: sudo apt install python3-pandas python3-matplotlib, or
`uv run report.py` or `pipx run ./report.py`, which bring them along; --last needs neither.
Exit code: 0 = done, 1 = no reading, no pandas, no window or a silent sensor, 2 = usage.
"""

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl+C during the imports just ends the script

import json
import re
import sys
from argparse import ArgumentTypeError, Namespace
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Optional

try:
    from dht22.console import Parser, how_to_install, print_all, run_script
    from dht22.report.figures import UTC, Zone, examine, latest, now, spans, stamp, summary
    from dht22.report.lines import BESIDE, LogFile, Unreadable, log_at
    from dht22.report.live import NoWindow, watch
    from dht22.report.picture import draw
    from dht22.report.tables import read, with_rotated
    from dht22.report.texts import figures_text, latest_text
except (ImportError, SyntaxError) as error:
    sys.exit(
        f"report.py: error: cannot start ({error}); is the folder dht22 whole?"
        " copy all of it beside this file"
    )

if TYPE_CHECKING:  # imported where it is used: --help and --last do not need it
    from pandas import DataFrame

PATIENCE = 2  # seconds


class Progress:
    """Progress on the terminal, if the work takes long; nothing if stderr is a file."""

    def __init__(self) -> None:
        self.terminal = sys.stderr if sys.stderr and sys.stderr.isatty() else None
        self.begun = monotonic()

    def show(self, text: str) -> None:
        """Replace the line, by nothing at the end; what else is printed overwrites it."""
        if self.terminal and monotonic() - self.begun > PATIENCE:
            print(f"\033[K{text}", end="\r", file=self.terminal, flush=True)


# Converters


def log(text: str) -> Optional[LogFile]:
    """Convert `text` to a log; None if it is a file that only stands beside one."""
    if text.endswith(BESIDE):
        return None
    try:
        return log_at(Path(text))
    except ValueError as reason:
        raise ArgumentTypeError(f"{text!r} is not a log ({reason})") from None


def picture(text: str) -> Path:
    """Convert `text` to the path of a picture."""
    if not text.endswith((".png", ".svg", ".pdf")):
        raise ArgumentTypeError(f"{text!r} is not a picture (the ending is .png, .svg or .pdf)")
    return Path(text)


def span(text: str) -> timedelta:
    """Convert `text`, such as 30s, 10min, 1h or 1d, to a time span."""
    match = re.fullmatch("([1-9][0-9]{0,4})(s|min|h|d)", text)
    if not match:
        raise ArgumentTypeError(f"{text!r} is not a time span (such as 30s, 10min, 1h or 1d)")
    return timedelta(seconds=int(match[1]) * {"s": 1, "min": 60, "h": 3600, "d": 86400}[match[2]])


def minutes(text: str) -> int:
    """Convert `text` to a number of minutes, 1 to 9999."""
    if not re.fullmatch("[1-9][0-9]{0,3}", text):
        raise ArgumentTypeError(
            f"{text!r} is not a number of minutes (1 to 9999; put LOG before --live)"
        )
    return int(text)


def get_parser() -> Parser:
    parser = Parser("report.py", __doc__)
    parser.add_argument(
        "log",
        nargs="*",
        type=log,
        default=[log_at(Path("datalog.csv"))],
        metavar="LOG",
        help="a .csv, .db or .txt of the server, also rotated or packed (default: datalog.csv)",
    )
    parser.add_argument(
        "--plot",
        type=picture,
        metavar="FILE",
        help="draw humidity and temperature over time (.png, .svg or .pdf)",
    )
    parser.add_argument(
        "--every",
        type=span,
        metavar="1h",
        help="add the figures of each time span (s, min, h or d)",
    )
    parser.add_argument("--local", action="store_true", help="show local times (default: UTC)")
    parser.add_argument("--json", action="store_true", help="print the figures for a program")
    parser.add_argument(
        "--last",
        action="store_true",
        help="print each sensor's latest reading; exit code 1 if one is silent",
    )
    parser.add_argument(
        "--live",
        type=minutes,
        nargs="?",
        const=10,
        metavar="MINUTES",
        help="show a window with the last minutes, up to now (default: 10)",
    )
    return parser


def options(parser: Parser, argv: Optional[Sequence[str]]) -> Namespace:
    """Return the options; end with 2 if some do not go together."""
    args = parser.parse_args(argv)
    args.log = [log for log in args.log if log]
    if not args.log:
        parser.error("none of these files is a log")
    if args.last and (args.plot or args.every):
        parser.error("--last goes with neither --plot nor --every")
    if args.live and (args.plot or args.every or args.json or args.last):
        parser.error("--live goes with --local alone")
    if any(log.ending == ".txt" for log in args.log) and (
        args.plot or args.every or args.last or args.live
    ):
        parser.error("a .txt log has no times; give the .csv or the .db")
    if args.live and [(log.ending, log.packing) for log in args.log] != [(".csv", "")]:
        parser.error("--live looks at one .csv")
    return args


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Print the report; return 0, or 1 if a sensor is silent.

    End with 1 if there is no reading, no pandas or no window, and with 2 for a wrong option.
    """
    parser = get_parser()
    args = options(parser, argv)
    zone = None if args.local else UTC
    code = 0
    with suppress(KeyboardInterrupt):
        if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # from here on it cleans up
        try:
            if args.live:
                watch(args.log[0], args.live, zone)
                return 0
            if args.last:
                text, code = last(args, now())
            else:
                text = report(args, parser)
        except ImportError as error:
            how = how_to_install(
                "python3-pandas python3-matplotlib", "pandas matplotlib", "report.py"
            )
            parser.fail(f"cannot start ({error}); {how}")
        except NoWindow as error:
            parser.fail(f"cannot open a window ({error}); --plot FILE.png draws a picture instead")
        except Unreadable as error:
            parser.fail(f"cannot read {error}; has the server logged there?")
        except OSError as error:  # a log that --live follows
            parser.fail(f"cannot read {args.log[0].path} ({error.strerror}); is it yours?")
        print_all(parser, text, "the report")
    return code


def last(args: Namespace, time: datetime) -> tuple[str, int]:
    """Return each sensor's latest reading as text, and the exit code at a time in UTC."""
    zone = None if args.local else UTC
    sensors = latest([each for log in args.log for each in with_rotated(log) or [log]], time)
    if not sensors:
        raise Unreadable(f"{', '.join(str(log.path) for log in args.log)} (no reading in it)")
    for sensor in sensors.values():
        sensor["time"] = stamp(sensor["time"], zone)
    text = json.dumps({"sensors": sensors}, indent=2) if args.json else latest_text(sensors)
    return text, int(any(sensor["silent"] for sensor in sensors.values()))


def report(args: Namespace, parser: Parser) -> str:
    """Return the report as text; draw the picture if there is to be one."""
    zone = None if args.local else UTC
    progress = Progress()
    rows, doubled, skipped = read(args.log, progress.show)
    tables = {}
    for name, table in rows.groupby("sensor", observed=True):
        progress.show(f"examining {name}")
        tables[name] = examine(table)
    tables = dict(sorted(tables.items()))
    if args.plot:
        progress.show(f"drawing {args.plot}")
        plot(args.plot, tables, zone, parser)
    progress.show("")
    sensors = {name: summary(table, zone) for name, table in tables.items()}
    if args.every:
        for name, table in tables.items():
            sensors[name]["spans"] = spans(table, args.every, zone)
    if args.json:
        return json.dumps({"sensors": sensors, "doubled": doubled, "skipped": skipped}, indent=2)
    return "\n\n".join(figures_text(name, sensor) for name, sensor in sensors.items())


def plot(path: Path, tables: "dict[str, DataFrame]", zone: Zone, parser: Parser) -> None:
    """Draw the picture."""
    figure = draw(tables, zone)
    try:
        figure.savefig(path, bbox_inches="tight")
    except OSError as error:
        parser.fail(f"cannot write {path} ({error.strerror}); is the folder there, and yours?")


if __name__ == "__main__":
    run_script(main)
