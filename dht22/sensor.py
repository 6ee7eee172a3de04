"""The sensor: its drivers, and readings that are plausible and confirmed."""

from __future__ import annotations

import argparse
import glob
import math
import os
import time
from collections.abc import Callable
from contextlib import suppress

from dht22.console import Parser, say
from dht22.datagram import format

MIN_INTERVAL = 2.0  # seconds between reads, and after power-up; AM2302 manual
ADAFRUIT_READ = 0.52  # seconds that a read takes in Adafruit_DHT
TRIES = 3  # for one read; on a good day about one in five fails
CONFIRM = 3  # reads at most, until two agree
STEP = 20.0, 5.0  # %, °C: a larger one from a reading to the next has to be confirmed
WAKE = 5.0  # seconds: with a longer interval the sensor, which answers with its previous measurement, is woken
OFF = 5.0  # seconds without power that bring a hung sensor back
IIO_DEVICES = "/sys/bus/iio/devices/iio:device*"
GPIOMEM = "/dev/gpiomem"  # how Adafruit_DHT reaches the pins without root; a Pi 5 has none

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

Values = tuple[float, float]  # humidity (%), temperature (°C)


class NoReading(Exception):
    """The sensor gave nothing, or nothing plausible; says why."""


class NoDriver(Exception):
    """A driver cannot be used here; says why."""


class Driver:
    """A way to the sensor.

    `read` returns humidity and temperature as they come, or raises OSError, RuntimeError or ValueError; it is tried
    `tries` times for a reading, and rests `rest` seconds between the end of one read and the next.
    """

    def __init__(
        self,
        name: str,
        why: str,
        read: Callable[[], Values],
        tries: int,
        rest: float,
        close: Callable[[], object] = lambda: None,
    ) -> None:
        self.name = name
        self.why = why
        self.read = read
        self.tries = tries
        self.rest = rest
        self.close = close


def iio_device() -> str:
    """Return the folder of the kernel's dht11 device (it covers DHT11, DHT21, DHT22); raise NoDriver."""
    for folder in sorted(glob.glob(IIO_DEVICES)):
        try:
            with open(os.path.join(folder, "name")) as file:
                if file.read().startswith("dht11"):
                    return folder
        except OSError:
            continue
    raise NoDriver("the kernel has no dht11 device")


def open_iio(sensor: str, pin: int) -> Driver:
    """Read through the kernel's own driver: every Pi, no packages, no privileges."""
    iio_device()

    def read() -> Values:
        try:
            folder = iio_device()  # anew each time: it may have come back under another number
        except NoDriver as error:
            raise RuntimeError(str(error)) from None
        values = []
        for name in "in_humidityrelative_input", "in_temp_input":  # milli-%, milli-°C, of one frame
            with open(os.path.join(folder, name)) as file:
                values.append(int(file.read()) / 1000)
        return values[0], values[1]

    why = "the kernel has a dht11 device; its pin is the overlay's, not --pin"
    return Driver("iio", why, read, TRIES, MIN_INTERVAL)


def open_adafruit(sensor: str, pin: int) -> Driver:
    """Read with `Adafruit_DHT.read_retry`, as the course does: 32-bit Raspberry Pi OS, not on a Pi 5."""
    try:
        import Adafruit_DHT
    except ImportError:
        raise NoDriver("Adafruit_DHT is not installed") from None
    why = f"Adafruit_DHT is installed; GPIO{pin}"
    options: dict[str, Any] = {"retries": TRIES, "delay_seconds": MIN_INTERVAL}
    try:
        from Adafruit_DHT.common import get_platform

        get_platform()
    except ImportError:
        pass  # it finds its platform in another way
    except RuntimeError as error:  # 64-bit kernels name no hardware in /proc/cpuinfo
        try:
            os.stat(GPIOMEM)
            from Adafruit_DHT import Raspberry_Pi_2
        except (OSError, ImportError):
            raise NoDriver(f"Adafruit_DHT: {error}") from None
        options["platform"] = Raspberry_Pi_2
        why += f"; it does not know this platform, but there is {GPIOMEM}"

    def read() -> Values:
        humidity, temperature = Adafruit_DHT.read_retry(
            getattr(Adafruit_DHT, sensor), pin, **options
        )
        if humidity is None or temperature is None:
            raise RuntimeError(f"no answer on GPIO{pin}, or a damaged one, {TRIES} times")
        return humidity, temperature

    return Driver("adafruit", why, read, 1, MIN_INTERVAL - ADAFRUIT_READ)


