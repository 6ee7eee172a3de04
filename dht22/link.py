"""The way to the server, the plain sender, and the moments at which Ctrl+C may interrupt."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable

from dht22.console import say
from dht22.sockets import resolve

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
    """The way to the server. Its name is resolved anew after each error, and a change of state is said, once."""

    def __init__(self, host: str, port: int, connected: bool) -> None:
        self.host = host
        self.port = port
        self.connected = connected  # the kernel then tells when nothing listens there, but takes no other's answer
        self.sock: socket.socket | None = None
        self.address: tuple[object, ...] = ()
        self.trouble = ""
        self.unresolved: socket.gaierror | None = None
        self.ask_again = 0.0  # monotonic

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    def open(self) -> socket.socket:
        """Return a socket for the server; raise OSError."""
        began = time.monotonic()
        if self.unresolved and began < self.ask_again:
            raise self.unresolved
        try:
            family, self.address = resolve(self.host, self.port)
        except socket.gaierror as error:
            self.unresolved, now = error, time.monotonic()
            self.ask_again = now + 10 * (
                now - began
            )  # asking in vain can take many seconds: not at each reading
            raise
        sock = socket.socket(family, socket.SOCK_DGRAM)
        try:
            if self.connected:
                sock.connect(self.address)
        except OSError:
            sock.close()
            raise
        return sock

    def send(self, datagram: Callable[[], bytes]) -> bool:
        """Send what `datagram` returns, once the way is open; return False if that cannot be done now."""
        trouble = ""
        for _ in range(
            2
        ):  # the error may be the answer to the datagram before: then this one goes out second
            try:
                self.sock = self.sock or self.open()
                if self.connected:
                    self.sock.send(datagram())
                else:
                    self.sock.sendto(datagram(), self.address)
                break
            except OSError as error:
                trouble = (
                    f"nothing listens on {self}; is server.py running there?"
                    if isinstance(error, ConnectionRefusedError)
                    else f"cannot send to {self} ({error.strerror}); trying on"
                )
                self.close()
        if trouble != self.trouble:
            say(trouble or f"sending to {self} again")
            self.trouble = trouble
        return self.sock is not None

    def close(self) -> None:
        if self.sock:
            self.sock.close()
        self.sock = None


class Plain:
    """Sends each reading once, as `humidity,temperature`: what the network loses is lost."""

    def __init__(self, link: Link, interval: float) -> None:
        self.link = link
        self.interval = interval

    def send(self, reading: str) -> bool:
        return self.link.send(lambda: reading.encode("ascii"))

    def serve(self, until: float | None, stop: Stop) -> bool:
        if until is not None:
            stop.during(time.sleep, max(0.0, until - time.monotonic()))
        return True

    def close(self) -> None:
        self.link.close()
