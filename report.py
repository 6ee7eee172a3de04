#!/usr/bin/env python3
# /// script
# requires-python = ">=3.9"
# dependencies = ["pandas>=1.1.5", "matplotlib>=3.3", "bokeh>=3.4"]
# ///
"""Look at logs: the figures of each sensor, and a picture.

    $ python3 report.py --name kitchen --every 1d --plot report.png
    kitchen
        readings: 1,365
                            min   mean    max    std
        humidity (%)      46.10  49.67  94.00   4.59
        temperature (°C)  20.20  21.05  22.90   0.58
        dew point (°C)     8.48  10.08  20.29   1.71
        suspicious: 1
        from 2026-11-21T00:00:00.008Z to 2026-11-21T23:59:00.002Z, usually every 60.0 s
        gaps: 1, readings missing: 75, arrived: 94.7 %
        from 2026-11-21T03:09:00.073Z to 2026-11-21T04:25:00.067Z: 1:16:00, 75 missing

                                        humidity (%)        temperature (°C)    dew point (°C)
        from        readings  arrived   min   mean   max     min   mean   max     min   mean   max
        2026-11-21     1,365   94.7 %  46.1  49.67  94.0    20.2  21.05  22.9     8.5  10.08  20.3

    $ python3 report.py --last
    attic    2026-11-21T23:59:20.021Z   57.9,14.1   0:00:40 ago, usually every 60.0 s
    kitchen  2026-11-21T23:59:00.002Z   46.6,20.6   0:01:00 ago, usually every 60.0 s

Any number of logs, of any age, in any order: `report.py datalog.csv*` takes rotated and packed
ones (.gz, .xz, .bz2) too. A row found in two of them is used once: a named sensor's by its
name and n, a plain one if all of it is in another file. Lines that are no rows are skipped.
Both are reported on stderr. A .txt log has neither times nor names: it gives figures only.

A named sensor goes by its name, a plain one by its address. Times are in UTC, as in the log;
--local shows them in the time zone of this computer. The interval is the median; a gap is more
than 2.5 of it, and the five longest are listed. Missing counts single readings too. Suspicious is
a spike that is far higher than usual for the sensor: counted, marked in the picture, never removed.
std is the sample standard deviation, the dew point is that over water. Arrived is the share of the
readings that the interval promises, between the sensor's own first and last one.

--live serves a page with the readings of one .csv, at http://127.0.0.1:10002/ until Ctrl+C: breathe
on the sensor and see. With --host 0.0.0.0 everybody in your network can look, on a phone too.

--since 7d, --since 2026-11-20 and --until 2026-11-20T08:00 choose a time, --name kitchen a sensor.

--last is for cron and monitoring: exit code 1 if a sensor is silent (its latest reading is older
than 5 of its intervals, and than a minute), outside --temperature -30..-15 or --humidity 30..70, or
ahead of the clock. Each sensor heard in the last 30 days is shown; --since changes that.

Needs pandas, for a picture matplotlib (sudo apt install python3-pandas python3-matplotlib), and for
the page or an .html Bokeh: python3 -m venv .venv && .venv/bin/pip install pandas matplotlib bokeh,
then .venv/bin/python3 report.py ... --last needs none of them.
Exit code: 0 = done, 1 = no reading, no pandas, no page or a --last that is wrong, 2 = usage.
"""

from __future__ import annotations

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl+C during the imports just ends the script

import json
import re
import sys
from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

try:
    from dht22.console import Parser, Progress, how_to_install, port, print_all, run_script, say
    from dht22.report.figures import examine, summary
    from dht22.report.latest import is_bad, latest, limits
    from dht22.report.lines import Chosen, LogFile, Unreadable, log_at
    from dht22.report.picture import LINES, draw, mostly, period, sketch
    from dht22.report.spans import as_dicts, spans
    from dht22.report.tables import each_sensor, read, with_rotated
    from dht22.report.texts import figures_text, latest_text, spans_text
    from dht22.report.times import UTC, in_utc, now, span, stamp, time
except (ImportError, SyntaxError) as error:
    sys.exit(
        f"report.py: error: cannot start ({error}); is the folder dht22 whole?"
        " copy all of it beside this file"
    )

if TYPE_CHECKING:  # imported where it is used: --help and --last do not need it
    from matplotlib.figure import Figure
    from pandas import DataFrame

LAST_DAYS = 30  # a sensor that --last has not heard for longer was taken down
LIMITED = "--humidity", "--temperature"


# Converters


