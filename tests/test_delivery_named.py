"""Named sensors: every reading logged exactly once, at its right time, whatever goes wrong."""

import os
import re
import socket
import subprocess
import sys
import threading
import time
import types
from collections import Counter
from contextlib import suppress

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
    missing,
    needs,
    needs_namespaces,
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
    after = sensor(
        port,
        "--interval",
        0.01,
        "--count",
        10,
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
            assert started - 0.5 < row.time < started + late, (
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
    after.says("^they wait until the clock is set, for 2 minutes after the start at most$")
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


def test_forged_answers_cost_neither_disk_nor_network(sensor, desktop, tmp_path):
    """An answer with a higher n for each question: one new n a resend period."""
    client = sensor(
        desktop.getsockname()[1],
        *["--interval", 0.01],
        timers={"pi.delivery.RESEND": 0.2, "pi.delivery.RESEND_MOST": (10, 10)},
    )
    question, peer = desktop.recvfrom(300)
    until(lambda: size(tmp_path / "kitchen0.spool"))
    desktop.setblocking(False)
    questions, last, end = [question], 0, time.monotonic() + 3
    while time.monotonic() < end:
        last = max(last, *(parse(each)[1].n for each in questions)) + 1000
        with suppress(BlockingIOError):
            desktop.sendto(format_ack("kitchen", last, None), peer)
            questions.append(desktop.recv(300))
        time.sleep(0.0005)
    numbers = {parse(each)[1].n for each in questions}
    marks = [line for line in lines(tmp_path / "kitchen0.spool") if line.startswith("n,")]
    assert 10 < len(numbers) <= 3 / 0.2 + 2
    assert len(marks) <= len(numbers) + 1 and len(questions) < 60
    assert client.stop() == 0


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


def test_a_spool_that_another_client_has(sensor, tmp_path):
    port = free_port()
    having = sensor(port, "--interval", 0.01)
    until(lambda: size(tmp_path / "kitchen0.spool"))
    wanting = sensor(port, "--interval", 0.01)
    assert wanting.wait() == 1
    assert re.fullmatch(
        r"client.py: error: cannot use the spool .*/kitchen0.spool \(another .* writes it\); "
        r"give another --name or --spool; if it was cron .* \(docs/delivery.md\)\n",
        wanting.err,
    )
    assert wanting.out == "" and having.process.poll() is None
    assert having.stop() == 0


@pytest.mark.parametrize("state, folder", [("", "home/.local/state"), ("state", "state")])
def test_where_the_spool_is_without_the_option(client, tmp_path, state, folder):
    home, state = str(tmp_path / "home"), state and str(tmp_path / state)
    started = client(
        *[free_port(), "--interval", 0.01, "--name", "kitchen"],
        env={"HOME": home, "XDG_STATE_HOME": state},
        timers={"pi.delivery.RESEND": 0.05},
    )
    until(lambda: size(tmp_path / folder / "dht22" / "kitchen.spool"))
    assert started.stop() == 0
    assert list(tmp_path.rglob("*.spool")) == [tmp_path / folder / "dht22" / "kitchen.spool"]


def test_without_a_home_folder_it_asks_for_the_place_of_the_spool(client, tmp_path):
    started = client(
        *[free_port(), "--name", "kitchen"],
        env={"XDG_STATE_HOME": ""},
        setup="import os, pwd\ndel os.environ['HOME']\npwd.getpwuid = {}.__getitem__\n",
    )
    assert started.wait() == 1
    error = "the home folder of this user is unknown; give the spool's place with --spool"
    assert started.err == f"client.py: error: {error}\n"
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"buy milk\n",
        b"buy milk",
        b"74.3,25.7\n",
        HEADER.encode(),
        b"kitchen " + b"0" * 64 + b"\n",
        b"\n",
        b"\x89PNG\r\n",
        b"n,0,1795255202123456\nbuy milk\n",
        b"buy milk\nn,0,1795255202123456\n",
    ],
    ids=ascii,
)
def test_a_foreign_file_as_spool_is_refused_untouched(sensor, tmp_path, content):
    (tmp_path / "kitchen0.spool").write_bytes(content)
    client = sensor(10001)
    assert client.wait() == 1
    assert re.fullmatch(
        r"client.py: error: cannot use the spool .* \(not a file of ours: .*\); give another .*\n",
        client.err,
    )
    assert (tmp_path / "kitchen0.spool").read_bytes() == content


# Two addresses


def test_an_answer_from_another_address_of_the_desktop_is_taken(sensor, desktop):
    """A server on Windows answers from the address that the route gives."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.2", 0))
        port = desktop.getsockname()[1]
        client = sensor(port, "--interval", 0.01, "--count", 5, timers={"pi.delivery.RESEND": 60})
        for _ in range(5):
            question, peer = desktop.recvfrom(300)
            other.sendto(b"ack,kitchen,%d," % parse(question)[1].n, peer)
    assert client.wait() == 0 and len(client.read()) == 5


TWO_ADDRESSES = """
ip link add desktop type veth peer name pi netns {pi}
ip addr add 10.9.8.1/24 dev desktop
ip addr add 10.9.8.2/24 dev desktop
ip link set desktop up
nsenter -t {pi} -n ip addr add 10.9.8.3/24 dev pi
nsenter -t {pi} -n ip link set pi up
exec "$@"
"""
WHO_ANSWERS = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.settimeout(0.5)
    for _ in range(20):
        sock.sendto(b"50.0,20.0,other,1000000000000001,0.000", ("10.9.8.2", 10001))
        try:
            print(sock.recvfrom(300)[1][0])
            break
        except socket.timeout:
            pass
"""


