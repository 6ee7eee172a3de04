"""report.py as its users run it: options, errors, the manual, speed."""

import gzip
import json
import os
import subprocess
import sys
import warnings
from contextlib import closing
from datetime import datetime
from statistics import fmean, stdev
from types import SimpleNamespace

import pytest

pytest.importorskip("pandas")

import report  # noqa: E402
from dht22 import console  # noqa: E402
from dht22.report.figures import UNITS  # noqa: E402
from support.made import HEADER, MINUTE, many, row, write, write_day, write_db  # noqa: E402
from support.tools import ROOT  # noqa: E402

REPORT = ROOT / "report.py"


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """Run report.py in this process; no library may warn."""
    monkeypatch.chdir(tmp_path)

    def main(*arguments):
        with warnings.catch_warnings():
            for each in UserWarning, FutureWarning, RuntimeWarning:
                warnings.simplefilter("error", each)
            try:
                code = report.main(list(map(str, arguments)))
            except SystemExit as end:
                code = end.code
        said = capfd.readouterr()
        return SimpleNamespace(returncode=code, stdout=said.out, stderr=said.err)

    return main


def start(*arguments, folder, **options):
    """Run report.py in a process of its own."""
    command = [sys.executable, str(REPORT), *arguments]
    return subprocess.run(
        command, cwd=folder, capture_output=True, encoding="utf-8", timeout=120, **options
    )


# The manual


def test_the_session_in_the_manual_is_real(tmp_path, run, monkeypatch):
    write_day(tmp_path / "datalog.csv")
    monkeypatch.setattr(report, "now", lambda: datetime(2026, 11, 22))
    done = run("--name", "kitchen", "--every", "1d", "--plot", "report.png")
    options = report.get_options(report.get_parser(), ["--last"])
    latest, code = report.last(options, datetime(2026, 11, 22))
    assert (done.returncode, done.stderr, code) == (0, "", 0)
    session = [
        "$ python3 report.py --name kitchen --every 1d --plot report.png",
        *done.stdout.splitlines(),
        "",
        "$ python3 report.py --last",
        *latest.splitlines(),
    ]
    assert "\n".join(f"    {line}".rstrip() for line in session) in report.__doc__


def test_help_is_the_manual(run):
    done = run("--help")
    assert done.returncode == 0
    assert report.__doc__.strip() in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100


# Options


def test_the_report(tmp_path, run, monkeypatch):
    minutes = [minute for minute in range(60) if not 20 < minute < 40]
    rows = [row(minute * MINUTE, 50 + minute % 3) for minute in minutes]
    mean, std = (figure([50 + minute % 3 for minute in minutes]) for figure in (fmean, stdev))
    write(tmp_path / "datalog.csv", *rows, "no row\n", rows[-1])
    monkeypatch.setattr(report, "now", lambda: datetime(2026, 11, 21, 5))
    done = run()
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        "kitchen",
        "    readings: 41",
        "                        min   mean    max    std",
        f"    humidity (%)      50.00  {mean:.2f}  52.00   {std:.2f}",
        "    temperature (°C)  20.00  20.00  20.00   0.00",
        done.stdout.splitlines()[5],
        "    suspicious: 0",
        "    from 2026-11-21T00:00:00.000Z to 2026-11-21T00:59:00.000Z, usually every 60.0 s",
        "    gaps: 1, readings missing: 19, arrived: 68.3 %",
        "    silent since then: 4:01:00",
        "    from 2026-11-21T00:20:00.000Z to 2026-11-21T00:40:00.000Z: 0:20:00, 19 missing",
    ]
    assert done.stderr == (
        "datalog.csv line 43 skipped (not a row as the server writes it): b'no row\\n'\n"
        "rows that stand twice, used once: 1\n"
    )
    result = json.loads(run("--json").stdout, parse_constant=pytest.fail)  # NaN is not JSON
    assert (result["doubled"], result["skipped"]) == (1, 1)
    assert result["sensors"]["kitchen"]["readings"] == 41
    assert "spans" not in result["sensors"]["kitchen"]
    assert "silent since then: 0:11:00" in run("--until", "2026-11-21T01:10").stdout
    assert "silent" not in run("--until", "2026-11-21T01:00").stdout
    (tmp_path / "datalog.csv").rename(tmp_path / "datalog.csv.1")
    assert "silent" not in run("datalog.csv.1").stdout, "until its last row"