def open_circuitpython(sensor: str, pin: int) -> Driver:
    """Read with CircuitPython's adafruit_dht, whose packages are the user's to install."""
    os.environ.setdefault("BLINKA_SKIP_DEPENDENCY_CHECK", "1")  # its check may stop to ask
    try:
        import adafruit_dht
        import board

        model = adafruit_dht.DHT11 if sensor == "DHT11" else adafruit_dht.DHT22
        device = model(
            getattr(board, f"D{pin}"), use_pulseio=False
        )  # pulseio leaves a process behind
    except ImportError:
        raise NoDriver("adafruit_dht is not installed") from None
    except Exception as error:  # each of Blinka's chips raises what it likes
        raise NoDriver(f"adafruit_dht: {error or type(error).__name__}") from None

    def read() -> Values:
        try:
            humidity, temperature = device.humidity, device.temperature
        except Exception as error:  # again what it likes
            raise RuntimeError(str(error) or type(error).__name__) from None
        if humidity is None or temperature is None:
            raise RuntimeError(f"no answer on GPIO{pin}")
        return humidity, temperature

    return Driver(
        "circuitpython",
        f"adafruit_dht is installed; GPIO{pin}",
        read,
        TRIES,
        MIN_INTERVAL,
        device.exit,
    )


def open_simulated(sensor: str, pin: int) -> Driver:
    """Make readings up, for those who have no Pi yet: slow waves about 50 % and 21 °C."""

    def read() -> Values:
        now = time.monotonic()
        return 50 + 10 * math.sin(now / 60), 21 + 5 * math.sin(now / 100)

    return Driver("simulated", "no sensor is read", read, 1, 0.0)


DRIVERS = {
    "iio": open_iio,
    "adafruit": open_adafruit,
    "circuitpython": open_circuitpython,
    "simulated": open_simulated,
}
AUTO = "iio", "adafruit", "circuitpython"  # in this order; never the simulated one


def open_driver(name: str, sensor: str, pin: int) -> Driver:
    """Return the driver `name`, or for `auto` the first that can be used; raise NoDriver."""
    tried: list[str] = []
    for each in AUTO if name == "auto" else [name]:
        try:
            return DRIVERS[each](sensor, pin)
        except NoDriver as error:
            tried.append(f"{each}: {error}")
    raise NoDriver(f"{'; '.join(tried)}); try: sudo dtoverlay dht11 gpiopin={pin}")


class Power:
    """Feeds the sensor from a GPIO (2.5 mA at most), so that one that hangs can be switched off and on."""

    def __init__(self, pin: int) -> None:
        try:
            from RPi import GPIO  # on a Pi 5 rpi-lgpio provides it

            GPIO.setwarnings(False)
            GPIO.setmode(GPIO.BCM)
            GPIO.setup(pin, GPIO.OUT, initial=GPIO.LOW)
        except Exception as error:  # what it raises depends on the Pi and on who provides it
            raise NoDriver(
                f"RPi.GPIO, for --power-pin: {error}); try: sudo apt install python3-rpi.gpio, on a Pi 5 "
                "python3-rpi-lgpio"
            ) from None
        self.gpio = GPIO
        self.pin = pin
        self.on = False

    def switch_on(self) -> None:
        self.gpio.output(self.pin, self.gpio.HIGH)
        time.sleep(MIN_INTERVAL)
        self.on = True

    def switch_off(self) -> None:
        self.on = False
        self.gpio.output(self.pin, self.gpio.LOW)
        time.sleep(OFF)

    def close(self) -> None:
        self.gpio.cleanup(self.pin)


