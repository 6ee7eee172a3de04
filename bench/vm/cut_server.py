"""Cut the power of the machine that runs server.py, again and again, while sensors send to it.

    python3 cut_server.py BUILT FOLDER --cuts 30

The server logs to .txt, .db and .csv on the data disk of the guest. The senders, five named and one
plain, run here and go on. In the end each reading that was acknowledged has to be in .csv and .db
exactly once (with what logrotate left), in .txt at least once, in order and at its time, and no
line may be torn or foreign. With --first-start each cut falls into the server's first start, on an
empty disk; then it has to start again, whatever that left.
"""

from __future__ import annotations

import sys
import time
from collections import Counter

from logs import csv_rows, db_readings, text_readings
from senders import Sender
from trial import PORT, Trial, get_parser

NAMES = ["attic", "cellar", "hall", "kitchen", "shed"]
SERVER = ["/usr/bin/python3", "/opt/dht22/server.py", "--quiet"]
LOGS = ["--log", "datalog.txt", "--log", "datalog.csv", "--log", "datalog.db"]
START = 0.8, 2.2  # seconds; without KVM a start of the server takes 1.5 to 2
LATE = 3.0  # seconds by which a time may be off: the guest's clock is set at each start


def start_senders(names: list[str], interval: float) -> list[Sender]:
    """Start a sender for each name, whose temperatures lie 15 °C apart."""
    senders = [Sender(name, -40 + 15 * number, interval, PORT) for number, name in enumerate(names)]
    for sender in senders:
        sender.start()
    return senders


def main() -> int:
    parser = get_parser(__doc__, 0.05)
    parser.add_argument("--first-start", action="store_true", help="cut while it starts first")
    options = parser.parse_args()
    trial = Trial(options, has_server=True)
    job = trial.job({"server": SERVER + LOGS})
    senders = start_senders([*NAMES, ""], options.interval)
    try:
        for number in range(options.cuts):
            if options.first_start:
                if number:
                    trial.machine.fresh()
                    forget(senders)
                trial.run(job, "START server", *START)
                trial.machine.start(job, trial.forward)
                trial.machine.says("listening on")
                time.sleep(trial.rng.uniform(0, 2))
                trial.cut()
                check(trial, senders, last=False)
            else:
                trial.run(job, "listening on")
        if not options.first_start:
            trial.machine.start(trial.job({"server": SERVER + LOGS}, False), trial.forward)
            for sender in senders:
                if not sender.stop(300):
                    trial.findings.add("lost", f"{sender.sensor}: is not acknowledged any more")
            trial.cut()  # also now: what was acknowledged is on the disk
            check(trial, senders, last=True)
    finally:
        trial.machine.cut()
    return trial.end()


def forget(senders: list[Sender]) -> None:
    """Forget what was acknowledged: it went with the disk."""
    for sender in senders:
        sender.acknowledged.clear()


def check(trial: Trial, senders: list[Sender], last: bool) -> None:
    """Compare what the senders noted with what is in the logs."""
    findings = trial.findings
    content = trial.machine.content()
    rows = csv_rows(content, findings)
    in_csv = Counter((row.name, row.reading) for row in rows)
    in_text = Counter(text_readings(content, findings))
    in_db = Counter(db_readings(content, findings))
    at = {(row.name, row.reading): row.time for row in rows}
    known = {(sender.sensor, reading) for sender in senders for reading in [*sender.read]}
    for sender in senders:
        name = sender.sensor
        if not name:
            check_plain(trial, sender, in_csv, in_db)
            continue
        findings.count("readings", "acknowledged", len(sender.acknowledged))
        for reading, when in [*sender.acknowledged.items()]:
            counts = in_csv[name, reading], in_db[name, reading], in_text[reading]
            if 0 in counts:
                before = max([cut for cut in trial.cuts if cut < when], default=0)
                findings.add(
                    "lost",
                    f"{name} {reading}, acknowledged {when - before:.3f} s after a cut:"
                    f" {counts} times in csv, db, txt",
                )
                continue
            off = abs(at[name, reading] - sender.read[reading])
            findings.largest("time off (s)", off)
            if off > LATE:
                findings.add("late", f"{name} {reading}: {off:.3f} s")
        check_order(trial, name, [int(row.n) for row in rows if row.name == name])
    for counts, where in (in_csv, "csv"), (in_db, "db"):
        for (name, reading), times in counts.items():
            if times > 1 and name:
                findings.add("doubled", f"{name} {reading}: {times} times in the {where}")
            if (name, reading) not in known:
                findings.add("foreign", f"{name} {reading}, in the {where}")
    for reading in in_text.keys() - {reading for _, reading in known}:
        findings.add("foreign", f"{reading}, in the txt")
    twice = sum(times > 1 for times in in_text.values())
    findings.count("readings", "more than once in .txt", twice)
    findings.count("readings", "in .csv", len(rows))


def check_order(trial: Trial, name: str, numbers: list[int]) -> None:
    for before, after in zip(numbers, numbers[1:]):
        if after <= before:
            trial.findings.add("foreign", f"{name}: n {after} stands behind {before}")


def check_plain(trial: Trial, sender: Sender, in_csv: Counter, in_db: Counter) -> None:
    """Count what is left of plain readings, which nobody acknowledges."""
    readings = [*sender.read]
    for what, counts in ("csv", in_csv), ("db", in_db):
        logged = sum(counts["", reading] for reading in readings)
        trial.findings.count("plain readings", f"in .{what}", logged)
    less = sum(in_csv["", reading] > in_db["", reading] for reading in readings)
    trial.findings.count("plain readings", "in .csv, not in .db", less)


if __name__ == "__main__":
    sys.exit(main())