def test_every_in_the_table_and_for_a_program(tmp_path, run):
    rows = [row(minute * MINUTE, 40 + minute % 7, -minute / 100) for minute in range(120, 300)]
    write(tmp_path / "datalog.csv", *rows, row(0, 0.0, name="attic"))
    plain, added = run(), run("--every", "1h")
    for sensor in plain.stdout.split("\n\n"):
        assert sensor.rstrip() in added.stdout
    sensors = json.loads(run("--json", "--every", "1h").stdout)["sensors"]
    lines = iter(added.stdout.splitlines())
    for sensor in sensors.values():
        while "readings  arrived" not in next(lines):
            pass
        for span in sensor["spans"]:
            assert next(lines).split() == [
                span["from"],
                str(span["readings"]),
                *(["-"] if span["share"] is None else ["100.0", "%"]),
                *(
                    "-" if value is None else f"{value:.{decimals}f}"
                    for quantity in UNITS
                    for value, decimals in zip(span[quantity].values(), (1, 2, 1))
                ),
            ]
    starts = [span["from"] for span in sensors["kitchen"]["spans"]]
    assert starts == [f"2026-11-21T0{hour}:00Z" for hour in (2, 3, 4)]
    assert sensors["attic"]["spans"][0]["dew_point"] == {"min": None, "mean": None, "max": None}


def test_local_times(tmp_path, run, zone):
    write(tmp_path / "datalog.csv", row(0), row(MINUTE))
    zone("Europe/Berlin")
    done = run("--local", "--every", "1h")
    assert "from 2026-11-21T01:00:00.000+01:00 to 2026-11-21T01:01:00.000+01:00" in done.stdout
    assert "    2026-11-21T01:00+01:00  " in done.stdout


def test_what_stands_beside_logs_is_passed_over(tmp_path, run):
    rows = [row(minute * MINUTE, 40 + minute) for minute in range(9)]
    with closing(write_db(tmp_path / "datalog.db", *rows)):
        write(tmp_path / "datalog.csv", *rows)
        write(tmp_path / "datalog.csv.1", *rows)
        (tmp_path / "datalog.txt").write_text("74.3,25.7\n65.2,25.0\n")
        (tmp_path / "datalog.publish").write_text("a position")
        write(tmp_path / "datalog.csv~", *rows)
        write(tmp_path / "datalog.csv.new", *rows)
        names = sorted(path.name for path in tmp_path.glob("datalog*"))
        assert {"datalog.db-shm", "datalog.db-wal", "datalog.publish"} < set(names)
        done = run(*names, "--json")
    others = "datalog.csv.new, datalog.csv~, datalog.db-shm, datalog.db-wal, datalog.publish"
    assert f"passed over, not logs by their names: {others}\n" in done.stderr
    result = json.loads(done.stdout)
    assert (result["doubled"], result["skipped"]) == (18, 0)
    assert {name: each["readings"] for name, each in result["sensors"].items()} == {
        "datalog.txt": 2,
        "kitchen": 9,
    }


