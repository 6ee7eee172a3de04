"""report.py: its figures against plain Python's, its picture by what was drawn, and logs as bad as they get."""

import json
import math
import os
import random
import sqlite3
import statistics
import struct
import subprocess
import sys
import time
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import matplotlib.image
import pandas
import pytest

import report
from dht22.datagram import VERSION

REPORT = Path(report.__file__)
HEADER = "time,client,name,humidity,temperature,n\n"
START = datetime(2026, 11, 21)
MINUTE = 60_000  # milliseconds
COLUMNS = (
    "time TEXT, client TEXT, name TEXT, humidity REAL, temperature REAL, n INTEGER, "
    "UNIQUE (name, n)"
)


def stamp(ms):
    return (START + timedelta(milliseconds=ms)).isoformat(timespec="milliseconds") + "Z"


def row(ms, humidity=50.0, temperature=20.0, name="kitchen", n=None):
    """A row of the log; unless given, a named reading's n is made from its time."""
    number = (10**15 + ms if n is None else n) if name else ""
    return f"{stamp(ms)},192.168.1.7,{name},{humidity:.1f},{temperature:.1f},{number}\n"


def write(path, *rows):
    path.write_bytes(
        HEADER.encode()
        + b"".join(line if isinstance(line, bytes) else line.encode() for line in rows)
    )
    return path


def write_db(path, *rows):
    """The same rows as a database; the connection stays open, as the server's does."""
    server = sqlite3.connect(path)
    server.execute("PRAGMA journal_mode=WAL")
    server.execute(f"CREATE TABLE reading ({COLUMNS})")
    fields = [[field or None for field in line.strip().split(",")] for line in rows]
    server.executemany("INSERT INTO reading VALUES (?, ?, ?, ?, ?, ?)", fields)
    server.commit()
    return server


def run(*arguments, folder, **options):
    """Run report.py as a user does. Whatever it is given, it shows no traceback and no library's warning."""
    done = subprocess.run(
        [sys.executable, str(REPORT), *arguments],
        cwd=folder,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        **options,
    )
    assert "Traceback" not in done.stderr and "Warning" not in done.stderr, done.stderr
    return done


def run_json(log, *arguments):
    done = run(log.name, "--json", *arguments, folder=log.parent)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout, parse_constant=pytest.fail)  # NaN is not JSON


def examine(log):
    """The readings by sensor, as main() has them."""
    return {name: report.examine(rows) for name, rows in report.read(log)[0].groupby("sensor")}


def measure(log, *arguments):
    """Run report.py; return its output, seconds and peak memory (MiB)."""
    started = time.monotonic()
    child = subprocess.Popen(
        [sys.executable, str(REPORT), str(log), *arguments], stdout=subprocess.PIPE
    )
    with child.stdout as stdout:
        output = stdout.read().decode()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = status  # or Popen would wait for it once more
    assert status == 0
    return (
        output,
        time.monotonic() - started,
        usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10),
    )


# 18 days, a reading a minute

CUTS = [(1000, 1003), (4000, 4380), (12000, 12007), (20000, 22000)]  # minutes without power
GLITCHES = range(500, 26000, 850)  # minutes


@pytest.fixture(scope="module")
def weeks():
    """26,000 readings as (ms, humidity, temperature), with power cuts, and values halved and doubled in turn."""
    chance = random.Random(22)
    readings = []
    for minute in range(26000 + sum(end - begin for begin, end in CUTS)):
        day = math.tau * minute / 1440
        humidity = 45 + 4 * math.sin(day) + chance.gauss(0, 0.4)
        temperature = 20 + 3 * math.cos(day) + chance.gauss(0, 0.1)
        if minute in GLITCHES:
            factor = chance.choice((0.5, 2))
            humidity, temperature = chance.choice(
                ((humidity * factor, temperature), (humidity, temperature * factor))
            )
        if not any(begin <= minute < end for begin, end in CUTS):
            ms = minute * MINUTE + chance.randrange(100)
            readings.append((ms, round(humidity, 1), round(temperature, 1)))
    return readings


