"""The latest readings: silent sensors, limits, clocks that were ahead. No pandas is needed."""

import json
import os
import time
from datetime import datetime, timedelta
from types import SimpleNamespace

import pytest

import report
from dht22.report import lines, times
from dht22.report.latest import latest as latest_of
from support.made import MINUTE, START, row, write, write_db


def latest(now_ms, *paths, limits=None, **chosen):
    logs = [lines.log_at(path) for path in paths]
    at = START + timedelta(milliseconds=now_ms)
    return latest_of(logs, at, lines.Chosen(**chosen), limits or {})


def test_the_latest_reading_of_each_sensor(tmp_path):
    rows = [row(minute * MINUTE, 40 + minute, 20, "kitchen") for minute in range(20)]
    rows += [row(minute * 30 * MINUTE, 60, 10 + minute, "") for minute in range(4)]
    rows += [row(0, 70, 5, "cellar")]
    log = write(tmp_path / "datalog.csv", *rows)
    found = latest(20 * MINUTE, log)
    assert sorted(found) == ["192.168.1.7", "cellar", "kitchen"]
    assert found["kitchen"] == {
        "time": START + timedelta(minutes=19),
        "humidity": 59.0,
        "temperature": 20.0,
        "age": 60.0,
        "interval": 60.0,
        "silent": False,
        "ahead": False,
        "outside": [],
    }
    address = found["192.168.1.7"]
    assert (address["interval"], address["age"], address["ahead"]) == (1800.0, -4200.0, True)
    assert (found["cellar"]["interval"], found["cellar"]["silent"]) == (None, True)


def test_the_interval_is_that_of_the_last_readings(tmp_path):
    """Of those in the log that was rotated as well, where these are too few."""
    old = write(tmp_path / "datalog.csv.1", *(row(minute * 10 * MINUTE) for minute in range(15)))
    rows = [row((150 + minute) * MINUTE) for minute in range(15)]
    log = write(tmp_path / "datalog.csv", *rows)
    assert latest(165 * MINUTE, old, log)["kitchen"]["interval"] == 60.0
    write(log, *rows[:3])
    assert latest(165 * MINUTE, old, log)["kitchen"]["interval"] == 600.0


@pytest.mark.parametrize("after, silent", [(0, False), (299, False), (301, True), (10**6, True)])
def test_silent_is_older_than_5_intervals(tmp_path, after, silent):
    log = write(tmp_path / "datalog.csv", *(row(minute * MINUTE) for minute in range(5)))
    assert latest(4 * MINUTE + after * 1000, log)["kitchen"]["silent"] is silent


@pytest.mark.parametrize("before, ahead", [(0, False), (60, False), (61, True), (10**6, True)])
def test_a_minute_is_not_the_future(tmp_path, before, ahead):
    log = write(tmp_path / "datalog.csv", *(row(minute * MINUTE) for minute in range(5)))
    found = latest(4 * MINUTE - before * 1000, log)["kitchen"]
    assert (found["ahead"], found["age"]) == (ahead, -before if ahead else 0.0)


@pytest.mark.parametrize(
    "limits, outside",
    [
        ({}, []),
        ({"temperature": (-30, -15)}, []),
        ({"temperature": (-17.5, -17.5)}, []),
        ({"temperature": (-30, -18)}, ["temperature"]),
        ({"humidity": (0, 55), "temperature": (-17.4, 30)}, ["humidity", "temperature"]),
    ],
)
def test_limits(tmp_path, limits, outside):
    log = write(tmp_path / "datalog.csv", row(0, 60, -20), row(MINUTE, 60.5, -17.5))
    assert latest(MINUTE, log, limits=limits)["kitchen"]["outside"] == outside


