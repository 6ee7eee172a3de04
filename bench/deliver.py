#!/usr/bin/env python3
"""Compare what a delivered reading costs server.py and mosquitto; print a Markdown table.

    $ python3 bench/deliver.py >table.md
    run 1 of 5: server.py, text and CSV
    ...

100 clients in this process send a reading each, wait for its acknowledgement and send the next:
named and signed to server.py, which has it on the disk before it answers; with QoS 1 to mosquitto
(persistence on), whose subscriber writes it to a file. Needs Linux, two cores and taskset;
mosquitto and mosquitto_sub where installed. Takes about a minute.
Exit code: 0 = done, 1 = could not run, or was stopped.
"""

import contextlib
import hmac
import os
import selectors
import shutil
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Callable, NamedTuple, Optional, Union

import measure

CLIENTS = 100
FSYNCS = 100


def reading(name: str, n: int) -> bytes:
    """Return a named reading that is not the same as the one before."""
    return f"{40 + n % 300 / 10:.1f},25.7,{name},{n},0.000".encode()


class Sensor:
    """A client of server.py, named and signed."""

    def __init__(self, name: str, port: int) -> None:
        self.name = name
        self.key = os.urandom(32)
        self.n = time.time_ns() // 1000
        self.mac = b""
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.address = "127.0.0.1", port

    def sign(self, text: bytes) -> bytes:
        return hmac.digest(self.key, text, "sha256").hex()[:32].encode()

    def send(self) -> None:
        self.n += 1
        text = reading(self.name, self.n)
        self.mac = self.sign(text)
        self.socket.sendto(text + b"," + self.mac, self.address)

    def is_answered(self) -> bool:
        answer, _, mac = self.socket.recv(512).rpartition(b",")
        return answer == f"ack,{self.name},{self.n},".encode() and mac == self.sign(
            self.mac + b"," + answer
        )


class Publisher:
    """A client of an MQTT 3.1.1 broker, QoS 1: the three packets that this takes."""

    def __init__(self, name: str, port: int) -> None:
        self.name = name
        self.n = 0
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connect = b"\0\4MQTT\4\2\0\0\0" + bytes([len(name)]) + name.encode()
        self.socket.send(b"\x10" + bytes([len(connect)]) + connect)
        if self.socket.recv(4) != b"\x20\2\0\0":
            raise RuntimeError("mosquitto refuses the connection")

    def send(self) -> None:
        self.n += 1
        publish = b"\0\1r" + self.n.to_bytes(2, "big") + reading(self.name, 10**15 + self.n)
        self.socket.send(b"\x32" + bytes([len(publish)]) + publish)

    def is_answered(self) -> bool:
        return self.socket.recv(4) == b"\x40\2" + self.n.to_bytes(2, "big")


Client = Union[Sensor, Publisher]


class Started(NamedTuple):
    """What runs: the clients, the processes that are measured, the log."""

    clients: Sequence[Client]
    pids: list[int]
    log: Path


def exchange(clients: Sequence[Client], count: int) -> float:
    """Have count readings acknowledged, one of each client at a time; return the seconds."""
    start = time.monotonic()
    with selectors.DefaultSelector() as selector:
        for client in clients:
            selector.register(client.socket, selectors.EVENT_READ, client)
            client.send()
        sent, answered = len(clients), 0
        while answered < count:
            events = selector.select(measure.PATIENCE)
            if not events:
                raise RuntimeError(f"no acknowledgement within {measure.PATIENCE:.0f} s")
            for key, _ in events:
                if not key.data.is_answered():
                    raise RuntimeError(f"a wrong acknowledgement for {key.data.name}")
                answered += 1
                if sent < count:
                    key.data.send()
                    sent += 1
    return time.monotonic() - start


@contextlib.contextmanager
def server(folder: Path, *logs: str) -> Iterator[Started]:
    """Run server.py with logs, and a key for each client."""
    port = measure.free_port()
    clients = [Sensor(f"sensor-{number}", port) for number in range(CLIENTS)]
    keys = folder / "keys"
    keys.touch(0o600)
    keys.write_text("".join(f"{client.name} {client.key.hex()}\n" for client in clients))
    command = [
        sys.executable,
        measure.ROOT / "server.py",
        "--host",
        "127.0.0.1",
        "--port",
        port,
        "--quiet",
    ]
    options = [word for log in logs for word in ("--log", log)]
    with measure.running(folder, *command, "--keys", keys, *options) as pid:
        measure.await_port(port)
        yield Started(clients, [pid], folder / logs[-1])