def log(text: str) -> LogFile | str:
    """Convert `text` to a log; return it as it is if it is not the name of one."""
    try:
        return log_at(Path(text))
    except ValueError:
        return text


def picture(text: str) -> Path:
    """Convert `text` to the path of a picture."""
    if Path(text).suffix not in (".png", ".svg", ".pdf", ".html"):
        raise ArgumentTypeError(
            f"{text!r} is not a picture (the ending is .png, .svg, .pdf or .html)"
        )
    return Path(text)


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
    add = parser.add_argument
    add("--since", type=time, metavar="TIME", help="from this time on, or for so long (7d)")
    add("--until", type=time, metavar="TIME", help="before this time (such as 2026-11-20T08:00)")
    add("--name", action="append", default=[], metavar="SENSOR", help="of this one; repeatable")
    add("--plot", type=picture, metavar="FILE", help="draw a picture (.png, .svg, .pdf or .html)")
    add("--every", type=span, metavar="1h", help="add a line for each time span (s, min, h or d)")
    add("--local", action="store_true", help="use local times (default: UTC)")
    add("--json", action="store_true", help="print the figures for a program")
    add("--last", action="store_true", help="print the latest readings; 1 if something is wrong")
    add("--temperature", type=limits, metavar="LOW..HIGH", help="with --last: what is normal (°C)")
    add("--humidity", type=limits, metavar="LOW..HIGH", help="with --last: what is normal (%%)")
    add("--live", action="store_true", help="serve a page that shows readings as they arrive")
    host, http = "127.0.0.1", 10002
    add("--host", default=host, help=f"where to serve it; 0.0.0.0: for everybody (default: {host})")
    add("--port", type=port, default=http, help="TCP port of the page (default: %(default)s)")
    return parser


def joined(arguments: Sequence[str]) -> list[str]:
    """Return the arguments, -30..-15 joined to its option: argparse would take it for another."""
    found: list[str] = []
    for argument in arguments:
        if found and found[-1] in LIMITED and re.match("-[0-9]", argument):
            found[-1] += f"={argument}"
        else:
            found.append(argument)
    return found


def get_options(parser: Parser, argv: Sequence[str] | None) -> Namespace:
    """Return the options; end with 2 if some do not go together."""
    options = parser.parse_args(joined(sys.argv[1:] if argv is None else argv))
    options.zone = None if options.local else UTC
    options.limits = {
        quantity: getattr(options, quantity)
        for quantity in ("humidity", "temperature")
        if getattr(options, quantity)
    }
    if options.last and (options.plot or options.every):
        parser.error("--last goes with neither --plot nor --every")
    if options.limits and not options.last:
        parser.error("--temperature and --humidity go with --last")
    others = options.plot, options.every, options.json, options.last, options.until
    if options.live and any(others):
        parser.error("--live goes with none of --plot, --every, --json, --last and --until")
    options.log = get_logs(parser, options)
    options.chosen = get_chosen(parser, options)
    return options


def get_logs(parser: Parser, options: Namespace) -> list[LogFile]:
    """Return the logs among the files; end with 2 if there is none, or if they do not do."""
    logs = [log for log in options.log if isinstance(log, LogFile)]
    others = [name for name in options.log if isinstance(name, str)]
    if not logs:
        parser.error(
            f"argument LOG: {others[0]!r} is not a log (the ending is .csv, .db or .txt, before "
            "what rotation adds)"
        )
    if others:
        say(f"passed over, not logs by their names: {', '.join(others)}")
    timed = options.plot or options.every or options.last or options.live
    chosen = options.since or options.until or options.name
    if any(log.ending == ".txt" for log in logs) and (timed or chosen):
        parser.error("a .txt log has neither times nor names; give the .csv or the .db")
    if options.live and [(log.ending, log.packing) for log in logs] != [(".csv", "")]:
        parser.error("--live looks at one .csv")
    return logs


