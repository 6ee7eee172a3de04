"""Answers: which a client must not believe, where they may come from, and how long it waits."""

import os
import re
import socket
import subprocess
import sys
import time
import types
from contextlib import suppress

import pytest

from dht22 import datagram
from dht22.datagram import N_RANGE, format_ack, format_named, parse
from dht22.pi import delivery
from dht22.pi.link import Link
from dht22.pi.spool import Spool
from dht22.stop import Stop
from support.numbered import logged, size
from support.tools import ATTIC, KITCHEN, lines, missing, needs, needs_namespaces, until, write_keys

QUICK = {"pi.delivery.RESEND": 0.03, "pi.delivery.RESEND_MOST": (0.03, 0.03)}
START = 1795255202000000


@pytest.fixture
def sending(client, desktop):
    """Start a client whose readings go to the desktop."""

    def start(*argv, **keywords):
        return client(desktop.getsockname()[1], "--spool", "spool", *argv, **keywords)

    return start


def wrong_answers(name, n, mac, old, key):
    """Return answers to reading n that must change nothing; `old`: the true one to an older n."""

    def signed(last, interval=None, question=mac, key=key, name=name):
        return format_ack(name, last, interval, question, key)

    return {
        "unsigned": format_ack(name, n, None),
        "unsigned, an interval": format_ack(name, n, 5),
        "unsigned, a higher one": format_ack(name, n + 10**9, None),
        "another's key": signed(n, key=ATTIC),
        "another's key, an interval": signed(n, 5, key=ATTIC),
        "another's key, a higher one": signed(n + 10**9, key=ATTIC),
        "another's name": signed(n, name="attic"),
        "a mac of zeros": format_ack(name, n, None) + b"," + b"0" * 32,
        "the question's mac": format_ack(name, n, None) + b"," + mac,
        "a mac over the answer alone": signed(n, 5, question=None),
        "to another question": signed(n, 5, question=b"0" * 32),
        "replayed": old,
        "replayed, with the new n": re.sub(rb"(ack,[^,]*,)\d+", rb"\g<1>%d" % n, old),
        "a lower one, with an interval": signed(n - 1, 5),
        "above what could be followed": signed(N_RANGE[1] - 1, 5),
        "cut": signed(n)[:-1],
        "too long": signed(n) + b" " * 300,
        "no answer": b"\0" * 100,
        "empty": b"",
        "the question": format_named("50.0,20.0", name, n, 0.0, key),
    }


def test_a_client_with_a_key_believes_only_the_answer_to_its_question(desktop, sending, tmp_path):
    pi = write_keys(tmp_path / "pi", ("kitchen", KITCHEN))
    cases = list(wrong_answers("kitchen", START, b"1" * 32, b"ack,kitchen,1,,0", KITCHEN))
    running = sending("--interval", 0.01, "--count", len(cases) + 1, "--key", pi, timers=QUICK)
    old, before = b"", 0
    for case in ["none before the first", *cases]:
        question, peer = desktop.recvfrom(300)
        while parse(question)[1].n == before:  # sent again before it was answered
            question, peer = desktop.recvfrom(300)
        reading, named = parse(question)
        if old:
            desktop.sendto(wrong_answers("kitchen", named.n, named.mac, old, KITCHEN)[case], peer)
            for _ in range(2):
                again = desktop.recv(300)
                assert parse(again)[0] == reading and parse(again)[1].n == named.n, (
                    f"{case}: it waits still"
                )
                assert datagram.verify(again, KITCHEN)
        old, before = format_ack("kitchen", named.n, None, named.mac, KITCHEN), named.n
        desktop.sendto(old, peer)
    assert running.wait() == 0
    assert running.out.count("\n") == len(cases) + 1
    talk = [
        line
        for line in running.err.splitlines()
        if not re.match("driver|sending to|closing socket", line)
    ]
    assert talk == [
        "an acknowledgement of 8999999999999999 is ignored: no n could follow; give another --name,"
        " or use keys"
    ]


def test_the_answer_to_any_of_the_last_16_sends_is_taken_and_to_no_earlier_one(
    desktop, sending, tmp_path
):
    pi = write_keys(tmp_path / "pi", ("kitchen", KITCHEN))
    timers = {**QUICK, "pi.delivery.RESEND_MOST": (0.04, 0.04)}
    running = sending("--count", 1, "--key", pi, timers=timers)
    sends = []
    while len(sends) < 20:
        question, peer = desktop.recvfrom(300)
        sends.append(parse(question)[1])
    assert len({each.n for each in sends}) == 1 and len({each.mac for each in sends}) == 20
    desktop.sendto(
        format_ack("kitchen", sends[3].n, None, sends[3].mac, KITCHEN), peer
    )  # 17th from the last
    assert parse(desktop.recv(300))[1].n == sends[3].n, "it waits still"
    desktop.sendto(format_ack("kitchen", sends[8].n, None, sends[8].mac, KITCHEN), peer)
    assert running.wait() == 0


def test_an_interval_past_its_bounds_is_not_taken_over(desktop, sending):
    intervals = [0, 1, 86401, 99999]
    running = sending("--interval", 0.01, "--count", len(intervals) + 1, "--name", "kitchen")
    for interval in [*intervals, None]:
        question, peer = desktop.recvfrom(300)
        desktop.sendto(format_ack("kitchen", parse(question)[1].n, interval), peer)
    assert running.wait() == 0
    assert "interval" not in running.err


LAST_N = N_RANGE[1] - 10**6


