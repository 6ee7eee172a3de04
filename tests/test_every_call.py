"""The server and the client, disturbed at every call that they make to the system."""

import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from dht22.pi import spool
from support.killed import LATE, RESEND, Client, in_database, k_of, lines_of, reading_of
from support.tools import Script, free_port, needs, options, readings, until

KINDS = (
    "openat,read,write,fsync,fdatasync,ftruncate,pread64,pwrite64,?rename,?unlink,sendto,recvfrom,"
    "recvmsg,?poll,?select,?pselect6"
)
SPOOLED, READ = 6, 4  # readings that wait at the start, and that are read
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


def play(folder, disturbed, inject=None):
    """Deliver what waits and what is read; the disturbed script runs under strace.

    Whatever ends early is started again. Return the trace, and how old the missing readings were.
    """
    folder.mkdir()
    port = free_port()
    logs = options(*(folder / f"a.{ending}" for ending in ("txt", "csv", "db")))
    words = ["strace", "-D", "-f", "-y", "-o", folder / "trace", "-e", f"trace={KINDS}"]
    prefix = [*words, "-e", f"inject={inject}"] if inject else words
    servers = []

    def start_server(prefix=()):
        listen = ["--quiet", "--host", "127.0.0.1", "--port", port]
        setup = BEGIN.format(script="server")
        timers = {"server.writer.LOG_RETRY": 0.05}
        servers.append(
            Script(folder, "server", *listen, *logs, prefix=prefix, setup=setup, timers=timers)
        )

    def start_client(prefix=()):
        count = max(1, SPOOLED + READ - len(client.taken()))
        setup = "from dht22.pi import spool\nspool.WRITE_AGAIN = 0.05\n"
        setup += f"spool.LONG_FILE = {SPOOLED - 2}\n"
        client.start(count, 0.06, setup + BEGIN.format(script="client"), prefix)

    def has_ended(script):
        """Tell whether a script has ended early, which it may; but not with a traceback."""
        code = script.process.poll()
        if code is None or code == 0:
            return False
        said = f"{disturbed} {inject}: {code} {script.err}"
        assert "Traceback" not in script.err or not is_its_own(folder / "trace"), said
        assert code in (1, -signal.SIGKILL), said
        assert len(client.starts) + len(servers) < 9, said
        return True

    def is_done():
        if servers and has_ended(servers[-1]):
            start_server()
        if has_ended(client.starts[-1]) or client.process.poll() == 0 and needs_new_start():
            client.note_end()
            start_client()
        in_spool = any(k_of(each) >= SPOOLED for each in lines_of(client.spool) if each)
        if not servers and (in_spool or needs_new_start()):
            start_server(prefix if disturbed == "server" else ())
        return client.process.poll() == 0

    def needs_new_start():
        return "and the client is started again" in client.starts[-1].err

    client = Client(folder, 1, port)
    waiting = [
        spool.Waiting(k, spool.boot_id(), spool.boottime(), time.time(), reading_of(k))
        for k in range(SPOOLED)
    ]
    client.spool.write_bytes(b"".join(each.line() for each in waiting))
    client.spooled = [each.reading for each in waiting]
    client.note.write_text("".join(f"{each.reading} {time.monotonic()}\n" for each in waiting))
    try:
        start_client(prefix if disturbed == "client" else ())
        until(is_done, f"the end, {disturbed} {inject}")
        client.note_end()
        if servers[-1].process.poll() is None:
            servers[-1].stop()
    finally:
        for each in [*client.starts, *servers]:
            each.process.kill()
            each.process.wait()
    try:
        missing = check(folder, client, killed=inject is not None and "KILL" in inject)
    except AssertionError as error:
        raise AssertionError(f"{disturbed} {inject}: {error}\n{servers[0].err}") from error
    until(lambda: "+++ " in (folder / "trace").read_text(), "the end of the trace")
    return (folder / "trace").read_text(), missing


def check(folder, client, killed):
    """Compare the logs with what was read; return how old the missing readings were at a kill."""
    table, text = readings(folder / "a.csv"), readings(folder / "a.txt")
    database, _ = in_database(folder / "a.db", client.name)
    taken = client.taken()
    assert len(taken) >= SPOOLED + READ
    for log in table, database:
        numbers = [k_of(reading) for reading in log]
        assert len(set(numbers)) == len(numbers), f"doubled: {numbers}"
        assert numbers == sorted(numbers) or "started again" in client.starts[0].err
    assert set(table) <= set(text) and set(table) <= set(database) and set(table) <= taken.keys()
    assert killed or set(text) == set(table) == set(database)
    assert set(client.spooled) <= set(table), "spooled, and not on the CSV"
    missing = []
    for printed, end in zip(client.printed(), client.ends):
        missing += [end - taken[reading] for reading in printed if reading not in table]
    assert killed or not missing, missing
    return missing


def is_its_own(path):
    """Tell whether a call of `main` failed: not one of an import before, nor of the test's note."""
    before, injected, _ = path.read_text().partition("(INJECTED)")
    return not injected or (
        '"main", "begins"' in before and "s1.taken" not in before.split("\n")[-1]
    )


def calls_of_main(trace):
    """Return each call after the marker with its number among those of its name: ("write", 3)."""
    found, numbers, begun = [], {}, False
    for name, rest in re.findall(r"^(?:\d+ +)?(\w+)\((.*)", trace, re.MULTILINE):
        numbers[name] = numbers.get(name, 0) + 1
        if begun and "s1.taken" not in rest:  # which the test alone writes
            found.append((name, numbers[name]))
        begun = begun or rest.startswith('"main", "begins"')
    return found


@pytest.mark.parametrize("step", [101, pytest.param(1, marks=pytest.mark.long)])
@pytest.mark.parametrize("disturbed", ["client", "server"])
def test_disturbed_at_every_call(tmp_path, disturbed, step):
    """No traceback, nothing acknowledged or spooled is lost, nothing stands twice."""
    needs("strace")
    trace, _ = play(tmp_path / "whole", disturbed)
    faults = "signal=KILL", "error=EIO", "error=ENOSPC", "error=ENOMEM", "error=EINTR"
    points = [f"{name}:{fault}:when={k}" for name, k in calls_of_main(trace) for fault in faults][
        ::step
    ]
    assert len(points) * step > 200

    failures = []

    def run(number):
        try:
            return play(tmp_path / str(number), disturbed, points[number])
        except (AssertionError, pytest.fail.Exception) as error:
            failures.append(f"{tmp_path / str(number)}: {error}")
            return "", []

    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(run, range(len(points))))
    assert not failures, "\n".join(failures)
    ages = [age for _, missing in runs for age in missing]
    assert all(age < RESEND + LATE for age in ages)
    met = sum("INJECTED" in trace or "killed by SIGKILL" in trace for trace, _ in runs)
    print(f"{disturbed}: disturbed at {met} of {len(points)} points, {len(ages)} readings missing")
    assert met > len(points) * 0.5, "a run has not always as many calls: each wait is some"
