"""Each script, disturbed at every call that it makes to the system: killed, or the call fails."""

import os
import re
import signal
import socket
import time
from contextlib import closing

import pytest

from dht22.log.formats import LOGS
from dht22.pi import spool
from support.brokers import FAST
from support.disk import Disk
from support.killed import LATE, Client, check, number_of, readings_in
from support.made import row
from support.rotation import append, rename
from support.strace import at_each, calls, read_trace, strace
from support.tools import complete, free_port, options, readings, scripts, send, summary, until

RETRY = {"server.writer.LOG_RETRY": 0.05}
THREE = "a.txt", "a.csv", "a.db"


def with_journals(paths):
    """Return the paths of logs, with what a database has beside it."""
    return [f"{path}{end}" for path in paths for end in ("", "-wal", "-shm", "-journal")]


# Named readings: the client, the server

KINDS = (
    "openat,read,write,fsync,fdatasync,ftruncate,pread64,pwrite64,?rename,?unlink,sendto,sendmsg,"
    "recvfrom,recvmsg,?poll,?select,?pselect6"
)
CHANGES = {"write", "fsync", "fdatasync", "ftruncate", "pwrite64", "rename", "unlink"}
CHANGES |= {"sendto", "sendmsg"}
SPOOLED, READ = 6, 4  # readings that wait at the start, and that are read
RESEND = 0.1  # seconds; what waits longer is spooled. Each resend is a few calls more
TIMERS = {
    "pi.delivery.RESEND": RESEND,
    "pi.delivery.RESEND_MOST": (2 * RESEND, 2 * RESEND),
    "pi.spool.WRITE_AGAIN": 0.05,
    "pi.spool.LONG_FILE": SPOOLED - 2,
}
# What a script imports is not its own; the marker tells where `main` begins. Before Python 3.11 a
# sleep is a select of nothing: in life that has no error.
BEGIN = """
import contextlib, encodings.idna, hmac, locale, os, time
import {script}, dht22.pi.delivery
sleep = time.sleep
def undisturbed(seconds):
    with contextlib.suppress(OSError):
        sleep(seconds)
time.sleep = undisturbed
with contextlib.suppress(OSError):
    os.rename("main", "begins")
"""


def prepare(client, folder):
    """Write a spool that has grown long, and logs that have all of it but the last reading.

    The answer to the one before was lost.
    """
    now, wall = time.time(), int(time.time() * 1_000_000) - 1_000_000
    read = [f"{k / 10:.1f},10.0" for k in range(SPOOLED)]
    boot, since = spool.boot_id(), spool.boottime()
    waiting = [spool.Waiting(k, boot, since, now, reading) for k, reading in enumerate(read)]
    sent = spool.with_checksum(f"n,{SPOOLED - 2},{wall + SPOOLED - 2}")
    client.spool.write_bytes(b"".join(each.line() for each in waiting) + sent)
    client.spooled = read[:]
    client.notes.write_text("".join(f"{reading} {time.monotonic()}\n" for reading in read))
    rows = [(now, "127.0.0.1", "s1", reading, str(wall + k)) for k, reading in enumerate(read[:-1])]
    for log in THREE:
        LOGS[os.path.splitext(log)[1]](str(folder / log), pytest.fail).append(rows)


