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
from functools import lru_cache

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from hmac import HMAC

PORT = 10001  # of the course's own server
LIMIT = 256  # bytes; receivers ask for one more, so that what is too long is noticed, not cut

HUMIDITY_RANGE = (0.0, 100.0)  # percent relative humidity; AM2302 manual
TEMPERATURE_RANGE = (-40.0, 80.0)  # degrees Celsius; AM2302 manual
N_RANGE = (10**15, 9 * 10**15)  # n is at least the first, and below the second: 16 digits
HIGHEST_N = N_RANGE[1] - 10**6  # no client draws a higher one; if a stranger does, the name is lost

# A name must not look like an IPv4 address: a plain sender is known by its address.
NAME = rb"(?!(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![A-Za-z0-9._-]))[A-Za-z0-9._-]{1,32}"


def fields(*groups: Sequence[bytes]) -> re.Pattern[bytes]:
    """Return what matches a datagram with these fields, each with blanks around it.

    They come in groups, each of which may be missing with all that follow, but for the first.
    """
    pattern = b""
    for group in reversed(groups):
        more = rb"(?:,%b)?" % pattern if pattern else b""
        pattern = b",".join(rb"[ \t]*(%b)[ \t]*" % field for field in group) + more
    return re.compile(pattern + rb"(?:\r?\n)?")


# Regular expressions, because float() takes `nan`, `inf`, `1_0` and other scripts' digits.
NUMBER = rb"-?[0-9]{1,3}(?:\.[0-9]{1,20})?"
N, AGE, MAC = rb"[1-8][0-9]{15}", rb"[0-9]{1,9}\.[0-9]{3}", rb"[0-9a-f]{32}"
READING = fields([NUMBER, NUMBER], [NAME, N, AGE], [MAC])
ACK = fields([rb"ack", NAME, rb"[0-9]{16}", rb"[0-9]{0,5}"], [MAC])
# A reading just as it is logged, within the ranges: most are, and need no arithmetic.
AS_LOGGED = rb"[1-9]?[0-9]\.[0-9],(?:[1-7]?[0-9]|-[1-9]|-[1-3][0-9])\.[0-9]"
AS_SENT = re.compile(rb"(%b)(?:,(%b),(%b),(%b)(?:,(%b))?)?" % (AS_LOGGED, NAME, N, AGE, MAC))
ALL_AS_LOGGED = re.compile(rb"%b(?:\n%b)*" % (AS_LOGGED, AS_LOGGED))

# Who sent a reading: name; n, increasing for that name; age in seconds; mac, 32 hex digits or None.
Named = namedtuple("Named", "name n age mac")
# The answer: last, the highest n of that name on the disk; interval in seconds or None; mac.
Ack = namedtuple("Ack", "name last interval mac")


def format_in_range(humidity: float, temperature: float) -> str:
    """Return a reading as it is sent and logged, rounded to 0.1, never `-0.0`.

    humidity is in percent relative humidity, temperature in degrees Celsius; out of HUMIDITY_RANGE
    or TEMPERATURE_RANGE, before rounding, raises ValueError.
    """
    if not HUMIDITY_RANGE[0] <= humidity <= HUMIDITY_RANGE[1]:
        raise ValueError("humidity out of range ({:g} to {:g} %)".format(*HUMIDITY_RANGE))
    if not TEMPERATURE_RANGE[0] <= temperature <= TEMPERATURE_RANGE[1]:
        raise ValueError("temperature out of range ({:g} to {:g} °C)".format(*TEMPERATURE_RANGE))
    return f"{humidity:.1f},{temperature:.1f}".replace("-0.0", "0.0")


def plain_readings(datagrams: Sequence[bytes]) -> list[str] | None:
    """Return the readings if each datagram is a plain one just as it is logged, else None.

    They are looked at together, a line each, which takes a third of the time. What is None here has
    to be parsed one by one.
    """
    lines = b"\n".join(datagrams)
    has_line_each = lines.count(b"\n") == len(datagrams) - 1  # no datagram holds two
    if has_line_each and ALL_AS_LOGGED.fullmatch(lines):
        return lines.decode("ascii").split("\n")
    return None


def parse(datagram: bytes) -> tuple[str, Named | None]:
    """Return the reading in the whole of `datagram` as it is logged, and who sent it, if named.

    Raise ValueError with the reason if it is none. The mac is left to `verify`. The lines of text
    logs are checked by this as well.
    """
    if len(datagram) > LIMIT:
        raise ValueError(f"longer than {LIMIT} bytes")
    match = AS_SENT.fullmatch(datagram)
    if match:
        as_logged, name, n, age, mac = match.groups()
        reading = as_logged.decode("ascii")
    else:
        match = READING.fullmatch(datagram)
        if match is None:
            raise ValueError("not a reading")
        humidity, temperature, name, n, age, mac = match.groups()
        reading = format_in_range(float(humidity), float(temperature))
    return reading, Named(name.decode("ascii"), int(n), float(age), mac) if name else None


def format_named(reading: str, name: str, n: int, age: float, key: bytes | None = None) -> bytes:
    """Return a named sensor's reading as it is sent, signed if there is a key.

    age is in seconds; it is sent as 0 to 999,999,999.
    """
    age = min(max(age, 0.0), 999_999_999.0)
    return sign(f"{reading},{name},{n},{age:.3f}".encode("ascii"), key)


def format_ack(
    name: str,
    last: int,
    interval: int | None,
    question_mac: bytes | None = None,
    key: bytes | None = None,
) -> bytes:
    """Return the answer to a reading with the mac `question_mac`; it is never longer than that."""
    seconds = "" if interval is None else interval
    return sign(f"ack,{name},{last},{seconds}".encode("ascii"), key, question_mac)


def parse_ack(datagram: bytes) -> Ack:
    """Return the acknowledgement in the whole of `datagram`; raise ValueError if there is none."""
    match = ACK.fullmatch(datagram) if len(datagram) <= LIMIT else None
    if match is None:
        raise ValueError("not an acknowledgement")
    _, name, last, interval, mac = match.groups()
    return Ack(name.decode("ascii"), int(last), int(interval) if interval else None, mac)


def mac_of(body: bytes, key: bytes, question_mac: bytes | None = None) -> bytes:
    """Return the MAC of `body`, 32 hex digits: the first 128 bits of HMAC-SHA256 (RFC 2104, 4868).

    An answer's covers the MAC of its question too, so that no old answer fits a new question.
    """
    if question_mac is not None:
        body = question_mac + b"," + body
    mac = keyed(key).copy()
    mac.update(body)
    return mac.hexdigest()[:32].encode("ascii")


@lru_cache(maxsize=10_000)  # to begin with a key takes as long as all the rest
def keyed(key: bytes) -> HMAC:
    """Return a MAC with this key, of nothing yet."""
    import hmac  # brings OpenSSL: four megabytes that only a sensor with a key needs

    return hmac.new(key, None, "sha256")


def sign(body: bytes, key: bytes | None, question_mac: bytes | None = None) -> bytes:
    """Return `body` with its MAC if there is a key, else as it is."""
    return body if key is None else body + b"," + mac_of(body, key, question_mac)


def verify(datagram: bytes, key: bytes, question_mac: bytes | None = None) -> bool:
    """Tell whether what follows the last comma is the MAC of all before it."""
    import hmac

    body, _, mac = datagram.rpartition(b",")
    return hmac.compare_digest(mac_of(body, key, question_mac), mac.strip())
