#!/usr/bin/env python3
"""Three servers and publishers, and a RabbitMQ cluster of which a node is killed: nothing is lost.

    $ python3 bench/cluster/run.py
    cluster of three nodes up after 25 s
    ...

100 named sensors send 60,000 readings to three servers; three publishers have all three nodes as
their brokers; consume.py stores each (name, n) once. At a third of the readings node 1 is killed
with -9, at two thirds it is started again. Needs rabbitmq-server, paho-mqtt 2; takes some minutes.
Exit code: 0 = every reading is in the database, 1 = not.
"""

import contextlib
import selectors
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SENSORS, READINGS = 100, 60_000
NODES = 1, 2, 3
PATIENCE = 600  # seconds


class Sensor:
    """A named sensor that sends a reading, waits until it is acknowledged, and sends the next."""

    def __init__(self, name: str, port: int, count: int) -> None:
        self.name = name
        self.ns = iter(range(n := time.time_ns() // 1000, n + count))
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.connect(("127.0.0.1", port))
        self.next()

    def next(self) -> bool:
        self.n = next(self.ns, 0)
        if self.n:
            self.send()
        return bool(self.n)

    def send(self) -> None:
        self.sent = time.monotonic()
        self.socket.send(f"{40 + self.n % 300 / 10:.1f},20.5,{self.name},{self.n},0.000".encode())

    def is_answered(self) -> bool:
        return self.socket.recv(300).split(b",")[2] == str(self.n).encode()


@contextlib.contextmanager
def running(folder: Path, *command: object) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / "out").open("a") as out:
        process = subprocess.Popen([*map(str, command)], cwd=folder, stdout=out, stderr=out)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def cluster(folder: Path, *words: object) -> None:
    script = ["bash", HERE / "cluster.sh", folder, *map(str, words)]
    subprocess.run(script, check=True, stdout=subprocess.DEVNULL)


def start_server(folder: Path, stack: contextlib.ExitStack) -> int:
    """Start a server and return its port."""
    folder.mkdir()
    stack.enter_context(running(folder, sys.executable, ROOT / "server.py", "--port", 0, "--quiet"))
    while ", logging to" not in (folder / "out").read_text():
        time.sleep(0.1)
    return int((folder / "out").read_text().split(",")[0].rsplit(":", 1)[1])


def start_publisher(folder: Path, node: int, stack: contextlib.ExitStack) -> None:
    """Start the publisher of a server; its brokers are the three nodes, that one first."""
    urls = [f"mqtt://dht22@127.0.0.1:1884{(node + k - 1) % 3 + 1}" for k in range(3)]
    publish = [sys.executable, ROOT / "publish.py", *urls, "--all", "--no-discovery"]
    password = folder / "password"
    password.touch(0o600)
    password.write_text("secret\n")
    stack.enter_context(
        running(folder, *publish, "--id", f"desk{node}", "--password-file", password)
    )


def send(sensors: list[Sensor], folder: Path) -> None:
    """Send all readings; meanwhile kill a node and start it again."""
    selector = selectors.DefaultSelector()
    for sensor in sensors:
        selector.register(sensor.socket, selectors.EVENT_READ, sensor)
    begun, done, events = time.monotonic(), 0, {READINGS // 3: "kill", READINGS * 2 // 3: "start"}
    restart = None
    while done < READINGS:
        for key, _ in selector.select(1):
            if key.data.is_answered():
                done += 1
                if not key.data.next():
                    selector.unregister(key.data.socket)
                event = events.pop(done, "")
                if event:
                    seconds = time.monotonic() - begun
                    print(
                        f"{done} readings logged after {seconds:.0f} s: {event} node 1", flush=True
                    )
                if event == "kill":
                    cluster(folder, "kill", 1)
                if event == "start":
                    restart = subprocess.Popen(["bash", HERE / "cluster.sh", folder, "start", "1"])
        for sensor in sensors:
            if sensor.n and time.monotonic() - sensor.sent > 2:
                sensor.send()
        time.sleep(0.005)
    if restart:
        restart.wait()


def stored(path: Path) -> int:
    with contextlib.closing(sqlite3.connect(path)) as database:
        return int(database.execute("SELECT count(*) FROM reading").fetchone()[0])


def run(folder: Path, stack: contextlib.ExitStack) -> int:
    begun = time.monotonic()
    stack.callback(cluster, folder, "stop")
    cluster(folder, "start")
    print(f"cluster of three nodes up after {time.monotonic() - begun:.0f} s", flush=True)
    path = folder / "all.db"
    consume = [sys.executable, HERE / "consume.py", "127.0.0.1", 18842, "dht22", "secret", path]
    stack.enter_context(running(folder, *consume))
    time.sleep(5)
    ports = [start_server(folder / f"desk{node}", stack) for node in NODES]
    for node in NODES:
        start_publisher(folder / f"desk{node}", node, stack)
    begun = time.monotonic()
    share = READINGS // SENSORS
    send([Sensor(f"sensor{k}", ports[k % 3], share) for k in range(SENSORS)], folder)
    print(f"all logged after {time.monotonic() - begun:.0f} s", flush=True)
    while stored(path) < READINGS and time.monotonic() - begun < PATIENCE:
        time.sleep(1)
    print(f"{stored(path)} of {READINGS} stored after {time.monotonic() - begun:.0f} s")
    return 0 if stored(path) == READINGS else 1


def main() -> int:
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        code = run(Path(name), stack)
        stack.close()
        for node in NODES:
            lines = Path(name, f"desk{node}", "out").read_text().splitlines()
            said = [line for line in lines if ":1884" in line or "published" in line]
            print(*(f"publisher {node}: {line}" for line in said), sep="\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
