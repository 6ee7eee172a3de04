"""The ways to the sensor, against fakes of the edge: packages, and the kernel's files in /sys."""

import struct
import subprocess
import sys
import types

import pytest

from dht22.pi import drivers, iio
from dht22.pi.drivers import NoDriver, SeveralSensors, UnknownModel, find_iio, open_driver
from dht22.pi.sensor import NoReading, Sensor
from support.sensors import TWO, connect
from support.tools import ROOT


class Recording(types.ModuleType):
    """A module that notes what is done to it."""

    def __init__(self, name, calls, **members):
        super().__init__(name)
        self.__dict__.update(members)
        self.calls = calls


@pytest.fixture
def circuitpython(monkeypatch):
    calls = []

    class DHT22:
        def __init__(self, pin, use_pulseio):
            calls.append(("DHT22", pin, use_pulseio))

        humidity, temperature = 50.0, 20.0

        def exit(self):
            calls.append(("exit",))

    monkeypatch.setitem(
        sys.modules, "adafruit_dht", Recording("adafruit_dht", calls, DHT22=DHT22, DHT11=DHT22)
    )
    monkeypatch.setitem(sys.modules, "board", Recording("board", calls, D11="pin 11", D4="pin 4"))
    return calls


@pytest.fixture
def adafruit(monkeypatch):
    calls = []

    def read_retry(sensor, pin, retries, delay_seconds, platform=None):
        calls.append((sensor, pin, retries, platform))
        return 65.19999694824219, 25.0

    fake = Recording("Adafruit_DHT", calls, DHT11=11, DHT22=22, AM2302=22, read_retry=read_retry)
    monkeypatch.setitem(sys.modules, "Adafruit_DHT", fake)
    return fake


@pytest.fixture
def devices(monkeypatch, tmp_path):
    """Return the folder of the IIO devices, which is empty."""
    monkeypatch.setattr(iio, "DEVICES", str(tmp_path / "iio:device*"))
    return tmp_path


A_PIN_UNKNOWN = "no sensor is set up on GPIO11, only on an unknown pin"
COURSE = [("dht11@4", 4), ("dht11@b", 11)]


@pytest.mark.parametrize(
    "connected, pin, found",
    [
        ([("dht11@b", 11)], None, (0, 11)),
        ([("dht11@b", 11)], 11, (0, 11)),
        ([("dht11@b", 11)], 4, "no sensor is set up on GPIO4, only on GPIO11"),
        ([("dht11@4", 4)], None, (0, 4)),  # the only one
        ([("dht11@0", 4)], 4, (0, 4)),  # an older overlay
        ([("dht11@0", 0)], 0, (0, 0)),
        ([("dht11@4", 17)], 17, (0, 17)),  # the file is right, the name may be old
        ([("dht11@4", 17)], 4, "no sensor is set up on GPIO4, only on GPIO17"),
        ([("dht11@11", None)], 17, (0, 17)),  # no of_node: by the name, which is hexadecimal
        ([("dht11@11", None)], 11, "no sensor is set up on GPIO11, only on GPIO17"),
        ([("dht11@0", None)], None, (0, None)),
        ([("dht11@0", None)], 11, A_PIN_UNKNOWN),
        ([("dht11", None)], None, (0, None)),
        ([("dht11", None)], 11, A_PIN_UNKNOWN),
        ([("dht11@?", None)], 11, A_PIN_UNKNOWN),
        (TWO, 4, (0, 4)),
        (TWO, 17, (1, 17)),
        (TWO, 5, "no sensor is set up on GPIO5, only on GPIO4 and GPIO17"),
        (TWO, None, "2 sensors are set up, on GPIO4 and GPIO17"),
        (COURSE, None, (1, 11)),
        (COURSE, 4, (0, 4)),
        ([("dht11@4", None), ("dht11@b", None)], None, (1, 11)),
        ([("dht11@4", None), ("dht11@0", None)], 4, (0, 4)),
        (
            [("dht11@0", None)] * 2,
            None,
            "2 sensors are set up, on an unknown pin and an unknown pin",
        ),
        ([("ads1015", None), ("dht11@4", 4)], None, (1, 4)),  # another kind of device
        ([("ads1015", 11)], None, "no sensor is set up on this machine"),
        ([], None, "no sensor is set up on this machine"),
        ([], 4, "no sensor is set up on this machine"),
    ],
)
def test_which_device_is_read(devices, connected, pin, found):
    for number, each in enumerate(connected):
        connect(devices, number, *each)
    if isinstance(found, tuple):
        number, on_pin = found
        assert find_iio(pin) == (str(devices / f"iio:device{number}"), on_pin)
        return
    with pytest.raises(NoDriver) as error:
        find_iio(pin)
    assert error.value.why == found
    assert isinstance(error.value, SeveralSensors) == (pin is None and len(connected) > 1)
    assert ("sudo dtoverlay" in error.value.remedy) != isinstance(error.value, SeveralSensors)