def test_a_sensor_that_fell_silent_long_ago(tmp_path, monkeypatch):
    """Its last readings are far from the log's end, and two of them in different blocks."""
    monkeypatch.setattr(lines, "BLOCK_OF_LINES", 5000)
    rows = [row(minute * MINUTE, name="attic") for minute in (0, 10)]
    rows[1:1] = [row(minute * MINUTE) for minute in range(1, 9)] * 20
    rows += [row(minute * MINUTE, name=f"s{minute % 9}") for minute in range(10, 3000)]
    log = write(tmp_path / "datalog.csv", *rows)
    found = latest(3000 * MINUTE, log)
    assert len(found) == 11
    assert found["attic"]["time"] == START + timedelta(minutes=10)
    assert (found["attic"]["interval"], found["attic"]["silent"]) == (600.0, True)
    heard = [name for name in sorted(found) if not found[name]["silent"]]
    assert heard == [f"s{k}" for k in range(9)]


def test_the_latest_of_several_logs_and_bad_lines(tmp_path):
    old = write(tmp_path / "datalog.csv.1", *(row(minute * MINUTE) for minute in range(9)))
    new = write(tmp_path / "datalog.csv", "no row\n", row(9 * MINUTE, 1.0), row(10 * MINUTE)[:40])
    for paths in ((old, new), (new, old), (old, new, old)):
        found = latest(9 * MINUTE, *paths)["kitchen"]
        assert (found["humidity"], found["interval"], found["age"]) == (1.0, 60.0, 0.0)
    write_db(tmp_path / "datalog.db", row(0), row(MINUTE)).close()
    assert latest(MINUTE, tmp_path / "datalog.db")["kitchen"]["interval"] == 60.0


def test_bad_lines_hide_no_sensor(tmp_path):
    bad = row(9 * MINUTE).replace("50.0", "500.0")
    log = write(tmp_path / "datalog.csv", row(0), row(MINUTE), *[bad] * 50, b"\0" * 40_000)
    assert latest(MINUTE, log)["kitchen"]["time"] == START + timedelta(minutes=1)


def test_since_until_and_names(tmp_path):
    rows = [row(minute * MINUTE, name=name) for minute in range(60) for name in ("a", "b", "")]
    log = write(tmp_path / "datalog.csv", row(0, name="gone"), *rows)
    since, until = (START + timedelta(minutes=minute) for minute in (10, 30))
    found = latest(30 * MINUTE, log, since=since, until=until)
    assert sorted(found) == ["192.168.1.7", "a", "b"]
    assert {sensor["time"] for sensor in found.values()} == {until - timedelta(minutes=1)}
    assert list(latest(0, log, names=frozenset(["192.168.1.7"]))) == ["192.168.1.7"]


# As its users run it


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)

    def main(*arguments):
        try:
            code = report.main(["--last", *arguments])
        except SystemExit as end:
            code = end.code
        said = capfd.readouterr()
        return SimpleNamespace(returncode=code, stdout=said.out, stderr=said.err)

    return main


def ago(minutes, *reading, **options):
    """Return a row of so many minutes ago."""
    now = (times.now() - START) // timedelta(milliseconds=1)
    return row(now - round(minutes * MINUTE), *reading, **options)


def test_right_after_rotation(tmp_path, run):
    """One reading tells no interval, and no reading tells of no sensor: the log before does."""
    before = [ago(minutes, name=name) for minutes in (30, 20, 10) for name in "ab"]
    write(tmp_path / "datalog.csv.1", *before)
    write(tmp_path / "datalog.csv", ago(2, name="a"))
    os.utime(write(tmp_path / "datalog.csv.2", ago(60, name="gone")), (0, 0))
    (tmp_path / "datalog.csv.bak").write_text("no log")
    write(tmp_path / "datalog.csv.new", ago(1, name="new"))
    done = run()
    assert (done.returncode, done.stdout.count("usually every 600.0 s\n")) == (0, 2)
    (tmp_path / "datalog.csv").unlink()
    assert run().returncode == 0


def test_silent(tmp_path, run):
    write(tmp_path / "datalog.csv", ago(60 * 24 * 20), ago(60 * 24 * 20 - 1))
    done = run()
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith("kitchen  20") and "   50.0,20.0  19 days, 23:5" in done.stdout
    assert done.stdout.endswith(" ago, usually every 60.0 s: silent\n")
    now = ago(0, name="")
    write(tmp_path / "datalog.csv", now)
    done = run("--json")
    sensor = json.loads(done.stdout)["sensors"]["192.168.1.7"]
    assert (done.returncode, sensor["silent"], sensor["time"]) == (0, False, now[:24])
    write(tmp_path / "datalog.csv")
    done = run()
    assert (done.returncode, done.stdout) == (1, "")
    assert "cannot read datalog.csv (no reading since 20" in done.stderr


