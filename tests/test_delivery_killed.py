"""Named readings, each logged once, through a bad network and kills at every point."""

import csv
import math
import os
import random
import re
import signal
import subprocess
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from dht22.datagram import parse_ack
from dht22.log.formats import LOGS
from dht22.pi import spool
from support.killed import (
    LATE,
    RESEND,
    Client,
    in_database,
    k_of,
    lines_of,
    reading_of,
    whole_lines,
)
from support.relay import Relay
from support.tools import (
    CALLS,
    DEADLINE,
    Script,
    calls,
    inside_of,
    needs,
    options,
    readings,
    until,
    with_small_disk,
)

SEEDS = 500  # of each test at its full size: some ten seconds each


class Disk:
    """A small disk for spools, in a mount namespace of its own, which is filled and freed."""

    def __init__(self, folder):
        needs("nsenter")
        prefix = with_small_disk(folder, "size=256k")
        self.holder = subprocess.Popen([*prefix, "sleep", "1000"], cwd=folder)
        self.folder = Path(f"/proc/{self.holder.pid}/root{folder}/disk")  # as seen from here
        until(lambda: os.readlink(f"/proc/{self.holder.pid}/exe").endswith("sleep"))
        self.inside = [*inside_of(self.holder), "-w", "--"]

    def is_full(self):
        return (self.folder / "filler").exists()

    def fill(self):
        """Take the room that is left, and what was set free since."""
        with suppress(OSError), open(self.folder / "filler", "ab", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))

    def change(self, dice):
        """Stay as it is, most times; else become full, or free."""
        changes = dice.random() < 0.02
        if self.is_full() and changes:
            self.free()
        elif self.is_full() or changes:
            self.fill()

    def free(self):
        (self.folder / "filler").unlink(missing_ok=True)

    def close(self):
        self.holder.kill()
        self.holder.wait()


def client_of(reading):
    return int(float(reading.split(",")[1])) // 10


class Rows:
    """The rows of a CSV that is being written: name -> readings, and every n."""

    def __init__(self, path):
        self.path = path
        self.read = 0
        self.readings = {}
        self.n = {}

    def follow(self):
        if self.path.exists():
            with open(self.path, "rb") as file:
                file.seek(self.read)
                new = file.read()
            new = new[: new.rfind(b"\n") + 1]
            self.read += len(new)
            for row in csv.reader(new.decode("ascii").splitlines()):
                if row[5] != "n":
                    self.readings.setdefault(row[2], []).append(f"{row[3]},{row[4]}")
                    self.n.setdefault(row[2], []).append(int(row[5]))
        return self

    def delivered(self, name):
        return len(self.readings.get(name, []))


def check(folder, clients, acknowledged, doubled=True):
    """Compare the logs with what was read, spooled and acknowledged.

    Return how old at the kill the missing readings were. doubled: a kill between two logs may have
    doubled a reading in the text log, or left one in the database alone.
    """
    rows = Rows(folder / "a.csv").follow()
    text = readings(folder / "a.txt")
    missing = []
    for client in clients:
        name = client.name
        unsure = set(whole_lines(client.unsure)) if doubled else set()
        kept = once(rows.readings.get(name, []), unsure, f"{name} on the CSV")
        assert rows.n[name] == sorted(set(rows.n[name]))
        assert acknowledged.get(name, set()) <= set(rows.n[name]), "acknowledged, not on the CSV"
        assert set(client.spooled) <= set(kept), "spooled, not on the CSV"
        assert set(kept) <= client.taken().keys(), "made up"
        own = [reading for reading in text if client_of(reading) == client.number]
        assert set(kept) <= set(own), "lost by the text log"
        once(own, set(own) if doubled else set(), f"{name} on the text log")
        if (folder / "a.db").exists():
            inside, n = in_database(folder / "a.db", name)
            inside = once(inside, unsure, f"{name} in the database")
            assert set(kept) <= set(inside) if doubled else kept == inside, "lost by the database"
        taken = client.taken()
        for printed, end in zip(client.printed(), client.ends):
            lost = [reading for reading in printed if reading not in kept]
            if end < math.inf:
                assert printed[len(printed) - len(lost) :] == lost, "the last ones are missing"
                missing += [end - taken[reading] for reading in lost]
    return missing


