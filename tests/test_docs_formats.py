"""docs/formats.md: its recipes are run, and report.py reads what they make."""

import re
import subprocess
import sys
import warnings
from datetime import datetime, timedelta
from shutil import which
from zipfile import ZipFile

import pytest

from dht22.report.lines import blocks, check_line, log_at
from support.made import HEADER, row, write, write_db
from support.tools import ROOT, bash, lines, needs

TEXT = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")


def fenced(language, having=""):
    """Return the one block of code in a language that has some words."""
    found = re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    (block,) = (block for block in found if having in block)
    return block


def indented(words):
    """Return the one line of code, outside of the blocks, that begins with some words."""
    (line,) = re.findall(rf"^    ({words}.*)$", TEXT, re.MULTILINE)
    return line


ROWS = [row(k * 60_000, 50 + k / 10, name=name) for k in range(61) for name in ("", "attic")]


def test_pandas_keeps_plain_readings(tmp_path, monkeypatch, capsys):
    """And names as they are; what goes on from there goes on."""
    pytest.importorskip("pandas")
    names = "", "attic", "007", "7", "NA", "null"
    rows = [row(k * 60_000, 50 + k / 10, name=name) for k in range(61) for name in names]
    write(tmp_path / "datalog.csv", *rows)
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exec(fenced("python", "hourly") + fenced("python", "grams"), {})
    hourly, daily, grams = re.split("(?m)^sensor.*\n", capsys.readouterr().out)[1:]
    shown = re.findall(r"^(\S+) +2026", hourly, re.MULTILINE)
    assert shown == sorted(["192.168.1.7", *names[1:]])
    assert re.findall(r" 0(\d):00:00\S* +(\d+\.\d)", hourly) == [("0", "52.9"), ("1", "56.0")] * 6
    assert daily.count("20.0\n") == 6
    assert len(re.findall(r" 9\.1\d+\n", grams)) == 6, "20 °C and 53 %: tables say 9.17 g"
    assert (tmp_path / "hourly.csv").read_text().count("\n") == 1 + 12


def test_sql_on_the_csv_and_the_database(tmp_path):
    needs("sqlite3")
    write(tmp_path / "datalog.csv", *ROWS)
    write_db(tmp_path / "datalog.db", *ROWS).close()
    shown = bash(fenced("sh", "avg"), tmp_path)
    assert shown.split() == ["192.168.1.7|53.0", "attic|53.0"] * 2


def test_a_sheet_has_times_without_a_zone(tmp_path):
    needs("sqlite3")
    write(tmp_path / "datalog.csv", *ROWS)
    bash(fenced("sh", "sheet.csv"), tmp_path)
    made = lines(tmp_path / "sheet.csv")
    assert made[:2] == [
        "time,client,name,humidity,temperature",
        "2026-11-21 00:00:00,192.168.1.7,,50.0,20.0",
    ]
    assert len(made) == 1 + len(ROWS)


@pytest.mark.long
@pytest.mark.skipif(not which("soffice"), reason="LibreOffice is missing")
def test_a_spreadsheet_knows_times_numbers_and_names(tmp_path, monkeypatch):
    """As LibreOffice writes them into an .xlsx: a number has none of the types of a text."""
    needs("sqlite3")
    names = "007", "1e5", "2026-10-01", "TRUE"
    write(tmp_path / "datalog.csv", *[row(43_200_000, 10.5, -0.5, name) for name in names])
    monkeypatch.setenv("HOME", str(tmp_path))  # LibreOffice keeps its settings there
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    bash(fenced("sh", "sheet.csv") + indented("soffice"), tmp_path)
    with ZipFile(tmp_path / "sheet.xlsx") as made:
        sheet, styles, shared = (
            made.read(f"xl/{part}.xml").decode()
            for part in ("worksheets/sheet1", "styles", "sharedStrings")
        )
    texts = re.findall("<t[^>]*>(.*?)</t>", shared)
    cells = re.findall('<c r="([A-E][2-5])" s="(.)" t="(.)"><v>(.*?)</v>', sheet)
    found = {cell: texts[int(value)] if of == "s" else float(value) for cell, _, of, value in cells}
    day = (datetime(2026, 11, 21, 12) - datetime(1899, 12, 30)) / timedelta(days=1)
    assert found == {
        f"{column}{number}": value
        for number, name in enumerate(names, 2)
        for column, value in zip("ABCDE", (day, "192.168.1.7", name, 10.5, -0.5))
    }
    shown = re.findall('formatCode="(.*?)"', styles)
    assert shown[int(cells[0][1])] == r"yyyy\-mm\-dd\ hh:mm:ss", "that of A2"


def test_a_csv_goes_into_a_database_of_the_server_and_back(tmp_path, server):
    """The server takes it, and knows the names in it; report.py reads the same from all three."""
    needs("sqlite3")
    server("--count", "1", "--log", "datalog.db").stop()
    write(tmp_path / "datalog.csv", *ROWS)
    bash(fenced("sh", "back.csv"), tmp_path)
    assert lines(tmp_path / "back.csv") == lines(tmp_path / "datalog.csv")
    server("--count", "1", "--log", "datalog.db").stop()
    bash(indented("sqlite3 datalog.db '.backup"), tmp_path)
    read = [b"".join(blocks(log_at(tmp_path / name))) for name in ("datalog.db", "copy.db")]
    assert read == ["".join(ROWS).encode()] * 2


def test_logs_from_elsewhere_get_times(tmp_path, zone):
    zone("Europe/Berlin")
    (tmp_path / "datalog.txt").write_text("74.30000305175781,25.700000762939453\n65.2,25.0\n")
    (tmp_path / "mine.csv").write_text("when,temp,hum\n21.11.2026 10:00,25.7,74.3\n")
    for words in "course.csv", "mine.csv":
        command = [sys.executable, "-c", fenced("python", words)]
        subprocess.run(command, cwd=tmp_path, check=True)
    made = [row for name in ("course.csv", "old.csv") for row in lines(tmp_path / name)[1:]]
    for line in made:
        check_line(line.encode(), ".csv")  # raises unless it is a row
    assert made == [
        "2026-11-21T09:00:00.000Z,127.0.0.1,,74.3,25.7,",
        "2026-11-21T09:00:02.000Z,127.0.0.1,,65.2,25.0,",
        "2026-11-21T09:00:00.000Z,127.0.0.1,cellar,74.3,25.7,1795251600000000",
    ]


def test_telegraf_is_given_the_columns():
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    (tail,) = tomllib.loads(fenced("toml"))["inputs"]["tail"]
    assert ",".join(tail["csv_column_names"]) + "\n" == HEADER
    assert len(tail["csv_column_types"]) == len(tail["csv_column_names"])
