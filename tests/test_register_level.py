"""The main job on real input: the unmodified Adafruit_DHT, C driver included, reads GPIO registers.

The DHT22 and the Pi around it are in dht22sim, where an answer is lost now and then, as in life.
"""

import fcntl
import os
import random
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from dht22.pi.sensor import CONFIRM
from support.tools import lines, missing, needs, needs_namespaces, until

SIM = Path(__file__).parent / "support" / "dht22sim"
# --use-pep517: pip before 23.1 drops the option without it. --no-build-isolation: with the
# setuptools that are here, which is faster. --no-cache-dir: later builds would get this one.
PIP = [
    *[sys.executable, "-m", "pip", "install", "--quiet", "--use-pep517", "--no-build-isolation"],
    *["--no-cache-dir", "--no-deps", "--config-settings=--build-option=--force-pi2"],
    *["Adafruit_DHT==1.4.0", "--target"],
]
PI_3 = "processor\t: 0\n\nHardware\t: BCM2835\nRevision\t: a02082\n"
# Kernels since the end of 2023: raspberrypi/linux#5690
PI_3_64_BIT = PI_3.replace("Hardware\t: BCM2835\n", "")
HASTE = {"pi.drivers.MIN_INTERVAL": 0.0}  # the simulated sensor needs no rest
# Adafruit_DHT as it is; what it returns is noted.
NOTED = """
import Adafruit_DHT
read_retry = Adafruit_DHT.read_retry
def noted(*args, **keywords):
    values = read_retry(*args, **keywords)
    print(*values, file=open("measured", "a"))
    return values
Adafruit_DHT.read_retry = noted
"""
CLIENT = "client", "127.0.0.1", "--driver", "adafruit", "--port"


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """Return a folder with the simulator and Adafruit_DHT, which the first that needs it builds."""
    needs("gcc")
    needs_namespaces()
    if len(os.sched_getaffinity(0)) < 2:
        missing("a second CPU")
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        missing("Python.h")
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share what is above
        folder = folder.parent
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = folder / "register-level"
        if not (folder / "dht22sim").exists():
            build(folder)
    return folder


