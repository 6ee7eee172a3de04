"""Cut the power of the machine that runs named clients, while their server comes and goes.

    python3 cut_client.py BUILT FOLDER --cuts 30

The clients have their spools on the data disk of the guest. What they read they note on a serial
line, so that it is known here after the cut. The server runs here, and is killed or stopped and
started again at random. In the end each reading that was read more than 2 s before the cut has to
be in .csv and .db exactly once, in order, and in .txt at least once: what waits longer than a
second is in the spool, and the spool is on the disk. How old the oldest missing one was is shown.

With --booted, so that the guest has a new boot id and a true uptime, times are judged as well.
Else each start is given a boot id of its own.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from cut_server import LOGS
from logs import Findings, csv_rows, db_readings, text_readings
from machine import HERE
from trial import NUMBERS, PORT, Trial, get_parser

NAMES = ["kitchen", "attic"]
BASES = [-40, 20]  # °C, of the numbered readings of each
SAFE = 2.0  # seconds; docs/delivery.md: what waits longer than a second, or than a poll
FULL = 4.0  # the same while the disk is full now and then
LATE = 3.0  # seconds by which a time may be off, see cut_server.py
BOOT_ID = "/proc/sys/kernel/random/boot_id"


class Server(threading.Thread):
    """server.py on the host, which comes and goes until it is to stay."""

    def __init__(self, folder: Path, rng: random.Random) -> None:
        super().__init__(daemon=True)
        self.folder = folder
        self.rng = rng
        self.stays = False
        self.starts = 0
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir()

    def up(self) -> None:
        self.starts += 1
        words = [sys.executable, HERE.parent.parent / "server.py", "--quiet", *LOGS]
        words += ["--host", "127.0.0.1", "--port", PORT]
        with open(self.folder / "said", "ab") as said:
            self.process = subprocess.Popen(
                [*map(str, words)], cwd=self.folder, stderr=said, stdin=subprocess.DEVNULL
            )

    def down(self) -> None:
        self.process.send_signal(self.rng.choice([signal.SIGTERM, signal.SIGKILL]))
        self.process.wait()

    def run(self) -> None:
        self.up()
        while True:
            time.sleep(self.rng.choice([self.rng.uniform(0.5, 4), self.rng.uniform(3, 10)]))
            if self.stays:
                return
            self.down()
            time.sleep(self.rng.choice([self.rng.uniform(0.2, 2), self.rng.uniform(1, 20)]))
            self.up()


def client_job(trial: Trial, first: int, *more: str, disturbed: bool = True) -> dict[str, Any]:
    """Return a job with a client for each name, whose readings begin at number `first`."""
    services = {}
    for name, base in zip(NAMES, BASES):
        words = ["/usr/bin/env", f"BASE={base}", "/usr/bin/python3", "/opt/dht22/numbered.py"]
        words += ["10.0.2.2", "--driver", "simulated", "--name", name, "--quiet"]
        services[name] = [*words, "--interval", str(trial.options.interval), *more]
    job = trial.job(services, disturbed)
    job["before"] += ["stty -F /dev/ttyS1 raw", "chown dht22 /dev/ttyS1"]
    if not trial.options.booted:
        boot_id = f"echo {uuid.uuid4()} > /run/boot_id"
        job["before"].append(f"{boot_id}; mount --bind /run/boot_id {BOOT_ID}")
    job["environment"] |= {"NOTES": "/dev/ttyS1", "FIRST": str(first)}
    if trial.options.long:
        job["environment"]["LONG"] = str(trial.options.long)
    return job


def get_options() -> argparse.Namespace:
    parser = get_parser(__doc__, 0.1)
    parser.add_argument("--long", type=int, help="lines after which the spool is rewritten")
    return parser.parse_args()


def main() -> int:
    trial = Trial(get_options(), has_server=False)
    server = Server(trial.folder / "server", trial.rng)
    server.start()
    boots = {}  # when each boot was cut
    try:
        for number in range(trial.options.cuts):
            trial.run(client_job(trial, 1000 * number), "sending to", last=10)
            boots[trial.machine.boots] = trial.cuts[-1]
        server.stays = True
        last = client_job(trial, 1000 * trial.options.cuts, "--count", "5", disturbed=False)
        trial.machine.start(last)
        for name in NAMES:  # it ends when all is acknowledged, also what waited in the spool
            trial.machine.says(f"EXIT {name} 0", 600)
        trial.cut()
        boots[trial.machine.boots] = float("inf")
        server.join()
        server.down()
        check(trial, server.folder, boots)
    finally:
        server.stays = True
        trial.machine.cut()
        server.process.kill()
    trial.findings.count("server on the host", "starts", server.starts)
    return trial.end()


def notes_of(trial: Trial, boot: int) -> dict[str, float]:
    """Return when each reading of a boot was read; a note that the cut has torn is left out."""
    path = trial.machine.folder / f"notes.{boot:04}"
    notes = [line.split() for line in path.read_text("latin-1").split("\n")[:-1]]
    return {reading: float(at) for at, reading in notes}


def check(trial: Trial, folder: Path, boots: dict[int, float]) -> None:
    """Compare what the clients read with what is in the logs of the server."""
    findings = trial.findings
    rows = csv_rows(folder, findings)
    in_csv = Counter((row.name, row.reading) for row in rows)
    in_db = Counter(db_readings(folder, findings))
    in_text = Counter(text_readings(folder, findings))
    at = {row.reading: row.time for row in rows}
    known = set()
    for boot, cut in boots.items():
        read = notes_of(trial, boot)
        findings.count("readings", "read", len(read))
        for reading, when in read.items():
            name = NAMES[float(reading.split(",")[1]) >= BASES[1]]
            known.add((name, reading))
            counts = in_csv[name, reading], in_db[name, reading], in_text[reading]
            if max(counts[:2]) > 1 and last_full(trial, name, boots) >= boot:
                findings.count("readings", "twice, as the spool's disk was full: allowed")
            elif max(counts[:2]) > 1:
                findings.add("doubled", f"{name} {reading} (boot {boot}): {counts}")
            elif 0 not in counts:
                check_time(trial, reading, at[reading] - when, cut)
            elif cut - when > (FULL if trial.options.fill else SAFE):
                age = f"{cut - when:.3f} s before the cut"
                findings.add("lost", f"{name} {reading} (boot {boot}), read {age}: {counts}")
            else:
                findings.count("readings", "missing, as young as allowed")
                findings.largest("age of a missing one at the cut (s)", cut - when)
    for name, reading in (in_csv.keys() | in_db.keys()) - known:
        findings.add("foreign", f"{name} {reading}")
    findings.count("readings", "in .csv", len(rows))
    twice = sum(times > 1 for times in in_text.values())
    findings.count("readings", "more than once in .txt", twice)
    check_order(rows, findings)
    for line in (folder / "said").read_text().splitlines():
        findings.count("server says", NUMBERS.sub("0", line)[:150])


def last_full(trial: Trial, name: str, boots: Iterable[int]) -> int:
    """Return the last boot that was cut while a client could not write its spool, 0 if none was.

    What it delivers meanwhile cannot be noted, and may be delivered again.
    """
    return max([boot for boot in boots if ends_full(trial, name, boot)], default=0)


@cache
def ends_full(trial: Trial, name: str, boot: int) -> bool:
    console = (trial.machine.folder / f"console.{boot:04}").read_text("latin-1")
    return console.rfind(f"{name}: cannot write the spool") > console.rfind(f"{name}: the spool")


def check_time(trial: Trial, reading: str, off: float, cut: float) -> None:
    trial.findings.largest("time off (s)", abs(off))
    if trial.options.booted and abs(off) > LATE:
        trial.findings.add("late", f"{reading}: {off:.3f} s")


def check_order(rows: list[Any], findings: Findings) -> None:
    """See that the numbers of each sensor's readings increase; the server's n as well.

    Of one that stands twice only the first counts: that it does is judged elsewhere.
    """
    last: dict[str, tuple[int, int]] = {}
    seen = set()
    for row in rows:
        if row.reading in seen:
            continue
        seen.add(row.reading)
        humidity, temperature = map(float, row.reading.split(","))
        base = BASES[NAMES.index(row.name)]
        place = round(temperature * 10 - base * 10) * 1000 + round(humidity * 10), int(row.n)
        before = last.get(row.name, (-1, 0))
        if place[0] <= before[0] or place[1] <= before[1]:
            findings.add("foreign", f"{row.name} {row.reading} is not in order")
        last[row.name] = place


if __name__ == "__main__":
    sys.exit(main())
