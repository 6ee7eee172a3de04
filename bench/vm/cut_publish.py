"""Cut the power of the machine that runs server.py and publish.py, again and again.

    python3 cut_publish.py BUILT FOLDER --cuts 30

The log and the publisher's position are on the data disk of the guest; the senders, mosquitto and
a subscriber run here. In the end each row that stands in the log has to have arrived at least once.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from cut_server import NAMES, SERVER, start_senders
from logs import Row, csv_rows
from trial import Trial, get_parser

BROKER = 1884
PUBLISHER = ["/usr/bin/python3", "/opt/dht22/publish.py", f"mqtt://10.0.2.2:{BROKER}"]
SUBSCRIBE = f"mosquitto_sub -h 127.0.0.1 -p {BROKER} -q 1 -t dht22/reading/#".split()
QUIET = 15.0  # seconds without another reading, after which no more is expected

Key = tuple[str, str, str]  # name, n, reading


class Broker:
    """mosquitto and a subscriber, and the file to which that writes what arrives."""

    def __init__(self, folder: Path) -> None:
        config = folder / "mosquitto.conf"
        config.write_text(
            f"listener {BROKER} 127.0.0.1\nallow_anonymous true\nuser root\nmax_queued_messages 0\n"
        )
        self.published = folder / "published"
        self.processes: list[subprocess.Popen[bytes]] = []
        with open(folder / "broker.log", "ab") as log, open(self.published, "ab") as out:
            self.start(["mosquitto", "-c", str(config)], log, log)
            self.start(SUBSCRIBE, out, log)

    def start(self, words: list[str], out: object, log: object) -> None:
        self.processes.append(
            subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=out, stderr=log)
        )
        time.sleep(1)  # until it is there

    def wait_until_quiet(self) -> None:
        size, since = -1, time.monotonic()
        while time.monotonic() < since + QUIET:
            if self.published.stat().st_size != size:
                size, since = self.published.stat().st_size, time.monotonic()
            time.sleep(0.5)

    def readings(self) -> Counter[Key]:
        """Return how often each reading was published."""
        found: Counter[Key] = Counter()
        for line in self.published.read_text().splitlines():
            each = json.loads(line)
            reading = f"{each['humidity']:.1f},{each['temperature']:.1f}"
            found[each.get("name", ""), str(each.get("n", "")), reading] += 1
        return found

    def stop(self) -> None:
        for process in self.processes:
            process.terminate()


def main() -> int:
    options = get_parser(__doc__, 0.1).parse_args()
    trial = Trial(options, has_server=True)
    broker = Broker(trial.folder)
    services = {"server": SERVER, "publish": PUBLISHER}
    senders = []
    try:
        # Nothing is to be in the log before the publisher has its first position.
        trial.machine.start(trial.job(services, False), trial.forward)
        trial.machine.says("publishing")
        time.sleep(3)
        senders = start_senders([*NAMES[:3], ""], options.interval)
        time.sleep(5)
        trial.cut()
        for _ in range(options.cuts - 1):
            trial.run(trial.job(services), "publishing")
        trial.machine.start(trial.job(services, False), trial.forward)
        for sender in senders:
            if not sender.stop(300):
                trial.findings.add("lost", f"{sender.sensor}: is not acknowledged any more")
        broker.wait_until_quiet()
        trial.cut()
        check(trial, csv_rows(trial.machine.content(), trial.findings), broker.readings())
    finally:
        trial.machine.cut()
        broker.stop()
    return trial.end()


def check(trial: Trial, rows: list[Row], published: Counter[Key]) -> None:
    """Compare what was published with what is in the log."""
    findings = trial.findings
    logged = {(row.name, row.n, row.reading) for row in rows}
    for key in logged - published.keys():
        findings.add("lost", f"never published: {key}")
    findings.count("readings", "in .csv", len(rows))
    findings.count("readings", "published", len(published))
    twice = sum(times > 1 for times in published.values())
    findings.count("readings", "published more than once, which is allowed", twice)
    gone = published.keys() - logged
    findings.count("readings", "published, not in .csv: plain", sum(not key[0] for key in gone))
    findings.count("readings", "published, not in .csv: named", sum(bool(key[0]) for key in gone))


if __name__ == "__main__":
    sys.exit(main())
