"""Named sensors: every reading logged exactly once, at its right time, whatever goes wrong."""

import re
import socket
import threading
import time
from collections import Counter

import pytest

from dht22.datagram import HIGHEST_N, format_ack, parse
from dht22.pi import delivery
from dht22.pi.link import Link
from dht22.pi.spool import Spool
from dht22.stop import Stop
from support.made import HEADER
from support.numbered import logged, rows, size, taken
from support.strace import read_trace, strace
from support.tools import (
    DEADLINE,
    free_port,
    lines,
    send,
    until,
    waited,
)

A_YEAR_BACK = "import time; true = time.time; time.time = lambda: true() - 365 * 86400\n"
NO_CLOCK = (
    "import time; started = time.monotonic(); time.time = lambda: time.monotonic() - started\n"
)


def answer_takes(port):
    """Return the seconds that the server takes to answer, the mean of fifty readings."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(DEADLINE)
        start = time.monotonic()
        for n in range(10**15 + 1, 10**15 + 51):
            sock.sendto(b"50.0,20.0,other,%d,0.000" % n, ("127.0.0.1", port))
            sock.recv(300)
    return (time.monotonic() - start) / 50


ANOTHER_BOOT = """
from dht22.pi import delivery, spool
spool.boot_id = delivery.boot_id = lambda: "0ea-1"
"""
JUST_BOOTED = """
import time
from dht22.pi import spool
begun = time.monotonic()
spool.boottime = lambda: time.monotonic() - begun
"""


# The server away, and back


@pytest.mark.parametrize("number", [300, pytest.param(2000, marks=pytest.mark.long)])
def test_what_was_read_while_the_server_was_away_is_delivered_on_its_right_time(
    sensor, server, tmp_path, number
):
    port = free_port()
    before = sensor(port, "--interval", 0.002)
    until(lambda: len(before.read()) >= number // 2)
    assert before.stop() == 0
    assert before.says(r"^(\d+) readings left in .*, to be delivered after the next start$")[
        1
    ] == str(len(before.read()))
    after = sensor(
        port, "--interval", 0.002, "--count", number - len(before.read()), setup=A_YEAR_BACK
    )
    read = until(
        lambda: len(before.read() + after.read()) == number and before.read() + after.read()
    )
    assert len(set(read)) == number and not (tmp_path / "datalog.csv").exists()

    running = server("--quiet", port=port)
    until(lambda: size(tmp_path / "datalog.csv") > 100)
    already, start = len(rows(tmp_path / "datalog.csv")), time.monotonic()
    assert after.wait() == 0
    took = (time.monotonic() - start) / (number - already)
    late_at_most = 0.050 + waited(running)
    delivered = rows(tmp_path / "datalog.csv")
    assert [row.reading for row in delivered] == read == lines(tmp_path / "datalog.txt")
    read_at = taken(tmp_path / "notes0", clock=2)
    late = max(abs(row.time - read_at[row.reading]) for row in delivered)
    answer = answer_takes(port)
    print(
        f"{took * 1000:.1f} ms a reading, an answer takes {answer * 1000:.1f} ms;"
        f" {late * 1000:.0f} ms off their time at most"
    )
    assert late < late_at_most
    assert took < 0.005 + 4 * answer
    assert (tmp_path / "kitchen0.spool").read_bytes() == b"", "emptied once all is acknowledged"


@pytest.mark.parametrize("clock", ["", A_YEAR_BACK], ids=["right", "wrong"])
def test_after_a_new_start_of_the_pi_the_time_is_as_right_as_its_clock_which_is_said(
    sensor, server, tmp_path, clock
):
    port = free_port()
    before = sensor(port, "--interval", 0.01, setup=ANOTHER_BOOT)
    until(lambda: len(before.read()) >= 20)
    assert before.stop() == 0
    again = time.time()
    after = sensor(
        *[port, "--interval", 0.01, "--count", 10],
        setup=clock + JUST_BOOTED,
        timers={"pi.spool.CLOCK_PATIENCE": 0.0},
    )
    after.says(
        "^some unsent readings are from before the Pi was restarted: "
        "their times are right only if its clock was right then and is right now$"
    )
    assert before.err.count("restarted") == 0 and after.err.count("restarted") == 1
    running = server("--quiet", port=port)
    assert after.wait() == 0
    late = 0.05 + waited(running)
    read_at = taken(tmp_path / "notes0", clock=2)
    delivered = rows(tmp_path / "datalog.csv")
    assert [row.reading for row in delivered] == before.read() + after.read()
    started = read_at[after.read()[0]]  # a moment later, when it first read
    for number, row in enumerate(delivered):
        if clock and number < len(before.read()):
            assert again < row.time < started + late, (
                "at this start: that they are older is all that is known"
            )
        else:
            assert abs(row.time - read_at[row.reading]) < late


@pytest.mark.parametrize("is_set", [True, False], ids=["set late", "never set"])
def test_after_a_new_start_of_the_pi_old_readings_wait_until_its_clock_is_set(
    sensor, server, tmp_path, is_set
):
    synchronized = tmp_path / "synchronized"
    setup = f"""{JUST_BOOTED}
