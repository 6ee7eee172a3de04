"""What is published of a log: the readings, and what Home Assistant and other displays need."""

from __future__ import annotations

import json
import math
import re
import time
import zlib
from collections import deque
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from dht22 import VERSION
from dht22.log.formats import LoggedReading

EXPIRES_AFTER = 600.0  # seconds, at least; an older reading is not shown as that of now
DISCOVERY_EVERY = 600.0  # seconds
STATES = 5  # after a discovery, one a second: Home Assistant may take seconds to listen for them
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


@cache
def level(name: str) -> str:
    """Return a sensor's name with what topics or Home Assistant's ids do not allow replaced."""
    plain = re.sub("[.:]", "-", name)
    return plain if plain == name else f"{plain}-{zlib.crc32(name.encode()):08x}"


class ShownSensor:
    """What displays are told of a sensor."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.latest: LoggedReading | None = None
        self.gaps: deque[float] = deque(maxlen=2)  # seconds between its latest readings
        self.expire_after = EXPIRES_AFTER
        self.announced = -math.inf  # monotonic, seconds
        self.times = 0  # that its state is still to be published

    def hear(self, reading: LoggedReading) -> None:
        if self.latest and reading.time > self.latest.time:
            self.gaps.append(reading.time - self.latest.time)
        self.latest = reading
        self.times = max(self.times, 1)
        # The smaller of two: a pause is not the rhythm of the sensor.
        expire_after = max(EXPIRES_AFTER, round(3 * min(self.gaps, default=0.0)))
        if abs(expire_after - self.expire_after) > self.expire_after / 10:
            self.expire_after = expire_after
            self.announced = -math.inf


class Display:
    """The latest reading of each sensor and, for Home Assistant, how to show it."""

    def __init__(self, prefix: str, status: str, discovery: str | None) -> None:
        self.prefix = prefix
        self.status = status  # the topic that tells whether the publisher is there
        self.discovery = discovery  # the prefix of Home Assistant's topics
        self.sensors: dict[str, ShownSensor] = {}

    def hear(self, reading: LoggedReading) -> None:
        name = reading.sensor
        if name not in self.sensors:
            self.sensors[name] = ShownSensor(name)
        self.sensors[name].hear(reading)

    def begin(self) -> None:
        """Have all of it published again, on a new connection."""
        for sensor in self.sensors.values():
            sensor.announced = -math.inf
            sensor.times = 1

    def is_due(self) -> bool:
        return any(sensor.times for sensor in self.sensors.values())

    def due(self) -> Iterator[Message]:
        """Yield what is to be published now; not to be asked for more than once a second."""
        now, oldest = time.monotonic(), time.time() - EXPIRES_AFTER
        for sensor in self.sensors.values():
            if self.discovery and now - sensor.announced >= DISCOVERY_EVERY:
                if sensor.announced == -math.inf:
                    sensor.times = STATES
                sensor.announced = now
                yield from self.announcement(sensor)
            if not sensor.latest or sensor.latest.time < oldest:
                sensor.times = 0
            elif sensor.times:
                sensor.times -= 1
                yield Message(self.state(sensor), payload(sensor.latest))

    def state(self, sensor: ShownSensor) -> str:
        return f"{self.prefix}/state/{level(sensor.name)}"

    def announcement(self, sensor: ShownSensor) -> Iterator[Message]:
        """Yield the discovery of a sensor, in the form that any version of Home Assistant knows."""
        device = re.sub("[^A-Za-z0-9_-]", "-", f"{self.prefix}_{level(sensor.name)}")
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
            topic = f"{self.discovery}/sensor/{device}/{quantity}/config"
            yield Message(topic, as_json(config), retain=True)
