"""Named sensors: every reading logged exactly once, at its right time, whatever goes wrong."""

import gzip
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import types
from collections import Counter, namedtuple
from contextlib import suppress
from datetime import datetime

import pytest

from dht22 import delivery
from dht22.datagram import HIGHEST_N, format_ack, format_named, parse, parse_ack
from dht22.link import Link
from dht22.spool import Spool, Waiting, boot_id
from dht22.stop import Stop
from tools import DEADLINE, lines, missing, needs, needs_namespaces, send, until, waited

HEADER = "time,client,name,humidity,temperature,n\n"
Row = namedtuple("Row", "time client name reading n")

QUICK = "from dht22 import delivery; delivery.RESEND = 0.05; delivery.RESEND_MOST = 0.1, 0.1\n"

# A driver whose readings are all different, from number `first` on; it notes each with its time.
NUMBERED = """
import itertools, time
from dht22 import sensor as room, spool
clock = time.time

def open_numbered(sensor, pin, first={first}):
    notes = open({notes!r}, "a+", buffering=1)
    notes.seek(0)
    numbers = itertools.count(first + len(notes.readlines()))

    def read():
        number = next(numbers)
        values = number % 1000 / 10, number // 1000 / 10
        notes.write(f"{{room.format_reading(*values)}} {{clock():.6f}}\\n")
        return values

    return room.Driver("simulated", "its readings are numbered", read, 1, 0.0, made_up=True)

room.DRIVERS["simulated"] = open_numbered
"""
A_YEAR_BACK = "import time; true = time.time; time.time = lambda: true() - 365 * 86400\n"
NO_CLOCK = (
    "import time; started = time.monotonic(); time.time = lambda: time.monotonic() - started\n"
)


def rows(path):
    """Return the rows of a CSV, whose lines have to be whole; none while there is no file."""
    content = path.read_text() if path.exists() else HEADER
    assert content.startswith(HEADER) and content.endswith("\n")
    fields = [line.split(",") for line in content.splitlines()[1:]]
    return [
        Row(
            datetime.fromisoformat(at[:-1] + "+00:00").timestamp(),
            client,
            name,
            f"{humidity},{temperature}",
            n,
        )
        for at, client, name, humidity, temperature, n in fields
    ]


def logged(path):
    return [row.reading for row in rows(path)]


def size(path):
    return path.stat().st_size if path.exists() else 0


def free_port():
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as free:
        free.bind(("::", 0))
        return free.getsockname()[1]