@pytest.mark.parametrize(
    "arguments, code, error",
    [
        (["absent.csv"], 1, "cannot read absent.csv (No such file or directory); "),
        (["datalog.csv", "absent.csv.1.gz"], 1, "cannot read absent.csv.1.gz (No such file or "),
        (["--last", "absent.csv"], 1, "cannot read absent.csv (No such file or directory); "),
        (["empty.csv"], 1, "cannot read empty.csv (no reading in it); has the server logged th"),
        (["empty.csv", "empty.csv.1"], 1, "cannot read empty.csv, empty.csv.1 (no reading in it)"),
        (["folder.csv"], 1, "cannot read folder.csv (Is a directory); "),
        (["."], 2, "argument LOG: '.' is not a log (the ending is .csv, .db or .txt, before what"),
        (
            ["notes.md"],
            2,
            "argument LOG: 'notes.md' is not a log (the ending is .csv, .db or .txt, ",
        ),
        (["absent.db"], 1, "cannot read absent.db (No such file or directory); "),
        (["junk.db"], 1, "cannot read junk.db (file is not a database); "),
        (["empty.db"], 1, "cannot read empty.db (no such table: reading); "),
        (["torn.db.gz"], 1, "cannot read torn.db.gz (Compressed file ended before the end-of-"),
        (
            ["--plot", "a.jpg"],
            2,
            "argument --plot: 'a.jpg' is not a picture (the ending is .png, .s",
        ),
        (["--plot", ".png"], 2, "argument --plot: '.png' is not a picture (the ending is .png, .s"),
        (["--plot", "absent/a.png"], 1, "cannot write absent/a.png (No such file or directory); "),
        (["datalog.txt", "--plot", "a.png"], 2, "a .txt log has neither times nor nam"),
        (
            ["datalog.csv", "datalog.txt", "--every", "1h"],
            2,
            "a .txt log has neither times nor nam",
        ),
        (["datalog.txt", "--last"], 2, "a .txt log has neither times nor nam"),
        (["datalog.txt", "--live"], 2, "a .txt log has neither times nor nam"),
        (["--last", "--plot", "a.png"], 2, "--last goes with neither --plot nor --every"),
        (["--live", "--json"], 2, "--live goes with none of --plot, --every, --json, --last and -"),
        (["--live", "--until", "2026-11-20"], 2, "--live goes with none of --plot, --every, --js"),
        (["datalog.csv", "datalog.csv.1", "--live"], 2, "--live looks at one .csv"),
        (["empty.db", "--live"], 2, "--live looks at one .csv"),
        (["datalog.csv.gz", "--live"], 2, "--live looks at one .csv"),
        (["--live", "--port", "65536"], 2, "argument --port: '65536' is not a port (0 to 65535);"),
        (["datalog.publish", "datalog.db-wal"], 2, "argument LOG: 'datalog.publish' is not a log"),
        (["datalog.txt", "--since", "7d"], 2, "a .txt log has neither times nor nam"),
        (["datalog.txt", "--name", "kitchen"], 2, "a .txt log has neither times nor nam"),
        (["--temperature", "5..30"], 2, "--temperature and --humidity go with --last"),
        (["--since", "2026-11-20", "--until", "2026-11-20"], 2, "--since is not before --until"),
        (["--since", "0001-01-01T00:00+01:00"], 2, "--since or --until is a time that no clock "),
        (["--since", "2027-01-01"], 1, "cannot read datalog.csv (no reading since 2027-01-01T00"),
        (["--last", "--name", "attic", "--since=2000-01-01"], 1, "cannot read datalog.csv (no rea"),
        *(
            ([f"--since={since}"], 2, f"argument --since: '{since}' is not a time (such as 2026-")
            for since in ("", "7", "2026", "2026-11-31", "20261120", "2026-11-20T8:00", "yesterday")
        ),
        *(
            (["--last", f"--humidity={limits}"], 2, f"argument --humidity: '{limits}' is not LOW..")
            for limits in ("", "5", "..5", "30..5", "5-30", "nan..5", "5..30..40")
        ),
        *(
            (
                [f"--every={every}"],
                2,
                f"argument --every: '{every}' is not a time span (such as 30s, ",
            )
            for every in ("", "h", "0h", "1", "1.5h", "-1h", "1y", "1 h", "nan", "\u0661h")
        ),
    ],
)
def test_errors_are_one_line(tmp_path, run, arguments, code, error):
    write(tmp_path / "datalog.csv", row(0))
    write(tmp_path / "empty.csv")
    write(tmp_path / "empty.csv.1")
    (tmp_path / "datalog.txt").write_text("74.3,25.7\n")
    (tmp_path / "junk.db").write_text("junk" * 100)
    (tmp_path / "empty.db").touch()
    (tmp_path / "torn.db.gz").write_bytes(gzip.compress(b"SQLite format 3\0")[:-9])
    (tmp_path / "folder.csv").mkdir()
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("report.py: error: " + error) and done.stderr.count("\n") == 1
    assert not (tmp_path / "absent.db").exists()


def test_a_title_that_is_no_utf_8(tmp_path):
    """It is the name of the file, as Linux allows any."""
    report.plot(tmp_path / "plots.html", "<title>caf\udce9</title>", report.get_parser())
    assert (tmp_path / "plots.html").read_text(encoding="utf-8") == "<title>caf\\udce9</title>"


