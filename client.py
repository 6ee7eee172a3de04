#!/usr/bin/env python3
"""Read a DHT22 on a Raspberry Pi and send each reading to server.py.

    $ python3 client.py 192.168.1.5
    driver iio (the kernel reads the sensor on GPIO11)
    sending to 192.168.1.5:10001 every 2 s
    74.3,25.7
    74.4,25.7
    ^C
    closing socket

A reading is sent as one UDP datagram, humidity,temperature. Exit code: 0 = stopped by Ctrl+C,
SIGTERM or --count, 1 = could not start, 2 = usage.
"""

from __future__ import annotations

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl+C during the imports just ends the script

import argparse
import errno
import math
import os
import re
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import closing, suppress

try:
    from dht22 import console
    from dht22.console import Parser, run_script, say
    from dht22.datagram import PORT
    from dht22.pi.link import Link, PlainSender
    from dht22.pi.sensor import OFF, NoReading, Sensor, add_sensor_options, open_sensor
    from dht22.screen import Screen, screen_of
    from dht22.stop import Stop
except (ImportError, SyntaxError) as error:
    sys.exit(
        f"client.py: error: cannot start ({error}); is the folder dht22 whole?"
        " copy all of it beside this file (scp -r)"
    )

HUNG = 5  # calls of Sensor.read that failed in a row: the sensor may have hung

TYPE_CHECKING = False
if TYPE_CHECKING:  # only a named sensor needs it
    from dht22.pi.delivery import NamedSender


def next_due(due: float, interval: float, now: float) -> float:
    """Return the next of the moments due + k x interval: a late reading delays no later one."""
    if not interval:
        return now
    return max(due + interval, due + math.ceil((now - due) / interval) * interval)


def run(
    sensor: Sensor, sender: PlainSender | NamedSender, count: int | None, screen: Screen, stop: Stop
) -> None:
    """Read, send, print, wait; until `count` readings are sent."""
    due = time.monotonic()
    failed = sent = 0
    while True:
        try:
            with stop.interruptible():
                reading = sensor.read(sender.interval)
        except NoReading as error:
            failed += 1
            if failed == 1:
                say(f"no reading: {error}; it keeps trying")
            if failed % HUNG == 0:
                revive(sensor, failed, stop)
        else:
            if failed:
                say(f"reading again, after {failed} failed")
            failed = 0
            if sender.send(reading):
                screen.show(reading + "\n")
                sent += 1
        if sent == count:
            break
        due = wait_for_next(due, sender, stop)
    sender.finish(stop)


def wait_for_next(due: float, sender: PlainSender | NamedSender, stop: Stop) -> float:
    """Let the sender work until the next reading is due; return when that is."""
    now = time.monotonic()
    interval = None
    while interval != sender.interval:  # the server may set another meanwhile
        interval = sender.interval
        following = next_due(due, interval, now)
        sender.serve(following, stop)
    return following


def revive(sensor: Sensor, failed: int, stop: Stop) -> None:
    """Switch a sensor off that seems to hang, if it can be; the next read switches it on again."""
    if sensor.power:
        say(f"{failed} polls failed: switching the sensor off and on")
        with stop.interruptible():
            sensor.power.switch_off()
    elif failed == HUNG:
        say(
            f"{failed} polls failed: dht_read.py tells what to look at; if the sensor hangs, unplug"
            f" it for {OFF:g} s (--power-pin does that by itself)"
        )


def host(text: str) -> str:
    """Convert `text` to the name or the address of a machine; whether it exists shows later."""
    labels = text.removesuffix(".").split(".")
    with suppress(OSError, ValueError):
        if ":" in text:
            socket.inet_pton(socket.AF_INET6, text.partition("%")[0])
        elif labels[-1].isdecimal():
            socket.inet_pton(socket.AF_INET, text)
        elif not all(re.fullmatch(r"[\w-]{1,63}", label) for label in labels):
            raise ValueError
        return text
    raise argparse.ArgumentTypeError(
        f"{text!r} is not a host (a name or an address; a port goes into --port)"
    )


