"""When a datagram arrived and which address it asked: stamps and answers go by that."""

import signal
import socket
import struct
import subprocess
import sys
import time
from datetime import datetime

import pytest

from dht22 import addresses
from dht22.datagram import format_named, parse_ack
from dht22.server import arrival
from dht22.server.inbox import BUSY_BATCH, Inbox
from support.tools import KITCHEN, lines, needs, needs_namespaces, send, until

N = 1795255202000000
NOW = 1795600000.5


def named(n, age=0.0):
    return b"50.0,20.0,kitchen,%d,%.3f" % (n, age)


def stamps(path):
    return [datetime.fromisoformat(line[:23] + "+00:00").timestamp() for line in lines(path)[1:]]


def timed(sock, datagram, address):
    """Send a datagram; return between which two times it arrived, which is to the millisecond."""
    before = time.time()
    sock.sendto(datagram, address)
    return before - 0.002, time.time() + 0.002


ASLEEP = """
import os, time
monotonic = time.monotonic
time.monotonic = lambda: monotonic() - ({seconds} if os.path.exists("slept") else 0)
"""


@pytest.mark.parametrize("seconds", [1, pytest.param(20, marks=pytest.mark.long)])
def test_what_came_while_the_server_stood_still_has_its_own_time(
    server, desktop, tmp_path, seconds
):
    """Ctrl+Z, or a desktop that slept: then the clock that never steps has stood still, too."""
    running = server(setup=ASLEEP.format(seconds=seconds))
    address = ("127.0.0.1", running.port)
    running.process.send_signal(signal.SIGSTOP)
    first = timed(desktop, named(N, 3.0), address)
    plain = timed(desktop, b"60.0,20.0", address)
    time.sleep(seconds)
    second = timed(desktop, named(N + 1, 0.25), address)
    (tmp_path / "slept").touch()
    running.process.send_signal(signal.SIGCONT)
    assert [parse_ack(desktop.recv(300)).last for _ in "12"] == [N + 1, N + 1]
    assert running.stop() == 0
    assert "3 readings logged\n" in running.err, "none is refused"
    arrived = stamps(tmp_path / "datalog.csv")
    for stamp, (earliest, latest), age in zip(arrived, (plain, first, second), (0, 3, 0.25)):
        assert earliest <= stamp + age <= latest


SLOW = """
import os, time
fsync = os.fsync
os.fsync = lambda fd: (time.sleep({seconds}), fsync(fd))
"""


@pytest.mark.parametrize("seconds", [0.15, pytest.param(1.15, marks=pytest.mark.long)])
def test_a_slow_disk_neither_shifts_a_stamp_nor_keeps_a_reading_out(server, tmp_path, seconds):
    running = server(setup=SLOW.format(seconds=seconds))
    arrived = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for k in range(20):
            question = b"%d.0,20.0,s%d,%d,0.000" % (k, k, N)
            arrived[f"s{k}"] = timed(sock, question, ("127.0.0.1", running.port))
            time.sleep(seconds / 5)
    log = tmp_path / "datalog.csv"
    until(lambda: len(lines(log)) == 21)
    assert running.stop() == 0
    for row, stamp in zip(lines(log)[1:], stamps(log)):
        earliest, latest = arrived.pop(row.split(",")[2])
        assert earliest <= stamp <= latest
    assert not arrived


def test_the_first_named_reading_in_a_flood_is_asked_for_again(server, desktop, tmp_path):
    """Under a load of plain readings alone the kernel is not asked when each arrived."""
    running = server(timers={"server.inbox.BATCH": 50})
    address = ("127.0.0.1", running.port)
    running.process.send_signal(signal.SIGSTOP)
    send(running.port, *[b"60.0,20.0"] * 120)
    desktop.sendto(named(N), address)
    running.process.send_signal(signal.SIGCONT)
    until(lambda: len(lines(tmp_path / "datalog.csv")) == 121)
    until(lambda: "the first named one in a flood; its client sends it again" in running.err)
    desktop.sendto(named(N, 1.0), address)
    assert desktop.recv(300) == b"ack,kitchen,%d," % N
    assert running.stop() == 0
    assert "received 122 = logged 121 + duplicates 0 + refused 1" in running.err


def test_from_the_first_named_reading_on_the_kernel_tells_of_each():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
        inbox = Inbox(sock)
        for answers, batch, told in (False, BUSY_BATCH, 1), (False, 999, 0), (True, 999, 1):
            inbox.named_came, inbox.batch = answers, batch
            send(sock.getsockname()[1], b"50.0,20.0")
            received = inbox.receive(10)
            assert received.datagrams == (b"50.0,20.0",)
            assert len(received.told) == told


@pytest.mark.skipif(sys.platform != "linux", reason="the forms are those of Linux")
@pytest.mark.parametrize(
    "told, at",
    [
        ([], NOW),
        ([(1, 64, struct.pack("qq", 1795600000, 250_000_000))], 1795600000.25),
        ([(1, 64, struct.pack("qq", 1795600009, 0))], NOW),  # the clock was set back meanwhile
        ([(41, 50, bytes(20)), (1, 64, struct.pack("qq", 17, 0))], 17.0),
        ([(41, 64, struct.pack("qq", 17, 0))], NOW),
    ],
)
def test_the_time_of_arrival(told, at):
    assert arrival.arrival(told, NOW) == at


LINK_LOCAL = socket.inet_pton(socket.AF_INET6, "fe80::1")
GLOBAL = socket.inet_pton(socket.AF_INET6, "fd00::1")
MAPPED = socket.inet_pton(socket.AF_INET6, "::ffff:10.9.0.50")