def test_a_sensor_that_was_taken_down_is_history(tmp_path, run):
    write(tmp_path / "datalog.csv", ago(60 * 24 * 31, name="old"), ago(1), ago(0))
    done = run()
    assert (done.returncode, done.stdout.split()[0]) == (0, "kitchen")
    done = run("--since", "40d")
    assert (done.returncode, done.stdout.count("silent")) == (1, 1)
    done = run("--name", "kitchen", "--name", "old")  # but one that is asked for is not
    assert (done.returncode, done.stdout.count("\n")) == (1, 1)
    assert done.stderr.startswith("no reading of old since 20") and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments, code, end",
    [
        ([], 0, "s\n"),
        (["--temperature", "-30..-15"], 0, "s\n"),
        (["--temperature=-30..-15"], 0, "s\n"),
        (["--temperature", "-30..-18.5"], 1, "s: temperature outside -30..-18.5\n"),
        (["--humidity", "70..80", "--temperature", "-5..5"], 1, "-5..5\n"),
        (["--name", "kitchen", "--temperature", "5..30"], 0, "ago\n"),
        (["--name", "freezer", "--temperature", "5..30"], 1, "outside 5..30\n"),
    ],
)
def test_limits_as_they_are_typed(tmp_path, run, arguments, code, end):
    freezer = [ago(minutes, 60, -18.0, name="freezer") for minutes in (2, 1, 0)]
    kitchen = [ago(0, 70, 20.0)] if "kitchen" in arguments else []
    write(tmp_path / "datalog.csv", *freezer, *kitchen)
    done = run(*arguments)
    assert (done.returncode, done.stdout[-len(end) :]) == (code, end)


def test_a_clock_that_was_ahead(tmp_path, run):
    write(tmp_path / "datalog.csv", *(ago(minutes - 118) for minutes in range(5, 0, -1)), ago(9))
    done = run()
    assert done.returncode == 1
    assert (
        "1:57:00 in the future, usually every 60.0 s: a clock was ahead\n"
        in done.stdout.replace("1:56:59", "1:57:00")
    )


def test_addresses_are_sorted_as_numbers(tmp_path, run):
    addresses = ["fe80::9", "fe80::10", "192.168.1.9", "192.168.1.10", "10.0.0.1"]
    rows = [ago(0, name="").replace("192.168.1.7", each) for each in addresses]
    write(tmp_path / "datalog.csv", ago(0, name="007"), *rows)
    expected = ["10.0.0.1", "192.168.1.9", "192.168.1.10", "fe80::9", "fe80::10", "007"]
    assert [line.split()[0] for line in run().stdout.splitlines()] == expected
    assert list(json.loads(run("--json").stdout)["sensors"]) == expected


def test_a_long_line_takes_no_longer_than_others(tmp_path):
    """It was quadratic: 40,000 NULs took seconds, a million would take hours."""
    log = write(tmp_path / "datalog.csv", row(0), b"\0" * 10**6, b"," * 10**6)
    began = time.process_time()
    assert list(latest(0, log)) == ["kitchen"]
    assert time.process_time() - began < 2


def test_since_and_until_are_local_with_local(tmp_path, run, zone):
    log = write(tmp_path / "datalog.csv", *(row(minute * MINUTE) for minute in range(-180, 180)))
    zone("Europe/Berlin")
    for arguments, last in (
        (["--until", "2026-11-21"], "2026-11-20T23:59:00.000Z"),
        (["--local", "--until", "2026-11-21"], "2026-11-20T23:59:00.000+01:00"),
        (["--local", "--until", "2026-11-21T00:30Z"], "2026-11-21T01:29:00.000+01:00"),
        (["--until", "2026-11-21T00:30:00+01:00"], "2026-11-20T23:29:00.000Z"),
    ):
        assert last in run(str(log), *arguments).stdout
    assert times.in_utc(timedelta(days=7), None, datetime(2026, 11, 28)) == datetime(2026, 11, 21)
