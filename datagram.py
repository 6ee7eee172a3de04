"""The wire, in one place: a reading as a datagram, `humidity,temperature` in ASCII.

    >>> parse(b"74.30000305175781, 25.700000762939453\\n")
    ('74.3,25.7', None)
"""
from __future__ import annotations

import re
import socket

VERSION = "1.0.0"
PORT = 10001  # of the course's own server
LIMIT = 256  # bytes; receive one more, so that too long is noticed and not cut into something that looks right

HUMIDITY = (0.0, 100.0)  # percent relative humidity; AM2302 manual
TEMPERATURE = (-40.0, 80.0)  # degrees Celsius; AM2302 manual

# Regular expressions, because float() takes `nan`, `inf`, `1_0` and other scripts' digits.
NUMBER = rb"[ \t]*(-?[0-9]{1,3}(?:\.[0-9]{1,20})?)[ \t]*"
PLAIN = re.compile(NUMBER + b"," + NUMBER + rb"(?:\r?\n)?")
# Most readings arrive just as they are logged: this spares them the arithmetic.
AS_LOGGED = re.compile(rb"[1-9]?[0-9]\.[0-9],(?:[1-7]?[0-9]|-[1-9]|-[1-3][0-9])\.[0-9]")


def format(humidity: float, temperature: float) -> str:
    """Return a reading as it is sent and logged, rounded to 0.1, never `-0.0`.

    humidity is in percent relative humidity (0 to 100), temperature in degrees Celsius (-40 to 80);
    out of range, before rounding, raises ValueError.
    """
    if not HUMIDITY[0] <= humidity <= HUMIDITY[1]:
        raise ValueError("humidity out of range (0 to 100 %)")
    if not TEMPERATURE[0] <= temperature <= TEMPERATURE[1]:
        raise ValueError("temperature out of range (-40 to 80 °C)")
    return f"{humidity:.1f},{temperature:.1f}".replace("-0.0", "0.0")


def parse(datagram: bytes) -> tuple[str, None]:
    """Return the reading in the whole of `datagram` as it is logged; raise ValueError with the reason if it is none."""
    if AS_LOGGED.fullmatch(datagram):
        return datagram.decode("ascii"), None
    if len(datagram) > LIMIT:
        raise ValueError(f"longer than {LIMIT} bytes")
    match = PLAIN.fullmatch(datagram)
    if match is None:
        raise ValueError("not a reading")
    return format(float(match[1]), float(match[2])), None


def resolve(host: str, port: int) -> tuple[int, tuple[object, ...]]:
    """Return the family, IPv4 or IPv6, and the address of `host`; raise OSError, socket.gaierror for a name."""
    name = host.encode("ascii") if host.isascii() else host  # str would import the tables of IDNA: a megabyte
    try:
        family, _, _, _, address = socket.getaddrinfo(name, port, type=socket.SOCK_DGRAM)[0]
    except UnicodeError:  # a label of more than 63 characters, or none
        raise socket.gaierror(socket.EAI_NONAME, "not the name of a host") from None
    return family, address