import os
spool.CLOCK_IS_SET, true = {str(synchronized)!r}, time.time
time.time = lambda: true() - 3600 * (not os.path.exists(spool.CLOCK_IS_SET))
"""
    port = free_port()
    before = sensor(port, "--interval", 0.01, setup=ANOTHER_BOOT)
    until(lambda: len(before.read()) >= 20)
    assert before.stop() == 0
    running = server("--quiet", port=port)
    timers = {"pi.spool.CLOCK_PATIENCE": 1000.0 if is_set else 0.5}
    after = sensor(port, "--interval", 0.01, "--count", 30, setup=setup, timers=timers)
    after.says("^they wait until the clock is set, for 5 minutes after the start at most$")
    if is_set:
        until(lambda: len(after.read()) == 30)
        assert (tmp_path / "datalog.csv").read_text() == HEADER
        synchronized.touch()
    assert after.wait() == 0
    assert "no answer" not in after.err
    late = 0.05 + waited(running)
    read_at = taken(tmp_path / "notes0", clock=2)
    delivered = rows(tmp_path / "datalog.csv")
    assert [row.reading for row in delivered] == before.read() + after.read()
    if is_set:
        assert all(abs(row.time - read_at[row.reading]) < late for row in delivered)


# Two clients, a lost spool, a shared one


@pytest.mark.parametrize("clock", ["", NO_CLOCK], ids=["good clocks", "no clocks"])
def test_of_two_clients_with_one_name_none_is_lost_and_it_is_said(sensor, server, tmp_path, clock):
    running = server("--quiet")
    gun = tmp_path / "go"
    at_once = (
        f"import os, sys, time\nprint('ready', file=sys.stderr)\n"
        f"while not os.path.exists({str(gun)!r}):\n    time.sleep(0.001)\n"
    )
    both = [
        sensor(
            running.port,
            "--interval",
            0.05,  # no shorter than RESEND: the other one would have no turn
            "--count",
            60,
            first=first,
            host=host,
            setup=clock + at_once,
        )
        for first, host in [(0, "127.0.0.1"), (500_000, "::1")]
    ]
    until(lambda: all("ready" in each.err for each in both))
    gun.touch()
    assert [each.wait() for each in both] == [0, 0]
    times = Counter(logged(tmp_path / "datalog.csv"))
    assert set(times) == set(both[0].read() + both[1].read()) and len(times) == 120
    doubled = sum(times.values()) - 120
    print(f"{doubled} of 120 doubled")
    numbers = [int(row.n) for row in rows(tmp_path / "datalog.csv")]
    assert numbers == sorted(set(numbers)), "n increases, whoever sends"
    running.says(
        r"^kitchen comes from (127.0.0.1|::1) and (127.0.0.1|::1) in turn; "
        r"has each Pi a name of its own\?"
    )
    assert any(
        "does another client send as kitchen? Give each a name of its own" in each.err
        for each in both
    )
    assert all(each.err.count("another client") <= 1 for each in both), "said once"


def test_a_stranger_s_last_n_loses_nothing(sensor, server, tmp_path):
    """After it each reading would be a duplicate to the server, and acknowledged."""
    running = server("--quiet")
    send(running.port, b"50.0,20.0,kitchen,8999999999000000,0.000")
    until(lambda: logged(tmp_path / "datalog.csv"))
    client = sensor(running.port, "--interval", 0.01)
    client.says("^the server has had the last n of kitchen, .*; give another --name, or use keys$")
    until(lambda: len(client.read()) >= 30)
    assert client.stop() == 0
    assert client.says(r"^(\d+) readings left in .*, to be delivered after the next start$")[
        1
    ] == str(len(client.read()))
    assert logged(tmp_path / "datalog.csv") == ["50.0,20.0"]


def test_with_no_n_left_the_client_does_not_spin(desktop, tmp_path, monkeypatch):
    link = Link("127.0.0.1", desktop.getsockname()[1])
    link.look_up()
    sender = delivery.NamedSender(link, "kitchen", None, 60.0, Spool(str(tmp_path / "spool")))
    sender.highest = HIGHEST_N
    waits, wait = [], link.wait
    monkeypatch.setattr(link, "wait", lambda *args: waits.append(args) or wait(*args))
    sender.send("50.0,20.0")
    sender.serve(time.monotonic() + 0.2, Stop())
    assert len(waits) < 5
    sender.close()


def test_with_a_lost_spool_and_the_clock_behind_all_is_logged_once(sensor, server, tmp_path):
    running = server("--quiet")
    read = []
    for clock in "", A_YEAR_BACK, NO_CLOCK:
        client = sensor(running.port, "--interval", 0.005, "--count", 20, setup=clock)
        assert client.wait() == 0
        assert "another client" not in client.err, "the first n after a start may be too low"
        read += client.read()
        (tmp_path / "kitchen0.spool").unlink()
    assert logged(tmp_path / "datalog.csv") == read == lines(tmp_path / "datalog.txt")


# All is well


def test_while_all_is_acknowledged_nothing_is_written(client, desktop, tmp_path):
    answering = True
    numbers = []

    def answer():
        while answering:
            try:
                question, peer = desktop.recvfrom(300)
            except socket.timeout:
                continue
            named = parse(question)[1]
            if len(numbers) < 1000:
                numbers.append(named.n)
                desktop.sendto(format_ack(named.name, named.n, None), peer)

    calls = (
        "open,openat,creat,write,writev,pwrite64,fsync,fdatasync,truncate,ftruncate,fallocate,"
        "rename,renameat,renameat2,unlink,unlinkat,mkdir,link,linkat,sendto"
    )
    spool = tmp_path / "kitchen.spool"
    desktop.settimeout(0.1)
    thread = threading.Thread(target=answer)
    thread.start()
    try:
        running = client(
            *[desktop.getsockname()[1], "--name", "kitchen", "--interval", 0.001, "--spool", spool],
            timers={"pi.delivery.RESEND": 3.0},  # on a busy machine an answer may take a second
            prefix=strace(tmp_path / "trace", calls),
        )
        until(lambda: len(numbers) == 1000, seconds=60)
        trace = (tmp_path / "trace").read_text()
        until(
            lambda: size(spool)
        )  # the check below can fail: now that there are no answers, it is written
        assert running.stop() == 0
    finally:
        answering = False
        thread.join()
    spooled = read_trace(tmp_path / "trace")
    assert re.search(rf"write\(\d+<{spool}>", spooled) and re.search(
        rf"fsync\(\d+<{spool}>", spooled
    )
    assert len(set(numbers)) == 1000
    _start, sendto, rest = trace.partition("sendto(")
    assert sendto
    others = [
        line
        for line in rest.splitlines()[1:]
        if not re.search(r"^\d+ +(sendto\(|write\([12]<)|^\d+ +openat\(.*O_RDONLY", line)
    ]
    assert others == []
    assert rest.count("sendto(") >= 999


def test_an_age_is_that_of_the_moment_when_it_is_sent(sensor, desktop):
    """After a while without an answer the name is resolved anew, which takes its time."""
    client = sensor(
        desktop.getsockname()[1],
        *["--interval", 5],
        timers={
            "pi.delivery.FIRST_UNANSWERED": 0.3,
            "pi.delivery.UNANSWERED": 0.3,
            "pi.link.LOOK_UP": 0.1,
            "pi.link.LOOK_UP_REST": 0,
        },
        setup="""
import time
from dht22.pi import link
resolve = link.resolve
link.resolve = lambda *name: time.sleep(0.4) or resolve(*name)
""",
    )
    read = []
    while len(read) < 10:
        named = parse(desktop.recv(300))[1]
        read.append(time.monotonic() - named.age)
    client.says("no answer from")
    assert client.stop() == 0
    assert max(read) - min(read) < 0.2