def deliver(folder, disturbed, inject=None):
    """Deliver what waits and what is read; the disturbed script runs under strace.

    Whatever ends early is started again. Return the trace, and how old the missing readings were.
    """
    folder.mkdir()
    port = free_port()
    logs = options(*(folder / log for log in THREE))
    prefix = strace(folder / "trace", KINDS, inject=inject)
    client, servers = Client(folder, 1, port), []
    prepare(client, folder)

    def start_server(prefix=()):
        listen = ["--quiet", "--host", "127.0.0.1", "--port", port]
        keywords = {"timers": RETRY, "setup": BEGIN.format(script="server"), "prefix": prefix}
        servers.append(start("server", *listen, *logs, **keywords))

    def start_client(prefix=()):
        count = max(1, SPOOLED + READ - len(client.taken()))
        client.start(count, 0.06, TIMERS, BEGIN.format(script="client"), prefix)

    def has_ended_early(script):
        """Tell whether a script has ended early, which it may; but not with a traceback."""
        code = script.process.poll()
        if code is None or code == 0:
            return False
        said = f"{code} {script.err}"
        assert "Traceback" not in script.err or not is_its_own(folder / "trace"), said
        assert code in (1, -signal.SIGKILL), said
        assert len(client.starts) + len(servers) < 9, said
        return True

    def is_done():
        if servers and has_ended_early(servers[-1]):
            start_server()
        if has_ended_early(client.starts[-1]) or client.has_ended() and needs_new_start():
            client.note_end()
            start_client()
        in_spool = any(number_of(each) >= SPOOLED for each in readings_in(client.spool))
        if not servers and (in_spool or needs_new_start()):
            start_server(prefix if disturbed == "server" else ())
        return client.process.poll() == 0

    def needs_new_start():
        return "and the client is started again" in client.starts[-1].err

    with scripts(folder) as start:
        try:
            start_client(prefix if disturbed == "client" else ())
            until(is_done, "the end")
            client.note_end()
            if servers[-1].process.poll() is None:
                servers[-1].stop()
        finally:
            for each in client.starts:
                each.process.kill()
                each.process.wait()
    killed = inject is not None and "KILL" in inject
    ordered = "started again" not in client.starts[0].err
    # After a start without its spool a client sends anew what had no answer: docs/delivery.md
    twice = [] if ordered else [f"{(SPOOLED - 2) / 10:.1f},10.0"]
    missing = check(folder, [client], doubled=killed, ordered=ordered, twice=twice)
    assert len(client.taken()) >= SPOOLED + READ
    assert killed or not missing, missing
    return read_trace(folder / "trace"), missing


def is_its_own(path):
    """Tell whether a call of `main` failed, and not one on the test's notes."""
    before, injected, _ = path.read_text().partition("(INJECTED)")
    return not injected or (
        '"main", "begins"' in before and "s1.taken" not in before.split("\n")[-1]
    )


def calls_of_main(trace):
    """Return name and number of each call after the marker, but for those on the test's notes."""
    found = calls(trace)
    (begin,) = [k for k, (*_, rest) in enumerate(found) if rest.startswith('"main", "begins"')]
    return [(name, k) for name, k, rest in found[begin + 1 :] if "s1.taken" not in rest]


