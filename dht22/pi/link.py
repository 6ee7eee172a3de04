"""The connection to the server, and the sender of plain readings."""

from __future__ import annotations

import errno
import select
import socket
import sys
import time
from collections import deque

from dht22.console import Once, say
from dht22.datagram import LIMIT
from dht22.resolve import host_port, resolve
from dht22.stop import Stop

RECOVERED = 10.0  # seconds without an error after a datagram, until the connection works again
LOOK_UP = 1.0  # seconds from one look-up to the next, at least
LOOK_UP_REST = 9  # the next look-up waits so many times as long as the last one took
LONGEST_WAIT = 1.0  # seconds for one datagram; then the sender checks what else is due
IP_RECVERR, IPV6_RECVERR = 11, 25  # Linux, ip(7) and ipv6(7); Python names them from 3.14 on


def open_socket(family: int) -> socket.socket:
    """Return a socket that never blocks; on Linux it reports ICMP errors. Raise OSError."""
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.setblocking(False)
    if sys.platform == "linux":
        if family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)
    return sock


def is_own(family: int, address: tuple[object, ...]) -> bool:
    """Tell whether an address is one of this machine."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.bind((address[0], 0, *address[2:]))
    except OSError:
        return False
    return True


class Link:
    """The connection to the server: the addresses of its name, a socket, and the trouble with them.

    Whatever fails is reported once and tried again: at the next address, and when each address has
    failed, after the name was looked up again. The sender asks for the look-up when it has time.
    """

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self.addresses: deque[tuple[int, tuple[object, ...]]] = deque()  # the first is used
        self.untried = 0  # addresses that have not failed since the last look-up
        self.look_up_at = 0.0  # monotonic; no look-up before
        self.sock: socket.socket | None = None
        self.trouble = Once()  # what was said of it, until the connection works again
        self.failed_at = 0.0  # monotonic
        self.quiet_since: float | None = None  # when something was sent, without an error since

    def __str__(self) -> str:
        return host_port(self.host, self.port)

    def wants_look_up(self) -> bool:
        return self.untried <= 0 and time.monotonic() >= self.look_up_at

    def look_up(self) -> None:
        """Look the server's name up, which can take many seconds."""
        began = time.monotonic()
        try:
            found = resolve(self.host, self.port)
        except OSError as error:
            self.failed_at = time.monotonic()
            self.trouble.say(
                "look-up", f"cannot look up {self.host} ({error.strerror}); it keeps trying"
            )
        else:
            current = self.addresses[0] if self.addresses else None
            self.addresses = deque(found)
            self.untried = len(found)
            if current in found:  # it goes on with this one
                self.addresses.rotate(-found.index(current))
            else:
                self.close()
        now = time.monotonic()
        self.look_up_at = now + max(LOOK_UP, LOOK_UP_REST * (now - began))

    def send(self, datagram: bytes) -> bool:
        """Send to the first address that takes it; return False if none does."""
        for _ in range(len(self.addresses) + 1):  # once more: an error may be an earlier datagram's
            if not self.addresses:
                return False
            family, address = self.addresses[0]
            try:
                if self.sock is None:
                    self.sock = open_socket(family)
                self.sock.sendto(datagram, address)
            except OSError as error:
                self.fail(error)
            else:
                if self.quiet_since is None:
                    self.quiet_since = time.monotonic()
                return True
        return False

    def wait(self, seconds: float, stop: Stop) -> bytes:
        """Return a datagram as soon as there is one, else b"": after that time, or an error.

        It waits for LONGEST_WAIT at most. The datagram may come from any address: whoever takes it
        checks whose it is.
        """
        pause = max(0.0, min(seconds, LONGEST_WAIT))
        if self.sock is None:
            with stop.interruptible():
                time.sleep(pause)
            return b""
        try:
            with stop.interruptible():
                readable, _, _ = select.select([self.sock], [], [], pause)
            return self.sock.recv(LIMIT + 1) if readable else b""
        except BlockingIOError:  # what came was damaged on its way
            return b""
        except OSError as error:
            self.fail(error)
            return b""

    def fail(self, error: OSError) -> None:
        """Turn to the next address; report the error when each address has failed."""
        self.close()  # further errors may wait in this socket, and `select` would return at once
        self.failed_at = time.monotonic()
        self.quiet_since = None
        self.turn()
        if self.untried > 0:
            return
        if isinstance(error, (ConnectionRefusedError, ConnectionResetError)):  # Windows: reset
            line = f"nothing listens on {self}, or its firewall refuses UDP"
            if any(is_own(*address) for address in self.addresses):
                line += "; it is this machine itself: SERVER is the computer that runs server.py"
            self.trouble.say("refused", line)
        elif error.errno in (errno.EHOSTUNREACH, errno.EACCES):
            self.trouble.say(
                "no route", f"no route to {self.host}: a wrong address, or its firewall refuses"
            )
        else:
            self.trouble.say(
                error.errno, f"cannot send to {self} ({error.strerror}); it keeps trying"
            )

    def turn(self) -> None:
        """Turn to the next address of the name."""
        self.untried -= 1
        if len(self.addresses) > 1:
            self.addresses.rotate(-1)
            # The next may need another protocol, and an error of the former is none of its own.
            self.close()

    def doubt(self) -> None:
        """Turn to the next address, and let the name be looked up again."""
        self.turn()
        self.untried = 0

    def works(self, line: str) -> None:
        """Note that the connection works; say it in a line, if there was trouble."""
        if self.trouble.clear():
            say(line)

    def close(self) -> None:
        if self.sock:
            self.sock.close()
        self.sock = None


class PlainSender:
    """Sends each reading once, as `humidity,temperature`: what the network loses is lost."""

    name = ""

    def __init__(self, link: Link, interval: float) -> None:
        self.link = link
        self.interval = interval

    def send(self, reading: str) -> bool:
        """Send a reading; return False if that cannot be done now."""
        return self.link.send(reading.encode("ascii"))

    def serve(self, until: float, stop: Stop) -> None:
        """Wait until then (monotonic), and notice what becomes of the connection."""
        while True:
            if self.link.wants_look_up():
                self.link.look_up()
            self.link.wait(until - time.monotonic(), stop)
            now = time.monotonic()
            if self.link.quiet_since is not None and now - self.link.quiet_since >= RECOVERED:
                self.link.works(f"sending to {self.link} again")
            if now >= until:
                return

    def finish(self, stop: Stop) -> None:
        """Notice an error that the last reading caused at once."""
        self.link.wait(0.0, stop)

    def close(self) -> None:
        self.link.close()