class Sensor:
    """A sensor that gives true readings only: plausible, and confirmed where they are the first or a step."""

    def __init__(
        self,
        driver: Driver,
        power: Power | None = None,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.driver = driver
        self.power = power
        self.tell = tell  # what each try came to
        self.ready = 0.0  # when the driver has rested (monotonic)
        self.last: Values | None = None

    def read(self, interval: float = 0.0) -> str:
        """Return a new reading as it is sent, `humidity,temperature`; raise NoReading.

        interval is that of the readings, in seconds.
        """
        if self.power and not self.power.on:
            self.power.switch_on()
        if self.driver.name == "simulated":
            return format(*self.driver.read())
        if interval > WAKE:
            with suppress(NoReading):
                self.measure()
        seen = [self.last] if self.last else []
        for number in range(CONFIRM):
            try:
                values = self.measure()
            except NoReading:
                if not number:
                    raise
                continue
            if any(agree(values, earlier) for earlier in seen):
                self.last = values
                return format(*values)
            seen.append(values)
            self.tell(f"read {format(*values)}, to be confirmed")
        raise NoReading(
            f"{CONFIRM} reads, and no two agree: " + " ".join(format(*values) for values in seen)
        )

    def measure(self) -> Values:
        """Return what a new measurement gives, if that is plausible; raise NoReading."""
        for number in range(self.driver.tries):
            time.sleep(max(0.0, self.ready - time.monotonic()))
            try:
                values = self.driver.read()
                if format(*values) == "0.0,0.0":  # a frame of zeros has the right checksum
                    raise ValueError("0.0 % at 0.0 °C is a damaged answer")
                return values
            except (
                ImportError,
                OSError,
                RuntimeError,
                ValueError,
            ) as error:  # Adafruit_DHT imports as it reads
                why = str(error)
                self.tell(f"try {number + 1}: {why}")
            finally:
                self.ready = time.monotonic() + self.driver.rest
        raise NoReading(why)

    def close(self) -> None:
        self.driver.close()
        if self.power:
            self.power.close()


def agree(values: Values, others: Values) -> bool:
    """Tell whether two measurements differ by no more than a STEP."""
    return all(abs(value - other) <= step for value, other, step in zip(values, others, STEP))


def pin(text: str) -> int:
    """Convert `text` to a BCM number of the Pi's header, 0 to 27."""
    if not text.isascii() or not text.isdecimal() or int(text) > 27:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no GPIO of the header (BCM numbers, 0 to 27)"
        )
    return int(text)


def add_sensor_options(parser: Parser) -> None:
    """Add the options that say which sensor is read, and how."""
    parser.add_argument(
        "--sensor",
        choices=["DHT22", "AM2302", "DHT11"],
        default="DHT22",
        help="model of the sensor (default: %(default)s)",
    )
    parser.add_argument(
        "--pin",
        type=pin,
        default=11,
        metavar="GPIO",
        help="BCM number of the data pin (default: %(default)s, which is pin 23 of the header)",
    )
    parser.add_argument(
        "--driver",
        choices=["auto", *DRIVERS],
        default="auto",
        help=f"way to the sensor (default: %(default)s, the first of {', '.join(AUTO)})",
    )
    parser.add_argument(
        "--power-pin",
        type=pin,
        metavar="GPIO",
        help="BCM number of a pin that feeds the sensor, to switch a hung one off and on",
    )


def open_sensor(
    parser: Parser, options: argparse.Namespace, tell: Callable[[str], None] = lambda _: None
) -> Sensor:
    """Return the sensor that the options name and say by which driver; end the script if there is none."""
    if options.power_pin == options.pin:
        parser.error("--power-pin is the data pin; feed the sensor from another one")
    try:
        driver = open_driver(options.driver, options.sensor, options.pin)
        power = None if options.power_pin is None else Power(options.power_pin)
    except NoDriver as error:
        parser.fail(f"cannot read the sensor ({error}")
    say(f"driver {driver.name} ({driver.why})")
    return Sensor(driver, power, tell)
