"""Scripts that are started for a test and stopped at its end."""

import os
import signal
import socket
import time

import pytest
from hypothesis import HealthCheck, settings

from support.brokers import FAST, Mosquitto, Subscriber
from support.disk import Disk
from support.numbered import QUICK, numbered
from support.tools import ATTIC, DEADLINE, KITCHEN, missing, scripts, write_keys

# Where Debian has mosquitto, logrotate and ip, and an ordinary user's PATH does not lead.
os.environ["PATH"] += os.pathsep + os.pathsep.join(["/usr/local/sbin", "/usr/sbin", "/sbin"])

# What a script starts with & ignores SIGINT, and so would all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):  # so with nohup
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# How long an example takes is the machine's affair.
settings.register_profile("any", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any")


@pytest.fixture
def script(tmp_path):
    """Start scripts in a folder of the test's own; stop those that still run at its end."""
    with scripts(tmp_path) as start:
        yield start


@pytest.fixture
def disk(tmp_path):
    """Make a small disk, at `disk` in the test's folder; it is given up at the end."""
    made = []

    def make(options):
        made.append(Disk(tmp_path / "disk", options))
        return made[-1]

    yield make
    for each in made:
        each.close()


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


@pytest.fixture
def client(script):
    """Start a client whose sensor is simulated."""

    def start(port, *argv, host="127.0.0.1", **keywords):
        words = "client", host, "--port", port, "--driver", "simulated"
        return script(*words, *argv, **keywords)

    return start


@pytest.fixture
def sensor(client, tmp_path):
    """Start a named client whose readings are numbered; `.read()` is what it has read so far."""

    def start(port, *argv, name="kitchen", first=0, timers=None, setup="", **keywords):
        started = client(
            *[port, "--name", name, "--spool", tmp_path / f"{name}{first}.spool", *argv],
            timers={**QUICK, **(timers or {})},
            setup=numbered(tmp_path / f"notes{first}", first) + setup,
            **keywords,
        )
        started.read = lambda: started.out.splitlines()
        return started

    return start


@pytest.fixture
def keys(tmp_path):
    return write_keys(tmp_path / "keys", ("kitchen", KITCHEN), ("attic", ATTIC))


@pytest.fixture
def mosquitto(tmp_path):
    """Start brokers with a configuration; stop them at the end."""
    started = []

    def start(*config):
        started.append(Mosquitto(tmp_path, *config))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.wait()


@pytest.fixture
def subscriber(request):
    """Start subscribers of a broker; stop them at the end."""

    def start(*args, **keywords):
        started = Subscriber(*args, **keywords)
        request.addfinalizer(started.process.kill)
        return started

    return start


@pytest.fixture
def broker(mosquitto):
    return mosquitto()


@pytest.fixture
def log(tmp_path):
    return tmp_path / "datalog.csv"


@pytest.fixture
def publish(script):
    """Start publish.py; it tries again soon."""
    try:
        import paho.mqtt.enums  # noqa: F401
    except ImportError:
        missing("paho-mqtt 2")

    def start(*argv, **keywords):
        return script("publish", *argv, **{"timers": FAST, **keywords})

    return start


@pytest.fixture
def zone():
    """Set the local time zone for a test."""
    if not hasattr(time, "tzset"):
        pytest.skip("Windows cannot change the time zone of a program")
    before = os.environ.get("TZ")

    def set_zone(name):
        os.environ.pop("TZ", None)
        if name:
            os.environ["TZ"] = name
        time.tzset()

    yield set_zone
    set_zone(before)