def answer_takes(port):
    """Return the seconds that the server takes to answer, the mean of fifty readings."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(DEADLINE)
        start = time.monotonic()
        for n in range(10**15 + 1, 10**15 + 51):
            sock.sendto(b"50.0,20.0,other,%d,0.000" % n, ("127.0.0.1", port))
            sock.recv(300)
    return (time.monotonic() - start) / 50


@pytest.fixture
def sensor(script, tmp_path):
    """Start a named client whose readings are numbered; `.read()` is what it has read so far."""

    def start(port, *argv, name="kitchen", host="127.0.0.1", first=0, setup="", **keywords):
        notes = tmp_path / f"notes{first}"
        started = script(
            "client",
            host,
            "--port",
            port,
            "--driver",
            "simulated",
            "--name",
            name,
            "--spool",
            tmp_path / f"{name}{first}.spool",
            *argv,
            setup=QUICK + NUMBERED.format(first=first, notes=str(notes)) + setup,
            **keywords,
        )
        started.read = lambda: started.out.splitlines()
        return started

    return start


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
    read_at = dict(line.split() for line in lines(tmp_path / "notes0"))
    late = max(abs(row.time - float(read_at[row.reading])) for row in delivered)
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
    before = sensor(
        port, "--interval", 0.01, setup="spool.boot_id = delivery.boot_id = lambda: '0ea-1'\n"
    )
    until(lambda: len(before.read()) >= 20)
    assert before.stop() == 0
    after = sensor(
        port,
        "--interval",
        0.01,
        "--count",
        10,
        setup=clock
        + "begun = time.monotonic(); spool.boottime = lambda: time.monotonic() - begun\n",
    )
    after.says(
        "^readings wait from before the Pi's last start: "
        "their time is right only if its clock was and is$"
    )
    assert before.err.count("last start") == 0 and after.err.count("last start") == 1
    running = server("--quiet", port=port)
    assert after.wait() == 0
    late = 0.05 + waited(running)
    read_at = dict(line.split() for line in lines(tmp_path / "notes0"))
    delivered = rows(tmp_path / "datalog.csv")
    assert [row.reading for row in delivered] == before.read() + after.read()
    started = float(read_at[after.read()[0]])  # a moment later, when it first read
    for number, row in enumerate(delivered):
        if clock and number < len(before.read()):
            assert started - 0.5 < row.time < started + late, (
                "at this start: that they are older is all that is known"
            )
        else:
            assert abs(row.time - float(read_at[row.reading])) < late


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
            0.005,
            "--count",
            150,
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
    assert set(times) == set(both[0].read() + both[1].read()) and len(times) == 300
    doubled = sum(times.values()) - 300
    print(f"{doubled} of 300 doubled")
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
    sender = delivery.Delivery(link, "kitchen", None, 60.0, Spool(str(tmp_path / "spool")))
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
        setup="delivery.RESEND = 0.2; delivery.RESEND_MOST = 10, 10\n",
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
        r"give another --name or --spool\n",
        wanting.err,
    )
    assert wanting.out == "" and having.process.poll() is None
    assert having.stop() == 0


@pytest.mark.parametrize("state, folder", [("", "home/.local/state"), ("state", "state")])
def test_where_the_spool_is_without_the_option(script, tmp_path, state, folder):
    home, state = str(tmp_path / "home"), state and str(tmp_path / state)
    client = script(
        *["client", "127.0.0.1", "--port", free_port(), "--driver", "simulated"],
        *["--interval", 0.01, "--name", "kitchen"],
        env={"HOME": home, "XDG_STATE_HOME": state},
        timers={"delivery.RESEND": 0.05},
    )
    until(lambda: size(tmp_path / folder / "dht22" / "kitchen.spool"))
    assert client.stop() == 0
    assert list(tmp_path.rglob("*.spool")) == [tmp_path / folder / "dht22" / "kitchen.spool"]


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


# A spool that cannot be written, a queue past its bound


@pytest.mark.parametrize(
    "mount, why", [("size=4k", "No space left on device"), ("ro", "Read-only file system")]
)
def test_a_spool_on_a_disk_that_is_full_or_read_only(sensor, server, tmp_path, mount, why):
    needs_namespaces()
    (tmp_path / "disk").mkdir()
    port = free_port()
    client = sensor(
        port,
        "--interval",
        0.005,
        "--count",
        200,
        "--spool",
        "disk/kitchen.spool",
        prefix=[
            "unshare",
            "-rm",
            "sh",
            "-c",
            f'mount -t tmpfs -o {mount} tmpfs disk && exec "$@"',
            "sh",
        ],
    )
    client.says(
        rf"^cannot write the spool disk/kitchen.spool \({why}\): what waits is kept in memory only$"
    )
    until(lambda: len(client.read()) == 200)
    server("--quiet", port=port)
    assert client.wait() == 0
    assert logged(tmp_path / "datalog.csv") == client.read() == lines(tmp_path / "datalog.txt")
    assert client.err.count("cannot write the spool") == 1
    assert "is written again" not in client.err, "no line comes and goes"


def test_a_spool_that_is_given_room_is_written_again(sensor, server, tmp_path):
    needs_namespaces()
    needs("nsenter")
    (tmp_path / "disk").mkdir()
    port = free_port()
    client = sensor(
        port,
        "--interval",
        0.005,
        "--spool",
        "disk/kitchen.spool",
        prefix=[
            "unshare",
            "-rm",
            "sh",
            "-c",
            'mount -t tmpfs -o size=4k tmpfs disk && exec "$@"',
            "sh",
        ],
    )
    client.says("^cannot write the spool")
    inside = ["nsenter", "-t", str(client.process.pid), "-U", "-m", "--preserve-credentials"]
    subprocess.run(
        [*inside, "mount", "-o", "remount,size=1m", "tmpfs", tmp_path / "disk"], check=True
    )
    client.says("^the spool disk/kitchen.spool is written again$")
    holder = subprocess.Popen([*inside, "sleep", "60"])  # so that the disk outlives the client
    try:
        until(lambda: os.readlink(f"/proc/{holder.pid}/exe").endswith("sleep"))
        client.stop(signal.SIGKILL)
        kept = subprocess.run(
            [
                "nsenter",
                "-t",
                str(holder.pid),
                "-U",
                "-m",
                "--preserve-credentials",
                "cat",
                tmp_path / "disk/kitchen.spool",
            ],
            check=True,
            stdout=subprocess.PIPE,
        ).stdout
    finally:
        holder.kill()
        holder.wait()
    (tmp_path / "kept.spool").write_bytes(kept)
    running = server("--quiet", port=port)
    again = sensor(port, "--count", 1, "--spool", "kept.spool")
    assert again.wait() == 0 and running.stop() == 0
    delivered = logged(tmp_path / "datalog.csv")
    assert delivered[-1:] == again.read()
    assert (
        delivered[:-1] == client.read()[: len(delivered) - 1]
        and len(delivered) - 1 >= len(client.read()) - 1
    )


def test_what_was_delivered_while_the_disk_was_full_stands_once_after_it_had_room_again(
    sensor, server, tmp_path
):
    """270 readings wait, the disk is full, 240 are delivered; then there is room, and a kill."""
    needs_namespaces()
    needs("nsenter")
    (tmp_path / "disk").mkdir()
    mount = "mount -t tmpfs -o size=64k tmpfs disk && exec sleep 100"
    holder = subprocess.Popen(["unshare", "-rm", "sh", "-c", mount], cwd=tmp_path)
    try:
        until(lambda: os.readlink(f"/proc/{holder.pid}/exe").endswith("sleep"))
        inside = ["nsenter", "-t", str(holder.pid), "-U", "-m", "--preserve-credentials", "-w"]
        disk = tmp_path.joinpath(f"/proc/{holder.pid}/root{tmp_path}/disk")
        port = free_port()
        argv = ["--interval", 0.01, "--spool", "disk/kitchen.spool"]
        client = sensor(port, *argv, prefix=inside)
        until(lambda: len(lines(disk / "kitchen.spool")) >= 270)
        with suppress(OSError), open(disk / "filler", "wb", buffering=0) as filler:
            while True:
                filler.write(bytes(512))
        first = server("--quiet", "--count", 240, port=port)
        client.says("^cannot write the spool")
        assert first.wait() == 0
        (disk / "filler").unlink()
        client.says("is written again$")
        client.stop(signal.SIGKILL)
        server("--quiet", port=port)
        again = sensor(port, *argv, "--count", 5, prefix=inside)
        assert again.wait() == 0
    finally:
        holder.kill()
        holder.wait()
    delivered = logged(tmp_path / "datalog.csv")
    assert len(delivered) == len(set(delivered)) > 270
    assert delivered[-5:] == again.read()


def test_a_spool_that_is_removed_is_written_again_with_all_that_waits(sensor, server, tmp_path):
    port = free_port()
    spool = tmp_path / "kitchen0.spool"
    client = sensor(port, "--interval", 0.02)
    until(lambda: len(lines(spool)) > 10)
    already = len(client.read())
    spool.unlink()
    until(lambda: len(lines(spool)) > already + 10)
    client.stop(signal.SIGKILL)
    server("--quiet", port=port)
    again = sensor(port, "--count", 1)
    assert again.wait() == 0
    delivered = logged(tmp_path / "datalog.csv")
    assert delivered == client.read()[: len(delivered) - 1] + again.read()
    assert len(delivered) > already + 10


def test_the_spool_is_emptied_as_soon_as_all_is_acknowledged(sensor, server, tmp_path):
    port = free_port()
    client = sensor(port, "--interval", 0.3)
    until(lambda: size(tmp_path / "kitchen0.spool"))
    server("--quiet", port=port)
    until(lambda: logged(tmp_path / "datalog.csv") == client.read())
    until(lambda: size(tmp_path / "kitchen0.spool") == 0)
    assert client.process.poll() is None


def test_at_the_end_a_spool_that_could_not_be_written_is_tried_once_more(sensor, tmp_path):
    client = sensor(
        free_port(),
        *["--interval", 0.01],
        setup="""
