"""publish.py killed at any moment, its broker too: nothing in the log is lost."""

import gzip
import random
import re
import shutil
import signal
import subprocess
import threading
import time

import pytest

from dht22.log.linefile import was_moved
from support.brokers import KEEPING, PATIENT
from support.made import HEADER, row
from support.rotation import append, beside, rename, rename_and_pack
from support.tools import needs, resident, until

RATE = 1000  # rows a second: row(k) is the k-th


class Server:
    """Writes rows as the server does, in batches, and creates its log again when it was renamed."""

    def __init__(self, log):
        self.log = log
        self.written = 0
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        begun = time.monotonic()
        file = self.open()
        while not self.stopped.wait(0.005):
            due = int((time.monotonic() - begun) * RATE)
            if was_moved(str(self.log), file):
                file.close()
                file = self.open()
            batch = "".join(map(row, range(self.written, due)))
            size = file.seek(0, 2)
            file.write((b"" if size else HEADER.encode()) + batch.encode())
            self.written = due
        file.close()

    def open(self):
        return self.log.open("ab", buffering=0)

    def stop(self):
        self.stopped.set()
        self.thread.join()


def n_of(line):
    """Return the n of a named row."""
    return int(line[-17:])


def shift(log):
    """Make room for a file .1, as logrotate does."""
    rotated = sorted(log.parent.glob("datalog.csv.*"), key=number, reverse=True)
    for path in rotated:
        ending = ".gz" if path.suffix == ".gz" else ""
        path.rename(beside(log, f".{number(path) + 1}{ending}"))


def number(path):
    return int(re.search(r"csv\.(\d+)", path.name)[1])


def rotate(log, choose):
    """Rotate in one of logrotate's ways; with missingok."""
    if not log.exists():
        return
    shift(log)
    if choose.random() < 0.5:
        rename(log)
    else:
        shutil.copy(log, beside(log, ".1"))
        with log.open("ab") as file:
            file.truncate(0)
    packed = choose.choice([".1", ".2", None])  # at once, with delaycompress, not at all
    if packed and beside(log, packed).exists():
        subprocess.run(["gzip", beside(log, packed)], check=True)


def union(log):
    """Return the rows in all files of the log."""
    found = set()
    for path in log.parent.glob("datalog.csv*"):
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
            found.update(file)
    found.discard(HEADER)
    return found


@pytest.mark.parametrize("kills", [5, pytest.param(200, marks=pytest.mark.long)])
def test_killed_under_load_and_rotation(publish, mosquitto, subscriber, log, kills):
    needs("gzip")
    choose = random.Random(kills)
    broker = mosquitto(*PATIENT)
    heard = subscriber(broker)
    server = Server(log)
    try:
        for kill in range(kills):
            running = publish(broker.url, "--all", "--no-discovery")
            running.says("^connected")
            for _ in range(choose.randrange(1, 3)):
                time.sleep(choose.uniform(0, 0.4))
                rotate(log, choose)
            running.stop(signal.SIGKILL)
            if kill % 3 == 0:
                rotate(log, choose)
    finally:
        server.stop()
    running = publish(broker.url, "--once")
    assert running.process.wait(3600) == 0
    arrived = heard.wait_for_rows(union(log), 1200)
    assert len(union(log)) > server.written * 0.9, "a few are lost between copy and truncation"
    assert set(arrived) <= set(map(row, range(server.written))), "none is invented"
    assert "gone" not in "".join(path.read_text() for path in log.parent.glob("publish.*.err"))
    order = [n_of(each) for each in arrived]
    steps = [(before, after) for before, after in zip(order, order[1:]) if after <= before]
    assert len(steps) <= kills, "each time that it goes back it was killed"
    assert max((before - after for before, after in steps), default=0) <= 1000
    print(f"{len(union(log))} rows in {len([*log.parent.glob('datalog.csv*')])} files")
    print(f"{len(arrived) - len(set(arrived))} doubled after {kills} kills")


@pytest.mark.parametrize("restarts", [2, pytest.param(20, marks=pytest.mark.long)])
def test_broker_restarted_under_load(publish, mosquitto, subscriber, log, restarts):
    broker = mosquitto(*KEEPING)
    heard = subscriber(broker)
    running = publish(broker.url, "--all", "--no-discovery")
    written = 0
    for restart in range(restarts):
        append(log, *map(row, range(written, written + 300)))
        written += 300
        time.sleep(restart % 7 / 20)
        broker.stop()  # killed with -9 mosquitto may lose the last one it has acknowledged
        broker.start()
        running.says("\n".join([r"connected(?:.|\n)*"] * (restart + 1)))
    heard.wait_for_rows([row(k) for k in range(written)], 600)
    assert running.stop() == 0


@pytest.mark.parametrize("rows", [5000, pytest.param(43_200, marks=pytest.mark.long)])
def test_backlog_of_a_day(publish, mosquitto, subscriber, log, rows):
    """A sensor read every 2 s, and the broker away for a day (in the suite a shorter one)."""
    broker = mosquitto(*PATIENT)
    heard = subscriber(broker)
    running = publish(broker.url, "--all", "--no-discovery")
    running.says("^connected")
    broker.process.send_signal(signal.SIGSTOP)
    append(log, *(row(2000 * k) for k in range(rows // 2)))
    rename(log)
    append(log, *(row(2000 * k) for k in range(rows // 2, rows)))
    broker.process.send_signal(signal.SIGCONT)
    begun = time.monotonic()
    last = str(n_of(row(2000 * (rows - 1))))
    until(lambda: last in heard.end(), "the end of the backlog", 600)
    print(f"{rows} readings in {time.monotonic() - begun:.1f} s")
    assert heard.wait_for_rows([row(2000 * (rows - 1))]) == [row(2000 * k) for k in range(rows)]
    assert running.stop() == 0


@pytest.mark.parametrize("rows", [10_000, pytest.param(1_000_000, marks=pytest.mark.long)])
def test_packed_and_live_log(publish, mosquitto, subscriber, log, rows):
    """All of it is published, in order, and the memory does not grow with it."""
    broker = mosquitto(*PATIENT)
    heard = subscriber(broker, topic="dht22/reading/kitchen")
    append(log, *map(row, range(rows // 2)))
    rename_and_pack(log)
    append(log, *map(row, range(rows // 2, rows)))
    begun = time.monotonic()
    running = publish(broker.url, "--all", "--no-discovery")
    sizes = []
    for k in range(rows // 10, rows + 1, rows // 10):
        until(lambda k=k: last_n(heard) >= n_of(row(k - 1)), f"{k} readings", 600)
        sizes.append(resident(running))
    print(f"{rows} readings in {time.monotonic() - begun:.1f} s, {max(sizes):.1f} MiB")
    assert max(sizes) < sizes[0] + 2, sizes
    assert running.stop() == 0
    with heard.path.open() as lines:
        arrived = [int(re.search(r'"n":(\d+)', line)[1]) for line in lines]
    assert arrived == [n_of(row(k)) for k in range(rows)]


def last_n(heard):
    """Return the n of the last reading that was heard, 0 if there is none."""
    return int(([0] + re.findall(r'"n":(\d+),', heard.end()))[-1])
