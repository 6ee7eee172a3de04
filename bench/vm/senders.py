"""Senders on the host, as docs/formats.md describes them: no two readings of them are the same."""

from __future__ import annotations

import select
import socket
import threading
import time

RESEND = 0.25  # seconds


def numbered(number: int, base: int) -> str:
    """Return reading number 0..9,999 of the sender whose temperatures begin at `base` °C."""
    return f"{number % 1000 / 10:.1f},{base + number // 1000 / 10:.1f}"


class Sender(threading.Thread):
    """A sender at an interval in seconds; one without a name is plain, and never answered.

    Reading k is read at its due time, whether the server is there or not. A named sender sends it
    again until it is acknowledged, then the next. It notes the times of both.
    """

    def __init__(self, name: str, base: int, interval: float, port: int) -> None:
        super().__init__(daemon=True)
        self.sensor = name
        self.base = base
        self.interval = interval
        self.address = "127.0.0.1", port
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.connect(self.address)
        self.n = 0
        self.read: dict[str, float] = {}  # when each reading was read
        self.acknowledged: dict[str, float] = {}  # and when it was
        self.going = True

    def run(self) -> None:
        started = time.time()
        number = 0
        while self.going:
            due = started + number * self.interval
            time.sleep(max(0, due - time.time()))
            reading = numbered(number, self.base)
            self.read[reading] = due
            if self.sensor:
                self.deliver(reading, due)
            else:
                self.send(reading)
            number += 1

    def deliver(self, reading: str, read: float) -> None:
        """Send a reading until it is acknowledged, also when told to stop meanwhile."""
        self.n = max(self.n + 1, int(time.time() * 1e6))
        wanted = f"ack,{self.sensor},{self.n},".encode()
        while True:
            age = max(0.0, time.time() - read)
            self.send(f"{reading},{self.sensor},{self.n},{age:.3f}")
            if self.is_answered(wanted):
                self.acknowledged[reading] = time.time()
                return

    def send(self, datagram: str) -> None:
        try:
            self.sock.send(datagram.encode())
        except OSError:  # of an earlier one: nothing listens there now
            time.sleep(0.02)

    def is_answered(self, wanted: bytes) -> bool:
        end = time.monotonic() + RESEND
        while time.monotonic() < end:
            if select.select([self.sock], [], [], max(0, end - time.monotonic()))[0]:
                try:
                    if self.sock.recv(300) == wanted:
                        return True
                except OSError:  # nothing listens there now
                    time.sleep(0.02)
        return False

    def stop(self, seconds: float) -> bool:
        """Read no more; tell whether all that was read was acknowledged in this time."""
        self.going = False
        self.join(seconds)
        return not self.is_alive()
