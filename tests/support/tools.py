"""What the tests share: real processes on real sockets, and deadlines instead of sleeps."""

import itertools
import os
import random
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEADLINE = 60  # seconds; on a busy machine things take longer, and nobody waits where all is well


def until(condition, what="the condition", seconds=DEADLINE):
    """Return the first true result of `condition`; fail after the deadline."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        result = condition()
        if result:
            return result
        time.sleep(0.01)
    pytest.fail(f"{what} did not come about in {seconds} s")


def missing(what):
    """Skip with the reason what this machine lacks; where CI installs it, that is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what} is missing, and CI has to have it")
    pytest.skip(f"{what} is missing")


def needs(*programs):
    for program in programs:
        if not shutil.which(program):
            missing(program)


def needs_namespaces():
    """Skip where an own mount namespace cannot be made."""
    needs("unshare")
    if subprocess.run(["unshare", "-rm", "true"], stderr=subprocess.DEVNULL).returncode:
        missing("the right to make namespaces (unshare -rm)")


def inside_of(process):
    """Return the words before a command that run it in the namespaces of a process."""
    return ["nsenter", "-t", str(process.pid), "-U", "-m", "--preserve-credentials"]


def copied(folder):
    """Put a copy of the scripts and of their parts into a folder, and `bin/python3`; return it."""
    folder.mkdir(exist_ok=True)
    for path in ROOT.glob("*.py"):
        shutil.copy(path, folder)
    shutil.copy(ROOT / "requirements.txt", folder)
    ignored = shutil.ignore_patterns("__pycache__")
    for name in "dht22", "deploy":
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    python = folder / "bin" / "python3"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    return folder


def bash(command, folder):
    """Return what bash prints in a folder whose `bin` comes first; it has to succeed."""
    done = subprocess.run(
        ["bash", "-euc", command],
        cwd=folder,
        env={**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"},
        timeout=60,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def shortened(constant, value):
    """Return Python that gives a constant of a module another value; it fails if there is none."""
    module, _, name = constant.rpartition(".")
    return (
        f"import dht22.{module} as module\nassert hasattr(module, {name!r})\n"
        f"module.{name} = {value!r}\n"
    )


class Script:
    """A script of ours that runs, its stdout and stderr in files.

    `timers` gives constants of the modules other values: {"server.writer.LOG_RETRY": 0.05}; each
    has to exist.
    `setup` is Python that is run after that.
    """

    def __init__(self, folder, name, *argv, timers=None, setup="", prefix=(), **popen):
        self.name = name
        number = sum(1 for _ in folder.glob(f"{name}.*.err"))
        self.out_path, self.err_path = (folder / f"{name}.{number}.{end}" for end in ("out", "err"))
        setup = "".join(shortened(*each) for each in (timers or {}).items()) + setup
        code = f"{setup}\nimport {name}\n{name}.run_script({name}.main)"
        command = (
            [sys.executable, "-c", code] if setup else [sys.executable, str(ROOT / f"{name}.py")]
        )
        path = [str(ROOT), *popen.pop("path", [])]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, path)),
            **popen.pop("env", {}),
        }
        with open(self.out_path, "wb") as out, open(self.err_path, "wb") as err:
            self.process = subprocess.Popen(
                [*prefix, *command, *map(str, argv)],
                cwd=folder,
                env=environment,
                **{"stdin": subprocess.DEVNULL, "stdout": out, "stderr": err, **popen},
            )

    @property
    def out(self):
        return self.out_path.read_text()

    @property
    def err(self):
        return self.err_path.read_text()

    def says(self, pattern):
        """Wait for a line on stderr that matches, and return the match."""
        return until(
            lambda: re.search(pattern, self.err, re.MULTILINE),
            f"{pattern!r} from {self.name}:\n{self.err}",
        )

    def wait(self):
        """Wait for the end and return the exit code."""
        return self.process.wait(DEADLINE)

    def stop(self, number=signal.SIGTERM):
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        if os.name == "nt":
            self.wait()
            pytest.skip("Windows can only kill a script: what it does at its end is not seen")
        return self.wait()


@contextmanager
def scripts(folder):
    """Give a function that starts scripts in a folder; stop those that still run at the end."""
    running = []

    def start(name, *argv, **keywords):
        running.append(Script(folder, name, *argv, **keywords))
        return running[-1]

    try:
        yield start
    finally:
        for each in running:
            each.process.kill()
            each.process.wait()


