#!/usr/bin/env python3
"""Compare publish.py with mosquitto_pub: readings a second, CPU a reading; print a Markdown table.

    $ python3 bench/publish.py >table.md
    run 1 of 5: publish.py
    ...

Both publish a file of readings to mosquitto with QoS 1 and MQTT 5, with up to 100 under way:
mosquitto_pub its lines as they are, to one topic (-l); publish.py the same readings from a log, of
which it parses each row, makes JSON, and saves its position. Between a run of 15,000 readings and
one of 60,000 the difference is 45,000: starting and ending are not in it. mosquitto_pub loses what
is beyond 65,535 lines. Then publish.py follows a log in which a reading appears every 2 s.

Needs Linux, two cores, taskset, paho-mqtt 2 and mosquitto. Takes three minutes.
Exit code: 0 = done, 1 = could not run, or was stopped.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Optional

import measure

FEW, MANY = 15_000, 60_000  # readings
WINDOW = 100
IDLE = 30.0  # seconds
HEADER = "time,client,name,humidity,temperature,n\n"


class Peer(NamedTuple):
    name: str
    command: list[str]
    log: str  # read by it
    input: str  # on its stdin


def readings(count: int) -> Iterator[tuple[str, str]]:
    """Yield readings as rows of the log and as what is published of them."""
    for k in range(count):
        stamp = f"2026-11-21T{k // 3600:02}:{k // 60 % 60:02}:{k % 60:02}.123Z"
        humidity, n = 40 + k % 300 / 10, 1795255202123456 + k
        yield (
            f"{stamp},192.168.1.7,kitchen,{humidity:.1f},25.7,{n}\n",
            f'{{"time":"{stamp}","client":"192.168.1.7","name":"kitchen","n":{n},'
            f'"humidity":{humidity},"temperature":25.7}}\n',
        )


def peers(port: int) -> list[Peer]:
    publish = [sys.executable, str(measure.ROOT / "publish.py"), f"mqtt://127.0.0.1:{port}"]
    mosquitto_pub = ["mosquitto_pub", "-p", str(port), "-V", "5", "-q", "1", "-M", str(WINDOW)]
    return [
        Peer("publish.py", [*publish, "--all", "--once"], "datalog.csv", os.devnull),
        Peer("mosquitto_pub -l", [*mosquitto_pub, "-t", "a", "-l"], "", "payloads"),
    ]


def run(peer: Peer, count: int) -> tuple[float, float]:
    """Return the seconds, and those of CPU, that a peer takes to publish readings."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows, payloads = zip(*readings(count))
        (folder / "datalog.csv").write_text(HEADER + "".join(rows))
        (folder / "payloads").write_text("".join(payloads))
        with open(folder / peer.input) as stdin, open(folder / "stderr", "w+") as stderr:
            begun = time.monotonic()
            command = measure.pinned(measure.RECEIVER, *peer.command)
            process = subprocess.Popen(command, cwd=folder, stdin=stdin, stderr=stderr)
            _, status, usage = os.wait4(process.pid, 0)
            if status:
                raise RuntimeError(f"{peer.name} failed: {(folder / 'stderr').read_text()}")
        return time.monotonic() - begun, usage.ru_utime + usage.ru_stime


def sample(peer: Peer) -> measure.Sample:
    few, few_cpu = run(peer, FEW)
    many, many_cpu = run(peer, MANY)
    difference = MANY - FEW
    return {"rate": difference / (many - few), "cpu": (many_cpu - few_cpu) / difference * 1e6}


def idle(port: int, seconds: float) -> str:
    """Return what publish.py costs while a reading appears every 2 s."""
    peer = peers(port)[0]
    with tempfile.TemporaryDirectory() as name:
        log = Path(name, "datalog.csv")
        log.write_text(HEADER)
        with measure.running(Path(name), *peer.command[:-1]) as pid, log.open("a") as file:
            begun = cpu = 0.0
            for k, (row, _) in enumerate(readings(round(seconds / 2) + 2)):
                file.write(row)
                file.flush()
                time.sleep(2)
                if k == 1:
                    begun, cpu = time.monotonic(), measure.cpu(pid)
            share = (measure.cpu(pid) - cpu) / (time.monotonic() - begun)
            return f"A reading every 2 s: {share:.2%} of a core, {measure.peak(pid):.1f} MiB."


def compare(options: "measure.argparse.Namespace") -> str:
    """Return the table, and what it is from."""
    machine = measure.machine()
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), measure.free_port(measure.socket.SOCK_STREAM)
        config = folder / "conf"
        config.write_text(
            f"listener {port} 127.0.0.1\nallow_anonymous true\nmax_inflight_messages {WINDOW}\n"
        )
        with (folder / "log").open("w") as log:
            broker = subprocess.Popen(["mosquitto", "-c", config], stderr=log)
        try:
            measure.await_port(port, "tcp")
            runs = 1 if options.quick else options.runs
            samples = measure.take_turns(peers(port), runs, sample)
            rest = idle(port, 4.0 if options.quick else IDLE)
        finally:
            broker.terminate()
            broker.wait()
    return "\n\n".join([table(samples), rest, machine, versions()])


def table(samples: dict[str, list[measure.Sample]]) -> str:
    rows = [["", "readings/s", "CPU a reading, µs", "rate, ratio"]]
    for name, some in samples.items():
        rate, cpu = measure.median(some, "rate"), measure.median(some, "cpu")
        share = measure.ratio(some, samples["mosquitto_pub -l"], "rate")
        rows.append([name, f"{rate:,.0f}", f"{cpu:.1f}", f"{share:.2f}"])
    return measure.table(*rows)


def versions() -> str:
    from paho.mqtt import __version__

    return f"paho-mqtt {__version__}, {measure.version('mosquitto', '-h')}"


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Print the table; return 0, or 1 where it could not run."""
    return measure.report("publish.py", compare, measure.get_parser(__doc__).parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