def get_parser() -> Parser:
    parser = Parser("client.py", __doc__)
    parser.add_argument(
        "server",
        type=host,
        metavar="SERVER",
        help="name or address of the computer that runs server.py, which shows it",
    )
    parser.add_argument(
        "--port", type=console.port, default=PORT, help="UDP port (default: %(default)s)"
    )
    parser.add_argument(
        "--interval",
        type=console.seconds,
        default=2.0,
        metavar="SECONDS",
        help="from one reading to the next; at least 2 for a real sensor (default: %(default)g)",
    )
    parser.add_argument(
        "--count", type=console.count, metavar="N", help="stop after N readings are sent"
    )
    add_sensor_options(parser)
    parser.add_argument(
        "--name",
        type=console.name,
        help="name of this sensor: each reading is sent until the server has it on its disk",
    )
    parser.add_argument(
        "--key",
        metavar="FILE",
        help="file with a line of server.py --new-key: names the sensor and signs its readings",
    )
    parser.add_argument(
        "--spool",
        metavar="FILE",
        help="where the readings of a named sensor wait while they cannot be delivered "
        "(default: NAME.spool in $XDG_STATE_HOME/dht22 or ~/.local/state/dht22)",
    )
    parser.add_argument("--quiet", action="store_true", help="print no readings")
    return parser


def read_key(parser: Parser, path: str) -> tuple[str, bytes]:
    """Return the name and the key in a key file; end the script if it cannot be used."""
    from dht22.keys import read_keys  # only a sensor with a key needs it

    try:
        keys = read_keys(path)
        if len(keys) > 1:
            raise OSError(errno.EINVAL, "it has several; a Pi needs only its own")
    except OSError as error:
        parser.fail(
            f"cannot use the key in {path} ({error.strerror}); make one with server.py --new-key"
        )
    return next(iter(keys.items()))


def default_spool(parser: Parser, name: str) -> str:
    """Return where a sensor's spool is without --spool."""
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    if state.startswith("~"):
        parser.fail("the home folder of this user is unknown; give the spool's place with --spool")
    return os.path.join(state, "dht22", f"{name}.spool")


def open_sender(
    parser: Parser, options: argparse.Namespace, link: Link
) -> PlainSender | NamedSender:
    """Return what sends as the options say; end the script if it cannot."""
    name, key = options.name, None
    if options.key is not None:
        name, key = read_key(parser, options.key)
        if options.name not in (None, name):
            parser.error(f"--name {options.name} differs from the key's, {name}; leave it out")
    if not name:
        if options.spool:
            parser.error("--spool is for a named sensor; give a --name")
        return PlainSender(link, options.interval)
    try:
        from dht22.pi.delivery import NamedSender  # only a named sensor needs it
        from dht22.pi.spool import Spool
    except (ImportError, SyntaxError) as error:
        parser.fail(f"cannot start ({error}); copy the whole folder dht22 (scp -r)")

    path = options.spool or default_spool(parser, name)
    try:
        spool = Spool(path, make_folder=not options.spool)
        return NamedSender(link, name, key, options.interval, spool)
    except OSError as error:
        remedy = "give another --name or --spool"
        if error.errno == errno.EBUSY:
            remedy += (
                "; if it was cron that started both, let one client run all the time, with a longer"
                " --interval (docs/delivery.md)"
            )
        parser.fail(f"cannot use the spool {path} ({error.strerror}); {remedy}")


def main(argv: Sequence[str] | None = None) -> int:
    """Send readings until told to stop; return 0."""
    stop = Stop()
    parser = get_parser()
    options = parser.parse_args(argv)
    if options.port == 0:
        parser.error("argument --port: '0' is not a port to send to")
    link = Link(options.server, options.port)
    screen = screen_of(None if options.quiet else sys.stdout)
    try:
        with stop.interruptible():
            sender = open_sender(parser, options, link)
        with closing(sender):
            with stop.interruptible():
                sensor = open_sensor(parser, options, name=sender.name)
            with closing(sensor):
                least = sensor.driver.least_interval
                if options.interval < least:
                    parser.error(
                        f"this sensor needs {least:g} s between readings; give a longer --interval"
                    )
                say(f"sending to {link} every {options.interval:g} s")
                with stop.interruptible():
                    link.look_up()
                run(sensor, sender, options.count, screen, stop)
    except KeyboardInterrupt:
        pass
    screen.finish()
    say("closing socket")
    return 0


if __name__ == "__main__":
    run_script(main)
