"""The addresses of a host."""

from __future__ import annotations

import socket


def host_port(host: str, port: int) -> str:
    """Return where something listens, as text."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def resolve(host: str, port: int) -> list[tuple[int, tuple[object, ...]]]:
    """Return the addresses of `host`, each with its family; raise OSError, gaierror for a name."""
    # As str it would be encoded with the tables of IDNA, which cost the client 0.3 MiB.
    name = host.encode("ascii") if host.isascii() else host
    try:
        found = socket.getaddrinfo(name, port, type=socket.SOCK_DGRAM)
    except UnicodeError:  # a label of more than 63 characters, or none
        raise socket.gaierror(socket.EAI_NONAME, "not the name of a host") from None
    return [(family, address) for family, _, _, _, address in found]
