"""What a sensor gives, as the field knows it, against a fake driver, fake pins and a fake clock."""

import random
import sys
import types

import pytest

from dht22.pi import drivers
from dht22.pi import sensor as module
from dht22.pi.drivers import Driver
from dht22.pi.sensor import NoReading, Power, Sensor


class Clock:
    """A clock that only sleeping moves; `read` takes what a read takes."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


class Playing:
    """A driver that plays values, None for a failed read, and notes when it was asked."""

    def __init__(self, clock, values, takes=0.03, tries=1):
        self.clock = clock
        self.values = iter(values)
        self.asked = []
        self.takes = takes
        self.driver = Driver("fake", "", self.read, tries, drivers.MIN_INTERVAL)

    def read(self):
        self.asked.append(self.clock.now)
        self.clock.now += self.takes
        values = next(self.values, None)
        if values is None:
            raise RuntimeError("no answer")
        return values


def readings(sensor, polls, interval=2.0):
    """Return what each poll gives, None for no reading."""
    found = []
    for _ in range(polls):
        try:
            found.append(sensor.read(interval))
        except NoReading:
            found.append(None)
    return found


A, B, NEAR, FAR = (50.0, 20.0), (50.4, 20.1), (70.0, 25.0), (25.0, 10.0)


@pytest.mark.parametrize(
    "values, polled",
    [
        ([A, B, B], ["50.4,20.1", "50.4,20.1"]),  # the first is confirmed by the next
        ([A, NEAR], ["70.0,25.0"]),  # agrees: 20 % and 5 °C
        ([A, (70.1, 20.0), A], ["50.0,20.0"]),  # does not
        ([A, (50.0, 25.1), A], ["50.0,20.0"]),
        ([A, None, B], ["50.4,20.1"]),  # a failed one counts
        ([FAR, A, B], ["50.4,20.1"]),  # a glitch as the very first
        ([A, None, None, B, B], [None, "50.4,20.1"]),
        ([A, FAR, (99.0, -9.0), B, B], [None, "50.4,20.1"]),  # no two agree
        ([None, A, B], [None, "50.4,20.1"]),
        ([A, A, FAR, A, A], ["50.0,20.0", "50.0,20.0", "50.0,20.0"]),  # a glitch
        ([A, A, FAR, FAR, FAR], ["50.0,20.0", "25.0,10.0", "25.0,10.0"]),  # a step
        ([A, A, (0.0, 0.0), A], ["50.0,20.0", None, "50.0,20.0"]),
        ([A, A, (0.04, -0.04), A], ["50.0,20.0", None, "50.0,20.0"]),
        ([A, A, (3303.0, 20.0), A], ["50.0,20.0", None, "50.0,20.0"]),
        ([A, A, (float("nan"), 20.0), A], ["50.0,20.0", None, "50.0,20.0"]),
        ([(0.0, 5.0), (0.0, 5.0)], ["0.0,5.0"]),
        ([(5.0, 0.0), (5.0, 0.0)], ["5.0,0.0"]),
    ],
)
def test_what_is_sent(clock, values, polled):
    assert readings(Sensor(Playing(clock, values).driver), len(polled)) == polled


@pytest.mark.parametrize(
    "read, meant",
    [
        (-3276.7, "50.0,-0.1"),
        (-3274.5, "50.0,-2.3"),
        (-3274.499951, "50.0,-2.3"),  # a C float
        (-3236.8, "50.0,-40.0"),
        (-3276.8, None),
        (-3236.7, None),
    ],
)
def test_a_clone_that_counts_in_two_s_complement_is_read_in_frost(clock, read, meant):
    assert readings(Sensor(Playing(clock, [(50.0, read)] * 3).driver), 1) == [meant]


@pytest.mark.parametrize(
    "model, values, why",
    [
        ("DHT11", (2.0, 0.0), "2.0 % and 0.0 °C look like a DHT22 read as a DHT11; leave out"),
        ("DHT11", (3.9, 21.0), "look like a DHT22 read as a DHT11; "),
        ("DHT11", (4.0, 21.0), None),
        ("DHT22", (1024.0, 563.2), "1024.0 % and 563.2 °C look like a DHT11 read as a DHT22; try"),
        ("AM2302", (128.1, 20.0), "look like a DHT11 read as a DHT22; try --sensor DHT11"),
        ("DHT22", (3303.0, 20.0), "3303.0 % is out of range"),  # a damaged answer
        ("DHT22", (100.1, 20.0), "100.1 % is out of range (0 to 100 %)"),
        ("DHT22", (50.0, 80.1), "80.1 °C is out of range (-40 to 80 °C)"),
        ("DHT22", (2.0, 0.0), None),
        (None, (2.0, 0.0), None),  # the kernel tells the models apart
        (None, (1024.0, 20.0), "1024.0 % is out of range (0 to 100 %)"),
        ("DHT22", (float("nan"), 20.0), "nan % is out of range (0 to 100 %)"),
    ],
)
def test_what_is_refused_is_shown_and_a_wrong_model_named(clock, model, values, why):
    driver = Playing(clock, [values] * 9).driver
    driver.model = model
    try:
        Sensor(driver).read()
        refused = None
    except NoReading as error:
        refused = str(error)
    assert refused == why or why and why in refused


def test_glitches_are_not_sent_and_steps_are_kept(clock):
    """10,000 true readings, 0.5 % of the reads damaged, reads failing in streaks, five steps."""
    dice = random.Random(4)
    steps = {2000: (-25, -8), 4000: (25, 8), 5000: (30, 12), 5300: (-30, -12), 8000: (0, 7)}
    truth = {}
    humidity, temperature, failing = 50.0, 21.0, False
    poll = 0
    glitches = 0

    def glitch(humidity, temperature):
        return dice.choice(
            [
                (humidity / 2, temperature / 2),
                (min(humidity * 2, 99), temperature * 2),
                (0.0, 0.0),
                (3303.0, 20.0),
                (humidity, -45.0),
                (humidity, temperature + 25.6),
                (humidity - 25.6, temperature),
            ]
        )

    def read():
        nonlocal failing, glitches
        failing = dice.random() < (0.4 if failing else 0.05)
        if failing:
            raise RuntimeError("no answer")
        if dice.random() < 0.005 or not truth:
            glitches += 1
            truth.setdefault(poll, None)
            return glitch(humidity, temperature)
        now = round(humidity + dice.gauss(0, 0.1), 1), round(temperature + dice.gauss(0, 0.1), 1)
        truth[poll] = module.format_in_range(*now)
        return now

    sensor = Sensor(Driver("fake", "", read, 1, 2.0))
    sent = {}
    lost = 0
    for poll in range(10_000):
        dry, warm = steps.get(poll, (0, 0))
        humidity += dry + dice.gauss(0, 0.01)
        temperature += warm + dice.gauss(0, 0.005)
        truth[poll] = truth.get(poll)
        try:
            sent[poll] = sensor.read(2.0)
        except NoReading:
            lost += truth[poll] is not None
    assert glitches > 40
    for number, reading in sent.items():
        assert reading == truth[number], "what is sent is a true reading of this poll"
    for step in steps:
        read_since = [poll for poll in range(step, step + 20) if truth[poll]]
        assert set(read_since[:2]) & set(sent), "a step is late by one poll at most"
    assert lost <= 5, "only where a read to be confirmed was followed by two failed ones"


@pytest.mark.parametrize("interval, reads", [(2.0, 1), (5.0, 1), (6.0, 2), (60.0, 2)])
def test_the_value_is_from_a_new_measurement(clock, interval, reads):
    """The sensor answers with its previous measurement, as the real one does."""
    previous = clock.now
    driver = Playing(clock, [])

    def read():
        nonlocal previous
        driver.asked.append(clock.now)
        measured, previous = previous, clock.now
        clock.now += driver.takes
        ages.append(clock.now - measured)
        return 50.0, 20.0

    ages = []
    sensor = Sensor(Driver("fake", "", read, 1, 2.0))
    sensor.read(interval)
    clock.now += 600
    for _ in range(5):
        clock.now += interval
        driver.asked.clear()
        sensor.read(interval)
        assert len(driver.asked) == reads
        if interval > 5:
            assert ages[-1] < 3
        assert all(later - earlier >= 2 for earlier, later in zip(driver.asked, driver.asked[1:]))


def test_tries_are_two_seconds_apart(clock):
    driver = Playing(clock, [A, None, None, B, B, B], tries=3)
    sensor = Sensor(driver.driver)
    assert readings(sensor, 3) == ["50.4,20.1"] * 3
    assert len(driver.asked) == 6
    assert all(later - earlier >= 2 for earlier, later in zip(driver.asked, driver.asked[1:]))


def test_a_sensor_that_gets_power_is_not_read_within_two_seconds(clock, monkeypatch):
    levels = []
    pins = types.SimpleNamespace(
        **{name: name for name in ("BCM", "OUT", "HIGH", "LOW")},
        setwarnings=lambda on: None,
        setmode=lambda mode: None,
        setup=lambda pin, direction, initial: levels.append((clock.now, initial)),
        output=lambda pin, level: levels.append((clock.now, level)),
    )
    monkeypatch.setitem(sys.modules, "RPi", types.SimpleNamespace(GPIO=pins))
    driver = Playing(clock, [A] * 10)
    sensor = Sensor(driver.driver, Power(4))
    for _ in range(2):
        driver.asked.clear()
        assert sensor.read() == sensor.read() == "50.0,20.0"
        on, level = levels[-1]
        assert level == "HIGH" and driver.asked[0] - on >= 2
        clock.now += 600
        sensor.power.switch_off()
    assert [level for _, level in levels] == ["LOW"] + ["HIGH", "LOW"] * 2
