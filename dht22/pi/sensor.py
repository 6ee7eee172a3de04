"""The sensor: readings that are plausible and confirmed, and the pin that feeds it."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from contextlib import suppress

from dht22.console import Parser, say
from dht22.datagram import format_in_range
from dht22.pi.drivers import (
    AUTO,
    DRIVERS,
    MIN_INTERVAL,
    MODELS,
    PIN,
    Driver,
    NoDriver,
    UnknownModel,
    Values,
    open_driver,
    reason,
)

CONFIRM = 3  # reads at most, until two agree
STEP = 20.0, 5.0  # %, °C; a larger step from one reading to the next has to be confirmed
# seconds; after a longer interval the first read is discarded: it gives the previous measurement
WAKE = 5.0
UNITS = "%", "°C"
DHT11_LEAST = 4.0  # %; a DHT22 read as a DHT11 gives less: the kernel's dht11.c goes by that, too
DHT11_RAISED = 128.0, 2433.0  # %; a DHT11 read as a DHT22 gives 25.6 times its 5 to 95 %
OFF = 5.0  # seconds without power, which revive a hung sensor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType


class NoReading(Exception):
    """The sensor gave nothing, or nothing plausible; says why."""


def import_gpio() -> ModuleType:
    """Import RPi.GPIO, which rpi-lgpio provides on a Pi 5; raise whatever that raises.

    rpi-lgpio makes a pipe in the folder $LG_WD, which it enters, or in the current one: that may
    be read-only, or another client's too. So it is given one of its own for that moment.
    """
    import tempfile  # only for this: it costs memory

    current = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LG_WD"] = folder
        try:
            from RPi import GPIO
        finally:
            os.chdir(current)
    return GPIO  # type: ignore[no-any-return]


class Power:
    """Feeds the sensor from a GPIO (2.5 mA at most): a hung one can be switched off and on."""

    def __init__(self, pin: int) -> None:
        try:
            GPIO = import_gpio()
            GPIO.setwarnings(False)
            GPIO.setmode(GPIO.BCM)
            GPIO.setup(pin, GPIO.OUT, initial=GPIO.LOW)
        except Exception as error:  # what it raises depends on the Pi and on who provides it
            if isinstance(error, ModuleNotFoundError):
                remedy = (
                    "It needs a package: sudo apt install python3-rpi.gpio, on a Pi 5 the package"
                    " python3-rpi-lgpio"
                )
            else:
                remedy = (
                    "Is the user in the group gpio? A Pi 5 needs the package python3-rpi-lgpio in"
                    " the place of python3-rpi.gpio"
                )
            raise NoDriver(f"--power-pin cannot be used: {reason(error)}", remedy) from None
        self.module = GPIO
        self.pin = pin
        self.on = False

    def switch_on(self) -> None:
        """Feed the sensor and wait until it can be read; raise NoReading."""
        try:
            self.module.output(self.pin, self.module.HIGH)
        except Exception as error:
            raise NoReading(f"cannot switch the sensor on ({reason(error)})") from None
        time.sleep(MIN_INTERVAL)
        self.on = True

    def switch_off(self) -> None:
        """Take the power away for as long as a hung sensor needs; the next read switches it on."""
        self.on = False
        try:
            self.module.output(self.pin, self.module.LOW)
        except Exception as error:
            say(f"cannot switch the sensor off ({reason(error)})")
            return
        time.sleep(OFF)

    def close(self) -> None:
        self.module.cleanup(self.pin)


class Sensor:
    """A sensor that gives true readings only: plausible ones, confirmed if the first or a step."""

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
        self.previous: Values | None = None  # the last reading that was given

    def read(self, interval: float = 0.0) -> str:
        """Return a new reading as it is sent, `humidity,temperature`; raise NoReading.

        interval is the time from one reading to the next, in seconds.
        """
        if self.power and not self.power.on:
            self.power.switch_on()
        if self.driver.made_up:
            return format_in_range(*self.driver.read())
        if interval > WAKE:
            with suppress(NoReading):
                self.measure()
        self.previous = self.confirmed()
        return format_in_range(*self.previous)

    def confirmed(self) -> Values:
        """Return a measurement that agrees with an earlier one; raise NoReading.

        That is the last reading or, for the first reading and for a step, another measurement.
        """
        seen = [self.previous] if self.previous else []
        for number in range(CONFIRM):
            try:
                values = self.measure()
            except NoReading:
                if number == 0:
                    raise
                continue
            if any(agree(values, earlier) for earlier in seen):
                return values
            seen.append(values)
            self.tell(f"read {format_in_range(*values)}; reading once more to be sure")
        different = " ".join(format_in_range(*values) for values in seen)
        raise NoReading(f"{CONFIRM} reads, and no two agree: {different}")

    def measure(self) -> Values:
        """Return what a new measurement gives, if that is plausible; raise NoReading."""
        why = ""
        for number in range(self.driver.tries):
            time.sleep(max(0.0, self.ready - time.monotonic()))
            try:
                humidity, temperature = self.driver.read()
                values = humidity, without_twos_complement(temperature)
                check(values, self.driver)
                if format_in_range(*values) == "0.0,0.0":  # a frame of zeros has the right checksum
                    raise ValueError("0.0 % at 0.0 °C is a damaged answer")
                return values
            except Exception as error:  # a foreign package raises what it likes
                why = reason(error)
                self.tell(f"try {number + 1}: {why}")
            finally:
                self.ready = time.monotonic() + self.driver.rest
        raise NoReading(why)

    def close(self) -> None:
        """Release the pins; report it if that fails."""
        for part in self.driver, self.power:
            try:
                if part:
                    part.close()
            except Exception as error:
                say(f"cannot release a pin ({reason(error)})")


def check(values: Values, driver: Driver) -> None:
    """Raise ValueError if the sensor cannot have measured these values."""
    shown = " and ".join(f"{value:.1f} {unit}" for value, unit in zip(values, UNITS))
    if driver.model == "DHT11" and values[0] < DHT11_LEAST:
        raise ValueError(f"{shown} look like a DHT22 read as a DHT11; leave out --sensor DHT11")
    if driver.model in ("DHT22", "AM2302") and DHT11_RAISED[0] <= values[0] <= DHT11_RAISED[1]:
        raise ValueError(f"{shown} look like a DHT11 read as a DHT22; try --sensor DHT11")
    for value, (low, high), unit in zip(values, driver.ranges, UNITS):
        if not low <= value <= high:
            raise ValueError(f"{value:.1f} {unit} is out of range ({low:g} to {high:g} {unit})")


def without_twos_complement(temperature: float) -> float:
    """Return what a clone means that counts below zero in two's complement.

    Its -0.1 to -40.0 °C are read as -3276.7 to -3236.8, as a DHT22 has a bit for the sign.
    """
    if -3276.75 < temperature < -3236.75:
        return -(temperature + 3276.8)
    return temperature


def agree(values: Values, others: Values) -> bool:
    """Tell whether two measurements differ by no more than a STEP."""
    return all(abs(value - other) <= step for value, other, step in zip(values, others, STEP))


def gpio(text: str) -> int:
    """Convert `text` to a BCM number of the Pi's header, 0 to 27."""
    if not text.isascii() or not text.isdecimal() or int(text) > 27:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a GPIO of the header (BCM numbers, 0 to 27)"
        )
    return int(text)