@pytest.mark.parametrize("last", [LAST_N + 1, N_RANGE[1] - 1, 9999999999999999])
def test_an_answer_that_no_n_could_follow_is_ignored(desktop, sending, last):
    running = sending("--count", 1, "--name", "kitchen", timers=QUICK)
    question, peer = desktop.recvfrom(300)
    n = parse(question)[1].n
    desktop.sendto(format_ack("kitchen", last, None), peer)
    for _ in range(3):
        assert parse(desktop.recv(300))[1].n == n
    desktop.sendto(format_ack("kitchen", n, None), peer)
    assert running.wait() == 0
    line = f"an acknowledgement of {last} is ignored: no n could follow; give another --name"
    assert running.err.count(line) == 1


@pytest.mark.parametrize("last", [LAST_N - 10**6, LAST_N - 1, LAST_N])
def test_at_the_last_n_nothing_is_sent_and_the_readings_are_kept(desktop, sending, tmp_path, last):
    """The server has a reading with an n this high, a stranger's perhaps."""
    argv = "--interval", 0.05, "--name", "kitchen"
    last_draw = "import random; random.randint = lambda first, last: last"
    running = sending(*argv, timers=QUICK, setup=last_draw)
    question, peer = desktop.recvfrom(300)
    desktop.sendto(format_ack("kitchen", last, None), peer)
    if last == LAST_N - 10**6:
        while parse(question)[1].n != LAST_N:
            question, peer = desktop.recvfrom(300)
        desktop.sendto(format_ack("kitchen", LAST_N, None), peer)
    running.says("^the server has had the last n of kitchen, .*; give another --name, or use keys$")
    desktop.settimeout(0.3)
    with pytest.raises(socket.timeout):
        while True:
            assert parse(desktop.recv(300))[1].n <= LAST_N
    until(lambda: running.out.count("\n") > 7, "eight readings")
    assert running.stop() == 0
    read = running.out.splitlines()
    if last == LAST_N - 10**6:
        read = read[1:]
    kept = [",".join(line.split(",")[4:6]) for line in lines(tmp_path / "spool")]
    kept = [reading for reading in kept if reading]  # marks have none
    assert kept[-len(read) :] == read and len(read) > 5
    assert running.err.count("the last n of kitchen") == 1


FLOOD = """
from dht22.pi import delivery
take = delivery.NamedSender.receive

def flood(self, datagram):
    if self.link.sock:
        self.link.sock.sendto(b"garbage", ("127.0.0.1", self.link.sock.getsockname()[1]))
    take(self, datagram)

delivery.NamedSender.receive = flood
"""


def test_a_client_in_a_flood_of_answers_goes_on_reading(desktop, sending):
    """Garbage comes faster than it is read: each datagram taken leaves another in the socket."""
    running = sending("--interval", 0.02, "--name", "kitchen", setup=FLOOD)
    _, peer = desktop.recvfrom(300)
    desktop.sendto(b"the first", peer)
    already = running.out.count("\n")
    until(lambda: running.out.count("\n") > already + 10, "ten more readings", 5)


# Where answers come from, and when


def test_an_answer_from_another_address_of_the_desktop_is_taken(sensor, desktop):
    """A server on Windows answers from the address that the route gives."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.2", 0))
        port = desktop.getsockname()[1]
        client = sensor(port, "--interval", 0.01, "--count", 5)
        desktop.settimeout(0.1)
        while client.process.poll() is None:
            with suppress(socket.timeout):
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


def test_after_a_silence_the_next_reading_is_sent_again_as_soon_as_any(desktop, tmp_path):
    link = Link("127.0.0.1", desktop.getsockname()[1])
    link.look_up()
    sender = delivery.NamedSender(link, "kitchen", None, 600.0, Spool(str(tmp_path / "spool")))
    for _ in range(2):
        sender.send("50.0,20.0")
    for _ in range(9):
        sender.transmit()
    assert sender.due - time.monotonic() > 50
    sender.settle(None)
    sender.transmit()
    assert sender.due - time.monotonic() < 1.5 * delivery.RESEND
    sender.close()


def test_a_spool_with_a_mark_alone_is_emptied_at_the_start(desktop, tmp_path):
    """As a power cut leaves one: nothing waits, and nothing more is to be written."""
    spool = Spool(str(tmp_path / "spool"))
    spool.mark(7, START)
    assert spool.write([])
    spool.file.file.close()
    link = Link("127.0.0.1", desktop.getsockname()[1])
    sender = delivery.NamedSender(link, "kitchen", None, 2.0, Spool(str(tmp_path / "spool")))
    assert size(tmp_path / "spool") == 0
    assert sender.highest == START
    sender.close()


SLOW = """
import time
from dht22.pi import sensor

def read():
    time.sleep(0.5)
    return 50.0, 20.0

driver = sensor.Driver("simulated", "", read, 1, 0.0, made_up=True)
sensor.DRIVERS["simulated"] = lambda *_: driver
"""


def test_an_answer_that_came_while_the_sensor_was_read_is_taken_first(sensor, desktop, tmp_path):
    """The sensor is read without a pause, and longer than the first timeout."""
    client = sensor(
        desktop.getsockname()[1],
        *["--interval", 0, "--count", 4],
        timers={"pi.delivery.RESEND": 0.2},
        setup=SLOW,
    )
    spool, opened, numbers = tmp_path / "kitchen0.spool", [], []
    desktop.settimeout(0.1)
    while client.process.poll() is None:
        with suppress(socket.timeout):
            question, peer = desktop.recvfrom(300)
            numbers.append(parse(question)[1].n)
            desktop.sendto(format_ack("kitchen", numbers[-1], None), peer)
            opened.append(spool.stat().st_mtime_ns)
    assert client.wait() == 0
    assert len(set(numbers)) == len(numbers) == 4, "each was sent once"
    assert spool.stat().st_mtime_ns == opened[0], "and not spooled"


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
