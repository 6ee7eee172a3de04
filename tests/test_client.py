"""The client as its users meet it. Drivers are faked at the edge: a module, a tree over /sys."""

import argparse
import os
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time

import pytest

from client import host, next_due
from dht22.stop import Stop
from support.tools import ROOT, lines, until

QUICK = {"pi.drivers.MIN_INTERVAL": 0.001}

# Plays the readings of a file (`None, None`: a failed one), then is silent; notes its calls.
# Without eval(): after a KeyboardInterrupt in it Python ends by SIGINT, although it was caught.
FAKE_ADAFRUIT = """
DHT11, DHT22, AM2302 = 11, 22, 22
readings = iter(open("readings").read().split("\\n"))

def read_retry(sensor, pin, retries=15, delay_seconds=2, platform=None):
    print(sensor, pin, retries, file=open("calls", "a"))
    values = (next(readings, "") or "None, None").strip("()").split(", ")
    return tuple(None if value == "None" else float(value) for value in values)
"""


@pytest.fixture
def fake_adafruit(tmp_path):
    """Return the folder of a fake Adafruit_DHT that plays what is in the file `readings`."""
    folder = tmp_path / "fake"
    folder.mkdir()
    (folder / "Adafruit_DHT.py").write_text(FAKE_ADAFRUIT)
    return folder


def as_c_float(number):
    """Return a number as Adafruit_DHT gives it: 65.2 comes as 65.19999694824219."""
    return struct.unpack("f", struct.pack("f", number))[0]


def test_good_readings_arrive_and_failed_ones_send_nothing(script, server, tmp_path, fake_adafruit):
    dice = random.Random(22)
    played, failing = [(49.2, 0.0)] * 2, False
    while len(played) < 500:
        failing = dice.random() < (0.6 if failing else 0.1)  # one in five fails, in streaks
        humidity, temperature = (
            49.2 + len(played) / 50,
            len(played) / 100 - 2,
        )  # so all are told apart
        played.append((None, None) if failing else (as_c_float(humidity), as_c_float(temperature)))
    assert 50 < played.count((None, None)) < 150
    (tmp_path / "readings").write_text("\n".join(map(str, played)))
    _confirmed, *good = [
        f"{humidity:.1f},{temperature:.1f}".replace("-0.0", "0.0")
        for humidity, temperature in played
        if humidity is not None
    ]
    running = server("--count", len(good))
    client = script(
        *["client", "127.0.0.1", "--port", running.port, "--driver", "adafruit"],
        *["--interval", 0.001],
        timers=QUICK,
        path=[fake_adafruit],
    )
    assert running.wait() == 0
    assert lines(tmp_path / "datalog.txt") == good
    assert client.stop() == 0
    assert client.out.splitlines() == good
    assert set(lines(tmp_path / "calls")) == {"22 11 3"}, "a DHT22 on GPIO11, three tries"
    assert good[0] == "49.2,0.0", "the first was to be confirmed by the second"
    failures = client.err.count(
        "no reading: no answer on GPIO11, or a damaged one, 3 times; it keeps trying"
    )
    assert failures == client.err.count("reading again, after") + 1, "one line a change of state"
    assert client.err.splitlines()[-1] == "closing socket"


@pytest.mark.parametrize(
    "read", ["3303.0, 20.0", "50.0, 563.0", "50.0, -40.1", "0.0, 0.04", "nan, 20.0"]
)
def test_what_is_no_reading_is_not_sent(script, server, tmp_path, fake_adafruit, read):
    (tmp_path / "readings").write_text("\n".join([read] * 5 + ["50.0, 20.0"] * 2))
    running = server("--count", 1)
    client = script(
        *["client", "127.0.0.1", "--port", running.port, "--driver", "adafruit"],
        *["--interval", 0.001],
        timers=QUICK,
        path=[fake_adafruit],
    )
    assert running.wait() == 0
    assert lines(tmp_path / "datalog.txt") == ["50.0,20.0"]
    assert client.stop() == 0
    assert len(re.findall("^no reading: ", client.err, re.MULTILINE)) in (1, 2), (
        "before, and when all was played"
    )