@pytest.fixture(scope="module")
def weeks_log(weeks, tmp_path_factory):
    return write(
        tmp_path_factory.mktemp("weeks") / "datalog.csv", *(row(*reading) for reading in weeks)
    )


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


def test_26000_readings(weeks, weeks_log):
    output, seconds, mebibytes = measure(weeks_log, "--json")
    assert seconds < 5 and mebibytes < 300
    result = json.loads(output)
    sensor = result["sensors"]["kitchen"]
    times, humidities, temperatures = zip(*weeks)
    expected = {
        "humidity": plain_figures(humidities),
        "temperature": plain_figures(temperatures),
        "dew_point": plain_figures([plain_dew_point(h, t) for _, h, t in weeks]),
    }
    for quantity, four in expected.items():
        assert sensor[quantity] == pytest.approx(four, rel=0, abs=1e-10), (
            quantity
        )  # ten decimals are shown
    assert result["doubled"] == result["skipped"] == 0
    assert sensor["readings"] == len(weeks) == 26000
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

    found = [
        a or b
        for a, b in zip(plain_suspicious(humidities, 2.0), plain_suspicious(temperatures, 0.5))
    ]
    assert sensor["suspicious"] == sum(found)
    glitches = [ms for ms in times if ms // MINUTE in GLITCHES]
    assert {ms for ms, suspicious in zip(times, found) if suspicious} >= set(glitches)
    assert len(glitches) <= sensor["suspicious"] < len(glitches) + 5  # hardly any noise

    table = run(weeks_log.name, folder=weeks_log.parent).stdout
    for label, quantity in (
        ("humidity (%)", "humidity"),
        ("temperature (°C)", "temperature"),
        ("dew point (°C)", "dew_point"),
    ):
        (line,) = [line for line in table.splitlines() if label in line]
        assert line.split()[-4:] == [f"{value:.2f}" for value in expected[quantity].values()]
    assert "readings: 26,000" in table and f"suspicious: {sum(found)}" in table
    assert "gaps: 4, readings missing: 2,390" in table
    assert f"to {stamp(minute[22000])}      1 day, 9:21:00      2,000 missing" in table


@pytest.mark.parametrize("noise, most", [(0.03, 0), (0.5, 0), (1, 5), (2, 15)])
def test_noise_is_hardly_suspicious(noise, most):
    """At 0.03 nearly all readings are the same, and their MAD is 0."""
    chance = random.Random(22)
    values = [round(50 + chance.gauss(0, noise), 1) for _ in range(2000)]
    found = list(report.suspicious(pandas.Series(values), 2.0))
    assert found == plain_suspicious(values, 2.0)
    assert sum(found) <= most


def many(path, rows, sensors=200):
    with path.open("w", newline="") as log:
        log.write(HEADER)
        for i in range(rows // sensors):
            for sensor in range(sensors):
                log.write(
                    row(
                        i * MINUTE + sensor,
                        40 + (i + sensor) % 20 / 10,
                        20 + i % 7 / 10,
                        f"sensor-{sensor}",
                    )
                )
    return path


@pytest.mark.parametrize("rows", [20_000, pytest.param(1_000_000, marks=pytest.mark.long)])
def test_200_sensors(tmp_path, rows):
    output, seconds, mebibytes = measure(many(tmp_path / "datalog.csv", rows), "--json")
    assert seconds < 20 and mebibytes < 600
    sensors = json.loads(output)["sensors"]
    assert len(sensors) == 200
    assert {sensor["readings"] for sensor in sensors.values()} == {rows // 200}
    assert {
        (sensor["interval"], sensor["suspicious"], len(sensor["gaps"]))
        for sensor in sensors.values()
    } == {(60.0, 0, 0)}


# Logs as they come

BAD = [  # line, reason
    (
        b"2026-11-21T10:00:00.000Z,192.168.1.7,kitchen,50.0,20.0,1.76E+15\n",
        "not a row",
    ),  # a spreadsheet's n
    (
        b"2026-11-21T10:00:00.000Z,192.168.1.7,kitchen,Mai 60,20.0,1000000000000001\n",
        "not a reading",
    ),
    (b"21.11.2026 10:00,192.168.1.7,kitchen,50.0,20.0,1000000000000001\n", "not a row"),
    (b"2026-11-21T10:00:00.000Z;192.168.1.7;kitchen;50,0;20,0;1000000000000001\n", "not a row"),
    (
        b"2026-11-21T10:00:00.000Z,192.168.1.7,kitchen,500,20.0,1000000000000001\n",
        "humidity out of range",
    ),
    (b"2026-11-21T10:00:00.000Z,192.168.1.7,kitchen,nan,20.0,1000000000000001\n", "not a reading"),
    (b"2026-02-30T10:00:00.000Z,192.168.1.7,kitchen,50.0,20.0,1000000000000001\n", "day"),
    (b"2026-11-21T24:00:00.000Z,192.168.1.7,kitchen,50.0,20.0,1000000000000001\n", "not a row"),
    (b"2026-11-21T10:00:00.000Z,192.168.1.7,kitchen,50.0,20.0,\n", "not a row"),  # a name, but no n
    (b"2026-11-21T10:00:00.000Z,192.168.1.7,,50.0,20.0,1000000000000001\n", "not a row"),
    (b"2026-11-21T10:00:00.000Z,192.168.1.7,kitchen,50.0\n", "not a row"),
    (
        b"2026-11-21T10:00:00.000Z,192.168.1.7,kitchen,50.0,20.0,1000000000000001,more\n",
        "not a row",
    ),
    (b"2026-11-21T10:00:00.000Z,192.168.1.7,\xff\xfe,50.0,20.0,1000000000000001\n", "not a row"),
    (
        b"2026-11-21T10:00:00.000Z,192.168.1.7,kitchen,50.0,20.0,10000000000\0\0\0\0\0\n",
        "not a row",
    ),
    (b'"quoted, and never closed\n', "not a row"),
    (b"\n", "not a row"),
    (b"\0" * 5000 + b"\n", "not a row"),
]


@pytest.mark.parametrize("line, reason", BAD)
def test_a_bad_line_is_said_with_its_number_and_skipped(tmp_path, capfd, line, reason):
    log = write(tmp_path / "datalog.csv", row(0), line, row(MINUTE))
    assert report.main([str(log), "--json"]) == 0
    said = capfd.readouterr()
    result = json.loads(said.out)
    assert (result["skipped"], result["sensors"]["kitchen"]["readings"]) == (1, 2)
    assert f"line 3 skipped ({reason}" in said.err and len(said.err) < 500


def test_what_is_said_of_many_bad_lines_is_bounded(tmp_path):
    log = write(tmp_path / "datalog.csv", row(0), *["no row\n"] * 1000)
    done = run(log.name, folder=tmp_path)
    assert done.returncode == 0
    assert len(done.stderr.splitlines()) == 6 and "more lines skipped: 995" in done.stderr


def test_rows_doubled_by_name_and_n_are_used_once(tmp_path):
    """An n has 16 digits, and each of them counts."""
    last = 9 * 10**15 - 1
    log = write(
        tmp_path / "datalog.csv",
        row(0, n=last),
        row(MINUTE, n=last - 1),
        row(2 * MINUTE, 99, n=last),
        row(3 * MINUTE, n=last, name="attic"),
        row(4 * MINUTE, name=""),
        row(4 * MINUTE, name=""),
    )
    done = run(log.name, "--json", folder=tmp_path)
    assert "used once: 1" in done.stderr
    result = json.loads(done.stdout)
    assert result["doubled"] == 1
    assert {name: sensor["readings"] for name, sensor in result["sensors"].items()} == {
        "kitchen": 2,
        "attic": 1,
        "192.168.1.7": 2,
    }
    assert result["sensors"]["kitchen"]["humidity"]["max"] == 50  # the first is kept


@pytest.mark.parametrize(
    "content", [b"", HEADER.encode(), HEADER.encode() * 2, b"\0" * 4096, b"no row at all"]
)
def test_nothing_to_report(tmp_path, content):
    (tmp_path / "datalog.csv").write_bytes(content)
    done = run(folder=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1] == (
        "report.py: error: cannot read datalog.csv (no reading in it); has the server logged there?"
    )


def test_one_reading(tmp_path):
    log = write(tmp_path / "datalog.csv", row(0, 74.3, 25.7))
    sensor = run_json(log, "--plot", "one.png")["sensors"]["kitchen"]
    assert (sensor["first"], sensor["last"], sensor["interval"], sensor["gaps"]) == (
        stamp(0),
        stamp(0),
        None,
        [],
    )
    assert sensor["humidity"] == {"min": 74.3, "mean": 74.3, "max": 74.3, "std": None}
    assert "readings: 1\n" in run(folder=tmp_path).stdout


@pytest.mark.parametrize(
    "name",
    [
        "ABCDEFGHIJKLMNOPQRSTUVWXYZ012345",
        "abcdefghijklmnopqrstuvwxyz6789._",
        "-",
        "_hidden",
        "nan",
        "NA",
        "null",
        "None",
        "1e5",
        "007",
        "true",
        "suspicious",
    ],
)
def test_names_stay_as_they_are(tmp_path, capfd, name):
    log = write(
        tmp_path / "datalog.csv", row(0, name=name), row(MINUTE, name=name), row(0, name="")
    )
    assert report.main([str(log), "--json"]) == 0
    assert set(json.loads(capfd.readouterr().out)["sensors"]) == {name, "192.168.1.7"}
    assert name in legend(report.draw(examine(log)))


def test_dry_air_has_no_dew_point(tmp_path):
    sensor = run_json(write(tmp_path / "datalog.csv", row(0, 0.0)))["sensors"]["kitchen"]
    assert sensor["humidity"]["min"] == 0
    assert sensor["dew_point"] == {"min": None, "mean": None, "max": None, "std": None}


def test_a_clock_that_went_backwards(tmp_path):
    write(
        tmp_path / "datalog.csv", *(row(minute * MINUTE) for minute in (10, 11, 12, 5, 6, 7, 8, 9))
    )
    done = run("--json", folder=tmp_path)
    assert "a clock went backwards (kitchen), sorted by time: 1" in done.stderr
    sensor = json.loads(done.stdout)["sensors"]["kitchen"]
    assert (sensor["first"], sensor["last"]) == (stamp(5 * MINUTE), stamp(12 * MINUTE))
    assert (sensor["interval"], sensor["gaps"]) == (60.0, [])


def test_readings_of_one_moment_make_no_gap(tmp_path):
    sensor = run_json(write(tmp_path / "datalog.csv", *[row(0, name="")] * 5, row(MINUTE, name="")))
    assert sensor["sensors"]["192.168.1.7"]["gaps"] == []


def test_a_daylight_saving_change_makes_no_gap(tmp_path):
    """On 2026-10-25 the clocks of Berlin go from 3:00 back to 2:00."""
    change = (datetime(2026, 10, 25) - START) // timedelta(milliseconds=1)
    write(
        tmp_path / "datalog.csv", *(row(change + minute * MINUTE, name="") for minute in range(180))
    )
    for zone in ("Europe/Berlin", "UTC"):
        done = run("--json", "--every", "1h", folder=tmp_path, env={**os.environ, "TZ": zone})
        sensor = json.loads(done.stdout)["sensors"]["192.168.1.7"]
        assert (sensor["first"], sensor["gaps"]) == ("2026-10-25T00:00:00.000Z", [])


def test_a_text_log_has_statistics_only(tmp_path):
    log = tmp_path / "datalog.txt"
    log.write_bytes(
        b"74.3,25.7\n 65.25 ,\t25.0 \r\nfoo\n70,20,kitchen,1763719203000042,3.5\n70.0,-0.5\n71.0,2"
    )
    result = run_json(log)
    assert result == {
        "sensors": {
            "datalog.txt": {
                "readings": 3,
                "first": None,
                "last": None,
                "interval": None,
                "gaps": [],
                "humidity": pytest.approx(plain_figures([74.3, 65.25, 70]), abs=1e-10),
                "temperature": pytest.approx(plain_figures([25.7, 25, -0.5]), abs=1e-10),
                "dew_point": result["sensors"]["datalog.txt"]["dew_point"],
                "suspicious": None,
            }
        },
        "doubled": 0,
        "skipped": 3,
    }
    done = run(log.name, folder=tmp_path)
    assert "datalog.txt has neither times nor names: statistics only" in done.stderr
    assert "line 6 skipped (torn): b'71.0,2'" in done.stderr
    assert "gaps" not in done.stdout and "suspicious" not in done.stdout
    log.write_bytes(b"74.3,25.7")
    assert run_json(log)["sensors"]["datalog.txt"]["readings"] == 1, "whole, but for its line end"


@pytest.mark.parametrize(
    "tail, readings, skipped",
    [
        (row(2 * MINUTE), 3, 0),
        (row(2 * MINUTE)[:-1], 3, 0),
        (row(2 * MINUTE)[:-2], 2, 1),
        (row(2 * MINUTE)[:30], 2, 1),
        (row(2 * MINUTE, name="")[:-1], 3, 0),
        (row(2 * MINUTE, name="")[:-2], 2, 1),
    ],
)
def test_a_log_that_is_being_written(tmp_path, capfd, tail, readings, skipped):
    log = write(tmp_path / "datalog.csv", row(0), row(MINUTE), tail)
    assert report.main([str(log), "--json"]) == 0
    result = json.loads(capfd.readouterr().out)
    assert sum(sensor["readings"] for sensor in result["sensors"].values()) == readings
    assert result["skipped"] == skipped


ROWS = [
    row(minute * MINUTE, 50 + minute, -minute / 10, name)
    for minute in range(8)
    for name in ("kitchen", "")
]


def test_a_database_tells_the_same_as_the_csv(tmp_path):
    with closing(write_db(tmp_path / "datalog.db", *ROWS)):
        assert run_json(tmp_path / "datalog.db") == run_json(write(tmp_path / "datalog.csv", *ROWS))


def test_a_running_server_keeps_its_database(tmp_path):
    with closing(write_db(tmp_path / "datalog.db", *ROWS)) as server:
        server.execute(
            "INSERT INTO reading VALUES ('torn', NULL, NULL, NULL, NULL, NULL)"
        )  # not committed
        assert run_json(tmp_path / "datalog.db")["skipped"] == 0
        server.commit()
        assert run_json(tmp_path / "datalog.db")["skipped"] == 1
        assert server.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (
            0,
            0,
            0,
        )  # nobody in the way


def test_a_stopped_servers_database_is_left_as_it_is(tmp_path):
    folder = tmp_path / "50% #1?" if os.name == "posix" else tmp_path / "50% #1"
    folder.mkdir()
    write_db(folder / "datalog.db", *ROWS).close()
    before = (folder / "datalog.db").read_bytes()
    assert run_json(folder / "datalog.db")["sensors"]["kitchen"]["readings"] == 8
    assert [path.name for path in folder.iterdir()] == ["datalog.db"]
    assert (folder / "datalog.db").read_bytes() == before


# Options


@pytest.mark.parametrize("every, length", [("30s", 0.5), ("5min", 5), ("1h", 60), ("2d", 2880)])
def test_every(tmp_path, capfd, every, length):
    rows = [
        (minute, 40 + minute % 7, 20 - minute % 5)
        for minute in range(300)
        if not 120 <= minute < 200
    ]
    log = str(
        write(
            tmp_path / "datalog.csv", *(row(minute * MINUTE, *reading) for minute, *reading in rows)
        )
    )
    spans = {}
    for minute, *reading in rows:
        start = (
            minute - minute % length if length < 2880 else 0
        )  # days since 1970: the 20th is a first one
        spans.setdefault(start, []).append(reading)
    outputs = []
    for arguments in ([], ["--every", every], ["--json"], ["--json", "--every", every]):
        assert report.main([log, *arguments]) == 0
        outputs.append(capfd.readouterr().out)
    plain, added, as_json, added_json = outputs
    assert as_json == added_json
    assert added.startswith(plain.rstrip("\n"))
    lines = added[len(plain) - 1 :].split("\n")[2:-2]
    assert [line.split()[-3:-1] for line in lines] == [
        [f"{statistics.fmean(quantity):.2f}" for quantity in zip(*span)] for span in spans.values()
    ]


@pytest.mark.parametrize(
    "arguments, code, error",
    [
        (["absent.csv"], 1, "cannot read absent.csv (No such file or directory); "),
        (["."], 2, "argument LOG: '.' is no log (the ending is .csv, .db or .txt)"),
        (["notes.md"], 2, "argument LOG: 'notes.md' is no log (the ending is .csv, .db or .txt)"),
        (["absent.db"], 1, "cannot read absent.db (unable to open database file); "),
        (["junk.db"], 1, "cannot read junk.db (file is not a database); "),
        (["empty.db"], 1, "cannot read empty.db (no such table: reading); "),
        (
            ["--plot", "picture.pdf"],
            2,
            "argument --plot: 'picture.pdf' is no picture (the ending is .png)",
        ),
        (
            ["--plot", "absent/picture.png"],
            1,
            "cannot write absent/picture.png (No such file or directory); ",
        ),
        (
            ["datalog.txt", "--plot", "picture.png"],
            2,
            "a .txt log has no times to plot or to resample by; ",
        ),
        (
            ["datalog.txt", "--every", "1h"],
            2,
            "a .txt log has no times to plot or to resample by; ",
        ),
        *(
            (
                [f"--every={every}"],
                2,
                f"argument --every: '{every}' is no time span (such as 30s, 10min, 1h or 1d)",
            )
            for every in ("", "h", "0h", "1", "1.5h", "-1h", "1y", "1 h", "nan", "\u0661h")
        ),
    ],
)
def test_errors_are_one_line(tmp_path, arguments, code, error):
    write(tmp_path / "datalog.csv", row(0))
    (tmp_path / "datalog.txt").write_text("74.3,25.7\n")
    (tmp_path / "junk.db").write_text("junk" * 100)
    (tmp_path / "empty.db").touch()
    done = run(*arguments, folder=tmp_path)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("report.py: error: " + error) and done.stderr.count("\n") == 1
    assert not (tmp_path / "absent.db").exists()


@pytest.mark.parametrize(
    "missing, arguments", [("pandas", []), ("matplotlib", ["--plot", "picture.png"])]
)
def test_without_a_package(tmp_path, missing, arguments):
    write(tmp_path / "datalog.csv", row(0))
    (tmp_path / f"{missing}.py").write_text(
        f"raise ModuleNotFoundError(\"No module named '{missing}'\")"
    )
    without = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = run(*arguments, folder=tmp_path, env=without)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"report.py: error: cannot start (No module named '{missing}'); "
        "python3 -m pip install pandas matplotlib, or uv run report.py\n"
    )
    assert run("--version", folder=tmp_path, env=without).stdout == f"report.py {VERSION}\n"
    assert report.__doc__.strip() in run("--help", folder=tmp_path, env=without).stdout
    assert missing == "pandas" or run(folder=tmp_path, env=without).returncode == 0


@pytest.mark.skipif(os.name != "posix", reason="a shell and its pipes")
def test_a_reader_that_has_seen_enough(tmp_path):
    many(tmp_path / "datalog.csv", 2000)
    done = subprocess.run(
        f"{sys.executable} {REPORT} --json | head -1; echo ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("{\n0\n", "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk(tmp_path):
    write(tmp_path / "datalog.csv", row(0))
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, str(REPORT)], stdout=full, stderr=subprocess.PIPE, cwd=tmp_path
        )
    assert done.returncode == 1
    assert (
        done.stderr
        == b"report.py: error: cannot print the report (No space left on device); is the disk full?\n"
    )


# The picture


def legend(figure):
    return [text.get_text().strip() for text in figure.legends[0].get_texts()]


def test_the_picture_shows_lines_gaps_and_marks(weeks, weeks_log):
    figure = report.draw(examine(weeks_log))
    assert [axis.get_ylabel() for axis in figure.axes] == ["humidity (%)", "temperature (°C)"]
    assert figure.axes[-1].get_xlabel() == "time (UTC)"
    assert legend(figure) == ["kitchen", "suspicious"]
    for axis, values, accuracy in zip(figure.axes, list(zip(*weeks))[1:], (2.0, 0.5)):
        line, lone, marks = axis.lines[:3]
        drawn = line.get_ydata()
        assert [value for value in drawn if not math.isnan(value)] == list(values)
        openings = [i for i, value in enumerate(drawn) if math.isnan(value)]
        assert openings == [
            begin - sum(b - a for a, b in CUTS[:i]) + i for i, (begin, _) in enumerate(CUTS)
        ]
        assert len(lone.get_ydata()) == 0
        assert list(marks.get_ydata()) == [
            value
            for value, suspicious in zip(values, plain_suspicious(values, accuracy))
            if suspicious
        ]
        assert (line.get_linestyle(), marks.get_linestyle(), marks.get_marker()) == (
            "-",
            "None",
            "x",
        )


def test_a_reading_between_two_gaps_is_drawn(tmp_path):
    minutes = [0, 1, 2, 3, 50, 98, 99]
    log = write(tmp_path / "datalog.csv", *(row(minute * MINUTE, minute) for minute in minutes))
    lone = report.draw(examine(log)).axes[0].lines[1]
    assert (list(lone.get_ydata()), lone.get_marker()) == ([50], ".")


def test_the_legend_of_200_sensors_is_bounded(tmp_path):
    figure = report.draw(examine(many(tmp_path / "datalog.csv", 400)))
    assert len(legend(figure)) == report.LEGEND + 1
    assert figure.legends[0].get_title().get_text() == "the first 14 of 200 sensors"
    looks = {(line.get_color(), line.get_marker()) for line in figure.axes[0].lines[::3]}
    assert len(looks) >= report.LEGEND


# The manual


def write_day(path):
    """A day of a kitchen and an attic, a reading a minute: a power cut at night, cooking, two damaged frames."""
    chance = random.Random(4)
    rows = []
    for minute in range(1440):
        if 190 <= minute < 265:
            continue
        sun = max(0, math.sin(math.tau * (minute - 420) / 1440))
        cooked = [(minute - meal) / 30 for meal in (425, 735, 1110) if minute > meal]
        steam = sum(40 * x * math.exp(-x) for x in cooked)
        kitchen = 47 + steam + chance.gauss(0, 0.3), 20.5 + sun + steam / 12 + chance.gauss(0, 0.1)
        attic = 58 - 14 * sun + chance.gauss(0, 0.3), 14 + 9 * sun + chance.gauss(0, 0.1)
        if minute == 600:
            kitchen = kitchen[0] * 2, kitchen[1]
        if minute == 1300:
            attic = attic[0], attic[1] / 2
        rows.append(row(minute * MINUTE + chance.randrange(100), *kitchen))
        rows.append(row(minute * MINUTE + 20_000 + chance.randrange(100), *attic, name="attic"))
    return write(path, *rows)


def test_the_session_in_the_manual_is_real(tmp_path):
    write_day(tmp_path / "datalog.csv")
    done = run("--plot", "report.png", folder=tmp_path)
    session = [
        "$ python3 report.py --plot report.png",
        *done.stderr.splitlines(),
        *done.stdout.splitlines(),
    ]
    assert "\n".join(f"    {line}".rstrip() for line in session).rstrip() in report.__doc__


def test_the_picture_is_not_blank_and_small(tmp_path):
    write_day(tmp_path / "datalog.csv")
    assert run("--plot", "report.png", "--json", folder=tmp_path).returncode == 0
    picture = (tmp_path / "report.png").read_bytes()
    width, height = struct.unpack(">II", picture[16:24])
    assert 900 < width < 1200 and 500 < height < 700 and len(picture) < 100_000
    pixels = matplotlib.image.imread(tmp_path / "report.png")
    inked = (pixels[..., :3].min(axis=2) < 0.9).mean()
    assert 0.01 < inked < 0.5
