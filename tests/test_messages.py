"""What is published of a reading, and when displays are told."""

import json
import time

import pytest

from dht22.log.formats import parse_row
from dht22.publish import messages
from dht22.publish.messages import Display, level, payload

NAMED = b"2026-11-21T10:00:02.123Z,192.168.1.7,kitchen,74.3,25.7,1795255202123456\n"


@pytest.mark.parametrize(
    "row, published",
    [
        (
            NAMED,
            '{"time":"2026-11-21T10:00:02.123Z","client":"192.168.1.7","name":"kitchen",'
            '"n":1795255202123456,"humidity":74.3,"temperature":25.7}',
        ),
        (
            b"2026-11-21T10:00:02.123Z,fe80::1,,100.0,-0.5,\n",
            '{"time":"2026-11-21T10:00:02.123Z","client":"fe80::1","humidity":100.0,"temperature":-0.5}',
        ),
    ],
)
def test_payload(row, published):
    assert payload(parse_row(row)) == published
    assert json.dumps(json.loads(published), separators=(",", ":")) == published


def test_levels_have_neither_dots_nor_colons_and_stay_different():
    names = ["kitchen", "Kitchen", "a.b", "a-b", "a..b", "192.168.1.7", "192-168-1-7", "fe80::1"]
    levels = [level(name) for name in names]
    assert levels[:2] == names[:2] and levels[3] == "a-b" and levels[6] == "192-168-1-7"
    assert levels[5].startswith("192-168-1-7-")
    assert len(set(levels)) == len(names)
    assert not set(".:+#/") & set("".join(levels))


