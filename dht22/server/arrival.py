"""What the kernel tells of a datagram besides its bytes: when it arrived, and at which address.

A named reading's time is its arrival less its age, so that a server which stood still (a slow disk,
Ctrl+Z, a desktop that slept) stamps it rightly. Its answer leaves from the address that was asked:
a firewall at the Pi, or a NAT before it, lets no other in. Linux and macOS tell both, Windows
neither: there the time at which it was received serves, and the address that the route gives.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress

ANCILLARY_SPACE = 128  # bytes that `recvmsg` needs for what is told
Told = Sequence[tuple[int, int, bytes]]  # level, type and value, as `recvmsg` returns them

CAN_TELL = sys.platform in ("linux", "darwin")
IS_MAC = sys.platform == "darwin"
# The option, the type of what it brings, its form (seconds and fractions), fractions a millisecond.
# Linux: SO_TIMESTAMPNS_NEW (5.1), the same on 32 and 64 bits. macOS: SO_TIMESTAMP, SCM_TIMESTAMP.
TIMESTAMP_OPTION, TIMESTAMP = (0x0400, 0x02) if IS_MAC else (64, 64)
TIMESTAMP_FORM, MILLISECOND = (
    (struct.Struct("qi"), 1000) if IS_MAC else (struct.Struct("qq"), 1_000_000)
)
IP_PKTINFO = 26 if IS_MAC else 8  # <netinet/in.h>; Python has no name for it before 3.14
IPV6_RECVPKTINFO = getattr(socket, "IPV6_RECVPKTINFO", 49)
IPV6_PKTINFO = getattr(socket, "IPV6_PKTINFO", 50)
LINK_LOCAL = b"\xfe\x80"  # fe80::/10, of which fe80::/64 alone is in use (RFC 4291)


def ask_kernel(sock: socket.socket, every_interface: bool) -> None:
    """Let the kernel tell of each datagram when it arrived and, if that can vary, at which address.

    To be called before `bind`, so that it tells of the first one, too.
    """
    options = [(socket.SOL_SOCKET, TIMESTAMP_OPTION)]
    if every_interface and sock.family == socket.AF_INET6:
        options.append((socket.IPPROTO_IPV6, IPV6_RECVPKTINFO))
    elif every_interface:
        options.append((socket.IPPROTO_IP, IP_PKTINFO))
    for level, option in options if CAN_TELL else ():
        with suppress(OSError):  # an old kernel: `arrival` and `asked` do without
            sock.setsockopt(level, option, 1)


def arrival(told: Told, now: float) -> float:
    """Return when a datagram arrived (seconds since 1970), `now` if that is not told.

    To the millisecond, as it is logged: many share its text. It is never later than now: the clock
    may have been set back meanwhile.
    """
    for level, kind, value in told:
        if kind == TIMESTAMP and level == socket.SOL_SOCKET:
            seconds, fraction = TIMESTAMP_FORM.unpack_from(value)
            at: float = seconds + fraction // MILLISECOND / 1000
            return min(now, at)
    return now


def asked(told: Told) -> Told:
    """Return what makes an answer leave from the address that was asked, nothing if not told.

    The interface is left to the route, but for a link-local address, which is nothing without it.
    """
    for level, kind, value in told:
        if kind == IPV6_PKTINFO and level == socket.IPPROTO_IPV6:  # address, interface
            interface = value[16:20] if value.startswith(LINK_LOCAL) else bytes(4)
            return [(level, kind, value[:16] + interface)]
        if kind == IP_PKTINFO and level == socket.IPPROTO_IP:  # interface, our address, asked one
            return [(level, kind, bytes(4) + value[4:8] + bytes(4))]
    return []