@pytest.mark.skipif(sys.platform != "linux", reason="the forms are those of Linux")
@pytest.mark.parametrize(
    "told, source",
    [
        ([], []),
        ([(1, 64, bytes(16))], []),
        ([(41, 50, GLOBAL + b"\2\0\0\0")], [(41, 50, GLOBAL + bytes(4))]),
        ([(1, 64, bytes(16)), (41, 50, MAPPED + b"\2\0\0\0")], [(41, 50, MAPPED + bytes(4))]),
        ([(41, 50, LINK_LOCAL + b"\2\0\0\0")], [(41, 50, LINK_LOCAL + b"\2\0\0\0")]),
        ([(0, 8, b"\2\0\0\0ourstold")], [(0, 8, b"\0\0\0\0ours\0\0\0\0")]),
    ],
)
def test_the_address_that_was_asked(told, source):
    assert arrival.asked(told) == source


@pytest.mark.parametrize("host", [[], ["--host", "0.0.0.0"]], ids=["both families", "IPv4"])
@pytest.mark.parametrize("with_keys", [False, True], ids=["no keys", "keys"])
def test_an_answer_comes_from_the_address_that_was_asked(server, keys, host, with_keys):
    """A firewall or a NAT lets no other in; nor does a connected socket."""
    running = server(*host, *(["--keys", keys] if with_keys else []))
    question = format_named("50.0,20.0", "kitchen", N, 0.0, KITCHEN if with_keys else None)
    for address in "127.0.0.2", "127.0.0.1":
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(5)
            sock.bind(("127.0.0.1", 0))
            sock.connect((address, running.port))
            sock.send(question)
            assert sock.recv(300).startswith(b"ack,kitchen,%d," % N)


ASK = """
import socket, sys
host, source, port, question = sys.argv[1:]
with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
    sock.settimeout(5)
    sock.bind((source, 0))
    sock.connect((host, int(port)))
    sock.send(question.encode())
    print(sock.recv(300).decode())
"""


def test_by_ipv6_too(script):
    needs("ip", "nsenter")
    needs_namespaces()
    add = 'ip link set lo up && ip addr add fd00:9::50/128 dev lo && exec "$@"'
    running = script("server", prefix=["unshare", "-rn", "sh", "-c", add, "sh"])
    running.says("^listening")
    inside = ["nsenter", "-t", str(running.process.pid), "-U", "-n", "--preserve-credentials"]
    done = subprocess.run(
        [*inside, sys.executable, "-c", ASK, "fd00:9::50", "::1", "10001", named(N).decode()],
        stdout=subprocess.PIPE,
        check=True,
    )
    assert done.stdout == b"ack,kitchen,%d,\n" % N


def test_an_answer_to_a_broadcast_comes_from_elsewhere(server):
    running = server()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.sendto(named(N), ("127.255.255.255", running.port))
        assert sock.recv(300) == b"ack,kitchen,%d," % N


# The line at the start


def cards(monkeypatch, default, *found):
    monkeypatch.setattr(addresses, "interfaces", lambda: list(found))
    monkeypatch.setattr(addresses, "known_by_name", lambda: [])
    monkeypatch.setattr(addresses, "default_address", lambda: default)
    return addresses.own_addresses()


@pytest.mark.parametrize(
    "default, found, told",
    [
        ("", [], []),
        ("", [(False, "127.0.0.1")], []),
        ("", [(False, "127.0.0.1"), (True, "192.168.1.5")], ["192.168.1.5"]),
        ("10.8.0.2", [(True, "192.168.1.5"), (False, "10.8.0.2")], ["192.168.1.5", "10.8.0.2"]),
        ("10.0.0.9", [(True, "192.168.1.5"), (True, "10.0.0.9")], ["10.0.0.9", "192.168.1.5"]),
        ("10.8.0.2", [(False, "172.17.0.1"), (False, "10.8.0.2")], ["10.8.0.2", "172.17.0.1"]),
        ("10.0.0.9", [], ["10.0.0.9"]),
        ("", [(True, f"10.0.0.{k}") for k in range(9)], [f"10.0.0.{k}" for k in range(4)]),
    ],
)
def test_the_likeliest_addresses_come_first(monkeypatch, default, found, told):
    assert cards(monkeypatch, default, *found) == told


def test_all_addresses_of_all_interfaces_are_told(script):
    """Behind a VPN, which has the default route; the second one of a card; without any route."""
    needs("ip")
    needs_namespaces()
    links = (
        "ip link set lo up && ip link add cable type veth peer name tunnel"
        " && ip addr add 10.77.0.1/24 dev cable && ip addr add 10.77.0.2/24 dev cable"
        " && ip addr add 10.8.0.2/24 dev tunnel"
    )
    route = " && ip link set cable up && ip link set tunnel up && ip route add default via 10.8.0.1"
    name = socket.gethostname().partition(".")[0]
    for more in "", route:
        inside = ["unshare", "-rn", "sh", "-c", f'{links}{more} && exec "$@"', "sh"]
        running = script("server", prefix=inside)
        first, others = running.says(r"^on the Pi: python3 client.py (\S+)  # or (.*)$").groups()
        told = [first, *others.split(", ")]
        assert sorted(told) == ["10.77.0.1", "10.77.0.2", "10.8.0.2", f"{name}.local"]
        assert told[-1] == f"{name}.local" and (not more or first == "10.8.0.2")
        assert running.stop() == 0
