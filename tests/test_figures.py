"""The figures of report.py against plain Python's."""

import math
import random
import statistics
from datetime import datetime, timedelta, timezone

import pytest

pytest.importorskip("pandas")

import numpy  # noqa: E402

from dht22.report import figures, lines, tables, times  # noqa: E402
from dht22.report.spans import as_dicts  # noqa: E402
from dht22.report.spans import spans as spans_of  # noqa: E402
from support.made import MINUTE, START, row, stamp, write, write_db  # noqa: E402

UTC = timezone.utc


def examine(*paths):
    """Return the examined readings by sensor, as report.py has them."""
    table = tables.read([lines.log_at(path) for path in paths], lambda text: None)[0]
    return {name: figures.examine(rows) for name, rows in tables.each_sensor(table)}


def summary(*paths, zone=UTC):
    return {name: figures.summary(rows, zone) for name, rows in examine(*paths).items()}


def plain_suspicious(values, accuracy, gaps=()):
    """The definition, word by word: no pandas, no numpy. `gaps` are places behind gaps."""

    def height(place, before, after):
        first, last = place - before, place + after
        if first < 0 or last >= len(values) or any(first < gap <= last for gap in gaps):
            return 0
        low, high = sorted((values[first], values[last]))
        height = max(values[place] - high, low - values[place])
        return height if height > high - low else 0

    heights = [
        max(height(place, *sides) for sides in ((1, 1), (2, 1), (1, 2)))
        for place in range(len(values))
    ]
    usual = sorted(heights)[int(0.95 * (len(values) - 1))]
    return [height > max(accuracy, 5.0 * usual) for height in heights]


def plain_figures(values):
    return {
        "min": min(values),
        "mean": statistics.fmean(values),
        "max": max(values),
        "std": statistics.stdev(values),
    }


def plain_dew_point(humidity, temperature):
    gamma = math.log(humidity / 100) + 17.62 * temperature / (243.12 + temperature)
    return 243.12 * gamma / (17.62 - gamma)


# 6 days, a reading a minute

CUTS = [(1000, 1003), (2000, 2380), (4000, 4007), (5000, 7000)]  # minutes without power
GLITCHES = range(500, 8000, 350)  # minutes


@pytest.fixture(scope="module")
def week():
    """8,000 readings as (ms, humidity, temperature): power cuts, and some halved or doubled."""
    chance = random.Random(22)
    rows = []
    for minute in range(8000 + sum(end - begin for begin, end in CUTS)):
        day = math.tau * minute / 1440
        humidity = 45 + 4 * math.sin(day) + chance.gauss(0, 0.4)
        temperature = 20 + 3 * math.cos(day) + chance.gauss(0, 0.1)
        if minute in GLITCHES:
            factor = chance.choice((0.5, 2))
            if chance.random() < 0.5:
                humidity *= factor
            else:
                temperature *= factor
        if not any(begin <= minute < end for begin, end in CUTS):
            ms = minute * MINUTE + chance.randrange(100)
            rows.append((ms, round(humidity, 1), round(temperature, 1)))
    return rows


