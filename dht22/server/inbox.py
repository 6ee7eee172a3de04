"""The server's socket: listen, receive at a pace that suits the load, count what was dropped."""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import repeat, starmap
from typing import Any, NamedTuple

from dht22.addresses import own_addresses
from dht22.console import Parser, say
from dht22.datagram import LIMIT, PORT
from dht22.resolve import host_port, resolve
from dht22.server.arrival import ANCILLARY_SPACE, CAN_TELL, Told, arrival, ask_kernel
from dht22.stop import Stop

RECEIVE_BUFFER = 4 << 20  # bytes asked of the kernel
BYTES_PER_DATAGRAM = 800  # of the buffer; Linux counts so many for a small one
SO_MEMINFO, DROPS = 55, 8  # Linux 4.12: nine counters of a socket, the last of them its drops

# Datagrams received before they are written. That is more than the kernel's buffer can hold, so the
# one look after the stop finds all that still wait.
BATCH = 12_000
GATHER = 0.005  # seconds that a batch may gather under load
BUSY_BATCH = 20  # datagrams; after a batch of this size the next gathers for that long
BEHIND_BATCH = 1500  # datagrams; after a batch of this size there is no time to gather
FASTEST_RATE = 400_000  # datagrams a second: what gathers at this rate fits into the buffer
ERROR_PAUSE = 0.1  # seconds to the next try after an error of the socket
GIVE_UP = 10.0  # seconds that such an error may last

RESERVED_PORTS = "ports below 1024 are the system's"
if os.name == "nt":
    RESERVED_PORTS = "Windows has reserved this port: netsh int ipv4 show excludedportrange udp"
EVERY_INTERFACE = "0.0.0.0", "::"

Peer = tuple[str, int]  # address and port; IPv6 adds two more numbers

# Windows tells neither what was too long nor who sent it: this is refused in its place.
TOO_LONG = bytes(LIMIT + 1), ("?", 0)


class Received(NamedTuple):
    """Datagrams that were received together, who sent each, and what the kernel told of it."""

    datagrams: Sequence[bytes]
    peers: Sequence[Peer]
    told: Sequence[Told]  # none if the kernel was not asked

    def clients(self) -> list[str]:
        """Return the address of each sender; a socket for both families shows IPv4 as IPv6."""
        return [peer[0].removeprefix("::ffff:") for peer in self.peers]

    def times(self, now: float) -> list[float]:
        """Return when each arrived (seconds since 1970), `now` where that is not told."""
        return [arrival(told, now) for told in self.told] or [now] * len(self.peers)


class Broken(Exception):
    """The socket has failed for so long that it cannot be used any more."""


