#!/usr/bin/env python3
"""Compare the cost of a poll: client.py, dht_read.py, a client of six lines; print a table.

    $ python3 bench/poll.py
    run 1 of 5: six lines
    ...

The sensor is simulated and polled 100 times a second, by dht_read.py as fast as it can; server.py
receives. The table is Markdown. Needs Linux, two cores and taskset; takes two minutes.
Exit code: 0 = done, 1 = could not run, or was stopped.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Optional

import measure

INTERVAL = 0.01  # seconds between polls


class Client(NamedTuple):
    """A client: its name, its command (formatted word by word), where its readings are counted."""

    name: str
    command: str
    log: str = "log.csv"


PLAIN = "{root}/client.py 127.0.0.1 --port {port} --interval {interval} --driver simulated --quiet"
CLIENTS = (
    Client("six lines", "{root}/bench/six_lines.py {port} {interval}"),
    Client("client.py", PLAIN),
    Client("client.py with a key", f"{PLAIN} --key {{folder}}/key --spool {{folder}}/spool"),
    Client("dht_read.py", "{root}/dht_read.py --driver simulated --count 999999999", log="stdout"),
)


def sample(client: Client, python: list[str], seconds: float) -> measure.Sample:
    """Let client poll for a while; return its CPU µs a poll and its peak memory."""
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), measure.free_port()
        words = {"root": measure.ROOT, "port": port, "interval": INTERVAL, "folder": folder}
        command = [word.format(**words) for word in client.command.split()]
        server = [
            measure.ROOT / "server.py",
            "--host",
            "127.0.0.1",
            "--port",
            port,
            "--log",
            folder / "log.csv",
        ]
        if "--key" in command:
            key = folder / "key"
            key.touch(0o600)
            key.write_text(f"kitchen {os.urandom(32).hex()}\n")
            server += ["--keys", key]
        log = folder / client.log
        with (
            (folder / "stdout").open("w") as stdout,
            measure.running(folder, sys.executable, *server),
        ):
            measure.await_port(port)
            with measure.running(folder, *python, *command, stdout=stdout) as pid:
                if not measure.await_readings(log, 0, 1, b"."):
                    raise RuntimeError(f"{client.name} has sent nothing")
                before, size = measure.cpu(pid), log.stat().st_size
                time.sleep(seconds)
                used, polls = measure.cpu(pid) - before, log.read_bytes()[size:].count(b"\n")
                return {"cpu": used / polls * 1e6, "peak": measure.peak(pid)}


def compare(python: list[str], runs: int, seconds: float) -> str:
    """Measure all clients in turn, runs times; return the table and what it was measured on."""
    machine = measure.machine()
    samples = measure.take_turns(CLIENTS, runs, lambda client: sample(client, python, seconds))

    def row(client: Client) -> list[str]:
        own, least = samples[client.name], samples[CLIENTS[0].name]
        cpu, peak = measure.median(own, "cpu"), measure.median(own, "peak")
        return [
            client.name,
            f"{cpu:.0f}",
            f"{cpu - measure.median(least, 'cpu'):.0f}",
            f"{peak:.1f}",
            f"{measure.ratio(own, least, 'peak'):.2f}",
        ]

    head = ["client", "CPU µs a poll", "beyond six lines", "peak memory MiB", "ratio to six lines"]
    return f"{measure.table(head, *map(row, CLIENTS))}\n\nMedians of {runs}. {machine}."


def get_parser() -> argparse.ArgumentParser:
    """Return the parser; its description is the docstring of this file."""
    parser = measure.get_parser(__doc__)
    parser.add_argument(
        "--bare",
        action="store_true",
        help="without site-packages (python3 -S): its .pth files may import what a client needs",
    )
    return parser


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Measure and print the table; return the exit code."""
    args = get_parser().parse_args(argv)
    python = [sys.executable, *(["-S"] if args.bare else [])]
    return measure.report(
        "poll.py", compare, python, *((1, 2.2) if args.quick else (args.runs, 4.2))
    )


if __name__ == "__main__":
    sys.exit(main())
