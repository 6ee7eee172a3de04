"""Sockets for datagrams, of the server and the client."""

from __future__ import annotations

import errno
import socket
import struct
import sys
from contextlib import suppress

RECEIVE_BUFFER = 4 << 20  # bytes asked of the kernel; Linux counts about 800 a datagram
SO_MEMINFO, DROPS = 55, 8  # Linux 4.12: nine counters of a socket, the last of them its drops


def resolve_all(host: str, port: int) -> list[tuple[int, tuple[object, ...]]]:
    """Return the addresses of `host`, each with its family; raise OSError, gaierror for a name."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except UnicodeError:  # a label of more than 63 characters, or none
        raise socket.gaierror(socket.EAI_NONAME, "not the name of a host") from None
    return [(family, address) for family, _, _, _, address in found]


def resolve(host: str, port: int) -> tuple[int, tuple[object, ...]]:
    """Return the family and the first address of `host`; raise OSError, gaierror for a name."""
    return resolve_all(host, port)[0]


def drops(sock: socket.socket) -> int | None:
    """Return how many datagrams the kernel has dropped at this socket, None where it does not tell."""
    try:
        if sys.platform.startswith("linux"):
            return int(
                struct.unpack("9I", sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36))[DROPS]
            )
    except (OSError, struct.error):  # a kernel before 4.12
        pass
    return None


def listen(host: str | None, port: int) -> socket.socket:
    """Return a socket bound to `host`, or to every interface, IPv4 and IPv6; raise OSError."""
    if host is None:
        try:
            return bind(socket.AF_INET6, ("::", port))
        except OSError as error:
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                raise
    return bind(*resolve(host or "0.0.0.0", port))


def bind(family: int, address: tuple[object, ...]) -> socket.socket:
    # Never SO_REUSEADDR: on Linux a second server would silently take every datagram of the first.
    sock = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    if hasattr(socket, "SO_EXCLUSIVEADDRUSE"):  # Windows
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
    with suppress(OSError):  # macOS refuses what Linux cuts down to its limit
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    sock.setblocking(False)
    try:
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock


def own_address() -> str:
    """Return the address by which this machine is likely to be reached: where its default route begins."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.1", 9))  # for documentation only (RFC 5737); nothing is sent
            return str(sock.getsockname()[0])
        except OSError:
            return f"{socket.gethostname()}.local"
