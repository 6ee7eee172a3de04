"""What is published of a log: the readings, and what Home Assistant and other displays need."""

from __future__ import annotations

import json
import math
import re
import time
import zlib
from collections.abc import Iterator
from functools import lru_cache
from itertools import chain
from typing import NamedTuple

from dht22 import VERSION
from dht22.console import Once
from dht22.log.formats import LoggedReading

# Seconds, at least; three intervals if that is longer. Then Home Assistant says `unavailable`. The
# server says `silent` earlier (silence.py): a display is not to flicker with each lost reading.
EXPIRES_AFTER = 600.0
DISCOVERY_EVERY = 600.0  # seconds
STATES = 5  # after a discovery, one a second: Home Assistant may take seconds to listen for them
ANNOUNCED = 1_000  # sensors at most: anybody in the network may send from many addresses
ANNOUNCED_FROM = 3  # readings of a sensor without a name
REMEMBERED = 10_000  # sensors that are not announced
QUANTITIES = {"humidity": "%", "temperature": "°C"}

as_json = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


class Message(NamedTuple):
    topic: str
    payload: str
    retain: bool = False


def payload(reading: LoggedReading) -> str:
    """Return a reading as JSON. A plain one has neither name nor n."""
    named = f'"name":"{reading.name}","n":{reading.n},' if reading.name else ""
    return (
        f'{{"time":"{reading.stamp}","client":"{reading.client}",{named}'
        f'"humidity":{reading.humidity},"temperature":{reading.temperature}}}'
    )


@lru_cache(maxsize=2 * ANNOUNCED)
def level(name: str) -> str:
    """Return a sensor's name with what topics or Home Assistant's ids do not allow replaced."""
    plain = re.sub("[.:]", "-", name)
    return plain if plain == name else f"{plain}-{zlib.crc32(name.encode()):08x}"


class ShownSensor:
    """What displays are told of a sensor."""

    __slots__ = "announced", "expire_after", "gaps", "latest", "readings", "times"

    def __init__(self, reading: LoggedReading) -> None:
        self.latest = reading
        self.readings = 0
        self.gaps: tuple[float, ...] = ()  # seconds, the last two between its readings
        self.expire_after = EXPIRES_AFTER
        self.announced = -math.inf  # monotonic, seconds
        self.times = 0  # that its state is still to be published

    @property
    def name(self) -> str:
        return self.latest.sensor

    @property
    def is_named(self) -> bool:
        return self.latest.name != ""

    @property
    def is_known(self) -> bool:
        """Tell whether it is more than a stranger's single reading."""
        return self.is_named or self.readings >= ANNOUNCED_FROM

    def hear(self, reading: LoggedReading) -> None:
        if reading.time > self.latest.time:
            self.gaps = (*self.gaps[-1:], reading.time - self.latest.time)
        self.latest = reading
        self.readings += 1
        self.times = max(self.times, 1)
        # The smaller of two: a pause is not the rhythm of the sensor.
        expire_after = max(EXPIRES_AFTER, round(3 * min(self.gaps, default=0.0)))
        if abs(expire_after - self.expire_after) > self.expire_after / 10:
            self.expire_after = expire_after
            self.announced = -math.inf

    def is_expired(self, now: float) -> bool:
        """Tell whether its latest reading is too old to be shown (seconds since 1970)."""
        return self.latest.time < now - self.expire_after