import os
from dht22 import linefile
spool.RETRY = 60
write, full = linefile.LineFile.append, True

def append(self, lines):
    if full and lines:
        raise OSError(28, "No space left on device")
    write(self, lines)

linefile.LineFile.append = append
close = delivery.Delivery.close

def freed(self):
    global full
    full = False
    close(self)

delivery.Delivery.close = freed
""",
    )
    client.says("^cannot write the spool")
    until(lambda: len(client.read()) > 20)
    assert client.stop() == 0
    client.says(f"^{len(client.read())} readings left in ")
    assert "lost" not in client.err
    assert len(lines(tmp_path / "kitchen0.spool")) == len(client.read()) + 1


def test_past_its_bound_the_queue_drops_the_oldest_and_says_so(sensor, server, tmp_path):
    port = free_port()
    client = sensor(port, "--interval", 0.002, "--count", 300, setup="delivery.QUEUE = 50\n")
    until(lambda: len(client.read()) == 300)
    client.says("^more than 50 readings wait: the oldest are dropped")
    server("--quiet", port=port)
    assert client.wait() == 0
    assert logged(tmp_path / "datalog.csv") == client.read()[-50:]
    assert client.err.count("the oldest are dropped") == 1, "said once"
    assert re.search(
        r"^250 readings dropped, the oldest of those that waited$", client.err, re.MULTILINE
    ), "and counted"


def test_an_n_is_for_one_reading_only_whatever_is_dropped(sensor, desktop):
    client = sensor(desktop.getsockname()[1], "--interval", 0.01, setup="delivery.QUEUE = 5\n")
    questions = [parse(desktop.recv(300)) for _ in range(20)]
    client.stop()
    readings = {(named.n, reading) for reading, named in questions}
    assert len({n for n, _ in readings}) == len(readings) > 3


def test_an_n_is_in_the_spool_before_it_is_sent(sensor, desktop, tmp_path):
    port = desktop.getsockname()[1]
    client = sensor(port, "--interval", 0.01, "--count", 20)
    until(
        lambda: (
            (tmp_path / "kitchen0.spool").exists() and len(lines(tmp_path / "kitchen0.spool")) >= 20
        )
    )
    seen = set()
    while len(seen) < 20:
        question, peer = desktop.recvfrom(300)
        reading, named = parse(question)
        if named.n not in seen and len(seen) < 19:
            content = lines(tmp_path / "kitchen0.spool")
            assert re.fullmatch(
                rf"n,\d+,{named.n},[0-9a-f]{{8}}",
                [line for line in content if line.startswith("n,")][-1],
            )
        seen.add(named.n)
        desktop.sendto(format_ack("kitchen", named.n, None), peer)
    assert client.wait() == 0


def test_a_spool_that_was_rewritten_holds_what_waits_and_the_n_under_way(tmp_path):
    spool = Spool(str(tmp_path / "spool"))
    waiting = [Waiting(k, boot_id(), 100.0 + k, 1795600000.0 + k, f"{k}.0,20.0") for k in range(10)]
    spool.owe(0, 10**15)
    spool.write(waiting[:9])
    spool.owe(4, 10**15 + 4)
    spool.rewrite(waiting[4:9])
    spool.write(waiting[9:])
    left, n, highest = spool.load()
    assert [each.place for each in left] == list(range(4, 10))
    assert [each.reading for each in left] == [f"{k}.0,20.0" for k in range(4, 10)]
    assert n == highest == 10**15 + 4
    assert spool.next_place == 10 and spool.lines == 7


@pytest.mark.parametrize(
    "kill",
    [
        "old = os.replace; os.replace = lambda *paths: die()",
        "old = os.replace; os.replace = lambda *paths: (old(*paths), die())",
        "old = spool.Spool.rewrite; spool.Spool.rewrite = lambda *all: (old(*all), die())",
    ],
    ids=["before it is in place", "once in place", "right after"],
)
def test_killed_while_the_spool_is_rewritten(sensor, server, tmp_path, kill):
    port = free_port()
    killed = sensor(
        port,
        "--interval",
        0.002,
        setup=f"import os; die = lambda: os.kill(os.getpid(), 9)\n"
        f"delivery.QUEUE = 50\nspool.LONG = 100\n{kill}\n",
    )
    assert killed.wait() == -signal.SIGKILL
    read = [line.split()[0] for line in lines(tmp_path / "notes0")]
    assert len(read) > 50, "the oldest were dropped"
    server("--quiet", port=port)
    again = sensor(port, "--count", 1)
    assert again.wait() == 0
    delivered = logged(tmp_path / "datalog.csv")
    assert delivered == (read + again.read())[-len(delivered) :], (
        "in order, none twice, none missing"
    )
    assert len(delivered) >= 51


def test_a_spool_whose_emptying_fails_keeps_what_comes_after(sensor, server, desktop, tmp_path):
    """The fsync of the emptied file fails; the next reading waits, and the client is killed."""
    spool = tmp_path / "kitchen0.spool"
    client = sensor(
        desktop.getsockname()[1],
        "--interval",
        0.5,
        setup="""