def add_sensor_options(parser: Parser) -> None:
    """Add the options that say which sensor is read, and how."""
    parser.add_argument(
        "--sensor",
        default="DHT22",
        metavar="MODEL",
        help=f"model of the sensor: {', '.join(MODELS)} (default: %(default)s)",
    )
    parser.add_argument(
        "--pin",
        type=gpio,
        metavar="GPIO",
        help=f"BCM number of the data pin (default: {PIN}, which is pin 23 of the header)",
    )
    parser.add_argument(
        "--driver",
        choices=["auto", *DRIVERS],
        default="auto",
        help="way to the sensor: iio is the kernel's own driver, simulated makes readings up "
        f"(default: %(default)s, the first of {', '.join(AUTO)} that can be used)",
    )
    parser.add_argument(
        "--power-pin",
        type=gpio,
        metavar="GPIO",
        help="BCM number of a pin that feeds the sensor, to switch a hung one off and on",
    )


def open_sensor(
    parser: Parser,
    options: argparse.Namespace,
    tell: Callable[[str], None] = lambda _: None,
    name: str = "",
) -> Sensor:
    """Return the sensor that the options name, and report its driver; end the script without one.

    tell is given a line for each try that fails and each value to be confirmed. name is the
    sensor's, if it has one.
    """
    if options.power_pin == (PIN if options.pin is None else options.pin):
        parser.error("--power-pin is the data pin; feed the sensor from another one")
    try:
        driver = open_driver(options.driver, options.sensor, options.pin, name)
        power = None if options.power_pin is None else Power(options.power_pin)
    except UnknownModel as error:
        parser.error(f"{error.why}; {error.remedy}")
    except NoDriver as error:
        parser.fail(f"{error.why}. {error.remedy}")
    say(f"driver {driver.name} ({driver.description})")
    return Sensor(driver, power, tell)