def test_a_week_of_readings(week, tmp_path):
    sensor = summary(write(tmp_path / "datalog.csv", *(row(*each) for each in week)))["kitchen"]
    times, humidities, temperatures = zip(*week)
    expected = {
        "humidity": plain_figures(humidities),
        "temperature": plain_figures(temperatures),
        "dew_point": plain_figures([plain_dew_point(h, t) for _, h, t in week]),
    }
    for quantity, four in expected.items():  # ten decimals are shown
        assert sensor[quantity] == pytest.approx(four, rel=0, abs=1e-10), quantity
    assert sensor["readings"] == len(week) == 8000
    assert (sensor["first"], sensor["last"]) == (stamp(times[0]), stamp(times[-1]))
    assert sensor["interval"] == statistics.median((b - a) / 1000 for a, b in zip(times, times[1:]))
    minute = {ms // MINUTE: ms for ms in times}
    assert sensor["gaps"] == [
        {
            "from": stamp(minute[begin - 1]),
            "to": stamp(minute[end]),
            "seconds": (minute[end] - minute[begin - 1]) / 1000,
            "missing": end - begin,
        }
        for begin, end in CUTS
    ]
    gaps = [place for place in range(1, 8000) if times[place] - times[place - 1] > 2.5 * MINUTE]
    assert sensor["missing"] == sum(end - begin for begin, end in CUTS)
    assert sensor["share"] == 8000 / (8000 + sensor["missing"])
    suspects = zip(
        plain_suspicious(humidities, 2.0, gaps), plain_suspicious(temperatures, 0.5, gaps)
    )
    found = [humid or warm for humid, warm in suspects]
    assert sensor["suspicious"] == sum(found)
    glitches = {ms for ms in times if ms // MINUTE in GLITCHES}
    assert {ms for ms, suspicious in zip(times, found) if suspicious} >= glitches
    assert len(glitches) <= sensor["suspicious"] < len(glitches) + 5, "hardly any noise"


def suspicious(values, accuracy, gaps=()):
    gap = numpy.array([place in gaps for place in range(len(values))])
    return list(figures.suspicious(numpy.array(values), gap, accuracy))


@pytest.mark.parametrize("noise, most", [(0.03, 0), (0.5, 0), (1, 0), (2, 0)])
def test_noise_is_not_suspicious(noise, most):
    chance = random.Random(22)
    values = [round(50 + chance.gauss(0, noise), 1) for _ in range(2000)]
    found = suspicious(values, 2.0)
    assert found == plain_suspicious(values, 2.0)
    assert sum(found) <= most


SPIKES = {  # values, the places of those that are suspicious
    "one": ([50, 50, 60, 50, 50], [2]),
    "a low one": ([50, 50, 40, 50, 50], [2]),
    "two": ([*[50] * 30, 60, 61, *[50] * 30], [30, 31]),
    "two of three": ([50, 60, 61, 50], []),
    "three are weather": ([50, 50, 60, 61, 60, 50, 50], []),
    "a step": ([50, 50, 50, 60, 60, 60], []),
    "a jump that decays": ([50, 50, 90, 87, 84, 81, 79, 77], []),
    "as accurate as the sensor": ([50, 50, 51.9, 50, 50], []),
    "at an end": ([60, 50, 50, 50, 50, 40], []),
    "behind a gap, which is before 3": ([50, 50, 50, 60, 50, 50], []),
    "too few": ([50, 60], []),
    "one alone": ([50], []),
}


@pytest.mark.parametrize("name", SPIKES)
@pytest.mark.parametrize("cached", [1, 3, 1 << 15])
def test_what_is_a_spike(name, cached, monkeypatch):
    monkeypatch.setattr(figures, "CACHED", cached)
    values, expected = SPIKES[name]
    gaps = [3] if "gap" in name else []
    found = suspicious(values, 2.0, gaps)
    assert found == plain_suspicious(values, 2.0, gaps)
    assert [place for place, each in enumerate(found) if each] == expected


@pytest.mark.parametrize("cached", [7, 1 << 15])
def test_spikes_by_chance(cached, monkeypatch):
    monkeypatch.setattr(figures, "CACHED", cached)
    for seed in range(30):
        chance = random.Random(seed)
        values = [round(50 + chance.gauss(0, 1) ** 5, 1) for _ in range(chance.randrange(3, 300))]
        gaps = {place for place in range(1, len(values)) if chance.random() < 0.05}
        assert suspicious(values, 2.0, gaps) == plain_suspicious(values, 2.0, gaps)


@pytest.mark.parametrize("damage", [(0.5, 0.5), (2, 2), (0, 0), (0.5, 1), (2, 1)])
def test_weather_by_the_hour_is_not_suspicious_but_damage_is(damage):
    """Three years; today's weather is as smooth as that, but for what noise adds."""
    chance = random.Random(1)
    readings, damaged = [], set(range(100, 26_000, 800))
    for hour in range(3 * 365 * 24):
        day, year = math.tau * hour / 24, math.tau * hour / 8766
        humidity = 55 - 12 * math.sin(day) + chance.gauss(0, 1)
        temperature = 10 + 8 * math.sin(year) + 5 * math.sin(day) + chance.gauss(0, 0.3)
        if hour in damaged:
            humidity, temperature = humidity * damage[0], temperature * damage[1]
        readings.append((round(min(99.9, humidity), 1), round(temperature, 1)))
    humid, warm = (suspicious(values, least) for values, least in zip(zip(*readings), (2.0, 0.5)))
    found = {hour for hour in range(len(readings)) if humid[hour] or warm[hour]}
    assert len(found & damaged) >= 0.9 * len(damaged)
    assert len(found - damaged) <= len(readings) / 1000


def test_each_lost_reading_is_missing(tmp_path):
    """Also a single one, which is no gap."""
    there = [minute for minute in range(1440) if minute % 3 != 2]
    log = write(tmp_path / "datalog.csv", *(row(minute * MINUTE) for minute in there))
    sensor = summary(log)["kitchen"]
    assert (sensor["gaps"], sensor["missing"]) == ([], 479)
    assert sensor["share"] == 960 / 1439


def test_no_more_than_all_arrived(tmp_path):
    seconds = 0, 60, 120, 126, 132, 180, 240
    log = write(tmp_path / "datalog.csv", *(row(second * 1000) for second in seconds))
    sensor = summary(log)["kitchen"]
    assert (sensor["interval"], sensor["share"]) == (54.0, 1.0)


def test_a_sensor_that_is_silent_at_the_end(tmp_path):
    log = write(tmp_path / "datalog.csv", *(row(minute * MINUTE) for minute in range(10)))
    (rows,) = examine(log).values()
    for minutes, silent in ((9, None), (14, None), (15, 360.0), (3009, 180_000.0)):
        end = START + timedelta(minutes=minutes)
        assert figures.summary(rows, UTC, end)["silent"] == silent


def test_the_same_figures_whatever_the_files(week, tmp_path):
    """To the last digit, from a CSV, a database, and rotated and packed parts in any order."""
    import gzip

    rows = [row(*each, name) for each in week[:3000] for name in ("kitchen", "attic", "")]
    whole = summary(write(tmp_path / "whole.csv", *rows))
    assert len(whole) == 3
    write_db(tmp_path / "datalog.db", *rows).close()
    assert summary(tmp_path / "datalog.db") == whole
    names = "datalog.csv", "datalog.csv.1", "datalog.csv.2.gz"
    paths = [
        write(tmp_path / name, *part)
        for name, part in zip(names, (rows[7001:], rows[1000:7010], rows[:1000]))
    ]
    paths[2].write_bytes(gzip.compress(paths[2].read_bytes()))
    assert summary(*paths) == summary(*paths[::-1]) == whole


def test_one_reading(tmp_path):
    sensor = summary(write(tmp_path / "datalog.csv", row(0, 74.3, 25.7)))["kitchen"]
    assert sensor["first"] == sensor["last"] == stamp(0)
    assert (sensor["interval"], sensor["gaps"]) == (None, [])
    assert sensor["humidity"] == {"min": 74.3, "mean": 74.3, "max": 74.3, "std": None}


def test_dry_air_has_no_dew_point(tmp_path):
    sensor = summary(write(tmp_path / "datalog.csv", row(0, 0.0)))["kitchen"]
    assert sensor["humidity"]["min"] == 0
    assert sensor["dew_point"] == {"min": None, "mean": None, "max": None, "std": None}


def test_rows_out_of_order(tmp_path):
    minutes = 10, 11, 12, 5, 6, 7, 8, 9
    log = write(tmp_path / "datalog.csv", *(row(minute * MINUTE) for minute in minutes))
    sensor = summary(log)["kitchen"]
    assert (sensor["first"], sensor["last"]) == (stamp(5 * MINUTE), stamp(12 * MINUTE))
    assert (sensor["interval"], sensor["gaps"]) == (60.0, [])


def test_readings_of_one_moment_make_no_gap(tmp_path):
    log = write(tmp_path / "datalog.csv", *[row(0, name="")] * 5, row(MINUTE, name=""))
    assert summary(log)["192.168.1.7"]["gaps"] == []


def test_a_text_log_has_neither_gaps_nor_suspicious_readings(tmp_path):
    (tmp_path / "datalog.txt").write_text("74.3,25.7\n65.2,25.0\n70.0,-0.5\n")
    sensor = summary(tmp_path / "datalog.txt")["datalog.txt"]
    assert sensor["humidity"] == pytest.approx(plain_figures([74.3, 65.2, 70.0]), abs=1e-10)
    unknown = "first", "last", "interval", "missing", "share", "silent", "suspicious"
    assert [sensor[key] for key in unknown] == [None] * len(unknown)
    assert (sensor["readings"], sensor["gaps"]) == (3, [])


# Time spans


def spans(log, every, zone=UTC):
    (rows,) = examine(log).values()
    return as_dicts(spans_of(rows, every, zone))


@pytest.mark.parametrize("minutes", [0.5, 5, 60, 360, 1440, 2880])
def test_spans(tmp_path, minutes):
    rows = [
        (minute, 40.0 + minute % 7, 20.0 - minute % 5)
        for minute in range(3000)
        if not 1200 <= minute < 2000
    ]
    log = write(tmp_path / "datalog.csv", *(row(each[0] * MINUTE, *each[1:]) for each in rows))
    expected = {}
    for minute, *reading in rows:  # the 21st begins two days, counted from 1970
        expected.setdefault(minute // minutes * minutes, []).append(reading)
    found = spans(log, timedelta(minutes=minutes))
    assert len(found) == len(expected)
    for span, (start, part) in zip(found, expected.items()):
        time = START + timedelta(minutes=start)
        text = time.isoformat(timespec="seconds" if minutes < 1 else "minutes") + "Z"
        assert span["from"] == (text[:10] if minutes >= 1440 else text)
        assert span["readings"] == len(part)
        for quantity, values in zip(("humidity", "temperature"), zip(*part)):
            four = plain_figures([*values, *values])
            three = {k: four[k] for k in ("min", "mean", "max")}
            assert span[quantity] == pytest.approx(three, rel=0, abs=1e-10)


def test_the_share_that_arrived(tmp_path):
    """Of 60 an hour; nothing is expected before the sensor's first reading, or after its last."""
    there = [30, *range(31, 60), *range(60, 90), *range(120, 121), *range(180, 200)]
    log = write(tmp_path / "datalog.csv", *(row(minute * MINUTE) for minute in there))
    found = {span["from"][11:13]: span["share"] for span in spans(log, timedelta(hours=1))}
    assert found == pytest.approx({"00": 1.0, "01": 0.5, "02": 1 / 60, "03": 1.0})
    assert spans(log, timedelta(days=1))[0]["share"] == pytest.approx(len(there) / 170)
    alone = write(tmp_path / "alone.csv", row(0))
    assert spans(alone, timedelta(days=1))[0]["share"] is None


# Local time: Berlin goes from 3:00 back to 2:00 on 2026-10-25, from 2:00 to 3:00 on 2026-03-29


def utc_day(tmp_path, day, hours):
    """A log with a reading a minute for some hours from a day's start in Berlin."""
    start = (datetime.fromisoformat(day) - START) // timedelta(milliseconds=1)
    rows = (row(start + minute * MINUTE) for minute in range(hours * 60))
    return write(tmp_path / "datalog.csv", *rows)


def test_a_day_of_25_hours(tmp_path, zone):
    zone("Europe/Berlin")
    log = utc_day(tmp_path, "2026-10-24T22:00", 25 + 24)
    sensor = summary(log, zone=None)["kitchen"]
    assert sensor["first"] == "2026-10-25T00:00:00.000+02:00"
    assert sensor["last"] == "2026-10-26T23:59:00.000+01:00"
    assert sensor["gaps"] == []
    found = [
        (span["from"], span["readings"], span["share"])
        for span in spans(log, timedelta(days=1), zone=None)
    ]
    assert found == [("2026-10-25", 25 * 60, 1.0), ("2026-10-26", 24 * 60, 1.0)]
    hours = spans(log, timedelta(hours=1), zone=None)
    assert [span["from"] for span in hours[1:5]] == [
        "2026-10-25T01:00+02:00",
        "2026-10-25T02:00+02:00",
        "2026-10-25T02:00+01:00",
        "2026-10-25T03:00+01:00",
    ]
    assert {(span["readings"], span["share"]) for span in hours} == {(60, 1.0)}


def test_a_day_of_23_hours(tmp_path, zone):
    zone("Europe/Berlin")
    log = utc_day(tmp_path, "2026-03-28T23:00", 23 + 24)
    days = spans(log, timedelta(days=1), zone=None)
    assert [(span["from"], span["readings"], span["share"]) for span in days] == [
        ("2026-03-29", 23 * 60, 1.0),
        ("2026-03-30", 24 * 60, 1.0),
    ]
    hours = spans(log, timedelta(hours=1), zone=None)
    assert [span["from"][11:16] for span in hours[:4]] == ["00:00", "01:00", "03:00", "04:00"]
    six = spans(log, timedelta(hours=6), zone=None)
    assert [(span["from"][11:16], span["readings"], span["share"]) for span in six[:2]] == [
        ("00:00", 300, 1.0),
        ("06:00", 360, 1.0),
    ]


CLOCKS = [  # zone, span, first time in UTC, minutes, the spans with their minutes
    (
        *("Europe/Berlin", 120, "2026-03-28T22:00", 360),
        {
            "2026-03-28T22:00+01:00": 60,
            "2026-03-29T00:00+01:00": 120,
            "2026-03-29T03:00+02:00": 60,  # 2:00 does not exist
            "2026-03-29T04:00+02:00": 120,
        },
    ),
    (
        *("Europe/Berlin", 120, "2026-10-24T22:00", 420),
        {
            "2026-10-25T00:00+02:00": 120,
            "2026-10-25T02:00+02:00": 180,
            "2026-10-25T04:00+01:00": 120,
        },
    ),
    (
        *("Europe/Berlin", 60, "2026-10-24T23:00", 240),
        {
            "2026-10-25T01:00+02:00": 60,
            "2026-10-25T02:00+02:00": 60,
            "2026-10-25T02:00+01:00": 60,
            "2026-10-25T03:00+01:00": 60,
        },
    ),
    (
        *("America/Santiago", 1440, "2025-09-06T04:00", 3 * 1440 - 60),
        {"2025-09-06": 1440, "2025-09-07": 1380, "2025-09-08": 1440},  # no midnight on the 7th
    ),
    (
        *("Atlantic/Azores", 1440, "2026-03-28T01:00", 3 * 1440 - 60),
        {"2026-03-28": 1440, "2026-03-29": 1380, "2026-03-30": 1440},
    ),
    (
        *("Australia/Lord_Howe", 60, "2026-10-03T14:30", 150),  # half an hour forward
        {
            "2026-10-04T01:00+10:30": 60,
            "2026-10-04T02:30+11:00": 30,
            "2026-10-04T03:00+11:00": 60,
        },
    ),
]


@pytest.mark.parametrize("name, minutes, begin, count, expected", CLOCKS)
@pytest.mark.parametrize("lost", [[], range(130, 140)])
def test_spans_where_clocks_change(tmp_path, zone, name, minutes, begin, count, expected, lost):
    """Each is as long as it is, under its own name; what is lost is missing where it was lost."""
    zone(name)
    start = (datetime.fromisoformat(begin) - START) // timedelta(minutes=1)
    there = [minute for minute in range(count) if minute not in lost]
    log = write(tmp_path / "datalog.csv", *(row((start + each) * MINUTE) for each in there))
    found = spans(log, timedelta(minutes=minutes), zone=None)
    assert [span["from"] for span in found] == list(expected)
    at = 0
    for span, length in zip(found, expected.values()):
        readings = sum(at <= minute < at + length for minute in there)
        assert span["readings"] == readings
        last = 1 if span is found[-1] else 0  # of which one is not expected
        share = min(1, readings / (length - last))
        assert span["share"] == pytest.approx(share)
        at += length


def test_changes_of_the_clock(zone):
    zone("Europe/Berlin")
    first, last = datetime(2025, 1, 1, 0, 0, 0, 300_000), datetime(2027, 1, 1)
    assert times.clock_changes(first, last, UTC) == []
    assert times.clock_changes(first, last, None) == [
        datetime(2025, 3, 30, 1),
        datetime(2025, 10, 26, 1),
        datetime(2026, 3, 29, 1),
        datetime(2026, 10, 25, 1),
    ]
    change = datetime(2026, 3, 29, 1)
    for before, after in ((0.3, 0.7), (1, 0), (0.000001, 0), (86399, 0.5)):
        around = change - timedelta(seconds=before), change + timedelta(seconds=after)
        assert times.clock_changes(*around, None) == [change]
    assert times.clock_changes(change, last, None) == [datetime(2026, 10, 25, 1)]


@pytest.mark.parametrize("name", ["Asia/Kolkata", "Europe/Berlin", "America/St_Johns", "UTC", None])
def test_utc_stays_utc(tmp_path, zone, name):
    zone(name)
    log = utc_day(tmp_path, "2026-10-25T00:00", 3)
    sensor = summary(log)["kitchen"]
    assert (sensor["first"], sensor["gaps"]) == ("2026-10-25T00:00:00.000Z", [])
    assert [span["readings"] for span in spans(log, timedelta(hours=1))] == [60, 60, 60]
    local = spans(log, timedelta(hours=1), zone=None)
    assert sum(span["readings"] for span in local) == 180
    assert {span["from"][14:16] for span in local} == {"00"}