import os, stat
fsync, sizes = os.fsync, [0]

def fail_if_emptied(fd):
    if stat.S_ISREG(os.fstat(fd).st_mode):
        sizes.append(os.fstat(fd).st_size)
        if sizes[-2] and not sizes[-1]:
            raise OSError(5, "Input/output error")
    fsync(fd)

os.fsync = fail_if_emptied
""",
    )
    question, peer = desktop.recvfrom(300)
    until(lambda: size(spool))
    first = parse(question)[1]
    desktop.sendto(format_ack("kitchen", first.n, None), peer)
    client.says("^cannot write the spool .*Input/output error")
    until(lambda: b"0.1,0.0" in spool.read_bytes())
    client.stop(signal.SIGKILL)
    running = server("--quiet")
    again = sensor(running.port, "--count", 1)
    assert again.wait() == 0
    assert logged(tmp_path / "datalog.csv")[-2:] == [client.read()[-1], *again.read()]


# Two addresses


def test_an_answer_from_another_address_of_the_desktop_is_taken(sensor, server, tmp_path):
    """Loopback does so by itself: what is sent to 127.0.0.2 is answered from 127.0.0.1."""
    running = server("--quiet")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        sock.sendto(b"50.0,20.0,other,1000000000000001,0.000", ("127.0.0.2", running.port))
        assert sock.recvfrom(300) == (b"ack,other,1000000000000001,", ("127.0.0.1", running.port))
    client = sensor(
        running.port,
        "--interval",
        0.01,
        "--count",
        5,
        host="127.0.0.2",
        setup="delivery.RESEND = 60\n",
    )
    assert client.wait() == 0
    assert logged(tmp_path / "datalog.csv")[1:] == client.read()


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


def test_a_desktop_that_answers_from_the_other_one_of_its_two_addresses(script, sensor, tmp_path):
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
        assert answers.stdout == b"10.9.8.1\n", "not where the question went"
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
        setup="delivery.FIRST_SILENCE = 30; delivery.SILENCE = 0.5\n",
    )
    question, peer = desktop.recvfrom(300)
    desktop.sendto(format_ack("kitchen", parse(question)[1].n + ahead, None), peer)
    assert client.says("^no answer from .* for (.*) s:")[1] == "0.5"
    assert client.stop() == 0


def test_a_later_n_is_an_answer_too(sensor, desktop):
    client = sensor(
        desktop.getsockname()[1],
        *["--interval", 0.05],
        setup="delivery.FIRST_SILENCE = delivery.SILENCE = 2\n",
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
    sender = delivery.Delivery(link, "kitchen", None, 600.0, Spool(str(tmp_path / "spool")))
    for _ in range(3):
        sender.send("50.0,20.0")
        sender.deliver(now, Stop())
        assert not link.reported
        question, peer = desktop.recvfrom(300)
        desktop.sendto(format_ack("kitchen", parse(question)[1].n, None), peer)
        until(lambda: sender.deliver(now, Stop()) or not sender.queue)
        now += 600
    sender.send("50.0,20.0")
    sender.deliver(now, Stop())
    now += 59
    sender.deliver(now, Stop())
    assert not link.reported
    now += 2
    sender.deliver(now, Stop())
    assert link.reported == {"silent"}
    sender.close()


# All is well


def test_while_all_is_acknowledged_nothing_is_written(script, desktop, tmp_path):
    needs("strace")
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
        client = script(
            "client",
            "127.0.0.1",
            "--port",
            desktop.getsockname()[1],
            "--driver",
            "simulated",
            "--name",
            "kitchen",
            "--interval",
            0.001,
            "--spool",
            spool,
            prefix=["strace", "-D", "-f", "-y", "-o", tmp_path / "trace", "-e", f"trace={calls}"],
        )
        until(lambda: len(numbers) == 1000, seconds=60)
        trace = (tmp_path / "trace").read_text()
        until(
            lambda: size(spool)
        )  # the check below can fail: now that there are no answers, it is written
        assert client.stop() == 0
    finally:
        answering = False
        thread.join()
    spooled = until(lambda: "exited with 0" in (text := (tmp_path / "trace").read_text()) and text)
    assert re.search(rf"write\(\d+<{spool}>", spooled) and re.search(
        rf"fsync\(\d+<{spool}>", spooled
    )
    assert len(set(numbers)) == 1000
    _start, sendto, running = trace.partition("sendto(")
    assert sendto
    others = [
        line
        for line in running.splitlines()[1:]
        if not re.search(r"^\d+ +(sendto\(|write\([12]<)|^\d+ +openat\(.*O_RDONLY", line)
    ]
    assert others == []
    assert running.count("sendto(") >= 999


def test_an_answer_that_came_while_the_sensor_was_read_is_taken_first(sensor, desktop, tmp_path):
    """The sensor is read without a pause, and longer than the first timeout."""
    slow = "read = lambda: time.sleep(0.2) or (50.0, 20.0)\n"
    client = sensor(
        desktop.getsockname()[1],
        "--interval",
        0,
        "--count",
        6,
        setup="delivery.RESEND = 0.1\n"
        + slow
        + "driver = room.Driver('simulated', '', read, 1, 0.0, made_up=True)\n"
        + "room.DRIVERS['simulated'] = lambda *_: driver\n",
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
        "--interval",
        5,
        setup="""
