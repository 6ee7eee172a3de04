"""The address of a host, for the server and the client."""

from __future__ import annotations

import socket


def resolve(host: str, port: int) -> tuple[int, tuple[object, ...]]:
    """Return the family, IPv4 or IPv6, and the address of `host`; raise OSError, socket.gaierror for a name."""
    name = (
        host.encode("ascii") if host.isascii() else host
    )  # str would import the tables of IDNA: a megabyte
    try:
        family, _, _, _, address = socket.getaddrinfo(name, port, type=socket.SOCK_DGRAM)[0]
    except UnicodeError:  # a label of more than 63 characters, or none
        raise socket.gaierror(socket.EAI_NONAME, "not the name of a host") from None
    return family, address
