"""client.py and dht_read.py with a sensor: the kernel's, an added driver, one that hangs."""

import os
import re

import pytest

import dht_read
from support.sensors import TWO, connect
from support.tools import lines, needs_namespaces, until

QUICK = {"pi.drivers.MIN_INTERVAL": 0.01}

EXTENSION = """
import os
from dht22.pi import drivers

def open_bme280(model, pin):
    if model != "BME280":
        raise ValueError(f"it is no {model}")
    ranges = (0.0, 100.0), (-40.0, 65.0)
    read = lambda: (50.0, float(os.environ["CELSIUS"]))
    return drivers.Driver("bme280", "a BME280", read, 1, 0.1, ranges=ranges)

drivers.DRIVERS["bme280"] = open_bme280
"""


@pytest.mark.parametrize(
    "celsius, argv, code, said",
    [
        (64.9, ["--interval", 0.1], 0, r"^driver bme280 \(a BME280\)$"),
        (
            65.1,
            ["--interval", 0.1],
            None,
            r"^no reading: 65\.1 °C is out of range \(-40 to 65 °C\)",
        ),
        (21.0, ["--interval", 0.05], 2, "error: this sensor needs 0.1 s between readings; give a"),
        (21.0, ["--sensor", "BMP280"], 1, "error: driver bme280 cannot be used: it is no BMP280"),
    ],
)
def test_an_added_driver_needs_nothing_else(script, desktop, celsius, argv, code, said):
    client = script(
        *["client", "127.0.0.1", "--port", desktop.getsockname()[1], "--driver", "bme280"],
        *["--sensor", "BME280", "--count", 2, *argv],
        setup=EXTENSION,
        env={"CELSIUS": str(celsius)},
    )
    client.says(said)
    assert (client.stop() if code is None else client.wait()) == (code or 0)
    assert client.out == ("50.0,64.9\n" * 2 if code == 0 else "")


def test_a_real_sensor_is_not_polled_more_often_than_the_datasheet_allows(script, tmp_path, sysfs):
    connect(sysfs, 1, "dht11@b", 11)
    client = script("client", "127.0.0.1", "--interval", 1, prefix=IIO)
    assert client.wait() == 2
    assert "client.py: error: this sensor needs 2 s between readings; give a" in client.err


@pytest.fixture
def sysfs(tmp_path):
    """Return the folder of the IIO devices in a tree that `IIO` binds over /sys."""
    needs_namespaces()
    folder = tmp_path / "sys/bus/iio/devices"
    connect(folder, 0, "ads1015")
    return folder


IIO = ["unshare", "-rm", "sh", "-c", 'mount --bind sys /sys && exec "$@"', "sh"]


def test_the_kernel_s_sensor_is_read_and_read_again(script, tmp_path, sysfs, desktop):
    device = connect(sysfs, 1, "dht11@b", 11, 743, -37)
    address = "127.0.0.1", "--port", desktop.getsockname()[1]
    client = script("client", *address, "--interval", 0.05, prefix=IIO, timers=QUICK)
    assert desktop.recv(100) == b"74.3,-3.7"
    client.says(r"^driver iio \(the kernel reads the sensor on GPIO11\)$")
    temperature = device / "in_temp_input"
    temperature.unlink()
    temperature.symlink_to("/proc/self/mem")  # reading it is a true EIO
    client.says(r"^no reading: a damaged answer \(Input/output error\)")
    temperature.unlink()
    temperature.write_text("21500\n")
    client.says("^reading again")
    until(lambda: desktop.recv(100) == b"74.3,21.5")
    device.rename(tmp_path / "gone")
    client.says("^no reading: no sensor is set up on this machine")
    (tmp_path / "gone").rename(sysfs / "iio:device2")  # it comes back under another number
    until(lambda: client.err.count("reading again") == 2)
    assert client.stop() == 0


def test_two_sensors_on_one_pi_are_logged_as_two(script, server, tmp_path, sysfs):
    connect(sysfs, 1, "dht11@4", 4, 743, 257)
    connect(sysfs, 2, "dht11@11", 17, 489, -37)
    running = server("--count", 12)
    for name, pin in ("kitchen", 4), ("attic", 17):
        argv = "127.0.0.1", "--port", running.port, "--interval", 0.05, "--name", name, "--pin", pin
        state = {"XDG_STATE_HOME": str(tmp_path)}
        script("client", *argv, "--count", 6, prefix=IIO, timers=QUICK, env=state)
    assert running.wait() == 0
    rows = [line.split(",") for line in lines(tmp_path / "datalog.csv")[1:]]
    logged = sorted((name, humidity, temperature) for _, _, name, humidity, temperature, _ in rows)
    assert logged == [("attic", "48.9", "-3.7")] * 6 + [("kitchen", "74.3", "25.7")] * 6