delivery.FIRST_SILENCE = delivery.SILENCE = 0.3
from dht22 import link
link.LOOK_UP = 0.1
link.LOOK_UP_REST = 0
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
    client.says("^cannot write the spool .*: what waits is kept in memory only$")
    assert client.stop() == 0
    assert "Traceback" not in client.err


# Recovery

BLOCK = "".join(
    f"2026-11-21T10:00:02.123Z,192.168.1.7,,{k % 100}.3,25.7,\n"
    f"2026-11-21T10:00:02.123Z,fe80::1,kitchen,{k % 100}.3,-5.7,1763719%07d{k:02}\n"
    for k in range(100)
)


def peak(running):
    """Return the most memory that a process ever had, in MiB."""
    with open(f"/proc/{running.process.pid}/status") as status:
        return int(re.search(r"VmHWM:\s+(\d+)", status.read())[1]) / 1024


def ask(port, *questions):
    """Send readings from one socket, and return the answers up to that of the last."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        sock.connect(("127.0.0.1", port))
        for question in questions:
            sock.send(question)
        answers = [sock.recv(300)]
        while parse_ack(answers[-1]).name != parse(questions[-1])[1].name:
            answers.append(sock.recv(300))
        return answers


@pytest.mark.parametrize("mebibytes", [32, pytest.param(1024, marks=pytest.mark.long)])
def test_a_long_log_is_known_at_once_in_little_memory(server, tmp_path, mebibytes):
    with open(tmp_path / "datalog.csv", "w") as log:
        log.write(HEADER)
        k = 0
        while log.tell() < mebibytes << 20:
            log.write(BLOCK.replace("%07d", f"{k:07}"))
            k += 1
    number = int(f"1763719{k - 1:07}99")
    start = time.monotonic()
    running = server("--quiet")
    took = time.monotonic() - start
    start = time.monotonic()
    with open(tmp_path / "datalog.csv", "rb") as log:
        assert sum(line.count(b",") for line in log) > k
    counting = time.monotonic() - start
    print(f"{mebibytes} MiB: ready after {took:.1f} s, {peak(running):.1f} MiB; {counting:.1f} s")
    assert took < 3 * counting + 1 and peak(running) < 50
    before = size(tmp_path / "datalog.csv")
    assert ask(running.port, format_named("50.0,20.0", "kitchen", number, 0.0)) == [
        b"ack,kitchen,%d," % number
    ]
    assert size(tmp_path / "datalog.csv") == before
    assert ask(running.port, format_named("50.0,20.0", "kitchen", number + 1, 0.0)) == [
        b"ack,kitchen,%d," % (number + 1)
    ]
    assert running.stop() == 0
    assert "logged 1 + duplicates 1 " in running.err


def row(name, n):
    return f"2026-11-21T10:00:02.123Z,192.168.1.7,{name},74.3,25.7,{n}\n".encode()


def test_what_rotation_has_left_is_known_too(server, tmp_path):
    """One name in each file, and a torn one said; whatever stands beside it."""
    header = HEADER.encode()
    torn = gzip.compress(header + b"".join(row("torn", 10**15 + k) for k in range(1, 10_000)))
    (tmp_path / "datalog.csv").write_bytes(
        header + row("now", 10**15 + 5) + row("", "") + row("cut", 10**15)[:-5]
    )
    (tmp_path / "datalog.csv.1").write_bytes(
        header + row("one", 10**15 + 4) + row("now", 10**15 + 4)
    )
    (tmp_path / "datalog.csv.2.gz").write_bytes(gzip.compress(header + row("two", 10**15 + 3)))
    (tmp_path / "datalog.csv-20261121").write_bytes(
        header + row("dated", 10**15 + 2) + row("dated", 10**15 + 7)[:-4]
    )
    (tmp_path / "datalog.csv.3.gz").write_bytes(torn[: len(torn) // 2])
    (tmp_path / "datalog.csv.4.gz").write_bytes(b"buy milk\n")
    (tmp_path / "datalog.csv.folder").mkdir()
    (tmp_path / "datalog.csv.binary").write_bytes(os.urandom(100_000))
    running = server("--quiet")
    for name in "datalog.csv.3.gz", "datalog.csv.4.gz":
        running.says(
            rf"^{name}: read as far as it goes .*; what else is in it may be logged again$"
        )
    last = {"now": 5, "one": 4, "two": 3, "dated": 2}
    for name, n in last.items():
        assert ask(running.port, format_named("50.0,20.0", name, 10**15 + n, 0.0)) == [
            b"ack,%s,%d," % (name.encode(), 10**15 + n)
        ]
    known = int(
        parse_ack(ask(running.port, format_named("50.0,20.0", "torn", 10**15 + 1, 0.0))[0]).last
    )
    assert known > 10**15 + 1, "as far as it goes"
    assert (
        ask(running.port, format_named("50.0,20.0", "dated", 10**15 + 7, 0.0))[0]
        == b"ack,dated,1000000000000007,"
    )
    assert running.stop() == 0
    assert "received 6 = logged 1 + duplicates 5 " in running.err


def test_a_neighbour_that_leads_nowhere_does_not_stop_the_server(server, tmp_path):
    (tmp_path / "datalog.csv.latest").symlink_to("removed long ago")
    running = server("--quiet")
    assert ask(running.port, b"50.0,20.0,kitchen,1000000000000001,0.000") == [
        b"ack,kitchen,1000000000000001,"
    ]


def test_without_a_csv_the_database_knows(server, tmp_path):
    options = "--quiet", "--log", "a.txt", "--log", "a.db"
    running = server(*options)
    ask(
        running.port,
        *(format_named("50.0,20.0", "kitchen", 10**15 + k, 0.0) for k in range(5)),
        format_named("50.0,20.0", "attic", 10**15, 0.0),
    )
    assert running.stop() == 0
    os.rename(tmp_path / "a.db", tmp_path / "a.db.1")
    running = server(*options)
    ask(running.port, format_named("51.0,20.0", "kitchen", 10**15 + 5, 0.0))
    assert running.stop() == 0
    running = server(*options)
    for name, last in ("attic", 0), ("kitchen", 5):
        for k in range(last + 1):
            assert ask(running.port, format_named("52.0,20.0", name, 10**15 + k, 0.0)) == [
                b"ack,%s,%d," % (name.encode(), 10**15 + last)
            ]
    assert running.stop() == 0
    assert "logged 0 + duplicates 7 " in running.err
    with sqlite3.connect(tmp_path / "a.db") as reader:
        assert reader.execute("SELECT name, n FROM reading").fetchall() == [("kitchen", 10**15 + 5)]
    reader.close()


def test_with_a_text_log_only_that_duplicates_are_forgotten_is_said_once(server):
    running = server("--quiet", "--log", "a.txt")
    send(running.port, b"50.0,20.0")
    ask(running.port, b"50.0,20.0,kitchen,1000000000000001,0.000")
    ask(running.port, b"50.0,20.0,kitchen,1000000000000002,0.000")
    assert running.stop() == 0
    assert (
        running.err.count(
            "without a .csv or .db log, duplicates are known only until this server stops\n"
        )
        == 1
    )


def test_of_too_many_names_the_latest_are_known_and_the_others_refused(server, tmp_path):
    (tmp_path / "datalog.csv").write_bytes(
        HEADER.encode()
        + b"".join(row(f"s{k}", 10**15 + k) for k in range(20_000))
        + row("s9999", 10**15 + 20_000)
    )
    running = server("--quiet")
    before = size(tmp_path / "datalog.csv")
    questions = [
        format_named("50.0,20.0", f"s{k}", 10**15 + k, 0.0)
        for k in (0, 9_999, 10_000, 10_001, 19_999)
    ]
    assert ask(running.port, *questions) == [
        b"ack,s9999,1000000000020000,",
        b"ack,s10001,1000000000010001,",
        b"ack,s19999,1000000000019999,",
    ]
    assert running.stop() == 0
    assert size(tmp_path / "datalog.csv") == before
    assert (
        "duplicates 3 + refused 2 " in running.err
        and "\nrefused 2: too many names\n" in running.err
    )