NO_HOSTS = [
    *["", " ", "127.0.0.1:10001", "desktop:10001", "[::1]:10001", "[::1]", "::1:10001:x", ":"],
    *["192.168.1.300", "192.168.1", "192.168.1.5.", "1", "10001", "1.2.3.4.5", "0x7f.1", "a b"],
    *["http://desktop", "pi@desktop", "desk..top", ".", ".local", "x" * 64, "1::2::3"],
]


@pytest.mark.parametrize("text", NO_HOSTS)
def test_what_cannot_be_a_host(text):
    with pytest.raises(argparse.ArgumentTypeError):
        host(text)


@pytest.mark.parametrize(
    "text",
    [
        *["desktop", "desktop.local", "desktop.local.", "my-pc_2.lan", "küche.local", "x" * 63],
        *["127.0.0.1", "::1", "fe80::1%eth0", "::ffff:127.0.0.1", "2.pool.ntp.org", "3com"],
    ],
)
def test_what_can_be_a_host(text):
    assert host(text) == text


@pytest.mark.parametrize(
    "argv, code, error",
    [
        ([], 2, "the following arguments are required: SERVER"),
        (["127.0.0.1", "--port", "0.5"], 2, "'0.5' is not a port"),
        (["127.0.0.1", "--port", "0"], 2, "'0' is not a port"),
        (["127.0.0.1", "--interval", "nan"], 2, "'nan' is not an interval"),
        (["127.0.0.1", "--pin", "28"], 2, "'28' is not a GPIO"),
        (
            ["127.0.0.1", "--sensor", "DHT23"],
            2,
            "driver iio does not read a DHT23; --sensor is one of DHT22, ",
        ),
        (
            ["127.0.0.1", "--driver", "adafruit"],
            1,
            "driver adafruit cannot be used: Adafruit_DHT is not installed. docs/sensors.md tells",
        ),
        (["127.0.0.1", "--power-pin", "11"], 2, "--power-pin is the data pin"),
        (
            ["127.0.0.1"],
            1,
            "no sensor is set up on this machine. On a Pi: sudo dtoverlay dht11 gpiopin=11. "
            "Without a ",
        ),
        *[
            (
                ["--driver", "simulated", each],
                2,
                f"{each!r} is not a host (a name or an address; a port",
            )
            for each in NO_HOSTS
        ],
    ],
)
def test_an_error_is_one_line(script, argv, code, error):
    client = script("client", *argv)
    assert client.wait() == code
    *talk, last = client.err.splitlines()
    assert last.startswith("client.py: error: ") and error in last
    assert all(line.startswith("driver simulated") for line in talk)


NOT_WHOLE = r"{}\.py: error: cannot start \(.+\); is the folder dht22 whole\? copy all of it .*\n"
HALF = {  # of the folder: what an interrupted copy leaves
    "nothing": [],
    "some": ["*.py", "log", "pi/[d-k]*.py", "report/f*.py", "server/[a-k]*.py"],
}


@pytest.mark.parametrize("half", HALF)
@pytest.mark.parametrize("name", ["client", "dht_read", "server", "report", "publish"])
def test_without_all_of_its_modules_a_script_tells_so(tmp_path, name, half):
    script = shutil.copy(ROOT / f"{name}.py", tmp_path)
    for pattern in HALF[half]:
        for path in ROOT.glob(f"dht22/{pattern}"):
            copy = tmp_path / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(path, copy) if path.is_dir() else shutil.copy(path, copy)
    assert re.fullmatch(NOT_WHOLE.format(name), one_line_of(script))


@pytest.mark.parametrize("lines", [60, 33])  # names are missing; the last line makes no sense
def test_with_a_module_that_was_cut_a_script_tells_so(tmp_path, lines):
    script = shutil.copy(ROOT / "client.py", tmp_path)
    shutil.copytree(ROOT / "dht22", tmp_path / "dht22")
    console = tmp_path / "dht22/console.py"
    console.write_text("".join(console.read_text().splitlines(keepends=True)[:lines]))
    assert re.fullmatch(NOT_WHOLE.format("client"), one_line_of(script))


