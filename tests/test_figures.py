"""The figures of report.py against plain Python's."""

import math
import random
import statistics
from datetime import datetime, timedelta, timezone

import pytest

pandas = pytest.importorskip("pandas")

from dht22.report import figures, lines, tables  # noqa: E402
from support.made import MINUTE, START, row, stamp, write, write_db  # noqa: E402

UTC = timezone.utc


def examine(*paths):
    """Return the examined readings by sensor, as report.py has them."""
    table = tables.read([lines.log_at(path) for path in paths], lambda text: None)[0]
    return {name: figures.examine(rows) for name, rows in table.groupby("sensor", observed=True)}


def summary(*paths, zone=UTC):
    return {name: figures.summary(rows, zone) for name, rows in examine(*paths).items()}


def plain_suspicious(values, accuracy):
    """The definition, word by word: no pandas."""

    def medians(numbers):
        return [statistics.median(numbers[max(0, i - 7) : i + 8]) for i in range(len(numbers))]

    deviations = [abs(value - median) for value, median in zip(values, medians(values))]
    return [
        deviation > max(accuracy, 5 * 1.4826 * mad)
        for deviation, mad in zip(deviations, medians(deviations))
    ]


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
    suspects = zip(plain_suspicious(humidities, 2.0), plain_suspicious(temperatures, 0.5))
    found = [humid or warm for humid, warm in suspects]
    assert sensor["suspicious"] == sum(found)
    glitches = {ms for ms in times if ms // MINUTE in GLITCHES}
    assert {ms for ms, suspicious in zip(times, found) if suspicious} >= glitches
    assert len(glitches) <= sensor["suspicious"] < len(glitches) + 5, "hardly any noise"


@pytest.mark.parametrize("noise, most", [(0.03, 0), (0.5, 0), (1, 5), (2, 15)])
def test_noise_is_hardly_suspicious(noise, most):
    """At 0.03 nearly all readings are the same, and their MAD is 0."""
    chance = random.Random(22)
    values = [round(50 + chance.gauss(0, noise), 1) for _ in range(2000)]
    found = list(figures.suspicious(pandas.Series(values), 2.0))
    assert found == plain_suspicious(values, 2.0)
    assert sum(found) <= most


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
    assert [sensor[key] for key in ("first", "last", "interval", "suspicious")] == [None] * 4
    assert (sensor["readings"], sensor["gaps"]) == (3, [])


# Time spans


def spans(log, every, zone=UTC):
    (rows,) = examine(log).values()
    return figures.spans(rows, every, zone)


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
            assert span[quantity] == pytest.approx({k: four[k] for k in ("min", "mean", "max")})


def test_the_share_that_arrived(tmp_path):
    """Of 60 an hour; nothing is expected before the sensor's first reading, or after its last."""
    there = [30, *range(31, 60), *range(60, 90), *range(120, 121), *range(180, 200)]
    log = write(tmp_path / "datalog.csv", *(row(minute * MINUTE) for minute in there))
    found = {span["from"][11:13]: span["share"] for span in spans(log, timedelta(hours=1))}
    assert found == {"00": 1.0, "01": 0.5, "02": 1 / 60, "03": 1.0}
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
