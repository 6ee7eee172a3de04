"""What the tests share: real processes on real sockets, and deadlines instead of sleeps."""
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DEADLINE = 20  # seconds


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


class Script:
    """A script of ours that runs, its stdout and stderr in files.

    `setup` is Python that is run first, to shorten a timer: "import dht_read; dht_read.MIN_INTERVAL = 0.01".
    """

    def __init__(self, folder, name, *argv, setup="", prefix=(), **popen):
        self.name = name
        number = sum(1 for _ in folder.glob(f"{name}.*.err"))
        self.out_path, self.err_path = (folder / f"{name}.{number}.{end}" for end in ("out", "err"))
        code = f"{setup}\nimport sys, {name}\nsys.exit({name}.main(sys.argv[1:]))"
        command = [sys.executable, "-c", code] if setup else [sys.executable, str(ROOT / f"{name}.py")]
        path = [str(ROOT), *popen.pop("path", [])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path)), **popen.pop("env", {})}
        with open(self.out_path, "wb") as out, open(self.err_path, "wb") as err:
            self.process = subprocess.Popen([*prefix, *command, *map(str, argv)], cwd=folder, env=environment,
                                            **{"stdin": subprocess.DEVNULL, "stdout": out, "stderr": err, **popen})

    @property
    def out(self):
        return self.out_path.read_text()

    @property
    def err(self):
        return self.err_path.read_text()

    def says(self, pattern):
        """Wait for a line on stderr that matches, and return the match."""
        return until(lambda: re.search(pattern, self.err, re.MULTILINE), f"{pattern!r} from {self.name}:\n{self.err}")

    def wait(self):
        """Wait for the end and return the exit code."""
        return self.process.wait(DEADLINE)

    def stop(self, number=signal.SIGTERM):
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        return self.wait()


@pytest.fixture
def script(tmp_path):
    """Start scripts in a folder of the test's own; stop those that still run at its end."""
    running = []

    def start(name, *argv, **keywords):
        running.append(Script(tmp_path, name, *argv, **keywords))
        return running[-1]

    yield start
    for each in running:
        each.process.kill()
        each.process.wait()


@pytest.fixture
def server(script):
    """Start a server and return it when it is ready; its port is `.port`."""
    def start(*argv, port=0, **keywords):
        started = script("server", "--port", port, *argv, **keywords)
        started.port = int(started.says(r"^listening on \S+:(\d+), logging to")[1])
        return started

    return start


@pytest.fixture
def desktop():
    """Return a socket that plays the server, on loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(10)
        yield sock


def send(port, *datagrams, host="127.0.0.1"):
    """Send datagrams from a socket of their own."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        for datagram in datagrams:
            sock.sendto(datagram, (host, port))


def lines(path):
    """Return the lines of a log, none when it is not there yet."""
    return path.read_text().splitlines() if path.exists() else []