def test_a_pin_counted_on_the_header_is_told_what_the_number_means(devices):
    with pytest.raises(NoDriver) as error:
        find_iio(23)
    assert error.value.remedy == (
        "On a Pi, if it is on GPIO23 (a BCM number: pin 23 of the header is GPIO11): "
        "sudo dtoverlay dht11 gpiopin=23. Without a Pi: --driver simulated"
    )


UNKNOWN = "the kernel reads the only sensor that is set up, on an unknown pin"


def test_a_torn_of_node_is_as_none(devices):
    device = connect(devices, 0, "dht11@4", 17)
    for content in b"", b"\0\0\0\x10", b"\0\0\0\x10\0\0\0":
        (device / "of_node" / "gpios").write_bytes(content)
        assert iio.devices() == {str(device): 4}


@pytest.mark.parametrize(
    "connected, pin, description",
    [
        ([("dht11@b", 11)], None, "the kernel reads the sensor on GPIO11"),
        ([("dht11@4", 4)], 4, "the kernel reads the sensor on GPIO4"),
        ([("dht11@4", 4)], None, "the kernel reads the only sensor that is set up, on GPIO4"),
        ([("dht11", None)], None, UNKNOWN),
    ],
)
def test_the_pin_that_is_read_is_reported(devices, connected, pin, description):
    for number, each in enumerate(connected):
        connect(devices, number, *each)
    assert open_driver("auto", "DHT22", pin).description == description


def test_a_device_of_another_name_is_known_by_what_it_is_compatible_with(devices):
    device = connect(devices, 0, "humidity_sensor", 11)
    compatible = device / "of_node" / "compatible"
    for content, found in (
        (b"dht11\0", True),
        (b"asair,am2302\0dht11\0", True),
        (b"dht110\0", False),
    ):
        compatible.write_bytes(content)
        assert iio.devices() == ({str(device): 11} if found else {})


@pytest.mark.parametrize(
    "line, told", [("dtoverlay=dht11,gpiopin=11", True), ("dtoverlay=w1-gpio", False)]
)
def test_where_the_overlay_is_configured_and_no_sensor_is_there_it_tells_why(
    devices, tmp_path, monkeypatch, line, told
):
    config = tmp_path / "config.txt"
    config.write_text(f"[pi5]\n{line}\n")
    monkeypatch.setattr(iio, "CONFIGS", (str(tmp_path / "none.txt"), str(config)))
    with pytest.raises(NoDriver) as error:
        find_iio(None)
    assert (f"(dtoverlay=dht11 in {config} was not applied: is it" in error.value.remedy) == told


def test_the_device_is_looked_up_again_by_its_pin(devices):
    kitchen, attic = connect(devices, 0, *TWO[0]), connect(devices, 1, *TWO[1], 489, -37)
    driver = open_driver("iio", "DHT22", 17)
    assert driver.read() == (48.9, -3.7)
    kitchen.rename(devices / "gone")
    attic.rename(devices / "iio:device0")
    (devices / "gone").rename(devices / "iio:device1")
    assert driver.read() == (48.9, -3.7)
    (devices / "iio:device0").rename(devices / "gone")
    with pytest.raises(NoDriver, match="^no sensor is set up on GPIO17, only on GPIO4$"):
        driver.read()


