"""The ways to the sensor: the kernel's own driver, two packages, and a simulation."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable

from dht22.pi import iio

PIN = 11  # the pin of the course, a BCM number
BCM = "a BCM number: pin 23 of the header is GPIO11"
MIN_INTERVAL = 2.0  # seconds between reads, and after power-up; AM2302 manual
TRIES = 3  # for one read; on a good day about one in five fails
ADAFRUIT_READ = 0.52  # seconds that a read takes in Adafruit_DHT
GPIOMEM = "/dev/gpiomem"  # how Adafruit_DHT reaches the pins without root; a Pi 5 has none
MODELS = "DHT22", "AM2302", "DHT11"  # what the drivers below read

Values = tuple[float, float]  # humidity (%), temperature (°C)
Range = tuple[float, float]  # the lowest and the highest that is possible
DHT22_RANGES = (0.0, 100.0), (-40.0, 80.0)  # %, °C; AM2302 manual


class NoDriver(Exception):
    """A driver cannot be used here: a sentence that says why, and one that names the remedy."""

    def __init__(self, why: str, remedy: str) -> None:
        super().__init__(why)
        self.why = why
        self.remedy = remedy


class SeveralSensors(NoDriver):
    """The kernel reads several sensors, and nobody said which one is meant."""


class UnknownModel(NoDriver):
    """The driver does not read sensors of this model: a usage error."""


class Driver:
    """A way to the sensor.

    `read` returns humidity and temperature as they come. Any exception means no answer, or a
    damaged one. It is tried `tries` times for a reading, and rests `rest` seconds between the end
    of one try and the next. What is `made_up` needs no check: no sensor is read.

    `least_interval` is the shortest --interval, in seconds; `rest` if it is not given. `ranges` are
    those of the sensor, in % and °C; what is beyond those of datagram.py, no server takes. `model`
    is the one of MODELS that `read` decodes, None if it finds that out by itself.
    """

    def __init__(
        self,
        name: str,
        description: str,
        read: Callable[[], Values],
        tries: int,
        rest: float,
        made_up: bool = False,
        close: Callable[[], object] = lambda: None,
        least_interval: float | None = None,
        ranges: tuple[Range, Range] = DHT22_RANGES,
        model: str | None = None,
    ) -> None:
        self.name = name
        self.description = description
        self.read = read
        self.tries = tries
        self.rest = rest
        self.made_up = made_up
        self.close = close
        self.least_interval = rest if least_interval is None else least_interval
        self.ranges = ranges
        self.model = model


def reason(error: Exception) -> str:
    """Return in one line why something failed, whatever a foreign package raised."""
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is not installed"
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror
    if text and isinstance(error, (OSError, RuntimeError, ValueError, NoDriver)):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def find_iio(pin: int | None) -> tuple[str, int | None]:
    """Return the folder and the pin of the IIO device on `pin`.

    Where no pin is asked for, it is the one on the usual pin, or else the only one. Raise NoDriver.
    """
    devices = iio.devices()
    wanted = PIN if pin is None else pin
    for folder, connected in devices.items():
        if connected == wanted:
            return folder, connected
    if pin is None and len(devices) == 1:
        return next(iter(devices.items()))

    setup = f"sudo dtoverlay dht11 gpiopin={wanted}"
    pins = [f"GPIO{each}" if each is not None else "an unknown pin" for each in devices.values()]
    if not pins:
        on_a_pi = "On a Pi" if wanted == PIN else f"On a Pi, if it is on GPIO{wanted} ({BCM})"
        raise NoDriver(
            "no sensor is set up on this machine",
            f"{on_a_pi}: {setup}{iio.config_hint()}. Without a Pi: --driver simulated",
        )
    if pin is None:
        raise SeveralSensors(
            f"{len(pins)} sensors are set up, on {' and '.join(pins)}",
            "Choose one with --pin",
        )
    raise NoDriver(
        f"no sensor is set up on GPIO{pin}, only on {' and '.join(pins)}",
        f"Choose one of these with --pin ({BCM}), or set this one up: {setup}",
    )


def open_iio(model: str, pin: int | None) -> Driver:
    """Read through the kernel's own driver: every Pi, no packages, no privileges."""
    check_model("iio", model)
    _, connected = find_iio(pin)

    def read() -> Values:
        folder, _ = find_iio(connected)  # each time: it may have come back under another number
        return iio.read(folder)

    if connected is None:
        description = "the kernel reads the only sensor that is set up, on an unknown pin"
    elif connected in (pin, PIN):
        description = f"the kernel reads the sensor on GPIO{connected}"
    else:
        description = f"the kernel reads the only sensor that is set up, on GPIO{connected}"
    return Driver("iio", description, read, TRIES, MIN_INTERVAL)


def adafruit_platform() -> dict[str, object]:
    """Return the `platform` that Adafruit_DHT has to be given; nothing where it finds its own."""
    try:
        from Adafruit_DHT.common import get_platform
    except ImportError:  # a version that finds its platform in another way
        return {}
    try:
        get_platform()
        return {}
    except RuntimeError:  # 64-bit kernels name no hardware in /proc/cpuinfo
        if not os.path.exists(GPIOMEM):
            raise
    from Adafruit_DHT import Raspberry_Pi_2

    return {"platform": Raspberry_Pi_2}


