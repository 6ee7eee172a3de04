"""What is in the logs of a data disk, with what logrotate left of them, and what is wrong there."""

from __future__ import annotations

import gzip
import re
import sqlite3
from collections import Counter
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

HEADER = "time,client,name,humidity,temperature,n"
READING = r"\d+\.\d,-?\d+\.\d"
TIME = r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3})Z"
ROW = re.compile(TIME + rf",([0-9a-f.:]+),([A-Za-z0-9._-]*),({READING}),(\d*)")


class Row(NamedTuple):
    time: float
    client: str
    name: str
    reading: str
    n: str


class Findings:
    """What was counted, and what is wrong: lost, doubled, late, foreign, failed."""

    def __init__(self) -> None:
        self.wrong: list[tuple[str, str]] = []
        self.counts: dict[str, Counter[str]] = {}
        self.most: dict[str, float] = {}

    def add(self, kind: str, text: str) -> None:
        self.wrong.append((kind, text))

    def count(self, group: str, what: str, times: int = 1) -> None:
        self.counts.setdefault(group, Counter())[what] += times

    def largest(self, what: str, value: float) -> None:
        self.most[what] = max(value, self.most.get(what, value))

    def show(self) -> None:
        for group, counts in self.counts.items():
            print(f"{group}:")
            for what, times in counts.most_common(25):
                print(f"    {times:7} {what}")
        for what, value in self.most.items():
            print(f"largest {what}: {value:.3f}")
        for kind, text in self.wrong[:30]:
            print(f"WRONG, {kind}: {text}")
        kinds = Counter(kind for kind, _ in self.wrong)
        wrong = ", ".join(f"{times} {kind}" for kind, times in kinds.items())
        print(f"wrong: {wrong or 'nothing'}")


def log_files(content: Path, name: str) -> list[Path]:
    """Return the log and what rotation left of it, the oldest first.

    A cut can leave a file beside the packed copy of it, whole or not: it counts once.
    """
    numbers = {content / name: 0}
    for path in content.glob(name + ".*"):
        found = re.search(r"\.(\d+)(\.gz)?$", path.name)
        if found and not (found[2] and path.with_suffix("").exists()):
            numbers[path] = int(found[1])
    return sorted(numbers, key=lambda path: -numbers[path])


def whole_lines(path: Path, findings: Findings) -> list[str]:
    """Return the lines of a file. What follows its last line end is counted: a cut may leave it."""
    if not path.exists():
        return []
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            text = file.read().decode("latin-1")
    except (OSError, EOFError) as error:
        findings.count("damaged files", f"{path.name}: {error}")
        return []
    *lines, torn = text.split("\n")
    if torn:
        findings.count("torn ends", f"{'NULs' if not torn.strip(chr(0)) else 'part of a line'}")
    return lines


def csv_rows(content: Path, findings: Findings) -> list[Row]:
    rows = []
    for path in log_files(content, "datalog.csv"):
        for number, line in enumerate(whole_lines(path, findings), 1):
            found = ROW.fullmatch(line)
            if found:
                time, client, name, reading, n = found.groups()
                at = datetime.fromisoformat(time + "+00:00").timestamp()
                rows.append(Row(at, client, name, reading, n))
            elif line != HEADER or number > 1:
                findings.add("foreign", f"{path.name}, line {number}: {line[:100]!r}")
    return rows


def text_readings(content: Path, findings: Findings) -> list[str]:
    readings = []
    for path in log_files(content, "datalog.txt"):
        for number, line in enumerate(whole_lines(path, findings), 1):
            if re.fullmatch(READING, line):
                readings.append(line)
            else:
                findings.add("foreign", f"{path.name}, line {number}: {line[:100]!r}")
    return readings


def db_readings(content: Path, findings: Findings) -> list[tuple[str, str]]:
    """Return name and reading of each row of the database."""
    path = content / "datalog.db"
    if not path.exists():
        return []
    with closing(sqlite3.connect(path)) as database:
        (verdict,) = database.execute("PRAGMA integrity_check").fetchone()
        if verdict != "ok":
            findings.add("failed", f"datalog.db: {verdict}")
        if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'reading'").fetchone():
            return []
        rows = database.execute("SELECT name, humidity, temperature FROM reading")
        return [(name or "", f"{h:.1f},{t:.1f}") for name, h, t in rows]