def test_the_only_device_stays_the_one_that_is_read(devices):
    """It was taken because no pin was asked for; a second one that comes later is not taken."""
    connect(devices, 1, *TWO[0])
    driver = open_driver("iio", "DHT22", None)
    connect(devices, 0, "dht11@b", 11, 489, -37)
    assert driver.read() == (74.3, 25.7)


def test_auto_takes_the_first_that_can_be_used(devices, adafruit, circuitpython, monkeypatch):
    device = connect(devices, 0, "dht11@b", 11)
    assert open_driver("auto", "DHT22", 11).name == "iio"
    (device / "name").unlink()
    assert open_driver("auto", "DHT22", 11).name == "adafruit"
    monkeypatch.setitem(sys.modules, "Adafruit_DHT", None)
    assert open_driver("auto", "DHT22", 11).name == "circuitpython"
    monkeypatch.setitem(sys.modules, "adafruit_dht", None)
    with pytest.raises(NoDriver) as nothing:
        open_driver("auto", "DHT22", 11)
    assert nothing.value.why == "no sensor is set up on this machine"
    assert nothing.value.remedy == (
        "On a Pi: sudo dtoverlay dht11 gpiopin=11. Without a Pi: --driver simulated. "
        "Also tried, but not needed: "
        "driver adafruit cannot be used: Adafruit_DHT is not installed; "
        "driver circuitpython cannot be used: adafruit_dht is not installed"
    )


def test_auto_goes_on_where_another_pin_was_asked_for(devices, adafruit):
    """But not past two sensors of which one has to be chosen: it would read a third pin."""
    for number, each in enumerate(TWO):
        connect(devices, number, *each)
    driver = open_driver("auto", "DHT22", 5)
    assert driver.description == "Adafruit_DHT reads the sensor on GPIO5"
    assert driver.read() == (65.19999694824219, 25.0)
    assert adafruit.calls == [(22, 5, 3, None)]
    with pytest.raises(SeveralSensors):
        open_driver("auto", "DHT22", None)


def test_an_explicit_driver_never_falls_back(devices, circuitpython):
    connect(devices, 0, "dht11@b", 11)
    with pytest.raises(NoDriver, match="^driver adafruit cannot be used: Adafruit_DHT is not"):
        open_driver("adafruit", "DHT22", 11)


def test_without_a_pin_it_is_the_course_s(devices, adafruit, circuitpython):
    open_driver("adafruit", "DHT22", None).read()
    assert adafruit.calls == [(22, 11, 3, None)]
    open_driver("circuitpython", "DHT22", None)
    assert circuitpython == [("DHT22", "pin 11", False)]


def test_circuitpython_has_one_object_and_leaves_it(circuitpython, monkeypatch):
    monkeypatch.setattr(drivers, "MIN_INTERVAL", 0)
    sensor = Sensor(open_driver("circuitpython", "AM2302", 11))
    assert [sensor.read() for _ in range(3)] == ["50.0,20.0"] * 3
    sensor.close()
    assert circuitpython == [("DHT22", "pin 11", False), ("exit",)]


@pytest.mark.parametrize("driver", ["auto", "iio", "adafruit", "circuitpython", "simulated"])
def test_no_driver_reads_a_model_that_it_does_not_know(devices, adafruit, circuitpython, driver):
    with pytest.raises(UnknownModel, match="does not read a BME280$"):
        open_driver(driver, "BME280", 11)


def test_simulated_sensors_of_different_names_have_different_curves():
    def read(name):
        return open_driver("simulated", "DHT22", None, name).read()

    for one, other in ("", "kitchen"), ("kitchen", "attic"), ("pi-1", "pi-2"):
        assert max(abs(a - b) for a, b in zip(read(one), read(other))) > 0.5
    assert read("attic") == pytest.approx(read("attic"), abs=0.1)


class GPIOError(Exception):
    """What lgpio raises is of no other kind."""