INSTALL = (
    "; sudo apt install python3-pandas python3-matplotlib, "
    "or python3 -m venv .venv && .venv/bin/pip install pandas matplotlib bokeh "
    "&& .venv/bin/python3 report.py\n"
)


def test_without_pandas(tmp_path):
    write(tmp_path / "datalog.csv", row(0))
    missing = "raise ModuleNotFoundError(\"No module named 'pandas'\")"
    (tmp_path / "pandas.py").write_text(missing)
    without = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = start(folder=tmp_path, env=without)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"report.py: error: cannot start (No module named 'pandas'){INSTALL}"
    assert start("--help", folder=tmp_path, env=without).returncode == 0
    assert "silent" in start("--last", folder=tmp_path, env=without).stdout


def test_without_matplotlib(tmp_path, run, monkeypatch):
    write(tmp_path / "datalog.csv", row(0))
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    done = run("--plot", "picture.png")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("report.py: error: cannot start (import of matplotlib.figure")
    assert done.stderr.endswith(INSTALL) and done.stderr.count("\n") == 1
    assert run().returncode == 0


# At the terminal


@pytest.mark.skipif(os.name != "posix", reason="a shell and its pipes")
def test_a_reader_that_has_seen_enough(tmp_path):
    many(tmp_path / "datalog.csv", 1000, sensors=100)  # more than a pipe holds
    done = subprocess.run(
        [
            "bash",
            "-c",
            '"$@" --json | head -1; echo ${PIPESTATUS[0]}',
            "bash",
            sys.executable,
            REPORT,
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("{\n0\n", "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk(tmp_path):
    write(tmp_path / "datalog.csv", row(0))
    command = [sys.executable, str(REPORT), "--last"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (
        1,
        b"report.py: error: cannot print the report (No space left on device); is the disk full?\n",
    )


def test_progress_on_a_terminal_only(tmp_path, run, monkeypatch, capfd):
    pty = pytest.importorskip("pty")
    write(tmp_path / "datalog.csv", row(0))
    monkeypatch.setattr(console, "PROGRESS", -1.0)
    assert run().stderr == ""
    ours, theirs = pty.openpty()
    with open(theirs, "w") as terminal, open(ours, "rb", buffering=0) as screen:
        monkeypatch.setattr(sys, "stderr", terminal)
        assert report.main([]) == 0
        shown = screen.read(1000).decode()
    assert shown.splitlines() == ["1 row of datalog.csv read", "examining kitchen"]


# Speed


def measure(*arguments):
    """Run report.py; return its output, the seconds of a core that it took, and memory (MiB)."""
    command = [sys.executable, str(REPORT), *map(str, arguments)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE)
    with child.stdout as stdout:
        output = stdout.read().decode()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = status  # or Popen would wait for it once more
    assert status == 0
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return output, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / unit


@pytest.mark.parametrize("rows", [4_000, pytest.param(1_000_000, marks=pytest.mark.long)])
def test_200_sensors(tmp_path, rows):
    """3 s for a million rows on a machine that has nothing else to do; here three times that."""
    output, seconds, mebibytes = measure(many(tmp_path / "datalog.csv", rows), "--json")
    assert seconds < 9 and mebibytes < 500
    sensors = json.loads(output)["sensors"]
    assert len(sensors) == 200
    assert {sensor["readings"] for sensor in sensors.values()} == {rows // 200}
    assert {
        (sensor["interval"], sensor["suspicious"], len(sensor["gaps"]))
        for sensor in sensors.values()
    } == {(60.0, 0, 0)}


@pytest.mark.long
def test_ten_million_rows(tmp_path):
    """At most 2 GB, and in proportion to a million."""
    log = tmp_path / "datalog.csv"
    with log.open("w") as file:
        file.write(HEADER)
        for second in range(10**7):
            file.write(row(second * 1000, 50 + second % 9 / 10, 20 + second % 7 / 10))
    output, seconds, mebibytes = measure(log, "--json")
    assert json.loads(output)["sensors"]["kitchen"]["readings"] == 10**7
    assert seconds < 90 and mebibytes < 2000
