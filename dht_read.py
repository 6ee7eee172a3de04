#!/usr/bin/env python3
"""Read a DHT22 (AM2302) or DHT11 once, to check that wiring and driver work.

    $ python3 dht_read.py
    driver iio (the kernel has a dht11 device; its pin is the overlay's, not --pin)
    74.3,25.7

A reading is humidity in percent, then temperature in degrees Celsius. Exit code: 0 = a reading,
1 = none, or no driver, 2 = usage.
"""
import argparse
import glob
import os
import random
import signal
import sys
import time
from typing import Callable, List, NamedTuple, Optional, Sequence, Tuple

import console
from console import Parser, Screen, say
from datagram import format

MIN_INTERVAL = 2.0  # seconds between reads, and after power-up; AM2302 manual
TRIES = 3  # of a driver for one read; about one in five fails on a good day
IIO_DEVICES = "/sys/bus/iio/devices/iio:device*"
GPIOMEM = "/dev/gpiomem"  # how Adafruit_DHT reaches the pins without root; a Pi 5 has none

Values = Tuple[float, float]  # humidity (%), temperature (°C)


class NoReading(Exception):
    """The sensor gave nothing, or nothing plausible; says why."""


class NoDriver(Exception):
    """A driver cannot be used here; says why, and what to do."""


class Driver(NamedTuple):
    """A way to the sensor: `read` returns humidity and temperature as they come, or raises NoReading."""

    name: str
    why: str
    read: Callable[[], Values]
    close: Callable[[], object] = lambda: None


def attempt(read: Callable[[], Values]) -> Values:
    """Return what `read` returns, tried TRIES times, MIN_INTERVAL apart; raise NoReading."""
    why = ""
    for number in range(TRIES):
        if number:
            time.sleep(MIN_INTERVAL)
        try:
            return read()
        except (OSError, RuntimeError, ValueError) as error:
            why = str(error)
    raise NoReading(f"{TRIES} tries failed, the last one with: {why}")


def iio_device() -> str:
    """Return the folder of the kernel's dht11 device (it covers DHT11, DHT21, DHT22); raise NoDriver."""
    for folder in sorted(glob.glob(IIO_DEVICES)):
        try:
            with open(os.path.join(folder, "name")) as file:
                if file.read().startswith("dht11"):
                    return folder
        except OSError:
            continue
    raise NoDriver("the kernel has no dht11 device; sudo dtoverlay dht11 gpiopin=11 makes one")


def open_iio(sensor: str, pin: int) -> Driver:
    """Read through the kernel's own driver: every Pi, no packages, no privileges."""
    iio_device()

    def read() -> Values:
        try:
            folder = iio_device()  # anew each time: the device may have come back under another number
        except NoDriver as error:
            raise NoReading(str(error)) from None
        values = []
        for name in "in_humidityrelative_input", "in_temp_input":  # milli-%, milli-°C, of one frame
            with open(os.path.join(folder, name)) as file:
                values.append(int(file.read()) / 1000)
        return values[0], values[1]

    return Driver("iio", "the kernel has a dht11 device; its pin is the overlay's, not --pin", lambda: attempt(read))


def open_adafruit(sensor: str, pin: int) -> Driver:
    """Read with `Adafruit_DHT.read_retry`, as the course does: 32-bit Raspberry Pi OS, not on a Pi 5."""
    try:
        import Adafruit_DHT
    except ImportError:
        raise NoDriver("Adafruit_DHT is not installed") from None

    def read() -> Values:
        try:
            humidity, temperature = Adafruit_DHT.read_retry(
                getattr(Adafruit_DHT, sensor), pin, retries=TRIES, delay_seconds=MIN_INTERVAL)
        except (RuntimeError, ValueError) as error:
            raise NoReading(str(error)) from None
        if humidity is None or temperature is None:
            raise NoReading(f"the sensor on GPIO{pin} gave no answer, or a damaged one, {TRIES} times")
        return humidity, temperature

    return Driver("adafruit", f"Adafruit_DHT is installed; GPIO{pin}", read)