@pytest.mark.parametrize(
    "argv, error",
    [
        ([], "2 sensors are set up, on GPIO4 and GPIO17. Choose one with --pin"),
        (
            ["--pin", 5],
            "no sensor is set up on GPIO5, only on GPIO4 and GPIO17. "
            "Choose one of these with --pin (a BCM number: "
            "pin 23 of the header is GPIO11), or set this one up: sudo dtoverlay dht11 gpiopin=5. "
            "Also tried, but not needed: "
            "driver adafruit cannot be used: Adafruit_DHT is not installed; "
            "driver circuitpython cannot be used: adafruit_dht is not installed",
        ),
    ],
)
def test_a_choice_that_has_to_be_made_is_one_line(script, sysfs, argv, error):
    for number, each in enumerate(TWO, 1):
        connect(sysfs, number, *each)
    check = script("dht_read", *argv, prefix=IIO)
    assert check.wait() == 1
    assert check.err == f"dht_read.py: error: {error}\n"


def test_dht_read_reads_once(script, sysfs):
    device = connect(sysfs, 1, "dht11@b", 11, 743, -37)
    once = script("dht_read", prefix=IIO)  # in its own time: it confirms the reading 2 s later
    assert once.wait() == 0
    assert once.out == "74.3,-3.7\n"
    (device / "in_temp_input").write_text("99900\n")
    failing = script("dht_read", prefix=IIO, timers=QUICK)
    assert failing.wait() == 1
    assert failing.out == ""
    for line in (
        "try 1: 99.9 °C is out of range (-40 to 80 °C)",
        "try 3: 99.9 °C is out of range (-40 to 80 °C)",
        "no reading: 99.9 °C is out of range (-40 to 80 °C)",
        "damaged answers: the pull-up (4.7 to 10 kΩ",
    ):
        assert f"\n{line}" in failing.err


FAKE_GPIO = """
import time
BCM, OUT, HIGH, LOW = "BCM", "OUT", "HIGH", "LOW"
start = time.monotonic()
def note(*call):
    print(round(time.monotonic() - start, 1), *call, file=open("gpio", "a"))
def setwarnings(on): note("warnings", on)
def setmode(mode): note("mode", mode)
def setup(pin, direction, initial): note("setup", pin, direction, initial)
def output(pin, level): note("output", pin, level)
def cleanup(pin): note("cleanup", pin)
"""
SCALED = {"pi.drivers.MIN_INTERVAL": 0.2, "pi.sensor.OFF": 0.5}


@pytest.fixture
def hung(tmp_path):
    """Return a folder with a fake RPi.GPIO and an Adafruit_DHT that needs a new start to answer."""
    (tmp_path / "fake" / "RPi").mkdir(parents=True)
    (tmp_path / "fake" / "RPi" / "__init__.py").touch()
    (tmp_path / "fake" / "RPi" / "GPIO.py").write_text(FAKE_GPIO)
    (tmp_path / "fake" / "Adafruit_DHT.py").write_text("""
DHT22 = 22
def read_retry(*args, **keywords):
    try:
        off = open("gpio").read().count("output 4 LOW")
    except OSError:
        off = 0
    return (50.0, 20.0) if off else (None, None)
""")
    return tmp_path / "fake"


def test_a_hung_sensor_is_switched_off_and_on(script, tmp_path, hung):
    running = script(
        *["client", "127.0.0.1", "--driver", "adafruit", "--interval", 0.2, "--power-pin", 4],
        timers=SCALED,
        path=[hung],
    )
    running.says("^5 polls failed: switching the sensor off and on$")
    running.says("^reading again, after 5 failed$")
    assert running.stop() == 0
    calls = [line.split(" ", 1) for line in (tmp_path / "gpio").read_text().splitlines()]
    assert [call for _, call in calls] == [
        "warnings False",
        "mode BCM",
        "setup 4 OUT LOW",
        "output 4 HIGH",
        "output 4 LOW",
        "output 4 HIGH",
        "cleanup 4",
    ]
    off, on = float(calls[4][0]), float(calls[5][0])
    assert on - off >= 0.5


def test_a_sensor_that_still_hangs_is_switched_off_again(script, hung):
    package = hung / "Adafruit_DHT.py"
    package.write_text(package.read_text().replace("if off else", "if off > 1 else"))
    running = script(
        *["client", "127.0.0.1", "--driver", "adafruit", "--interval", 0.02, "--power-pin", 4],
        timers={"pi.drivers.MIN_INTERVAL": 0.01, "pi.sensor.OFF": 0.01},
        path=[hung],
    )
    running.says("^10 polls failed: switching the sensor off and on$")
    running.says("^reading again, after 10 failed$")
    assert running.stop() == 0


def test_rpi_lgpio_makes_its_pipe_in_a_folder_of_its_own(script, tmp_path, hung):
    """It enters $LG_WD as it is imported; what is relative stays where the client was started."""
    module = hung / "RPi" / "GPIO.py"
    pipe = "import os\nos.chdir(os.environ['LG_WD'])\nos.mkfifo('.lgd-nfy0')\n"
    pipe += "print(os.getcwd(), file=sys.stderr)\n"
    module.write_text("import sys\n" + pipe + module.read_text())
    argv = ["client", "127.0.0.1", "--driver", "simulated", "--power-pin", 4, "--count", 1]
    clients = [script(*argv, timers=SCALED, path=[hung]) for _ in range(2)]
    assert [client.wait() for client in clients] == [0, 0]
    folders = {client.err.splitlines()[0] for client in clients}
    assert len(folders) == 2 and not any(map(os.path.exists, folders))
    assert "cleanup 4" in (tmp_path / "gpio").read_text()


