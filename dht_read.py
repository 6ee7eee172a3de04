#!/usr/bin/env python3
"""Read a DHT22 (AM2302) or DHT11 once, to check that wiring and driver work.

    $ python3 dht_read.py
    driver iio (the kernel reads the sensor on GPIO11)
    read 74.3,25.7; reading once more to be sure
    74.3,25.7

The last line is the reading: humidity in percent, then temperature in degrees Celsius. Exit
code: 0 = a reading, or stopped by Ctrl+C, 1 = none, or no driver, 2 = usage.
"""

from __future__ import annotations

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl+C during the imports just ends the script

import re
import sys
from collections.abc import Sequence
from contextlib import closing

try:
    from dht22 import console
    from dht22.console import Parser, run_script, say
    from dht22.pi.sensor import NoReading, add_sensor_options, open_sensor
    from dht22.screen import screen_of
    from dht22.stop import Stop
except (ImportError, SyntaxError) as error:
    sys.exit(
        f"dht_read.py: error: cannot start ({error}); is the folder dht22 whole?"
        " copy all of it beside this file (scp -r)"
    )

# What a beginner should look at, by what the failure said.
HINTS = (
    (
        "no answer|timed out|not found|full buffer",
        "no answer: look at power (3V3), ground and the data wire; --pin is a BCM number: GPIO11 is"
        " pin 23 of the header; it is also the clock of SPI, which has to be off",
    ),
    (
        "damaged|input/output|checksum|out of range",
        "damaged answers: the pull-up (4.7 to 10 kΩ from DATA to VCC), a shorter cable, 3V3 instead"
        " of 5 V, --sensor",
    ),
    ("permission|accessing gpio", "permission: sudo usermod -aG gpio $USER, then log in again"),
    (
        "platform",
        "the way that works on every Pi: sudo dtoverlay dht11 gpiopin=11 now, and for good the line"
        " dtoverlay=dht11,gpiopin=11 at the top of /boot/firmware/config.txt (on Bullseye"
        " /boot/config.txt)",
    ),
)


def hints(failures: str) -> list[str]:
    """Return what to look at after such failures."""
    return [hint for words, hint in HINTS if re.search(words, failures, re.IGNORECASE)]


def get_parser() -> Parser:
    parser = Parser("dht_read.py", __doc__)
    add_sensor_options(parser)
    parser.add_argument(
        "--count",
        type=console.count,
        default=1,
        metavar="N",
        help="readings to take (default: %(default)s)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Print readings; return 0, or 1 if there was none, after what to look at."""
    stop = Stop()
    parser = get_parser()
    options = parser.parse_args(argv)
    screen = screen_of(sys.stdout)
    readings = 0
    told: list[str] = []  # what each try came to

    def tell(line: str) -> None:
        told.append(line)
        say(line)

    try:
        with stop.interruptible():
            sensor = open_sensor(parser, options, tell)
        with closing(sensor), stop.interruptible():
            for _ in range(options.count):
                try:
                    screen.show(sensor.read() + "\n")
                    readings += 1
                except NoReading as error:
                    say(f"no reading: {error}")
    except KeyboardInterrupt:
        return 0
    if readings < options.count:
        for hint in hints(" ".join(told)):
            say(hint)
    return 0 if readings else 1


if __name__ == "__main__":
    run_script(main)