@contextlib.contextmanager
def mosquitto(folder: Path) -> Iterator[Started]:
    """Run mosquitto, and mosquitto_sub writing to a file."""
    port, config, log = measure.free_port(socket.SOCK_STREAM), folder / "config", folder / "log"
    config.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\nuser root\npersistence true\n"
        f"persistence_location {folder}/\nmax_queued_messages 0\n"
    )
    subscribe = [
        "mosquitto_sub",
        "-h",
        "127.0.0.1",
        "-p",
        port,
        "-q",
        1,
        "-c",
        "-i",
        "log",
        "-t",
        "r",
    ]
    with log.open("wb") as file, measure.running(folder, "mosquitto", "-c", config) as broker:
        measure.await_port(port, "tcp")
        with measure.running(folder, *subscribe, stdout=file) as subscriber:
            clients = [Publisher(f"sensor-{number}", port) for number in range(CLIENTS)]
            deadline = time.monotonic() + measure.PATIENCE
            while (
                not log.stat().st_size and time.monotonic() < deadline
            ):  # it has not subscribed yet
                exchange(clients[:1], 1)
                time.sleep(0.1)
            yield Started(clients, [broker, subscriber], log)


class Peer(NamedTuple):
    """A way to deliver readings: its name, the programs it needs, how to start it in a folder."""

    name: str
    programs: list[str]
    start: Callable[[Path], AbstractContextManager[Started]]


PEERS = (
    Peer(
        "server.py, text and CSV",
        [sys.executable],
        lambda folder: server(folder, "log.txt", "log.csv"),
    ),
    Peer("server.py, CSV", [sys.executable], lambda folder: server(folder, "log.csv")),
    Peer("mosquitto and mosquitto_sub", ["mosquitto", "mosquitto_sub"], mosquitto),
)


def sample(peer: Peer, count: int) -> measure.Sample:
    """Have count readings delivered by peer; return CPU µs a reading and readings a second."""
    with tempfile.TemporaryDirectory() as name, peer.start(Path(name)) as (clients, pids, log):
        exchange(clients, CLIENTS)  # to warm up
        time.sleep(measure.SETTLED)
        before, start = sum(map(measure.cpu, pids)), log.stat().st_size
        seconds = exchange(clients, count)
        if measure.await_readings(log, start, count, b"\n") != count:
            raise RuntimeError(f"{peer.name} has acknowledged what is not in its log")
        used = sum(map(measure.cpu, pids)) - before
        for client in clients:
            client.socket.close()
    return {"cpu": used / count * 1e6, "rate": count / seconds}


def fsync_cost() -> float:
    """Return the time in µs of an fsync after a line was appended to a file."""
    with tempfile.TemporaryFile(buffering=0) as file:
        file.write(b"74.3,25.7\n")
        start = time.perf_counter()
        os.fsync(file.fileno())
        return (time.perf_counter() - start) * 1e6


def compare(runs: int, count: int) -> str:
    """Measure all peers in turn, runs times; return the table and what it was measured on."""
    machine = measure.machine()
    installed = [peer for peer in PEERS if all(map(shutil.which, peer.programs))]
    fsync = statistics.median(fsync_cost() for _ in range(FSYNCS))
    samples = measure.take_turns(installed, runs, lambda peer: sample(peer, count))

    def row(peer: Peer) -> list[str]:
        if peer not in installed:
            return [peer.name, "not installed", "", ""]
        own, ours = samples[peer.name], samples[PEERS[0].name]
        return [
            peer.name,
            f"{measure.median(own, 'cpu'):.1f}",
            f"{measure.ratio(own, ours, 'cpu'):.2f}",
            f"{measure.median(own, 'rate'):,.0f}",
        ]

    head = ["receiver", "CPU µs a delivered reading", "ratio to ours", "readings a second"]
    return (
        f"{measure.table(head, *map(row, PEERS))}\n\n"
        f"Medians of {runs}, ratios run by run; {count:,} readings of {CLIENTS} clients; "
        f"an fsync takes {fsync:.0f} µs. {machine}; {measure.version('mosquitto', '-h')}."
    )


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Measure and print the table; return the exit code."""
    args = measure.get_parser(__doc__).parse_args(argv)
    return measure.report("deliver.py", compare, *((1, 500) if args.quick else (args.runs, 20_000)))


if __name__ == "__main__":
    sys.exit(main())
