"""What the benchmarks share: a process on a core, its CPU time and memory, a table."""

import argparse
import contextlib
import os
import platform
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Callable, Optional

ROOT = Path(__file__).resolve().parent.parent
RECEIVER, SENDER = 0, 1  # the two cores
PATIENCE = 10.0  # seconds for a process to start or to end
SETTLED = 1.0  # seconds without a new reading: what is missing then is lost

Sample = dict[str, float]  # what one run of one peer gave


def pinned(core: int, *command: object) -> list[str]:
    """Return the command line that runs command on core alone."""
    return ["taskset", "-c", str(core), *map(str, command)]


@contextlib.contextmanager
def running(folder: Path, *command: object, **options: Any) -> Iterator[int]:
    """Run command in folder on the receiver's core; yield its pid; terminate it at the end."""
    with (folder / "stderr").open("a") as stderr:
        options = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.DEVNULL,
            "stderr": stderr,
            **options,
        }
        process = subprocess.Popen(pinned(RECEIVER, *command), cwd=folder, **options)
    try:
        yield process.pid
    except RuntimeError as reason:
        words = (folder / "stderr").read_text().strip() or "nothing"
        raise RuntimeError(f"{reason}; {command[0]} said: {words[-300:]}") from None
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port(kind: socket.SocketKind = socket.SOCK_DGRAM) -> int:
    """Return a port that nothing on the loopback has bound."""
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def await_port(port: int, protocol: str = "udp") -> None:
    """Wait until port is bound; RuntimeError if that takes too long."""
    deadline = time.monotonic() + PATIENCE
    bound = re.compile(
        f"[0-9]: [0-9A-F]+:{port:04X} "
    )  # the local address; the peer's comes after it
    while not bound.search(Path(f"/proc/net/{protocol}").read_text()):
        if time.monotonic() > deadline:
            raise RuntimeError(f"nothing listens on port {port}")
        time.sleep(0.02)


def await_readings(log: Path, start: int, count: int, mark: bytes) -> int:
    """Wait until log has count marks past the byte start, or no new ones; return how many."""
    found, deadline = 0, time.monotonic() + SETTLED
    while found < count and time.monotonic() < deadline:
        time.sleep(0.1)
        if log.exists() and (now := log.read_bytes()[start:].count(mark)) > found:
            found, deadline = now, time.monotonic() + SETTLED
    time.sleep(0.1)  # for the other logs
    return found


def cpu(pid: int) -> float:
    """Return the CPU seconds, user and system, of a process: clock_getcpuclockid(3)."""
    return time.clock_gettime(~pid << 3 | 2)


def peak(pid: int) -> float:
    """Return the peak memory of a process in MiB; ru_maxrss would begin with that of its parent."""
    return int(re.findall(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[0]) / 1024


def version(*command: str) -> str:
    """Return the name of a program and the first dotted number that command prints."""
    if not shutil.which(command[0]):
        return f"{command[0]} not installed"
    text = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ).stdout
    return f"{command[0]} {re.findall(r'[0-9]+(?:[.][0-9]+)+', text)[0]}"


def machine() -> str:
    """Name the processor, kernel and Python that the numbers are from, and say how quiet it is."""
    model, *_ = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()) or [
        platform.machine()
    ]
    return (
        f"{model}, {os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f} at the start, "
        f"Linux {platform.release()}, Python {platform.python_version()}"
    )


def take_turns(
    peers: Sequence[Any], runs: int, sample: Callable[[Any], Sample]
) -> dict[str, list[Sample]]:
    """Return the samples of each peer, by its name: a run of all of them, then the next."""
    samples: dict[str, list[Sample]] = {peer.name: [] for peer in peers}
    for run in range(runs):
        for peer in peers:
            print(f"run {run + 1} of {runs}: {peer.name}", file=sys.stderr)
            samples[peer.name].append(sample(peer))
    return samples


def median(samples: Sequence[Sample], key: str) -> float:
    return statistics.median(sample[key] for sample in samples)


def ratio(samples: Sequence[Sample], others: Sequence[Sample], key: str) -> float:
    """Return the median of the ratios run by run: what disturbs a run disturbs both."""
    return statistics.median(one[key] / other[key] for one, other in zip(samples, others))


def table(*rows: list[str]) -> str:
    """Return a Markdown table; the first row is its head."""
    rule = ["---"] + ["---:"] * (len(rows[0]) - 1)
    return "\n".join(f"| {' | '.join(row)} |" for row in (rows[0], rule, *rows[1:]))


def count(text: str) -> int:
    """Convert text to a number of runs."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no count (a whole number, 1 or more)")
    return int(text)


def get_parser(manual: Optional[str]) -> argparse.ArgumentParser:
    """Return a parser whose description is the docstring of a script."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=manual, formatter_class=raw)
    parser.add_argument(
        "--runs", type=count, default=5, help="runs, one after the other (default: %(default)s)"
    )
    parser.add_argument("--quick", action="store_true", help="one small run, to see that it works")
    return parser


def report(prog: str, compare: Callable[..., str], *args: Any) -> int:
    """Print what compare(*args) returns; return 0, or 1 where it could not run, or was stopped."""
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # as Ctrl+C: all that was started ends
    os.environ["PATH"] += (
        f"{os.pathsep}/usr/sbin"  # rsyslogd and mosquitto are there; not all users look there
    )
    try:
        if not {RECEIVER, SENDER} <= os.sched_getaffinity(0):
            raise RuntimeError("needs the cores 0 and 1; run it where both may be used")
        os.sched_setaffinity(0, {SENDER})
        print(compare(*args))
    except (OSError, RuntimeError, subprocess.CalledProcessError) as reason:
        print(f"{prog}: error: {reason}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{prog}: stopped", file=sys.stderr)
        return 1
    return 0