def once(found, unsure, where):
    """Return the readings found, each once; they have to be in order, and only `unsure` twice."""
    kept = list(dict.fromkeys(found))
    numbers = [k_of(reading) for reading in kept]
    assert numbers == sorted(set(numbers)), f"{where}: in order"
    twice = {reading for reading, times in Counter(found).items() if times > 1}
    assert twice <= unsure, f"{where}: exactly once"
    return kept


def collect(acknowledged):
    """Return a watch for the relay, which collects what was acknowledged: name -> n."""

    def watch(answer):
        ack = parse_ack(answer)
        acknowledged.setdefault(ack.name, set()).add(ack.last)

    return watch


def through_a_bad_network(
    server, folder, seed, sensors, count, server_kills, client_kills, number, disk=None
):
    """Deliver `count` readings of each sensor while server and clients get the signal `number`.

    The spools are on `disk` if there is one, which is filled and freed at random. Return the age of
    each reading that is missing.
    """
    dice = random.Random(seed)
    acknowledged = {}
    rows = Rows(folder / "a.csv")
    logs = "--quiet", "--host", "127.0.0.1", *options("a.txt", "a.csv", "a.db")
    total = sensors * count

    def start_server():
        running = server(*logs, timers={"server.writer.LOG_RETRY": 0.05})
        relay.server = running.port
        return running

    with Relay(0, seed, loss=0.3, doubled=0.2, late=0.1, watch=collect(acknowledged)) as relay:
        clients = [Client(folder, each, relay.port, disk) for each in range(1, sensors + 1)]
        # Each is killed when so many readings are logged, some clients when so many are read: at
        # any moment of a run, however fast. These read as often as they can deliver; the spools of
        # the others grow.
        kills = {
            client: sorted(dice.sample(range(1, count * 9 // 10), client_kills))
            for client in clients
        }
        kills[None] = sorted(dice.sample(range(1, total * 9 // 10), server_kills))
        running = start_server()
        try:
            for client in clients:
                client.start(count, client.interval)
            end = time.monotonic() + 3 * DEADLINE
            while not all(client.has_ended() for client in clients):
                assert time.monotonic() < end, [client.starts[-1].err for client in clients]
                rows.follow()
                if disk:
                    disk.change(dice)
                for client in clients:
                    reached = (
                        len(client.taken()) if client.number % 2 else rows.delivered(client.name)
                    )
                    if kills[client] and reached >= kills[client][0]:
                        kills[client].pop(0)
                        if disk and number == signal.SIGTERM:
                            disk.free()
                        client.stop(number)
                        client.start(max(1, count - len(client.taken())), client.interval)
                if (
                    kills[None]
                    and sum(rows.delivered(client.name) for client in clients) >= kills[None][0]
                ):
                    kills[None].pop(0)
                    running.stop(number)
                    relay.server = 0  # its port may be another's by now
                    assert "Traceback" not in running.err
                    running = start_server()
                time.sleep(0.002)
            # What a kill costs while the disk is full is never delivered: the last may not come.
            left = 1 if disk else 0
            assert all(len(rest) <= left for rest in kills.values()), "killed as often as it should"
            assert [client.process.returncode for client in clients] == [0] * sensors
            assert not any(whole_lines(client.spool) for client in clients), (
                "emptied once all is acknowledged"
            )
        finally:
            for client in clients:
                client.process.kill()
                client.process.wait()
    for client in clients:
        client.note_end()
    assert running.stop() == 0
    missing = check(folder, clients, acknowledged, doubled=number == signal.SIGKILL)
    if disk:
        failed = sum("cannot write the spool" in each.err for each in starts(clients))
        print(f"the spool could not be written in {failed} of {len(starts(clients))} starts")
    taken = sum(len(client.taken()) for client in clients)
    halfway = sensors * client_kills  # noted by the driver and not yet returned at a kill, at most
    assert taken >= total
    assert disk or len(readings(folder / "a.csv")) >= taken - len(missing) - halfway
    return missing


def starts(clients):
    return [each for client in clients for each in client.starts]


@pytest.fixture
def disk(tmp_path):
    """Return a function that makes a small disk for the spools."""
    made = []

    def make():
        made.append(Disk(tmp_path))
        return made[-1]

    yield make
    for each in made:
        each.close()


FULL = [pytest.param(seed, 5, 400, 10, 3, marks=pytest.mark.long) for seed in range(SEEDS)]
SMALL = [(seed, 3, 40, 3, 1) for seed in range(1000, 1004)]
SEED = "seed, sensors, count, server_kills, client_kills"


@pytest.mark.parametrize(SEED, [*SMALL[:3], *FULL])
def test_killed_in_a_bad_network(
    server, tmp_path, disk, seed, sensors, count, server_kills, client_kills
):
    """In half of the seeds the spools are on a disk that is full now and then."""
    missing = through_a_bad_network(
        *(server, tmp_path, seed, sensors, count, server_kills, client_kills, signal.SIGKILL),
        disk() if seed % 2 else None,
    )
    oldest = max(missing, default=0)
    print(f"missing {len(missing)}, read {oldest * 1000:.0f} ms before the kill at most")
    assert oldest < RESEND + LATE, "younger than the first timeout"


@pytest.mark.parametrize(SEED, [*SMALL[2:], *FULL])
def test_stopped_in_a_bad_network_nothing_is_missing_and_nothing_twice(
    server, tmp_path, disk, seed, sensors, count, server_kills, client_kills
):
    """In half of the seeds the spools are on a disk that is full now and then, not at the stop."""
    missing = through_a_bad_network(
        *(server, tmp_path, seed, sensors, count, server_kills, client_kills, signal.SIGTERM),
        disk() if seed % 2 else None,
    )
    assert missing == []


def test_stopped_before_anything_was_spooled_or_acknowledged(server, tmp_path):
    acknowledged = {}
    running = server("--quiet", "--host", "127.0.0.1", *options("a.txt", "a.csv"))
    with Relay(running.port, loss=1, watch=collect(acknowledged)) as relay:
        client = Client(tmp_path, 1, relay.port)
        client.start(100, 0.01, "delivery.RESEND = 60")
        until(lambda: len(client.starts[0].out.splitlines()) >= 5)
        assert whole_lines(client.spool) == []
        client.stop(signal.SIGTERM)
        assert client.process.returncode == 0
        assert {*client.printed()[0]} <= {*client.spooled}
        relay.loss = 0
        client.start(1, 0.01)
        assert client.starts[-1].wait() == 0
        client.note_end()
    assert running.stop() == 0
    assert check(tmp_path, [client], acknowledged, doubled=False) == []


# strace makes the k-th such call, on a log or the spool, fail, or kill the server or the client.
# The disturbed run begins with a spool that has grown long and logs that have all of it but the
# last reading; the answer to the one before was lost.
SPOOLED = 18
ROOM = "from dht22.pi import delivery, spool; spool.LONG_FILE = 16; delivery.RESEND = 0.03\n"


def prepare(client, logs):
    """Write the spool and the logs with which a short run begins."""
    wall = int(time.time() * 1_000_000) - 1_000_000
    waiting = [
        spool.Waiting(k, spool.boot_id(), spool.boottime(), time.time(), reading_of(k))
        for k in range(SPOOLED)
    ]
    sent = spool.with_checksum(f"n,{SPOOLED - 2},{wall + SPOOLED - 2}")
    client.spool.write_bytes(b"".join(each.line() for each in waiting) + sent)
    client.spooled = [each.reading for each in waiting]
    client.note.write_text("".join(f"{reading_of(k)} {time.monotonic()}\n" for k in range(SPOOLED)))
    for log in logs:
        path = str(client.folder / log)
        LOGS[os.path.splitext(log)[1]](path, pytest.fail).append(
            [
                (time.time(), "127.0.0.1", client.name, reading_of(k), str(wall + k))
                for k in range(SPOOLED - 1)
            ]
        )


def strace(folder, trace, paths=(), inject=None):
    words = ["strace", "-D", "-f", "-y", "-o", folder / "trace", "-e", f"trace={trace}"]
    for path in paths:
        words += ["-P", path]
    return words + (["-e", f"inject={inject}"] if inject else [])


def short_run(folder, logs, disturbed, call="", inject=None):
    """Deliver what a spool holds and four more readings; the `disturbed` script runs under strace.

    What is killed is started again, undisturbed. call: what is disturbed, if not a call on a file.
    Return the trace, the exit codes of what ended early, and how old at the kill the missing
    readings were.
    """
    folder.mkdir()
    paths = [
        folder / name
        for log in logs
        for name in (log, f"{log}-wal", f"{log}-shm", f"{log}-journal")
    ]
    if disturbed == "client":
        paths = [folder / "s1.spool", folder / ".s1.spool.dht22-new"]
    prefix = strace(folder, call or CALLS, () if call else paths, inject)
    acknowledged, early, started, ended = {}, [], [], []
    collected = collect(acknowledged)

    def watch(answer):
        collected(answer)
        if parse_ack(answer).last not in Rows(folder / "a.csv").follow().n["s1"]:
            early.append(answer)

    def start_server(prefix=()):
        running = Script(
            folder,
            "server",
            "--quiet",
            "--host",
            "127.0.0.1",
            "--port",
            0,
            *options(*(folder / log for log in logs)),
            prefix=prefix,
            timers={"server.writer.LOG_RETRY": 0.05},
        )
        started.append(running)
        until(lambda: running.process.poll() is not None or "on the Pi" in running.err)
        if running.process.poll() is None:
            relay.server = int(re.search(r"^listening on \S+:(\d+)", running.err, re.MULTILINE)[1])

    with Relay(loss=1, watch=watch) as relay:
        client = Client(folder, 1, relay.port)
        prepare(client, logs)
        try:
            start_server(prefix if disturbed == "server" else ())
            client.start(4, 0.06, ROOM, prefix if disturbed == "client" else ())

            def goes_on():
                if started[-1].process.poll() is not None:
                    ended.append(started[-1].process.returncode)
                    start_server()
                if reading_of(SPOOLED + 1) in lines_of(client.spool) or client.has_ended():
                    relay.loss = 0
                if client.process.poll() == -signal.SIGKILL:
                    ended.append(client.process.returncode)
                    client.note_end()
                    client.start(max(1, SPOOLED + 4 - len(client.taken())), 0.06, ROOM)
                return client.process.poll() not in (None, -signal.SIGKILL)

            until(goes_on, f"the end, {inject}")
            client.note_end()
            assert client.process.returncode == 0
            if started[-1].process.poll() is None:
                started[-1].stop()
            else:
                ended.append(started[-1].process.returncode)
            assert not any("Traceback" in each.err for each in started), (inject, started[0].err)
        finally:
            for each in [*client.starts, *started]:
                each.process.kill()
                each.process.wait()
    try:
        assert early == [], "acknowledged, and not on the CSV at that moment"
        missing = check(folder, [client], acknowledged, doubled=-signal.SIGKILL in ended)
    except AssertionError as error:
        raise AssertionError(f"{disturbed} {inject}: {error}\n{started[0].err}") from error
    assert len(client.taken()) >= SPOOLED + 4
    until(lambda: "+++ " in (folder / "trace").read_text(), "the end of the trace")
    return (folder / "trace").read_text(), ended, missing


def at_every_call(folder, logs, disturbed, fault):
    """Disturb a run at each of its calls in turn; return the number of calls and of runs ended."""
    needs("strace")
    trace, *_ = short_run(folder / "trace", logs, disturbed)
    points = [("", *call) for call in calls(trace)]
    trace, *_ = short_run(folder / "sends", logs, disturbed, "sendto")
    points += [("sendto", "sendto", k) for k in range(1, trace.count(" sendto(") + 1)]
    if logs == BOTH:  # every other one; all of them with a database, as pytest -m long
        points = [point for point in points if point[2] % 2]

    def run(point):
        call, name, k = point
        return short_run(folder / f"{name}{k}", logs, disturbed, call, f"{name}:{fault}:when={k}")

    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(run, points))
    names = [name for _, name, _ in points]
    ages = [age for *_, missing in runs for age in missing]
    assert all(age < RESEND + LATE for age in ages)
    ends = sum(bool(ended) for _, ended, _ in runs)
    print(
        f"{disturbed} {fault}: {len(runs)} runs, {ends} ended early, missing {len(ages)}; "
        + ", ".join(f"{names.count(name)} {name}" for name in sorted(set(names)))
    )
    return names, ends


BOTH = ["a.txt", "a.csv"]
ALL = pytest.param([*BOTH, "a.db"], marks=pytest.mark.long)


@pytest.mark.parametrize("logs", [BOTH, ALL], ids=len)
def test_the_client_killed_at_every_call(tmp_path, logs):
    names, ends = at_every_call(tmp_path, logs, "client", "signal=KILL")
    assert {"openat", "write", "fsync", "rename", "ftruncate", "sendto"} <= set(names)
    assert ends > len(names) * 0.8, "a run has not always as many calls"


@pytest.mark.parametrize("logs", [BOTH, ALL], ids=len)
@pytest.mark.parametrize(
    "fault", ["signal=KILL", "error=EIO", pytest.param("error=ENOSPC", marks=pytest.mark.long)]
)
def test_the_server_disturbed_at_every_call(tmp_path, logs, fault):
    names, ends = at_every_call(tmp_path, logs, "server", fault)
    assert {"openat", "write", "fsync", "sendto"} <= set(names)
    if fault == "signal=KILL":
        assert ends > len(names) * 0.8


def test_a_spool_torn_at_any_byte(tmp_path, monkeypatch):
    """After a power cut: the first of the waiting readings, unchanged, the oldest with its n."""
    monkeypatch.setattr(spool, "say", lambda line: None)
    path = tmp_path / "whole.spool"
    read = ["50.0,20.1", "50.1,-10.5", "100.0,-40.0"]
    n = 1_700_000_000_000_000
    written = spool.Spool(str(path))
    written.mark(0, n)
    assert written.write(
        spool.Waiting(k, spool.boot_id(), 1234.5, 1_700_000_000.0, reading)
        for k, reading in enumerate(read)
    )
    whole = path.read_bytes()
    for cut in range(len(whole) + 1):
        torn = tmp_path / f"{cut}.spool"
        torn.write_bytes(whole[:cut])
        queue, first, _ = spool.Spool(str(torn)).load()
        found = [each.reading for each in queue]
        assert found == read[: len(found)], f"cut after {cut} bytes, {whole[:cut][-30:]}"
        assert first == n or not found, (
            f"cut after {cut} bytes: sent again with another n, and so logged twice"
        )


def test_a_first_reading_that_was_spooled_before_it_was_sent_has_no_n(tmp_path):
    """As after SIGTERM between the two: it must be sent with an n of its own, not with 0."""
    path = tmp_path / "a.spool"
    written = spool.Spool(str(path))
    assert written.write([written.stamp("50.0,20.1")])
    written.file.file.close()
    waiting, n, highest = spool.Spool(str(path)).load()
    assert [each.reading for each in waiting] == ["50.0,20.1"]
    assert (n, highest) == (None, 0)


def test_an_answer_follows_a_sync_of_every_log(tmp_path):
    """What the logs held at the start counts too: a killed server may not have synced it."""
    needs("strace")
    trace, *_ = short_run(tmp_path / "run", BOTH, "server", "write,fsync,sendto")
    unsynced = {"a.txt", "a.csv"}
    answers = 0
    for call, log in re.findall(r" (write|fsync|sendto)\(\d+<(?:.*/)?(.*?)>", trace):
        if call == "write" and log in BOTH:
            unsynced.add(log)
        elif call == "fsync":
            unsynced.discard(log)
        elif call == "sendto":
            answers += 1
            assert not unsynced, f"answer {answers}"
    assert answers >= 5