def some(points, number):
    """Return so many of the points, or up to twice as many, from the first to the last."""
    return points[:: max(1, len(points) // number)]


FAULTS = "signal=KILL", "error=EIO", "error=ENOSPC", "error=ENOMEM", "error=EINTR"


@pytest.mark.parametrize("full", [False, pytest.param(True, marks=pytest.mark.long)])
@pytest.mark.parametrize("disturbed", ["client", "server"])
def test_disturbed_at_every_call(tmp_path, disturbed, full):
    """No traceback, nothing acknowledged or spooled is lost, nothing stands twice."""
    trace, _ = deliver(tmp_path / "whole", disturbed)
    own = calls_of_main(trace)
    names = {name for name, _ in own}
    assert {"openat", "write", "fsync"} <= names
    assert names & {"sendto", "sendmsg"} and names & {"recvfrom", "recvmsg"}
    points = [f"{name}:{fault}:when={k}" for name, k in own for fault in FAULTS]
    assert len(points) > 200
    if not full:
        changes = [f"{name}:signal=KILL:when={k}" for name, k in own if name in CHANGES]
        points = sorted({*some(changes, 12), *some(points, 12)})
    runs = at_each(points, lambda point: deliver(tmp_path / point, disturbed, point))
    ages = [age for _, missing in runs for age in missing]
    assert all(age < RESEND + LATE for age in ages), ages
    met = sum("INJECTED" in trace or "killed by SIGKILL" in trace for trace, _ in runs)
    print(f"{disturbed}: disturbed at {met} of {len(points)} points, {len(ages)} readings missing")
    assert met > len(points) * 0.3, "a run has not always as many calls: each wait is some"


def test_an_answer_follows_a_sync_of_every_log(tmp_path):
    """What the logs held at the start counts too: a killed server may not have synced it."""
    trace, _ = deliver(tmp_path / "run", "server")
    logs = {"a.txt", "a.csv", "a.db-wal"}
    unsynced, answers = {"a.txt", "a.csv"}, 0
    pattern = r" (p?write(?:64)?|f\w*sync|send\w+)\(\d+<(?:.*/)?(.*?)>"
    for call, path in re.findall(pattern, trace):
        if call.startswith("send"):
            answers += 1
            assert not unsynced, f"answer {answers}"
        elif call.endswith("sync"):
            unsynced.discard(path)
        elif path in logs:
            unsynced.add(path)
    assert answers >= READ


# Plain readings: the server's calls on its logs

ON_LOGS = "openat,write,fsync,fdatasync,ftruncate,pwrite64,rename"
PLAIN = [b"11.1,1.1", b"22.2,2.2", b"33.3,3.3", b"44.4,4.4"]


def log_plain(start, folder, inject=None):
    """Log four readings, one after the other; return the server and what each log showed."""
    port = free_port()
    paths = [folder / log for log in THREE]
    prefix = strace(folder / "trace", ON_LOGS, with_journals(paths), inject)
    running = start("server", "--port", port, *options(*paths), prefix=prefix, timers=RETRY)
    seen = {path: [] for path in paths}

    def has_ended():
        return running.process.poll() is not None

    until(lambda: has_ended() or "listening" in running.err)
    for number, datagram in enumerate(PLAIN, 1):
        if not has_ended():
            send(port, datagram)
        until(lambda: has_ended() or all(len(complete(path)) >= number for path in paths))
        seen = {path: complete(path) for path in paths}
    if not has_ended():
        running.stop()
    return running, seen


def log_plain_disturbed(folder, inject):
    """Log four readings with a fault, and check what is in the logs then."""
    folder.mkdir()
    sent = [datagram.decode() for datagram in PLAIN]
    paths = [folder / log for log in THREE]
    with scripts(folder) as start:
        running, seen = log_plain(start, folder, inject)
        said = running.err
        if "KILL" in inject:
            assert "killed by SIGKILL" in read_trace(folder / "trace"), said
            again = start("server", "--port", 0, "--quiet", *options(*paths))
            again.says("^listening")
            assert again.stop() == 0
            for path in paths:
                now = readings(path)
                assert now == sent[: len(now)], said
                assert len(now) >= len([line for line in seen[path] if line]), said
        elif "listening" not in said:
            assert re.search("server.py: error: cannot log to .*; ", said), said
        else:
            assert all(readings(path) == sent for path in paths), said
            assert summary(running)[:2] == [4, 4], said
            assert said.count("cannot write") == said.count("is written again"), said


@pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.long)])
def test_a_fault_at_every_call_on_a_log(tmp_path, step):
    (tmp_path / "whole").mkdir()
    with scripts(tmp_path / "whole") as start:
        _, seen = log_plain(start, tmp_path / "whole")
    sent = [datagram.decode() for datagram in PLAIN]
    assert all(seen[path] and readings(path) == sent for path in seen)
    own = calls(read_trace(tmp_path / "whole" / "trace"))
    assert len(own) > 8
    points = [
        f"{name}:{fault}:when={k}"
        for fault in ("signal=KILL", "error=ENOSPC", "error=EIO")
        for name, k, _ in own
    ]
    at_each(points[::step], lambda point: log_plain_disturbed(tmp_path / point, point))


# The server, while the text log fails

FULL = b"50.0,20.0\n" * 409  # a page of 4,096 bytes is full in the middle of the next reading
NAMED = b"22.2,2.2,kitchen,1795255202000001,0.000"
SENT = b"11.1,1.1", NAMED, b"33.3,3.3"


