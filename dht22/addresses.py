"""The addresses of this machine, for the lines that tell what to type on a Pi or a phone."""

from __future__ import annotations

import array
import os
import socket
import struct
import sys

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

MOST_TOLD = 4
SIOCGIFCONF = 0x8912  # Linux: all IPv4 addresses, each with its interface (netdevice(7))
INTERFACES = 256  # that there is room for
INTERFACE_SIZE = (
    40 if sys.maxsize > 2**32 else 32
)  # bytes, of a struct ifreq: its name, its address


def own_addresses() -> list[str]:
    """Return the IPv4 addresses of this machine, at most four, the likeliest one first.

    A network card's come before those of tunnels and bridges, as of a VPN or of containers, which
    no Pi can reach; of several the default route's. Loopback is none.
    """
    default = default_address()
    found = {address: is_card for is_card, address in [*interfaces(), *known_by_name()]}
    if default:
        found.setdefault(default, False)
    addresses = [each for each in found if not each.startswith("127.")]
    addresses.sort(key=lambda each: (not found[each], each != default))
    return addresses[:MOST_TOLD]


def default_address() -> str:
    """Return the address of the default route, "" if there is none."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect(("192.0.2.1", 9))  # for documentation only (RFC 5737); nothing is sent
            return str(sock.getsockname()[0])
    except OSError:
        return ""


def interfaces() -> list[tuple[bool, str]]:
    """Return each address of an interface, and whether that is a network card (Linux only)."""
    if not sys.platform.startswith("linux"):
        return []
    room = array.array("B", bytes(INTERFACES * INTERFACE_SIZE))
    request = struct.pack("iP", len(room), room.buffer_info()[0])  # struct ifconf
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            size, _ = struct.unpack("iP", fcntl.ioctl(sock, SIOCGIFCONF, request))
    except OSError:
        return []
    found = []
    for start in range(0, size, INTERFACE_SIZE):
        each = room[start : start + INTERFACE_SIZE].tobytes()
        name = os.fsdecode(each[:16].split(b"\0")[0]).partition(":")[0]  # eth0:1 is eth0's, too
        is_card = os.path.exists(f"/sys/class/net/{name}/device")
        found.append((is_card, socket.inet_ntoa(each[20:24])))
    return found


def known_by_name() -> list[tuple[bool, str]]:
    """Return the addresses that this machine's own name has, where `interfaces` finds none."""
    if sys.platform.startswith("linux"):
        return []
    try:
        found = socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET, socket.SOCK_DGRAM)
    except OSError:
        return []
    return [(True, str(address[0])) for *_, address in found]