def open_simulated(sensor: str, pin: int) -> Driver:
    """Invent readings, for those who have no Pi yet: a slow walk about 50 % and 21 °C."""
    values = [50.0, 21.0]

    def read() -> Values:
        values[0] += random.gauss((50 - values[0]) / 100, 0.3)
        values[1] += random.gauss((21 - values[1]) / 100, 0.1)
        return min(max(values[0], 0.1), 99.9), min(max(values[1], -39.9), 79.9)

    return Driver("simulated", "no sensor is read", read)


DRIVERS = {"iio": open_iio, "adafruit": open_adafruit, "simulated": open_simulated}
AUTO = "iio", "adafruit"  # in this order; never the simulated one


def open_driver(name: str, sensor: str, pin: int) -> Driver:
    """Return the driver `name`, or for `auto` the first that can be used; raise NoDriver."""
    tried: List[str] = []
    for each in AUTO if name == "auto" else [name]:
        try:
            return DRIVERS[each](sensor, pin)
        except NoDriver as error:
            tried.append(f"{each}: {error}")
    raise NoDriver("; ".join(tried))


class Sensor:
    """A sensor that gives plausible readings only."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver

    def read(self) -> str:
        """Return a reading as it is sent, `humidity,temperature`; raise NoReading."""
        humidity, temperature = self.driver.read()
        try:
            reading = format(humidity, temperature)
        except ValueError as error:
            raise NoReading(f"{error}: {humidity:.1f} %, {temperature:.1f} °C") from None
        if reading == "0.0,0.0":  # what a frame of zeros says, whose checksum is right
            raise NoReading("0.0 % and 0.0 °C at once is a damaged answer")
        return reading


def pin(text: str) -> int:
    """Convert `text` to a BCM number of the Pi's header, 0 to 27."""
    if not text.isdecimal() or int(text) > 27:
        raise argparse.ArgumentTypeError(f"{text!r} is no GPIO of the header (BCM numbers, 0 to 27)")
    return int(text)


def add_sensor_options(parser: Parser) -> None:
    """Add the options that say which sensor is read, and how."""
    parser.add_argument("--sensor", choices=["DHT22", "AM2302", "DHT11"], default="DHT22",
                        help="model of the sensor (default: %(default)s)")
    parser.add_argument("--pin", type=pin, default=11, metavar="GPIO",
                        help="BCM number of the data pin (default: %(default)s, which is pin 23 of the header)")
    parser.add_argument("--driver", choices=["auto", *DRIVERS], default="auto",
                        help="way to the sensor (default: %(default)s: "
                             f"the first of {', '.join(AUTO)} that can be used)")


def open_sensor(parser: Parser, options: argparse.Namespace) -> Sensor:
    """Return the sensor that the options name and say by which driver; end the script if there is none."""
    try:
        driver = open_driver(options.driver, options.sensor, options.pin)
    except NoDriver as error:
        parser.fail(f"no driver for the sensor ({error})")
    say(f"driver {driver.name} ({driver.why})")
    return Sensor(driver)


def get_parser() -> Parser:
    parser = Parser("dht_read.py", __doc__)
    add_sensor_options(parser)
    parser.add_argument("--count", type=console.count, default=1, metavar="N",
                        help="readings to take, 2 s apart (default: %(default)s)")
    return parser


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Print readings; return 0 if there was one, else 1."""
    parser = get_parser()
    options = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    screen = Screen(sys.stdout)
    readings = 0
    try:
        sensor = open_sensor(parser, options)
        for number in range(options.count):
            if number:
                time.sleep(MIN_INTERVAL)
            try:
                screen.show(sensor.read() + "\n")
                readings += 1
            except NoReading as error:
                say(f"no reading: {error}")
    except KeyboardInterrupt:
        return 0
    return 0 if readings else 1


if __name__ == "__main__":
    sys.exit(main())