def test_without_what_a_named_sensor_needs_the_client_tells_so(tmp_path):
    script = shutil.copy(ROOT / "client.py", tmp_path)
    shutil.copytree(ROOT / "dht22", tmp_path / "dht22")
    (tmp_path / "dht22/pi/spool.py").unlink()
    argv = ["127.0.0.1", "--driver", "simulated", "--name", "kitchen"]
    assert one_line_of(script, *argv) == (
        "client.py: error: cannot start (No module named 'dht22.pi.spool');"
        " copy the whole folder dht22 (scp -r)\n"
    )


@pytest.mark.parametrize("name", ["client", "dht_read", "server", "report", "publish"])
def test_a_python_that_is_too_old_is_told(name):
    code = (
        "import runpy, sys\n"
        "sys.version_info = 3, 8, 18, 'final', 0\n"
        f"sys.argv = ['{name}.py']\n"
        f"runpy.run_path({str(ROOT / name) + '.py'!r}, run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    error = "Python 3.8.18 is too old; start it with Python 3.9 or later"
    assert done.stderr == f"{name}.py: error: {error}\n"


def one_line_of(script, *argv):
    """Return the line on stderr with which a script cannot start."""
    done = subprocess.run(
        [sys.executable, "-B", script, *argv],
        env={**os.environ, "PYTHONPATH": ""},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == 1
    return done.stderr


INTERRUPT = """
import builtins, os, signal
real = builtins.__import__
def interrupted(name, *rest, **keywords):
    if name == {module!r} and os.environ.pop("INTERRUPT", None):
        os.kill(os.getpid(), signal.SIGINT)
    return real(name, *rest, **keywords)
builtins.__import__ = interrupted
"""


@pytest.mark.parametrize("name", ["client", "dht_read"])
@pytest.mark.parametrize(
    "module", ["argparse", "dht22.console", "dht22.pi.sensor", "dht22.pi.spool"]
)
def test_ctrl_c_while_it_starts_shows_no_traceback(script, tmp_path, name, module):
    """From the first line of the script on; what Python itself does before is not ours."""
    (tmp_path / "early").mkdir()
    (tmp_path / "early" / "sitecustomize.py").write_text(INTERRUPT.format(module=module))
    argv = ["127.0.0.1", "--name", "kitchen", "--spool", "spool"] if name == "client" else []
    running = script(
        *[name, *argv, "--driver", "simulated", "--count", 1],
        path=[tmp_path / "early"],
        env={"INTERRUPT": "1"},
    )
    late = module == "dht22.pi.spool"  # main has begun
    code = running.wait()
    assert code == (0 if late else -signal.SIGINT), running.err
    assert running.err == ("closing socket\n" if late and name == "client" else "") or (
        late and name == "dht_read"
    )


@pytest.mark.parametrize("name, argv", [("report", []), ("publish", ["mqtt://127.0.0.1"])])
@pytest.mark.parametrize(
    "module", ["pathlib", "dht22.console", "dht22.publish.messages", "dht22.report.figures"]
)
def test_ctrl_c_while_a_script_for_the_log_starts_shows_no_traceback(
    script, tmp_path, name, argv, module
):
    (tmp_path / "early").mkdir()
    (tmp_path / "early" / "sitecustomize.py").write_text(INTERRUPT.format(module=module))
    running = script(name, *argv, path=[tmp_path / "early"], env={"INTERRUPT": "1"})
    until(lambda: running.process.poll() is not None or "publishing" in running.err)
    if running.process.poll() is None:  # it does not import this module
        running.stop()
    assert "Traceback" not in running.err


def test_a_usage_error_without_a_stderr_has_its_exit_code(tmp_path):
    command = ["sh", "-c", 'exec "$@" 2>&-', "sh", sys.executable, ROOT / "client.py", "--port"]
    assert subprocess.run(command, check=False).returncode == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_goes_on_until_stopped_and_prints_what_it_sends(client, number):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(10)
        running = client(receiver.getsockname()[1], "--interval", 0.01)
        received = [receiver.recv(100).decode() for _ in range(20)]
        assert running.stop(number) == 0
        receiver.setblocking(False)
        try:
            while True:
                received.append(receiver.recv(100).decode())
        except BlockingIOError:
            pass
    assert running.out.splitlines() == received
    assert running.err.splitlines()[-1] == "closing socket"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_dht_read_ends_well_when_it_is_stopped(script, number):
    running = script("dht_read", "--driver", "simulated", "--count", 1_000_000)
    until(lambda: running.out)
    assert running.stop(number) == 0
    assert running.err == "driver simulated (no sensor is read)\n"


def test_while_a_first_ctrl_c_unwinds_a_second_one_breaks_nothing_off():
    stop, unwound = Stop(), []
    with pytest.raises(KeyboardInterrupt), stop.interruptible():
        try:
            stop.ask()
        finally:
            stop.ask()
            unwound.append("all")
    assert unwound == ["all"]


@pytest.mark.parametrize("named", [[], ["--name", "kitchen", "--spool", "spool"]], ids=len)
def test_a_name_that_is_unknown_at_the_start_is_looked_up_again(script, desktop, named, tmp_path):
    """The desktop may be off, and with it its name."""
    setup = """
import socket
answers = [socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")] * 3
answers.append(socket.gaierror(socket.EAI_NONAME, "Name or service not known"))
real = socket.getaddrinfo

def getaddrinfo(name, *args, **keywords):
    if answers:
        raise answers.pop()
    return real("127.0.0.1", *args, **keywords)

socket.getaddrinfo = getaddrinfo
"""
    port = desktop.getsockname()[1]
    client = script(
        "client",
        "desktop.local",
        *["--port", port, "--driver", "simulated", "--interval", 0.01, *named],
        setup=setup,
        timers={"pi.link.LOOK_UP": 0.01, "pi.link.RECOVERED": 0.2},
    )
    question, peer = desktop.recvfrom(300)
    if named:
        desktop.sendto(b"ack,kitchen,%b," % question.split(b",")[3], peer)
        client.says(rf"^desktop.local:{port} answers$")
    else:
        client.says(rf"^sending to desktop.local:{port} again$")
    assert client.stop() == 0
    trouble = "cannot look up desktop.local (Name or service not known); it keeps trying"
    assert client.err.splitlines()[1:3] == [
        f"sending to desktop.local:{port} every 0.01 s",
        trouble,
    ]
    assert client.err.count("cannot") == 1, "one line a change of state"


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.long)])
def test_cadence_is_kept_without_drift(script, desktop, tmp_path, count):
    """When a reading is due depends on the first one only, and then it is read and sent.

    Each takes a quarter of the interval. How many more come late depends on the machine.
    """
    script(
        "client",
        "127.0.0.1",
        *["--port", desktop.getsockname()[1], "--driver", "simulated", "--quiet"],
        *["--interval", 0.02, "--count", count],
        setup="""
import client, math, time
sin, next_due = math.sin, client.next_due
math.sin = lambda *args: time.sleep(0.0025) or sin(*args)  # twice a reading
def noted(*args):
    due = next_due(*args)
    print(due, file=open("dues", "a"))
    return due
client.next_due = noted
""",
    )
    arrivals = []
    for _ in range(count):
        desktop.recv(100)
        arrivals.append(time.monotonic())
    dues = [float(due) for due in lines(tmp_path / "dues")]
    assert len(dues) == count - 1
    steps = [(due - dues[0]) / 0.02 for due in dues]
    assert steps == pytest.approx(sorted({round(step) for step in steps}), abs=0.001)
    late = sorted(arrival - due for arrival, due in zip(arrivals[1:], dues))
    print(f"after {late[0] * 1000:.1f} to {late[-1] * 1000:.1f} ms; {steps[-1]:.0f} intervals")
    assert 0.005 <= late[0] < 0.015


def test_a_late_reading_does_not_bunch_up_the_next():
    assert next_due(100.0, 2.0, 100.5) == 102
    assert next_due(100.0, 2.0, 102.0) == 102
    assert next_due(100.0, 2.0, 105.1) == 106
    assert next_due(100.0, 0.0, 105.1) == 105.1