class Display:
    """The latest reading of each sensor and, for Home Assistant, how to show it."""

    def __init__(self, prefix: str, status: str, discovery: str | None) -> None:
        self.prefix = prefix
        self.status = status  # the topic that tells whether the publisher is there
        self.discovery = discovery  # the prefix of Home Assistant's topics
        # By name, both with the longest unheard first.
        self.announced: dict[str, ShownSensor] = {}
        self.others: dict[str, ShownSensor] = {}
        self.withdrawn: dict[str, bool] = {}  # by name: whether the broker still has to be told
        self.too_many = Once()

    def hear(self, reading: LoggedReading) -> None:
        name = reading.sensor
        sensors = self.announced if name in self.announced else self.others
        sensor = sensors.pop(name, None) or ShownSensor(reading)
        sensor.hear(reading)
        sensors[name] = sensor
        if len(self.others) > REMEMBERED:
            del self.others[next(iter(self.others))]

    def sensors(self) -> Iterator[ShownSensor]:
        return chain(self.announced.values(), self.others.values())

    def begin(self) -> None:
        """Have all of it published again, for a new connection or a Home Assistant that starts."""
        for sensor in self.sensors():
            sensor.announced = -math.inf
            sensor.times = 1
        self.withdrawn = dict.fromkeys(self.withdrawn, True)

    def is_due(self) -> bool:
        return any(sensor.times for sensor in self.sensors())

    def due(self) -> Iterator[Message]:
        """Yield what is to be published now; not to be asked for more than once a second."""
        if self.discovery:
            self.announce_others()
            yield from self.withdraw()
            yield from self.announce()
        now = time.time()
        for sensor in self.sensors():
            if sensor.is_expired(now):
                sensor.times = 0
            elif sensor.times:
                sensor.times -= 1
                yield Message(self.state(sensor), payload(sensor.latest))

    def announce(self) -> Iterator[Message]:
        """Yield the discoveries that are due."""
        now = time.monotonic()
        for sensor in self.announced.values():
            if now - sensor.announced >= DISCOVERY_EVERY:
                if sensor.announced == -math.inf:
                    sensor.times = STATES
                sensor.announced = now
                yield from self.announcement(sensor)

    def announce_others(self) -> None:
        """Have more sensors announced, those with a name first; withdraw others where need be."""
        known = [each for each in self.others.values() if each.is_known]
        for sensor in sorted(known, key=lambda each: not each.is_named):
            if len(self.announced) >= ANNOUNCED:
                other = self.to_withdraw(sensor)
                if not other:
                    line = f"{ANNOUNCED} sensors are announced, and no more: not {sensor.name}"
                    self.too_many.say("sensors", line)
                    return
                other.announced = -math.inf
                self.others[other.name] = self.announced.pop(other.name)
                self.withdrawn[other.name] = True
            self.announced[sensor.name] = self.others.pop(sensor.name)
            self.withdrawn.pop(sensor.name, None)

    def to_withdraw(self, sensor: ShownSensor) -> ShownSensor | None:
        """Return which sensor gives way to another: the longest unheard, those with a name last."""
        now = sensor.latest.time
        for each in self.announced.values():
            if not each.is_named and (sensor.is_named or each.is_expired(now)):
                return each
        if sensor.is_named:
            return next((each for each in self.announced.values() if each.is_expired(now)), None)
        return None

    def withdraw(self) -> Iterator[Message]:
        """Yield what makes the broker and Home Assistant forget sensors."""
        for name, is_due in self.withdrawn.items():
            if is_due:
                for quantity in QUANTITIES:
                    yield Message(self.config_topic(name, quantity), "", retain=True)
        names = [*self.withdrawn][-ANNOUNCED:]  # told again on the next connections
        self.withdrawn = dict.fromkeys(names, False)

    def config_topic(self, name: str, quantity: str) -> str:
        return f"{self.discovery}/sensor/{self.device(name)}/{quantity}/config"

    def device(self, name: str) -> str:
        return re.sub("[^A-Za-z0-9_-]", "-", f"{self.prefix}_{level(name)}")

    def state(self, sensor: ShownSensor) -> str:
        return f"{self.prefix}/state/{level(sensor.name)}"

    def announcement(self, sensor: ShownSensor) -> Iterator[Message]:
        """Yield the discovery of a sensor, in the form that any version of Home Assistant knows."""
        device = self.device(sensor.name)
        for quantity, unit in QUANTITIES.items():
            config = {
                "name": quantity.capitalize(),
                "unique_id": f"{device}_{quantity}",
                "device": {"identifiers": [device], "name": sensor.name},
                "device_class": quantity,
                "state_class": "measurement",
                "unit_of_measurement": unit,
                "suggested_display_precision": 1,
                "state_topic": self.state(sensor),
                "value_template": f"{{{{ value_json.{quantity} }}}}",
                "expire_after": round(sensor.expire_after),
                "availability_topic": self.status,
                "origin": {"name": "dht22 publish.py", "sw_version": VERSION},
            }
            yield Message(self.config_topic(sensor.name, quantity), as_json(config), retain=True)