ERRORS = [
    (NotImplementedError("Board not supported"), "Board not supported"),
    (RuntimeError("Cannot determine\nSOC"), "Cannot determine SOC"),
    (ValueError("no such pin"), "no such pin"),
    (GPIOError("'GPIO busy'"), "GPIOError: 'GPIO busy'"),
    (TypeError("a float is required"), "TypeError: a float is required"),
    (KeyError(11), "KeyError: 11"),
    (struct.error("unpack requires a buffer"), "error: unpack requires a buffer"),
    (AssertionError(), "AssertionError"),
    (RuntimeError(), "RuntimeError"),
    (OSError(110, "Connection timed out"), "Connection timed out"),
    (ModuleNotFoundError("No module named 'x'", name="x"), "x is not installed"),
    (ImportError("libgpiod.so.2: not found"), "ImportError: libgpiod.so.2: not found"),
]


@pytest.mark.parametrize("error, why", ERRORS)
def test_whatever_a_package_raises_is_one_line(circuitpython, monkeypatch, error, why):
    """As it is opened it is no driver, and as it reads no reading."""

    def fail(*_, **__):
        raise error

    sensor = Sensor(open_driver("circuitpython", "DHT22", 11))
    sensor.driver.rest = 0.0
    monkeypatch.setattr(sys.modules["adafruit_dht"].DHT22, "humidity", property(fail))
    with pytest.raises(NoReading) as reading:
        sensor.read()
    assert str(reading.value) == why
    monkeypatch.setattr(sys.modules["adafruit_dht"], "DHT22", fail)
    with pytest.raises(NoDriver) as opening:
        open_driver("circuitpython", "DHT22", 11)
    assert opening.value.why == f"driver circuitpython cannot be used: {why}"


def test_a_pin_that_the_board_lacks_is_one_line(circuitpython):
    with pytest.raises(NoDriver, match="^driver circuitpython .*no attribute 'D5'$"):
        open_driver("circuitpython", "DHT22", 5)


@pytest.mark.parametrize("gpiomem", [True, False])
def test_adafruit_on_a_platform_that_it_does_not_know(adafruit, monkeypatch, tmp_path, gpiomem):
    def get_platform():
        raise RuntimeError("Unknown platform.")

    adafruit.__path__ = []
    adafruit.Raspberry_Pi_2 = "the explicit one"
    monkeypatch.setitem(
        sys.modules, "Adafruit_DHT.common", Recording("common", [], get_platform=get_platform)
    )
    monkeypatch.setattr(drivers, "GPIOMEM", str(tmp_path if gpiomem else tmp_path / "none"))
    if not gpiomem:
        with pytest.raises(NoDriver, match="Unknown platform"):
            open_driver("adafruit", "DHT22", 11)
        return
    assert open_driver("adafruit", "DHT22", 11).read() == (65.19999694824219, 25.0)
    assert adafruit.calls == [(22, 11, 3, "the explicit one")]


MACHINES = {  # sys_platform, platform_machine: is Adafruit_DHT installed there?
    ("linux", "armv6l"): True,  # Pi Zero, Pi 1
    ("linux", "armv7l"): True,  # Pi 2 and later, 32 bit
    ("linux", "aarch64"): False,  # 64 bit, or a 32-bit system on a 64-bit kernel
    ("linux", "x86_64"): False,
    ("darwin", "arm64"): False,
    ("darwin", "x86_64"): False,
    ("win32", "AMD64"): False,
}


@pytest.mark.parametrize("machine, installed", MACHINES.items())
def test_requirements_are_for_32_bit_raspberry_pi_os(machine, installed):
    from packaging.requirements import Requirement

    wanted = [Requirement(line) for line in (ROOT / "requirements.txt").read_text().splitlines()]
    assert [each.name for each in wanted] == ["Adafruit_DHT", "RPi.GPIO"]
    for each in wanted:
        assert (
            each.marker.evaluate({"sys_platform": machine[0], "platform_machine": machine[1]})
            == installed
        )


def test_requirements_install_nothing_on_a_desktop(tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--target",
            tmp_path / "there",
            "-r",
            ROOT / "requirements.txt",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "there").exists() or not list((tmp_path / "there").iterdir())
