"""Scripts that are started for a test and stopped at its end."""

import signal
import socket

import pytest

from tools import DEADLINE, Script

# What a script starts with & ignores SIGINT, and so would all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


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
        sock.settimeout(DEADLINE)
        yield sock
