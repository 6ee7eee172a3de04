#!/usr/bin/env python3
"""Compare server.py with other ways to write UDP datagrams to a file; print a Markdown table.

    $ python3 bench/receive.py >table.md
    run 1 of 5: server.py, text and CSV
    ...

Needs Linux, two cores, taskset and cc; socat and rsyslogd where installed. All of it stays on the
loopback and takes about ten minutes. Exit code: 0 = done, 1 = could not run, or was stopped.
"""

import argparse
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Optional

import measure

RATES = 50_000, 100_000, 200_000  # datagrams a second
CPU_RATE = 100_000  # the one at which CPU time is told
WARM_UP = 1000  # datagrams before anything is measured
PROBE_INTERVAL = 0.01  # seconds between two probes of the latency


class Peer(NamedTuple):
    """A receiver: its name, its command (formatted word by word), its configuration file."""

    name: str
    command: str
    config: str = ""


OURS = "{python} {root}/server.py --host 127.0.0.1 --port {port} --quiet --log {log}"
PEERS = (
    Peer("server.py, text and CSV", f"{OURS} --log {{folder}}/log.csv"),
    Peer("server.py, text", OURS),
    Peer(
        "server.py, text, CSV and SQLite",
        f"{OURS} --log {{folder}}/log.csv --log {{folder}}/log.db",
    ),
    Peer("the course's loop", "{python} {root}/bench/course_server.py {port} {log}"),
    Peer("socat", "socat -u UDP4-RECV:{port},bind=127.0.0.1 OPEN:{log},creat,append"),
    Peer(
        "rsyslogd",
        "rsyslogd -n -iNONE -f {folder}/config",
        """\
module(load="imudp")
input(type="imudp" address="127.0.0.1" port="{port}")
template(name="raw" type="string" string="%rawmsg%\\n")
action(type="omfile" file="{log}" template="raw")
""",
    ),
    Peer("the limit, in C", "{tools}/limit {port} {log}"),
)
VERSIONS = ("socat", "-V"), ("rsyslogd", "-v"), ("cc", "--version")


def build(folder: Path) -> None:
    """Compile the sender and the limit into folder."""
    for name in "send", "limit":
        subprocess.run(
            ["cc", "-O2", "-o", folder / name, measure.ROOT / "bench" / f"{name}.c"], check=True
        )


def latencies(port: int, log: Path, probes: int) -> list[float]:
    """Return, sorted, the µs from sendto to a readable line in log, at 100 readings a second."""
    times = []
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
        log.open("rb", buffering=0) as file,
    ):
        file.seek(0, 2)
        for _ in range(probes):
            time.sleep(PROBE_INTERVAL)
            start = time.perf_counter()
            sock.sendto(b"74.3,25.7", ("127.0.0.1", port))
            while not file.read(1024) and time.perf_counter() - start < measure.SETTLED:
                pass
            times.append((time.perf_counter() - start) * 1e6)
    return sorted(times)


def sample(peer: Peer, tools: Path, count: int, probes: int, senders: int) -> measure.Sample:
    """Start peer, load it in every way, end it; return what was measured."""
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), measure.free_port()
        log = folder / "log.txt"
        words = {
            "python": sys.executable,
            "root": measure.ROOT,
            "tools": tools,
            "folder": folder,
            "port": port,
            "log": log,
        }
        (folder / "config").write_text(peer.config.format(**words))

        def load(count: int, rate: int) -> tuple[float, int]:
            """Send; return the peer's CPU seconds and the number of readings that its log lacks."""
            before, start = measure.cpu(pid), log.stat().st_size if log.exists() else 0
            sender = measure.pinned(measure.SENDER, tools / "send", port, count, rate, senders)
            took = float(subprocess.run(sender, check=True, stdout=subprocess.PIPE).stdout)
            if took * rate > count * 1.05:
                print(f"the sender reached only {count / took:,.0f} a second", file=sys.stderr)
            written = measure.await_readings(
                log, start, count, b","
            )  # not lines: socat writes none
            return measure.cpu(pid) - before, count - written

        with measure.running(
            folder, *(word.format(**words) for word in peer.command.split())
        ) as pid:
            measure.await_port(port)
            if load(WARM_UP, 0)[1] == WARM_UP:
                raise RuntimeError(f"{peer.name} has logged nothing ({peer.command})")
            result: measure.Sample = {"burst": load(count, 0)[1]}
            for rate in RATES:
                seconds, lost = load(count, rate)
                result[f"{rate}"] = lost
                if rate == CPU_RATE:
                    result["cpu"] = seconds / max(1, count - lost) * 1e6
            times = latencies(port, log, probes)
            result |= {"median": statistics.median(times), "p99": times[int(probes * 0.99)]}
            return {**result, "peak": measure.peak(pid)}


def compare(peers: Sequence[Peer], runs: int, count: int, probes: int, senders: int) -> str:
    """Measure peers in turn, runs times; return the table and what it was measured on."""
    machine = measure.machine()
    programs = {peer: peer.command.split()[0] for peer in peers}
    installed = [
        peer for peer, program in programs.items() if "{" in program or shutil.which(program)
    ]
    with tempfile.TemporaryDirectory() as name:
        tools = Path(name)
        build(tools)
        samples = measure.take_turns(
            installed, runs, lambda peer: sample(peer, tools, count, probes, senders)
        )

    def row(peer: Peer) -> list[str]:
        if peer not in installed:
            return [peer.name, "not installed", *[""] * (len(head) - 2)]
        own, ours = samples[peer.name], samples[peers[0].name]
        median = {key: measure.median(own, key) for key in own[0]}
        lost = [f"{median[key]:,.0f}" for key in ("burst", *map(str, RATES))]
        return [
            peer.name,
            f"{median['cpu']:.2f}",
            f"{measure.ratio(own, ours, 'cpu'):.2f}",
            *lost,
            f"{median['peak']:.1f}",
            f"{median['median']:.0f}",
            f"{median['p99']:.0f}",
        ]

    head = [
        "receiver",
        "CPU µs a datagram",
        "ratio to ours",
        f"lost of a burst of {count:,}",
        *(f"at {rate:,}/s" for rate in RATES),
        "peak memory MiB",
        "latency µs, median",
        "p99",
    ]
    versions = ", ".join(measure.version(*command) for command in VERSIONS)
    rmem_max = Path("/proc/sys/net/core/rmem_max").read_text().strip()
    return (
        f"{measure.table(head, *map(row, peers))}\n\n"
        f"Senders: {senders:,}. Medians of {runs}, ratios run by run; CPU at {CPU_RATE:,} datagrams"
        " a second. "
        f"{machine}; {versions}; net.core.rmem_max {rmem_max}."
    )


def get_parser() -> argparse.ArgumentParser:
    """Return the parser; its description is the docstring of this file."""
    parser = measure.get_parser(__doc__)
    parser.add_argument(
        "--only", default="", metavar="WORD", help="compare only with those named so"
    )
    parser.add_argument(
        "--senders", type=int, default=1, metavar="N", help="addresses that the readings come from"
    )
    return parser


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Measure and print the table; return the exit code."""
    args = get_parser().parse_args(argv)
    sizes = (1, 2_000, 20) if args.quick else (args.runs, 200_000, 500)
    peers = [PEERS[0], *(peer for peer in PEERS[1:] if args.only in peer.name)]
    return measure.report("receive.py", compare, peers, *sizes, args.senders)


if __name__ == "__main__":
    sys.exit(main())