class Inbox:
    """The one socket on which readings arrive and from which answers go.

    Pacing: a batch costs a write for each log, however long it is. At rest each datagram is a batch
    and is logged at once. As soon as a batch held more than one, the next may gather for some
    milliseconds: it gets longer, and each datagram cheaper. A server that has fallen far behind
    does not wait: the kernel's buffer has gathered enough.

    `recvmsg` brings what the kernel tells of each datagram (see arrival), and takes half as long
    again as `recvfrom`, which serves under a load of plain readings until a named one comes.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.buffer = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)  # bytes, granted
        self.gather = min(GATHER, self.buffer / BYTES_PER_DATAGRAM / FASTEST_RATE)  # seconds
        self.batch = 0  # datagrams in the last batch
        self.named_came = False  # then each datagram may want an answer
        self.received = 0
        self.dropped = 0  # by the kernel, because its buffer was full
        self.failing_since = 0.0  # monotonic, seconds

    def __str__(self) -> str:
        """Return the address and port that it listens on, `*` for every interface."""
        address, port = self.sock.getsockname()[:2]
        return host_port("*" if address in EVERY_INTERFACE else address, port)

    def client_arguments(self, host: str | None, has_keys: bool) -> str:
        """Return what to give to client.py; `host` is the one that was asked for."""
        address, port = self.sock.getsockname()[:2]
        option = "" if port == PORT else f" --port {port}"
        if has_keys:
            option += " --key FILE"
        if host and address not in EVERY_INTERFACE:
            return f"{host}{option}"
        name = f"{socket.gethostname().partition('.')[0]}.local"  # by mDNS
        first, *others = [*own_addresses(), name]
        return f"{first}{option}" + (f"  # or {', '.join(others)}" if others else "")

    def wait(self, stop: Stop, room: int) -> bool:
        """Wait for a datagram, if there is room, for a second at most; return False once stopped.

        Raise Broken.
        """
        try:
            with stop.interruptible():
                if room:
                    select.select([self.sock], [], [], 1.0)
                else:
                    time.sleep(1.0)
                if 1 < self.batch < BEHIND_BATCH:
                    time.sleep(self.gather * min(1.0, self.batch / BUSY_BATCH))
        except KeyboardInterrupt:
            return False
        except OSError as error:
            self.wait_after(error)
        return True

    def receive(self, room: int) -> Received:
        """Return the datagrams that wait, as many as there is room for; raise Broken."""
        batch: list[tuple[Any, ...]] = []  # of each: its bytes, what the kernel tells, who sent it
        tells = CAN_TELL and (self.named_came or self.batch <= BUSY_BATCH)
        receive = self.sock.recvmsg if tells else self.sock.recvfrom
        sizes = (LIMIT + 1, ANCILLARY_SPACE) if tells else (LIMIT + 1,)
        try:
            # Receive until no more are waiting. This takes a twentieth less CPU than a for loop. It
            # relies on CPython: `extend` keeps what came before the exception that ends it.
            batch.extend(starmap(receive, repeat(sizes, min(room, BATCH))))
            self.failing_since = 0.0
        except BlockingIOError:  # no more are waiting
            self.failing_since = 0.0
        except ConnectionResetError:  # Windows: an answer went to a port that has closed
            pass
        except OSError as error:
            if error.errno == getattr(errno, "WSAEMSGSIZE", None):
                batch.append(TOO_LONG)
            else:
                self.wait_after(error)
        self.batch = len(batch)
        self.received += self.batch
        if not batch:
            return Received((), (), ())
        datagrams, *told, peers = zip(*batch)  # told: ancillary data and flags, with `recvmsg`
        return Received(datagrams, peers, told[0] if told else ())

    def expect_named(self, batch: Received) -> None:
        """Let the kernel tell of each datagram from now on: a named reading has come.

        Raise ValueError if it was not told of this batch: when the reading arrived is not known.
        """
        self.named_came = True
        if CAN_TELL and not batch.told:
            raise ValueError("the first named one in a flood; its client sends it again")

    def wait_after(self, error: OSError) -> None:
        """Wait a moment after an error of the socket; raise Broken if it has lasted for long."""
        now = time.monotonic()
        if not self.failing_since:
            self.failing_since = now
            say(f"cannot receive ({error.strerror}); it keeps trying for {GIVE_UP:g} s")
        if now - self.failing_since > GIVE_UP:
            raise Broken(f"cannot receive ({error.strerror})")
        time.sleep(ERROR_PAUSE)

    def answer(self, datagram: bytes, peer: Peer, source: Told) -> None:
        """Send an answer, from the address that was asked where that is known."""
        try:
            if source:
                self.sock.sendmsg([datagram], source, 0, peer)
            else:
                self.sock.sendto(datagram, peer)
        except OSError:  # lost on its way, as far as the client can tell: it asks again
            if source:  # that was a broadcast, or is no address of ours any more
                self.answer(datagram, peer, [])

    def newly_dropped(self) -> int:
        """Return how many datagrams the kernel has dropped since this was last asked."""
        before = self.dropped
        self.dropped = drops(self.sock) or 0
        return self.dropped - before

    def knows_drops(self) -> bool:
        """Tell whether the kernel counts what it drops."""
        return drops(self.sock) is not None


def drops(sock: socket.socket) -> int | None:
    """Return how many datagrams the kernel has dropped at a socket, None where it cannot tell."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        counters = struct.unpack("9I", sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36))
    except (OSError, struct.error):  # a kernel before 4.12
        return None
    return int(counters[DROPS])


def open_inbox(parser: Parser, host: str | None, port: int) -> Inbox:
    """Return the inbox; end the script if its address cannot be used."""
    try:
        return Inbox(listen(host, port))
    except OSError as error:
        remedy = {
            errno.EADDRINUSE: "is another server running? stop it, or give another --port",
            errno.EACCES: f"{RESERVED_PORTS}; give another --port",
        }.get(error.errno or 0, "give an address of this machine as --host")
        where = host_port(host, port) if host else f"port {port}"
        parser.fail(f"cannot listen on {where} ({error.strerror}); {remedy}")


def listen(host: str | None, port: int) -> socket.socket:
    """Return a socket bound to `host`, or to every interface, IPv4 and IPv6; raise OSError."""
    if host is None:
        try:
            return bind(socket.AF_INET6, ("::", port))
        except OSError as error:
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                raise
    return bind(*resolve(host or "0.0.0.0", port)[0])


def bind(family: int, address: tuple[object, ...]) -> socket.socket:
    # Never SO_REUSEADDR: on Linux a second server would silently take every datagram of the first.
    sock = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    if hasattr(socket, "SO_EXCLUSIVEADDRUSE"):  # Windows
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
    with suppress(OSError):  # macOS refuses what Linux cuts down to its limit
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    ask_kernel(sock, every_interface=address[0] in EVERY_INTERFACE)
    sock.setblocking(False)
    try:
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock
