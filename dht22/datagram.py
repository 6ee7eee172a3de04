"""The wire, in one place: readings and acknowledgements as datagrams, in ASCII.

humidity,temperature                     a plain reading
humidity,temperature,name,n,age[,mac]    one of a named sensor, signed or not
ack,name,last,interval[,mac]             the answer to it

>>> parse(b"74.30000305175781, 25.700000762939453\\n")
('74.3,25.7', None)
"""

from __future__ import annotations

import re
from collections import namedtuple

VERSION = "1.0.0"
PORT = 10001  # of the course's own server
LIMIT = 256  # bytes; receive one more, so that too long is noticed and not cut into something that looks right

HUMIDITY = (0.0, 100.0)  # percent relative humidity; AM2302 manual
TEMPERATURE = (-40.0, 80.0)  # degrees Celsius; AM2302 manual
N = (10**15, 9 * 10**15)  # n is at least the first, and below the second: 16 digits

# Regular expressions, because float() takes `nan`, `inf`, `1_0` and other scripts' digits.
NUMBER = rb"[ \t]*(-?[0-9]{1,3}(?:\.[0-9]{1,20})?)[ \t]*"
NAME = rb"[ \t]*([A-Za-z0-9._-]{1,32})[ \t]*"
MAC = rb"(?:,[ \t]*([0-9a-f]{32})[ \t]*)?(?:\r?\n)?"
READING = re.compile(NUMBER + b"," + NUMBER + rb"(?:\r?\n)?")
NAMED = re.compile(
    b",".join(
        [
            NUMBER,
            NUMBER,
            NAME,
            rb"[ \t]*([1-8][0-9]{15})[ \t]*",
            rb"[ \t]*([0-9]{1,9}\.[0-9]{3})[ \t]*",
        ]
    )
    + MAC
)
ACK = re.compile(
    b"[ \t]*ack[ \t]*," + NAME + rb",[ \t]*([0-9]{16})[ \t]*,[ \t]*([0-9]{0,5})[ \t]*" + MAC
)
# Most readings arrive just as they are logged: this spares them the arithmetic.
AS_LOGGED = re.compile(rb"[1-9]?[0-9]\.[0-9],(?:[1-7]?[0-9]|-[1-9]|-[1-3][0-9])\.[0-9]")

# Who sent a reading: name; n, increasing for that name; age in seconds; mac, 32 hex digits or None.
Named = namedtuple("Named", "name n age mac")
# The answer: last, the highest n of that name on the disk; interval in seconds or None; mac, 32 hex digits or None.
Ack = namedtuple("Ack", "name last interval mac")


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


def parse(datagram: bytes) -> tuple[str, Named | None]:
    """Return the reading in the whole of `datagram` as it is logged, and who sent it if it is a named sensor's.

    Raise ValueError with the reason if it is none. The mac is not verified.
    """
    if AS_LOGGED.fullmatch(datagram):
        return datagram.decode("ascii"), None
    if len(datagram) > LIMIT:
        raise ValueError(f"longer than {LIMIT} bytes")
    match = NAMED.fullmatch(datagram)
    if match:
        humidity, temperature, name, n, age, mac = match.groups()
        return format(float(humidity), float(temperature)), Named(
            name.decode("ascii"), int(n), float(age), mac
        )
    match = READING.fullmatch(datagram)
    if match is None:
        raise ValueError("not a reading")
    return format(float(match[1]), float(match[2])), None


def format_named(reading: str, name: str, n: int, age: float, key: bytes | None = None) -> bytes:
    """Return a named sensor's reading as it is sent, signed if there is a key; age in seconds, 0 to 10^9."""
    return sign(
        f"{reading},{name},{n},{min(max(age, 0.0), 999_999_999.0):.3f}".encode("ascii"), key
    )


def format_ack(
    name: str,
    last: int,
    interval: int | None,
    question: bytes | None = None,
    key: bytes | None = None,
) -> bytes:
    """Return the answer to a reading whose mac is `question`; it is never longer than that, by construction."""
    return sign(
        f"ack,{name},{last},{'' if interval is None else interval}".encode("ascii"), key, question
    )


def parse_ack(datagram: bytes) -> Ack:
    """Return the acknowledgement in the whole of `datagram`; raise ValueError if there is none."""
    match = ACK.fullmatch(datagram) if len(datagram) <= LIMIT else None
    if match is None:
        raise ValueError("not an acknowledgement")
    name, last, interval, mac = match.groups()
    return Ack(name.decode("ascii"), int(last), int(interval) if interval else None, mac)


def mac_of(body: bytes, key: bytes, question: bytes | None = None) -> bytes:
    """Return the MAC of `body`, 32 hex digits: HMAC-SHA256 (RFC 2104), its first 128 bits (RFC 4868).

    An answer's covers the MAC of its question too, so that no old answer fits a new question.
    """
    import hmac  # brings OpenSSL, four megabytes that only those with a key shall need

    if question is not None:
        body = question + b"," + body
    return hmac.new(key, body, "sha256").hexdigest()[:32].encode("ascii")


def sign(body: bytes, key: bytes | None, question: bytes | None = None) -> bytes:
    """Return `body` with its MAC if there is a key, else as it is."""
    return body if key is None else body + b"," + mac_of(body, key, question)


def verify(datagram: bytes, key: bytes, question: bytes | None = None) -> bool:
    """Tell whether what follows the last comma is the MAC of all before it."""
    import hmac

    body, _, mac = datagram.rpartition(b",")
    return hmac.compare_digest(mac_of(body, key, question), mac.strip())