def build(folder):
    # The driver tells 0 from 1 by counting loops while the line is low and while it is high. On a
    # Pi reading the register takes the time; in memory the two loops, once optimized, run at
    # different speeds, and all bits may be 0.
    environment = {**os.environ, "CFLAGS": "-O0"}
    done = subprocess.run([*PIP, folder], env=environment, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        missing(f"what it takes to build Adafruit_DHT ({done.stderr.strip()})")
    subprocess.run(
        ["gcc", "-O2", "-Wall", "-Wextra", "-o", folder / "dht22sim", SIM / "dht22sim.c"],
        check=True,
    )


@pytest.fixture
def pi(built, script, tmp_path):
    """Start scripts as on a Raspberry Pi with a DHT22; `weather` gives it the answers to come."""

    def start(name, *argv, cpuinfo=PI_3, pin=11, **keywords):
        (tmp_path / "cpuinfo").write_text(cpuinfo)
        prefix = ["unshare", "-rm", SIM / "run.sh", built / "dht22sim", tmp_path, str(pin)]
        return script(name, "--pin", pin, *argv, prefix=prefix, path=[built], **keywords)

    return start


@pytest.fixture
def weather(tmp_path):
    """Append answers (`ok 743 257`) to the schedule: one for each start signal; the last stays."""

    def append(*answers):
        with open(tmp_path / "schedule", "a") as schedule:
            schedule.write("\n".join(answers) + "\n")

    return append


def states(client):
    """Return the client's changes of state and the number of failed polls before each R.

    F: it fails. R: it reads again.
    """
    found = re.findall(
        r"^(no reading: |reading again, after (\d+) failed)", client.err, re.MULTILINE
    )
    return "".join("R" if failed else "F" for _, failed in found), [
        int(failed) for _, failed in found if failed
    ]


def test_readings_arrive(pi, weather, server, tmp_path):
    desktop, log = server(), tmp_path / "datalog.txt"
    weather("ok 743 257")
    client = pi(*CLIENT, desktop.port, "--interval", 0, timers=HASTE)
    until(lambda: "74.3,25.7" in lines(log), "the first reading")
    weather("ok 489 -37")
    until(lambda: "48.9,-3.7" in lines(log), "the second reading")
    assert client.stop() == 0
    assert set(lines(log)) == {"74.3,25.7", "48.9,-3.7"}


def test_no_answer_and_damaged_ones_are_said_once(pi, weather, server, tmp_path):
    desktop, log = server(), tmp_path / "datalog.txt"
    weather(*["ok 743 257"] * 2, *["bad 743 257"] * 6, *["dead 0 0"] * 6, "ok 489 -37")
    client = pi(*CLIENT, desktop.port, "--interval", 0, timers=HASTE)
    until(lambda: "48.9,-3.7" in lines(log), "a reading after the trouble", 60)
    assert client.stop() == 0
    assert set(lines(log)) <= {"74.3,25.7", "48.9,-3.7"}
    assert lines(log).count("74.3,25.7") <= 2  # no more were measured
    changes, failed = states(client)
    # More than once if the good answers get lost by chance.
    assert changes == "FR" * len(failed), client.err
    assert max(failed, default=0) > 1, client.err


def poll(rng, reading):
    """Return the answers to a poll: most good, some at the second try, some never, some zeros."""
    return rng.choices(
        [[f"ok {reading}"], [f"bad {reading}", f"ok {reading}"], ["dead 0 0"] * 3, ["ok 0 0"]],
        [12, 4, 3, 1],
    )[0]


@pytest.mark.parametrize("polls, seed", [(5, 24), pytest.param(200, 1, marks=pytest.mark.long)])
def test_every_value_sent_is_true(pi, weather, server, tmp_path, polls, seed):
    """No two good answers are alike: what is logged are some of them, each once, in order.

    How many answers get lost depends on the machine; each that the driver returned is sent, but
    for those that could not be confirmed at the start.
    """
    desktop, log = server(), tmp_path / "datalog.txt"
    rng = random.Random(seed)
    answers = [answer for k in range(polls) for answer in poll(rng, f"{500 + k} {100 - k}")]
    weather(*answers, "ok 999 -399")
    client = pi(*CLIENT, desktop.port, "--interval", 0, timers=HASTE, setup=NOTED)
    until(lambda: "99.9,-39.9" in lines(log), "the last reading", 60 + 2 * polls)
    assert client.stop() == 0
    sent = [reading for reading in lines(log) if reading != "99.9,-39.9"]
    true = [
        f"{int(humidity) / 10},{int(temperature) / 10}"
        for mode, humidity, temperature in map(str.split, answers)
        if mode == "ok" and humidity != "0"
    ]
    truth = iter(true)
    assert all(reading in truth for reading in sent), sent
    measured = [line.split() for line in lines(tmp_path / "measured")]
    returned = [f"{float(h):.1f},{float(t):.1f}" for h, t in measured if h != "None"]
    good = [reading for reading in returned if reading not in ("0.0,0.0", "99.9,-39.9")]
    assert sent == good[len(good) - len(sent) :]
    assert len(sent) >= (len(good) - CONFIRM) // 2  # the first ones may lack one that confirms them


@pytest.mark.parametrize("cpuinfo", [PI_3, PI_3_64_BIT], ids=["32 bit", "64 bit"])
def test_dht_read(pi, weather, cpuinfo):
    weather("ok 743 257")
    for _ in range(10):  # an answer is lost or misread now and then, more on a busy machine
        check = pi("dht_read", "--driver", "adafruit", cpuinfo=cpuinfo, pin=4, timers=HASTE)
        if check.wait() == 0:
            break
        assert check.out == "" and "no reading: " in check.err
    assert check.out == "74.3,25.7\n", check.err


def test_dht_read_without_answer(pi, weather):
    weather("dead 0 0")
    check = pi("dht_read", "--driver", "adafruit", timers=HASTE)
    assert check.wait() == 1
    assert check.out == ""
    assert (
        re.search(r"^no reading: .*GPIO11", check.err, re.MULTILINE)
        and "Traceback" not in check.err
    )