class Clock:
    """Time that goes on when a test says so."""

    def __init__(self, monkeypatch):
        self.now = 1_800_000_000.0
        monkeypatch.setattr(messages.time, "time", lambda: self.now)
        monkeypatch.setattr(messages.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


@pytest.fixture
def display():
    return Display("dht22", "dht22/status/me", "homeassistant")


def row(seconds, name="kitchen", humidity=50.0):
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    n = 10**15 + int(seconds)
    return f"{stamp}.000Z,192.168.1.7,{name},{humidity},20.0,{n if name else ''}\n".encode()


def states(display):
    """Return the humidities that are shown now, by topic."""
    return {
        message.topic: json.loads(message.payload)["humidity"]
        for message in display.due()
        if "/state/" in message.topic
    }


def test_state_is_the_latest(display, clock):
    display.hear(parse_row(row(clock.now - 4, humidity=1.0)))
    display.hear(parse_row(row(clock.now - 2, humidity=2.0)))
    for _ in range(5):  # Home Assistant listens only seconds after a discovery
        assert display.is_due()
        assert states(display) == {"dht22/state/kitchen": 2.0}
    assert not display.is_due()
    assert states(display) == {}
    display.hear(parse_row(row(clock.now, humidity=3.0)))
    assert states(display) == {"dht22/state/kitchen": 3.0}
    assert states(display) == {}


def test_state_of_the_past_is_not_shown(display, clock):
    display.hear(parse_row(row(clock.now - 601)))
    assert states(display) == {}
    display.hear(parse_row(row(clock.now - 599)))
    assert states(display) == {"dht22/state/kitchen": 50.0}


def test_state_is_shown_again_on_each_connection(display, clock):
    display.hear(parse_row(row(clock.now)))
    while display.is_due():
        states(display)
    clock.now += 500
    display.begin()
    assert states(display) == {"dht22/state/kitchen": 50.0}
    clock.now += 500
    display.begin()
    assert states(display) == {}, "it is too old by now"


def test_state_is_shown_for_three_intervals(display, clock):
    """A sensor of one reading in 30 minutes, when Home Assistant was started again."""
    for age in 5400, 3600, 1800:
        display.hear(parse_row(row(clock.now - age)))
    while display.is_due():
        states(display)
    clock.now += 3500
    display.begin()
    assert states(display) == {"dht22/state/kitchen": 50.0}
    clock.now += 200
    display.begin()
    assert states(display) == {}


def test_stranger_is_announced_after_his_third_reading(display, clock):
    for number, expected in enumerate([0, 0, 2]):
        display.hear(parse_row(row(clock.now + number, name="")))
        messages = [*display.due()]
        assert sum(message.retain for message in messages) == expected
        assert "/state/" in messages[-1].topic, "who asks for its state gets it"


def announced(display):
    return {sensor.name for sensor in display.announced.values()}


def test_announced_sensors_are_bounded(display, clock, monkeypatch, capfd):
    monkeypatch.setattr(messages, "ANNOUNCED", 3)

    def hear(name, client="10.0.0.1", times=1):
        for _ in range(times):
            display.hear(parse_row(row(clock.now, name).replace(b"192.168.1.7", client.encode())))
        return [*display.due()]

    for k in range(9):
        hear("", f"10.0.0.{k}", 3)
    assert announced(display) == {"10.0.0.0", "10.0.0.1", "10.0.0.2"}, "the others wait"
    sent = hear("kitchen")
    assert announced(display) == {"10.0.0.1", "10.0.0.2", "kitchen"}, "a name comes first"
    gone = f"homeassistant/sensor/dht22_{level('10.0.0.0')}"
    assert [message for message in sent if not message.payload] == [
        messages.Message(f"{gone}/humidity/config", "", True),
        messages.Message(f"{gone}/temperature/config", "", True),
    ]
    assert not [message for message in display.due() if not message.payload]
    display.begin()
    assert len([message for message in display.due() if not message.payload]) == 2, "told again"
    hear("attic")
    hear("hall")
    hear("cellar")
    assert announced(display) == {"kitchen", "attic", "hall"}, "none of these has expired"
    clock.now += 1000
    hear("kitchen")
    hear("cellar")
    assert announced(display) == {"kitchen", "hall", "cellar"}, "the longest unheard gives way"
    hear("", "10.0.0.9", 3)
    assert announced(display) == {"kitchen", "hall", "cellar"}, "none takes a name's place"
    said = capfd.readouterr().err
    assert said == "3 sensors are announced, and no more: not 10.0.0.3\n"


def test_senders_that_are_remembered_are_bounded(display, clock, monkeypatch):
    monkeypatch.setattr(messages, "REMEMBERED", 50)
    for k in range(200):
        display.hear(
            parse_row(
                row(clock.now).replace(b"192.168.1.7,kitchen", b"10.0.0.%d," % k)[:-17] + b"\n"
            )
        )
    assert len([*display.sensors()]) == 50
    assert len(states(display)) == 50


def configs(display):
    return {
        message.topic: json.loads(message.payload) for message in display.due() if message.retain
    }


def test_discovery(display, clock):
    display.hear(parse_row(row(clock.now, "a.b")))
    found = configs(display)
    device = "dht22_" + level("a.b")
    assert found.keys() == {
        f"homeassistant/sensor/{device}/{quantity}/config"
        for quantity in ("humidity", "temperature")
    }
    assert found[f"homeassistant/sensor/{device}/temperature/config"] == {
        "name": "Temperature",
        "unique_id": f"{device}_temperature",
        "device": {"identifiers": [device], "name": "a.b"},
        "device_class": "temperature",
        "state_class": "measurement",
        "unit_of_measurement": "°C",
        "suggested_display_precision": 1,
        "state_topic": "dht22/state/" + level("a.b"),
        "value_template": "{{ value_json.temperature }}",
        "expire_after": 600,
        "availability_topic": "dht22/status/me",
        "origin": {"name": "dht22 publish.py", "sw_version": messages.VERSION},
    }


def test_discovery_is_repeated(display, clock):
    display.hear(parse_row(row(clock.now)))
    assert len(configs(display)) == 2
    clock.now += 599
    assert configs(display) == {}
    clock.now += 1
    assert len(configs(display)) == 2
    display.begin()
    assert len(configs(display)) == 2


def test_no_discovery(clock):
    display = Display("dht22", "dht22/status/me", None)
    display.hear(parse_row(row(clock.now)))
    assert [message.topic for message in display.due()] == ["dht22/state/kitchen"]


@pytest.mark.parametrize(
    "times, expire_after",
    [
        ([0], 600),
        ([0, 100], 600),
        ([0, 300], 900),
        ([0, 300, 601, 899], 900),  # 894 is no news
        ([0, 300, 86400], 900),  # a pause
        ([0, 10, 3610, 7210], 10800),  # a new rhythm
        ([0, 3600, 3610], 600),
        ([0, 3600, 1800], 10800),  # a reading that was spooled, or a clock set back
    ],
)
def test_expires_after_three_intervals(display, clock, times, expire_after):
    for each in times:
        display.hear(parse_row(row(clock.now + each)))
    assert {config["expire_after"] for config in configs(display).values()} == {expire_after}


def test_small_changes_of_the_rhythm_are_not_announced(display, clock):
    now = clock.now
    for k in range(9):
        now += 1000 + 9 * (-1) ** k
        display.hear(parse_row(row(now)))
        assert len(configs(display)) == (2 if k < 2 else 0)
    display.hear(parse_row(row(now + 2000)))
    display.hear(parse_row(row(now + 4000)))
    assert {config["expire_after"] for config in configs(display).values()} == {6000}


def test_the_prefix_tells_desktops_apart(clock):
    display = Display("lab/two", "lab/two/status/me", "homeassistant")
    display.hear(parse_row(row(clock.now)))
    first, *_, state = display.due()
    assert first.topic == "homeassistant/sensor/lab-two_kitchen/humidity/config"
    assert state.topic == "lab/two/state/kitchen"