def get_chosen(parser: Parser, options: Namespace) -> Chosen:
    """Return which readings are wanted; end with 2 if none can be."""
    try:
        since, until = (
            in_utc(each, options.zone, now()) for each in (options.since, options.until)
        )
    except (OSError, OverflowError, ValueError):
        parser.error("--since or --until is a time that no clock shows")
    if since and until and since >= until:
        parser.error("--since is not before --until")
    return Chosen(since, until, frozenset(options.name))


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report; return 0, or 1 if something is wrong with a sensor's latest reading.

    End with 1 if there is no reading, no pandas or no page, and with 2 for a wrong option.
    """
    parser = get_parser()
    options = get_options(parser, argv)
    with suppress(KeyboardInterrupt):
        if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # from here on it cleans up
        try:
            if options.live:
                from dht22.report.serve import run  # needs Bokeh

                run(options, parser, progress_on_a_terminal())
                return 0
            text, code = last(options, now()) if options.last else (report(options, parser), 0)
        except ImportError as error:
            apt = "" if error.name == "bokeh" else "python3-pandas python3-matplotlib"
            how = how_to_install(apt, "pandas matplotlib bokeh", "report.py")
            parser.fail(f"cannot start ({error}); {how}")
        except Unreadable as error:
            parser.fail(f"cannot read {error}; has the server logged there, and is it yours?")
        except OSError as error:  # a log that --live follows
            parser.fail(f"cannot read {options.log[0].path} ({error.strerror}); is it yours?")
        print_all(parser, text, "the report")
        return code
    return 0


def last(options: Namespace, time: datetime) -> tuple[str, int]:
    """Return each sensor's latest reading as text, and the exit code at a time in UTC."""
    chosen: Chosen = options.chosen
    time = chosen.until or time
    chosen = chosen._replace(since=chosen.since or time - timedelta(days=LAST_DAYS))
    logs = [each for log in options.log for each in with_rotated(log) or [log]]
    sensors = latest(logs, time, chosen, options.limits)
    if not sensors:
        raise Unreadable(f"{', '.join(str(log.path) for log in options.log)} ({chosen.none()})")
    unheard = chosen.missing(sensors)
    for sensor in sensors.values():
        sensor["time"] = stamp(sensor["time"], options.zone)
    code = int(unheard or any(map(is_bad, sensors.values())))
    if options.json:
        return json.dumps({"sensors": sensors}, indent=2), code
    return latest_text(sensors, options.limits), code


def report(options: Namespace, parser: Parser) -> str:
    """Return the report as text; draw the picture if there is to be one."""
    progress = progress_on_a_terminal()
    rows, doubled, skipped = read(options.log, progress, options.chosen)
    parts = dict(each_sensor(rows))
    options.chosen.missing(parts)
    end = end_of(options, rows)
    sensors, texts, sketches = {}, [], {}
    for name, part in parts.items():
        progress(f"examining {name}")
        readings = examine(part)
        sensors[name] = summary(readings, options.zone, end)
        texts.append(figures_text(name, sensors[name]))
        if options.every:
            found = spans(readings, options.every, options.zone)
            if options.json:
                sensors[name]["spans"] = as_dicts(found)
            else:
                texts[-1] += f"\n\n{spans_text(found)}"
        if options.plot and options.plot.suffix != ".html":
            sketches[name] = sketch(readings, period(rows), as_map=len(parts) > LINES)
        del readings  # or they would still be there while the next ones are examined
    if options.plot:
        progress(f"drawing {options.plot}")
        stretched = mostly(rows, period(rows))
        if stretched:
            say(stretched)
        if options.plot.suffix == ".html":
            from dht22.report.page import in_one_file

            plot(options.plot, in_one_file(parts, options.zone, options.plot.stem), parser)
        else:
            plot(options.plot, draw(sketches, period(rows), options.zone), parser)
    if options.json:
        return json.dumps({"sensors": sensors, "doubled": doubled, "skipped": skipped}, indent=2)
    return "\n\n".join(texts)


def end_of(options: Namespace, rows: DataFrame) -> datetime | None:
    """Return until when a sensor might have been heard; None if the log has no times.

    The server still writes to a log that was not rotated, for all that its name tells.
    """
    if rows.time.isna().any():
        return None
    if any(not log.packing and log.path.name == log.name for log in options.log):
        return min(options.chosen.until or now(), now())
    last: datetime = rows.time.max().to_pydatetime()
    return last


def progress_on_a_terminal() -> Callable[[str], None]:
    """Return what shows the progress; elsewhere, as in a mail from cron, it would be noise."""
    return Progress().show if sys.stderr and sys.stderr.isatty() else lambda line: None


def plot(path: Path, figure: Figure | str, parser: Parser) -> None:
    """Write the picture, or the text of an .html."""
    try:
        if isinstance(figure, str):
            # The title is the name of the file, which may be no UTF-8
            path.write_text(figure, encoding="utf-8", errors="backslashreplace")
        else:
            figure.savefig(path, bbox_inches="tight")
    except OSError as error:
        parser.fail(f"cannot write {path} ({error.strerror}); is the folder there, and yours?")


if __name__ == "__main__":
    run_script(main)