def open_adafruit(model: str, pin: int | None) -> Driver:
    """Read with `Adafruit_DHT.read_retry`, as the course does: 32-bit Pi OS, not on a Pi 5."""
    check_model("adafruit", model)
    import Adafruit_DHT

    gpio = PIN if pin is None else pin
    platform = adafruit_platform()

    def read() -> Values:
        humidity, temperature = Adafruit_DHT.read_retry(
            getattr(Adafruit_DHT, model),
            gpio,
            retries=TRIES,
            delay_seconds=MIN_INTERVAL,
            **platform,
        )
        if humidity is None or temperature is None:
            raise RuntimeError(f"no answer on GPIO{gpio}, or a damaged one, {TRIES} times")
        return humidity, temperature

    description = f"Adafruit_DHT reads the sensor on GPIO{gpio}"
    if platform:
        description += f"; it does not know this platform, but there is {GPIOMEM}"
    return Driver(
        *("adafruit", description, read, 1, MIN_INTERVAL - ADAFRUIT_READ),
        least_interval=MIN_INTERVAL,
        model=model,
    )


def open_circuitpython(model: str, pin: int | None) -> Driver:
    """Read with CircuitPython's adafruit_dht, whose packages are the user's to install."""
    check_model("circuitpython", model)
    os.environ.setdefault("BLINKA_SKIP_DEPENDENCY_CHECK", "1")  # its check may stop to ask
    import adafruit_dht
    import board

    gpio = PIN if pin is None else pin
    open_device = adafruit_dht.DHT11 if model == "DHT11" else adafruit_dht.DHT22
    data = getattr(board, f"D{gpio}")
    device = open_device(data, use_pulseio=False)  # pulseio leaves a process behind

    def read() -> Values:
        humidity, temperature = device.humidity, device.temperature
        if humidity is None or temperature is None:
            raise RuntimeError(f"no answer on GPIO{gpio}")
        return humidity, temperature

    description = f"adafruit_dht reads the sensor on GPIO{gpio}"
    return Driver(
        *("circuitpython", description, read, TRIES, MIN_INTERVAL),
        close=device.exit,
        model=model,
    )


def open_simulated(model: str, pin: int | None, name: str = "") -> Driver:
    """Make readings up, for those who have no Pi yet: slow waves about 50 % and 21 °C.

    Where in its waves a sensor is, and at which level, depends on its name.
    """
    check_model("simulated", model)
    # So that pi-1 and pi-2 are far apart; no hash, which would cost memory.
    number = 5000 * int.from_bytes(name.encode(), "big")
    ahead = number % 1885  # seconds, after which both waves repeat together
    damper = number % 23  # %

    def read() -> Values:
        now = time.monotonic() + ahead
        return 50 + damper + 10 * math.sin(now / 60), 21 + 5 * math.sin(now / 100)

    return Driver("simulated", "no sensor is read", read, 1, 0.0, made_up=True)


# To add one: a function that is given the model, as in --sensor, and the pin (BCM number), and
# returns a Driver. Whatever it raises means that it cannot be used here. The least interval and
# the ranges are the Driver's, and what --sensor may be is for the function to say (DHT22 if the
# option is not given). Nothing else has to be changed, unless the sensor measures beyond the ranges
# in datagram.py.
DRIVERS = {
    "iio": open_iio,
    "adafruit": open_adafruit,
    "circuitpython": open_circuitpython,
    "simulated": open_simulated,
}
AUTO = "iio", "adafruit", "circuitpython"  # in this order, the kernel's first; never the simulated


def check_model(driver: str, model: str) -> None:
    """Raise UnknownModel unless `model` is one of MODELS."""
    if model not in MODELS:
        raise UnknownModel(
            f"driver {driver} does not read a {model}", f"--sensor is one of {', '.join(MODELS)}"
        )


def open_one(driver: str, model: str, pin: int | None, name: str) -> Driver:
    """Return a driver; raise NoDriver, whatever its package raised."""
    try:
        open_it = DRIVERS[driver]
        if open_it is open_simulated:
            return open_simulated(model, pin, name)
        return open_it(model, pin)
    except NoDriver:
        raise
    except Exception as error:  # each package, and each chip in Blinka, raises what it likes
        raise NoDriver(
            f"driver {driver} cannot be used: {reason(error)}",
            "docs/sensors.md tells where it works; the kernel's own driver (--driver iio) needs no"
            " package",
        ) from None


def open_driver(driver: str, model: str, pin: int | None, name: str = "") -> Driver:
    """Return a driver, or for `auto` the first that can be used; raise NoDriver.

    pin is a BCM number, None if it was not given. name is the sensor's, for one that is simulated.
    """
    if driver != "auto":
        return open_one(driver, model, pin, name)
    failures: list[NoDriver] = []
    for each in AUTO:
        try:
            return open_one(each, model, pin, name)
        except (SeveralSensors, UnknownModel):  # another driver would read yet another pin
            raise
        except NoDriver as error:
            failures.append(error)
    kernel, *packages = failures
    details = "; ".join(error.why for error in packages)
    raise NoDriver(kernel.why, f"{kernel.remedy}. Also tried, but not needed: {details}")