def test_a_desktop_answers_from_the_one_of_its_two_addresses_that_was_asked(
    script, sensor, tmp_path
):
    needs_namespaces()
    needs("ip", "nsenter")
    if subprocess.run(
        ["unshare", "-rn", "ip", "link", "add", "desktop", "type", "veth", "peer", "name", "pi"],
        stderr=subprocess.DEVNULL,
    ).returncode:
        missing("the right to make networks (unshare -rn, veth)")
    pi = subprocess.Popen(["unshare", "-rn", "sleep", "60"])
    try:
        until(lambda: os.readlink(f"/proc/{pi.pid}/exe").endswith("sleep"))
        there = ["nsenter", "-t", str(pi.pid), "-U", "--preserve-credentials"]
        desktop = script(
            "server",
            "--quiet",
            prefix=[*there, "unshare", "-n", "sh", "-ec", TWO_ADDRESSES.format(pi=pi.pid), "sh"],
        )
        desktop.says("^listening on ")
        answers = subprocess.run(
            [*there, "-n", sys.executable, "-c", WHO_ANSWERS], stdout=subprocess.PIPE, check=True
        )
        assert answers.stdout == b"10.9.8.2\n"
        client = sensor(
            10001, "--interval", 0.01, "--count", 5, host="10.9.8.2", prefix=[*there, "-n"]
        )
        assert client.wait() == 0
        assert logged(tmp_path / "datalog.csv")[1:] == client.read()
    finally:
        pi.kill()
        pi.wait()


@pytest.mark.parametrize("ahead", [0, 1000], ids=["settled", "a later n"])
def test_a_later_silence_has_the_patience_of_one_who_was_answered(sensor, desktop, ahead):
    client = sensor(
        desktop.getsockname()[1],
        *["--interval", 0.05],
        timers={"pi.delivery.FIRST_UNANSWERED": 30, "pi.delivery.UNANSWERED": 0.5},
    )
    question, peer = desktop.recvfrom(300)
    desktop.sendto(format_ack("kitchen", parse(question)[1].n + ahead, None), peer)
    assert client.says("^no answer from .* for (.*) s:")[1] == "0.5"
    assert client.stop() == 0


def test_a_later_n_is_an_answer_too(sensor, desktop):
    client = sensor(
        desktop.getsockname()[1],
        *["--interval", 0.05],
        timers={"pi.delivery.FIRST_UNANSWERED": 2, "pi.delivery.UNANSWERED": 2},
    )
    end = time.monotonic() + 3
    while time.monotonic() < end:
        question, peer = desktop.recvfrom(300)
        desktop.sendto(format_ack("kitchen", parse(question)[1].n + 1000, None), peer)
    assert client.stop() == 0
    assert "no answer" not in client.err


def test_no_silence_begins_before_something_is_sent(desktop, tmp_path, monkeypatch):
    """Sensors that are read once in ten minutes are silent meanwhile, and so is the server."""
    now = 1000.0
    clock = types.SimpleNamespace(time=time.time, monotonic=lambda: now)
    monkeypatch.setattr(delivery, "time", clock)
    link = Link("127.0.0.1", desktop.getsockname()[1])
    link.look_up()
    sender = delivery.NamedSender(link, "kitchen", None, 600.0, Spool(str(tmp_path / "spool")))
    for _ in range(3):
        sender.send("50.0,20.0")
        sender.deliver(now, Stop())
        assert not link.trouble.said
        question, peer = desktop.recvfrom(300)
        desktop.sendto(format_ack("kitchen", parse(question)[1].n, None), peer)
        until(lambda: sender.deliver(now, Stop()) or not sender.queue)
        now += 600
    sender.send("50.0,20.0")
    sender.deliver(now, Stop())
    now += 59
    sender.deliver(now, Stop())
    assert not link.trouble.said
    now += 2
    sender.deliver(now, Stop())
    assert link.trouble.said == {"silent"}
    sender.close()


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


SLOW = """
import time
from dht22.pi import sensor

def read():
    time.sleep(0.2)
    return 50.0, 20.0

driver = sensor.Driver("simulated", "", read, 1, 0.0, made_up=True)
sensor.DRIVERS["simulated"] = lambda *_: driver
"""


def test_an_answer_that_came_while_the_sensor_was_read_is_taken_first(sensor, desktop, tmp_path):
    """The sensor is read without a pause, and longer than the first timeout."""
    client = sensor(
        desktop.getsockname()[1],
        *["--interval", 0, "--count", 6],
        timers={"pi.delivery.RESEND": 0.1},
        setup=SLOW,
    )
    first, numbers = time.time(), []
    desktop.settimeout(0.1)
    while client.process.poll() is None:
        with suppress(socket.timeout):
            question, peer = desktop.recvfrom(300)
            numbers.append(parse(question)[1].n)
            desktop.sendto(format_ack("kitchen", numbers[-1], None), peer)
    assert client.wait() == 0
    assert len(set(numbers)) == len(numbers) == 6, "each was sent once"
    assert (tmp_path / "kitchen0.spool").stat().st_mtime < first + 1, "and not spooled"


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


def test_a_spool_whose_folder_is_gone_is_said(sensor, desktop, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    client = sensor(desktop.getsockname()[1], "--interval", 0.05, "--spool", folder / "spool")
    until(lambda: size(folder / "spool"))
    folder.rename(tmp_path / "away")
    folder.write_text("no folder")
    client.says("^cannot write the spool .*: readings wait in memory only$")
    assert client.stop() == 0
    assert "Traceback" not in client.err
