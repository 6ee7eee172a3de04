#!/usr/bin/env python3
"""Read a DHT22 on a Raspberry Pi and send each reading to server.py.

    $ python3 client.py 192.168.1.5
    driver iio (the kernel has a dht11 device; its pin is the overlay's, not --pin)
    sending to 192.168.1.5:10001 every 2 s
    74.3,25.7
    74.4,25.7
    ^C
    closing socket

A reading is sent as one UDP datagram, humidity,temperature. Exit code: 0 = stopped by Ctrl+C, SIGTERM or
--count, 1 = could not start, 2 = usage.
"""

from __future__ import annotations

import math
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing

import console
from console import Parser, Screen, say
from datagram import PORT, resolve
from dht_read import MIN_INTERVAL, OFF, NoReading, Sensor, add_sensor_options, open_sensor

HUNG = 5  # failed polls in a row, after which a sensor may hang

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Stop:
    """Ctrl+C and SIGTERM, let in only while the sensor is read or time passes: nothing is sent half-way."""

    def __init__(self) -> None:
        self.asked = False
        self.open = False
        for number in signal.SIGINT, signal.SIGTERM:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self.ask)

    def ask(self, *_: object) -> None:
        self.asked = True
        if self.open:
            raise KeyboardInterrupt

    def during(self, call: Callable[..., Any], *args: object) -> Any:
        """Return what `call` returns; raise KeyboardInterrupt as soon as asked to stop."""
        self.open = True
        try:
            if self.asked:
                raise KeyboardInterrupt
            return call(*args)
        finally:
            self.open = False


class Link:
    """Sends each reading once, as `humidity,temperature`: what the network loses is lost."""

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self.sock: socket.socket | None = None
        self.trouble = ""

    def connect(self) -> socket.socket:
        """Return a socket for the server, its name resolved anew; raise OSError.

        It is connected, so that the kernel tells when nothing listens there.
        """
        family, address = resolve(self.host, self.port)
        sock = socket.socket(family, socket.SOCK_DGRAM)
        try:
            sock.connect(address)
        except OSError:
            sock.close()
            raise
        return sock

    def send(self, reading: str) -> bool:
        """Send a reading; return False if that cannot be done now. A change of state is said, once."""
        trouble = ""
        for _ in range(2):  # the error may be the answer to the reading before: then this one goes out second
            try:
                self.sock = self.sock or self.connect()
                self.sock.send(reading.encode("ascii"))
                break
            except OSError as error:
                trouble = self.reason(error)
                self.close()
        if trouble != self.trouble:
            say(trouble or f"sending to {self.host}:{self.port} again")
            self.trouble = trouble
        return self.sock is not None

    def reason(self, error: OSError) -> str:
        if isinstance(error, ConnectionRefusedError):
            return f"nothing listens on {self.host}:{self.port}; is server.py running there?"
        return f"cannot send to {self.host}:{self.port} ({error.strerror}); trying on"

    def close(self) -> None:
        if self.sock:
            self.sock.close()
        self.sock = None


def next_due(due: float, interval: float, now: float) -> float:
    """Return the next of the moments due + k x interval that is not past; a late reading bunches up none."""
    return max(due + math.ceil((now - due) / interval) * interval, due + interval) if interval else now


def run(sensor: Sensor, link: Link, interval: float, count: int | None, screen: Screen, stop: Stop) -> None:
    """Read, send, print, wait; until `count` readings are sent."""
    due = time.monotonic()
    failed = sent = 0
    while True:
        try:
            reading = stop.during(sensor.read, interval)
        except NoReading as error:
            failed += 1
            if failed == 1:
                say(f"no reading: {error}; trying on")
            if failed % HUNG == 0:
                revive(sensor, failed, stop)
        else:
            if failed:
                say(f"reading again, after {failed} failed")
            failed = 0
            if link.send(reading):
                screen.show(reading + "\n")
                sent += 1
        if sent == count:
            return
        due = next_due(due, interval, time.monotonic())
        stop.during(time.sleep, max(0.0, due - time.monotonic()))


def revive(sensor: Sensor, failed: int, stop: Stop) -> None:
    """Switch a sensor off that seems to hang, if that can be done; the next read switches it on."""
    if sensor.power:
        say(f"{failed} polls failed: switching the sensor off and on")
        stop.during(sensor.power.switch_off)
    elif failed == HUNG:
        say(f"{failed} polls failed: if the sensor hangs, take its power away for {OFF:g} s; --power-pin does that")


def get_parser() -> Parser:
    parser = Parser("client.py", __doc__)
    parser.add_argument("server", metavar="SERVER", help="name or address of the machine that runs server.py")
    parser.add_argument("--port", type=console.port, default=PORT, help="UDP port (default: %(default)s)")
    parser.add_argument("--interval", type=console.seconds, default=2.0, metavar="SECONDS",
                        help="from one reading to the next; at least 2 for a real sensor (default: %(default)g)")
    parser.add_argument("--count", type=console.count, metavar="N", help="stop after N readings are sent")
    add_sensor_options(parser)
    parser.add_argument("--quiet", action="store_true", help="print no readings")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Send readings until told to stop; return 0."""
    parser = get_parser()
    options = parser.parse_args(argv)
    if options.port == 0:
        parser.error("argument --port: '0' is no port to send to")
    if options.interval < MIN_INTERVAL and options.driver != "simulated":
        parser.error(f"a sensor needs {MIN_INTERVAL:g} s between readings (datasheet); give a longer --interval")
    stop = Stop()
    link = Link(options.server, options.port)
    try:
        with closing(stop.during(open_sensor, parser, options)) as sensor:
            try:
                link.sock = stop.during(link.connect)
            except socket.gaierror as error:
                if error.errno == socket.EAI_NONAME:
                    parser.fail(f"no host {options.server!r} ({error.strerror}); give the desktop's name or address")
            except OSError:
                pass  # said when the first reading cannot be sent
            say(f"sending to {options.server}:{options.port} every {options.interval:g} s")
            run(sensor, link, options.interval, options.count, Screen(None if options.quiet else sys.stdout), stop)
    except KeyboardInterrupt:
        pass
    say("closing socket")
    link.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