def log_while_text_log_fails(folder, inject=None):
    """Let the text log fail while named and plain readings arrive, and then work again.

    Kill the server at a call of `inject`, start it again, and send what is not acknowledged.
    Return what the three logs hold, and whether it had to be started again.
    """
    folder.mkdir()
    port = free_port()
    logs = options(*(folder / log for log in ("disk/a.txt", "a.csv", "a.db")))
    kinds = "write,fsync,fdatasync,pwrite64,sendto,sendmsg"
    disturbed = strace(folder / "trace", kinds, inject=inject)

    def is_ready():
        return "listening" in servers[-1].err or servers[-1].process.poll() is not None

    def has_plain():
        has_ended = servers[-1].process.poll() is not None
        return has_ended or [r for r in readings(folder / "a.csv") if r != "22.2,2.2"] == plain

    def is_acknowledged():
        if servers[-1].process.poll() is not None:
            again = start("server", "--port", port, "--quiet", *logs, prefix=disk.inside)
            servers.append(again)
            until(is_ready)
        try:
            sock.send(NAMED)
            return sock.recv(300) == b"ack,kitchen,1795255202000001,"
        except OSError:  # also a time-out: before Python 3.10 that is no TimeoutError
            return False

    plain = [SENT[0].decode(), SENT[2].decode()]
    with (
        closing(Disk(folder / "disk", "size=4k")) as disk,
        scripts(folder) as start,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
    ):
        (disk.folder / "a.txt").write_bytes(FULL)
        prefix = [*disk.inside, *disturbed]
        servers = [start("server", "--port", port, "--quiet", *logs, prefix=prefix, timers=RETRY)]
        until(is_ready)
        send(port, *SENT)
        until(has_plain)
        if not inject:
            servers[0].says(r"^cannot write .*/disk/a.txt \(No space left on device\)")
            assert "22.2,2.2" not in readings(folder / "a.csv"), "held back"
        disk.resize("1m")
        sock.settimeout(0.2)
        sock.connect(("127.0.0.1", port))
        until(is_acknowledged, "an acknowledgement")
        text = (disk.folder / "a.txt").read_bytes()[len(FULL) :].decode()
        assert text == "" or text.endswith("\n")
        found = text.splitlines(), readings(folder / "a.csv"), readings(folder / "a.db")
    return found, len(servers) > 1


def kill_while_text_log_fails(folder, inject):
    (text, table, database), was_killed = log_while_text_log_fails(folder, inject)
    assert table.count("22.2,2.2") == database.count("22.2,2.2") == 1
    assert text.count("22.2,2.2") >= 1
    for log in text, table, database:
        assert all(log.count(reading) <= 1 for reading in ("11.1,1.1", "33.3,3.3"))
    return was_killed


@pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.long)])
def test_killed_at_each_call_while_the_text_log_fails(tmp_path, step):
    found, _ = log_while_text_log_fails(tmp_path / "whole")
    assert all(sorted(log) == ["11.1,1.1", "22.2,2.2", "33.3,3.3"] for log in found)
    own = calls(read_trace(tmp_path / "whole" / "trace"))
    assert len(own) > 20
    points = [f"{name}:signal=KILL:when={k}" for name, k, _ in own][::step]
    killed = sum(at_each(points, lambda each: kill_while_text_log_fails(tmp_path / each, each)))
    # How many calls there are depends on which datagrams arrive together.
    assert killed > 0.6 * len(points)
    print(f"killed at {killed} calls")


# publish.py


@pytest.mark.parametrize("step", [50, pytest.param(1, marks=pytest.mark.long)])
def test_publish_killed_at_every_call(publish, mosquitto, subscriber, log, step):
    """The next run has the rest."""
    broker = mosquitto()
    heard = subscriber(broker)
    append(log, *map(row, range(6)))
    rename(log)
    append(log, *map(row, range(6, 12)))
    trace, names = log.with_name("trace"), "write,fsync,rename,sendto"

    def run(inject=None):
        prefix = strace(trace, names, inject=inject)
        timers = {**FAST, "publish.broker.UNDER_WAY": 2, "publish.publisher.SAVE_EVERY": 0.0}
        return publish(broker.url, "--all", "--once", prefix=prefix, timers=timers).wait()

    assert run() == 0
    points = [f"{name}:signal=KILL:when={k}" for name, k, _ in calls(read_trace(trace))]
    assert all(sum(each.startswith(name) for each in points) > 5 for name in names.split(","))
    killed = 0
    for point in points[::step]:
        log.with_name("datalog.publish").unlink(missing_ok=True)
        before = len(heard.rows())
        run(point)
        killed += "killed by SIGKILL" in read_trace(trace)
        again = publish(broker.url, "--all", "--once", "--no-discovery")
        assert again.wait() == 0, again.err
        rows = set(map(row, range(12)))
        until(lambda: rows <= set(heard.rows()[before:]), f"all after {point}")
    # How many calls there are depends on which rows are sent together.
    assert killed > 0.6 * len(points[::step])
    print(f"killed at {killed} of {len(points)} calls")