@pytest.mark.parametrize(
    "call", ["setup", "output 4 HIGH", "output 4 LOW", "cleanup"], ids=lambda call: call.split()[-1]
)
@pytest.mark.parametrize(
    "error", ["TypeError()", "KeyError(4)", "struct.error('x')", "OSError(22)"]
)
def test_whatever_the_power_pin_s_package_raises_is_one_line(script, tmp_path, hung, call, error):
    """It is no driver when it is set up, no reading when switched on, else reported."""
    with open(hung / "RPi" / "GPIO.py", "a") as module:
        module.write(f"""
import struct
note_it = note
def note(*call):
    note_it(*call)
    if " ".join(map(str, call)).startswith("{call}"):
        raise {error}
""")
    running = script(
        *["client", "127.0.0.1", "--driver", "adafruit", "--interval", 0.02, "--power-pin", 4],
        timers={"pi.drivers.MIN_INTERVAL": 0.01, "pi.sensor.OFF": 0.01},
        path=[hung],
    )
    if call == "setup":
        assert running.wait() == 1
        assert running.err.startswith("client.py: error: --power-pin cannot be used: ")
        assert "Is the user in the group gpio?" in running.err and "apt" not in running.err
        assert running.err.count("\n") == 1
        return
    running.says(
        {
            "output 4 HIGH": "^no reading: cannot switch the sensor on",
            "output 4 LOW": "^cannot switch the sensor off",
            "cleanup": "^reading again, after 5 failed$",
        }[call]
    )
    assert running.stop() == 0
    assert "Traceback" not in running.err
    assert ("cannot release a pin" in running.err) == (call == "cleanup")


def test_without_a_power_pin_the_remedy_is_said_once(script, hung):
    running = script(
        "client", "127.0.0.1", "--driver", "adafruit", "--interval", 0.2, timers=SCALED, path=[hung]
    )
    running.says(
        "^5 polls failed: dht_read.py tells what to look at; if the sensor hangs, "
        r"unplug it for .* s \(--power-pin does that by itself\)$"
    )
    assert running.stop() == 0
    assert running.err.count("polls failed") == 1


def test_gpio_is_cleaned_up_when_stopped_while_switched_off(script, tmp_path, hung):
    running = script(
        *["client", "127.0.0.1", "--driver", "adafruit", "--interval", 0.2, "--power-pin", 4],
        timers={**SCALED, "pi.sensor.OFF": 60},
        path=[hung],
    )
    running.says("switching the sensor off and on")
    assert running.stop() == 0
    assert (tmp_path / "gpio").read_text().endswith(" cleanup 4\n")


def test_dht_read_tells_what_to_look_at_when_some_reads_fail(script, tmp_path):
    (tmp_path / "Adafruit_DHT").mkdir()
    (tmp_path / "Adafruit_DHT" / "__init__.py").write_text(
        "DHT22, reads = 22, [(None, None), (50.0, 20.0), (50.0, 20.0), (None, None)]\n"
        "def read_retry(*_, **__):\n    return reads.pop(0)\n"
    )
    running = script(
        *["dht_read", "--driver", "adafruit", "--count", 3], timers=SCALED, path=[tmp_path]
    )
    assert running.wait() == 0
    assert running.out == "50.0,20.0\n"
    assert running.err.count("no reading: ") == 2
    running.says("^no answer: look at power")


def test_power_pin_without_the_package(script):
    running = script("client", "127.0.0.1", "--driver", "simulated", "--power-pin", 4)
    assert running.wait() == 1
    error = "client.py: error: --power-pin cannot be used: .*[.] It needs a package: sudo apt .*\n"
    assert re.fullmatch(error, running.err)


@pytest.mark.parametrize(
    "failure, hint",
    [
        ("try 1: no answer on GPIO11, or a damaged one, 3 times", "no answer: look at power (3V3)"),
        ("try 1: no answer on GPIO11, or a damaged one, 3 times", "damaged answers: the pull-up"),
        ("try 1: [Errno 110] Connection timed out", "no answer: look at power (3V3)"),
        ("try 1: [Errno 5] Input/output error", "damaged answers: the pull-up"),
        ("try 1: Checksum did not validate. Try again.", "damaged answers: the pull-up"),
        ("try 1: DHT sensor not found, check wiring", "no answer: look at power (3V3)"),
        ("try 1: Error accessing GPIO.", "permission: sudo usermod -aG gpio"),
        ("try 1: [Errno 13] Permission denied: '/sys/...'", "permission: sudo usermod -aG gpio"),
        ("try 1: Unknown platform.", "sudo dtoverlay dht11 gpiopin=11 now"),
    ],
)
def test_dht_read_tells_a_beginner_what_to_look_at(failure, hint):
    assert any(hint in line for line in dht_read.hints(failure))
