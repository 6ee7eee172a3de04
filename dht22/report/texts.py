"""What report.py prints: the figures of sensors as text."""

from __future__ import annotations

from datetime import timedelta
from functools import lru_cache
from typing import Any

from dht22.report.figures import UNITS
from dht22.report.latest import Limits
from dht22.report.spans import Spans

LONGEST_GAPS = 5  # listed, of each sensor


def number(value: float | None, decimals: int = 2) -> str:
    """Return a figure as text, `-` where there is none."""
    return "-" if value is None else f"{value:.{decimals}f}"


def length(seconds: float) -> str:
    """Return a length of time as `1 day, 9:21:00`."""
    return str(timedelta(seconds=round(seconds)))


def figures_text(name: str, sensor: dict[str, Any]) -> str:
    """Return the figures of one sensor as text."""
    lines = [name, f"readings: {sensor['readings']:,}"]
    lines.append(" " * 16 + "".join(f"{figure:>7}" for figure in ("min", "mean", "max", "std")))
    for quantity, unit in UNITS.items():
        lines.append(
            f"{unit:16}" + "".join(f"{number(each):>7}" for each in sensor[quantity].values())
        )
    if sensor["first"]:
        usual = f", usually every {sensor['interval']:.1f} s" if sensor["interval"] else ""
        lines += [
            f"suspicious: {sensor['suspicious']}",
            f"from {sensor['first']} to {sensor['last']}{usual}",
            f"gaps: {len(sensor['gaps'])}, readings missing: {sensor['missing']:,}, "
            f"arrived: {percent(sensor['share'])}",
        ]
        if sensor["silent"]:
            lines.append(f"silent since then: {length(sensor['silent'])}")
    for gap in sorted(sensor["gaps"], key=lambda gap: -gap["seconds"])[:LONGEST_GAPS]:
        pause = length(gap["seconds"])
        lines.append(f"from {gap['from']} to {gap['to']}: {pause}, {gap['missing']:,} missing")
    return "\n    ".join(lines)


@lru_cache
def percent(share: float | None) -> str:
    """Return a share in percent, rounded down: 100 % are all of them."""
    return "-" if share is None or share != share else f"{int(share * 1000) / 10:.1f} %"


def spans_text(spans: Spans) -> str:
    """Return the figures of time spans as a table."""
    width = len(spans.begins[0]) + 4
    titles = " " * (width + 20) + "".join(f"  {unit:<18}" for unit in UNITS.values())
    columns = f"{'    from':{width}}  readings  arrived" + "   min   mean   max  " * len(UNITS)
    # There may be a million lines, and this is the quickest way to each
    line = "    %s  %8s  %7s " + "   ".join(["%5.1f %6.2f %5.1f"] * len(UNITS))
    counts, percents = map("{:,}".format, spans.readings), map(percent, spans.shares)
    lines = [line % values for values in zip(spans.begins, counts, percents, *spans.figures)]
    table = "\n".join(lines).replace("nan", "  -")
    return f"{titles.rstrip()}\n{columns.rstrip()}\n{table}"


def latest_text(sensors: dict[str, dict[str, Any]], limits: Limits) -> str:
    """Return each sensor's latest reading as text, a line each."""
    width = max(map(len, sensors))
    lines = []
    for name, sensor in sensors.items():
        reading = f"{sensor['humidity']:.1f},{sensor['temperature']:.1f}"
        age = f"{length(abs(sensor['age'])):>8} {'in the future' if sensor['ahead'] else 'ago'}"
        line = f"{name:{width}}  {sensor['time']}  {reading:>10}  {age}"
        if sensor["interval"]:
            line += f", usually every {sensor['interval']:.1f} s"
        wrong = ["silent"] if sensor["silent"] else []
        wrong += ["a clock was ahead"] if sensor["ahead"] else []
        for quantity in sensor["outside"]:
            lowest, highest = limits[quantity]
            wrong.append(f"{quantity} outside {lowest:g}..{highest:g}")
        lines.append(": ".join([line, *wrong[:1]]) + "".join(f", {each}" for each in wrong[1:]))
    return "\n".join(lines)