def send(port, *datagrams, host="127.0.0.1"):
    """Send datagrams from a socket of their own."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        for datagram in datagrams:
            sock.sendto(datagram, (host, port))


# Not of those that the system hands out: the server of a test may be down just now.
PORTS = itertools.count(random.randrange(20_000, 30_000))


def free_port(kind=socket.SOCK_DGRAM):
    """Return a port that is free, and that no other test is given."""
    while True:
        port = next(PORTS)
        with suppress(OSError), socket.socket(socket.AF_INET, kind) as free:
            free.bind(("127.0.0.1", port))
            return port


def ask(port, *questions):
    """Send named readings from one socket; return all answers up to that to the last."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(DEADLINE)
        sock.connect(("127.0.0.1", port))
        for question in questions[:-1]:
            sock.send(question)
        if len(questions) > 1:
            time.sleep(0.05)  # so that it is in a batch of its own, and its answer comes last
        sock.send(questions[-1])
        end = b"ack,%s," % questions[-1].split(b",")[2]
        answers = [sock.recv(300)]
        while not answers[-1].startswith(end):
            answers.append(sock.recv(300))
        return answers


def lines(path):
    """Return the lines of a log, none when it is not there yet."""
    return path.read_text().splitlines() if path.exists() else []


READINGS = [
    b"%d.%d,%d.%d" % (h, d, t, d) for h in range(30, 70) for t in range(10, 30) for d in range(10)
]


def blast(port, number, rate=None, host="127.0.0.1"):
    """Send readings from one socket, `rate` a second or as fast as it goes."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        start = time.monotonic()
        for k in range(number):
            sock.sendto(READINGS[k % len(READINGS)], (host, port))
            if rate and k % 100 == 99:
                time.sleep(max(0.0, start + k / rate - time.monotonic()))


def summary(running):
    """Return received, logged, duplicates, refused, overflowed, dropped: the server's last word."""
    account = re.search(
        r"^received (\d+) = logged (\d+) \+ duplicates (\d+) \+ refused (\d+)"
        r" \+ overflowed (\d+); dropped (\d+)$",
        running.err,
        re.MULTILINE,
    )
    if account:
        return [int(figure) for figure in account.groups()]
    logged = int(re.search(r"^(\d+) readings? logged$", running.err, re.MULTILINE)[1])
    return [logged, logged, 0, 0, 0, 0]


def settle(path):
    """Wait until a log has not grown for half a second."""
    seen = -1, 0.0

    def settled():
        nonlocal seen
        size = path.stat().st_size
        if size != seen[0]:
            seen = size, time.monotonic()
        return time.monotonic() - seen[1] > 0.5

    until(settled, seconds=2 * DEADLINE)


def resident(running):
    with open(f"/proc/{running.process.pid}/status") as status:
        return int(re.search(r"VmRSS:\s+(\d+)", status.read())[1]) / 1024


def cpu(process):
    """Return the seconds of a core that a process has used."""
    with open(f"/proc/{process.pid}/stat") as stat:
        user, system = stat.read().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def waited(running):
    """Return for how many seconds a process could run, but no core was free."""
    with open(f"/proc/{running.process.pid}/schedstat") as times:
        return int(times.read().split()[1]) / 1e9


WHOLE = {
    ".txt": re.compile(r"\d{1,3}\.\d,-?\d{1,2}\.\d"),
    ".csv": re.compile(r"[\d:T.-]{23}Z,[\d.]+,[^,]*,\d{1,3}\.\d,-?\d{1,2}\.\d,\d*|time,.*,n"),
}


def options(*paths):
    return [word for path in paths for word in ("--log", path)]


def readings(path):
    """Return the readings in a log, whose lines have to be whole."""
    if path.suffix == ".db":
        if not path.exists():
            return []
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            rows = connection.execute(
                "SELECT humidity, temperature FROM reading ORDER BY rowid"
            ).fetchall()
        connection.close()
        return [f"{humidity},{temperature}" for humidity, temperature in rows]
    content = path.read_text() if path.exists() else ""
    assert content == "" or content.endswith("\n")
    assert all(WHOLE[path.suffix].fullmatch(line) for line in content.splitlines())
    if path.suffix == ".csv":
        return [",".join(line.split(",")[3:5]) for line in content.splitlines()[1:]]
    return content.splitlines()


def complete(path):
    """Return the whole lines, or committed rows, that a reader can see now."""
    if path.suffix == ".db":
        try:
            return readings(path)
        except sqlite3.Error:  # no table yet
            return []
    content = path.read_text() if path.exists() else ""
    return content[: content.rfind("\n") + 1].splitlines()[path.suffix == ".csv" :]


KITCHEN, ATTIC = bytes(range(32)), bytes(range(32, 64))  # keys


def write_keys(path, *keys, mode=0o600):
    path.write_text("".join(f"{name} {key.hex()}\n" for name, key in keys))
    path.chmod(mode)
    return path
