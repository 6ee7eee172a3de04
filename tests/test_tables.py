"""Logs as bad and as old as they get, and what report.py takes from them."""

import bz2
import gzip
import lzma
import os
import random
import sqlite3
from contextlib import closing
from datetime import datetime
from io import BytesIO
from pathlib import Path

import pytest

pandas = pytest.importorskip("pandas")

from dht22.report import lines, tables  # noqa: E402
from support.made import HEADER, MINUTE, content, row, write, write_db  # noqa: E402

NO_ROW = "not a row as the server writes it"
BAD = [  # line, reason
    # A spreadsheet's n
    (b"2026-11-21T10:00:00.000Z,192.168.1.7,kitchen,50.0,20.0,1.76E+15\n", NO_ROW),
    (b"2026-11-21T10:00:00.000Z,192.168.1.7,kitchen,Mai 60,20.0,2000000000000001\n", "not a read"),
    (b"21.11.2026 10:00,192.168.1.7,kitchen,50.0,20.0,2000000000000001\n", NO_ROW),
    (b"2026-11-21T10:00:00.000Z;192.168.1.7;kitchen;50,0;20,0;2000000000000001\n", NO_ROW),
    (b"2026-11-21T10:00:00.000Z,192.168.1.7,kitchen,500,20.0,2000000000000001\n", "humidity out"),
    (b"2026-11-21T10:00:00.000Z,192.168.1.7,kitchen,100.1,20.0,2000000000000001\n", "humidity out"),
    (b"2026-11-21T10:00:00.000Z,192.168.1.7,kitchen,50.0,80.1,2000000000000001\n", "temperature"),
    (b"2026-11-21T10:00:00.000Z,192.168.1.7,kitchen,50.0,-40.1,2000000000000001\n", "temperature"),
    (b"2026-11-21T10:00:00.000Z,192.168.1.7,kitchen,nan,20.0,2000000000000001\n", "not a reading"),
    (b"2026-02-30T10:00:00.000Z,192.168.1.7,kitchen,50.0,20.0,2000000000000001\n", "day"),
    (b"2026-11-21T24:00:00.000Z,192.168.1.7,kitchen,50.0,20.0,2000000000000001\n", NO_ROW),
    (b"2026-11-21T10:60:00.000Z,192.168.1.7,kitchen,50.0,20.0,2000000000000001\n", "minute"),
    (b"2026-11-21T10:00:60.000Z,192.168.1.7,kitchen,50.0,20.0,2000000000000001\n", "second"),
    (b"1026-11-21T10:00:00.000Z,192.168.1.7,kitchen,50.0,20.0,2000000000000001\n", NO_ROW),
    (b"20261121T10:00:00.00000Z,192.168.1.7,kitchen,50.0,20.0,2000000000000001\n", NO_ROW),
    (b"2026-11-21 10:00:00.000Z,192.168.1.7,kitchen,50.0,20.0,2000000000000001\n", NO_ROW),
    # A name without an n, an n without a name
    (b"2026-11-21T10:00:00.000Z,192.168.1.7,kitchen,50.0,20.0,\n", NO_ROW),
    (b"2026-11-21T10:00:00.000Z,192.168.1.7,,50.0,20.0,2000000000000001\n", NO_ROW),
    (b"2026-11-21T10:00:00.000Z,192.168.1.7,kitchen,50.0,20.0,0000000000000001\n", NO_ROW),
    (b"2026-11-21T10:00:00.000Z,192.168.1.7,kitchen,50.0\n", NO_ROW),
    (b"2026-11-21T10:00:00.000Z,192.168.1.7,kitchen,50.0,20.0,2000000000000001,more\n", NO_ROW),
    (b"2026-11-21T10:00:00.000Z,192.168.1.7,\xff\xfe,50.0,20.0,2000000000000001\n", NO_ROW),
    (b"2026-11-21T10:00:00.000Z,192.168.1.7,kitchen,50.0,20.0,20000000000\0\0\0\0\0\n", NO_ROW),
    (b'"quoted, and never closed\n', NO_ROW),
    (b"\n", NO_ROW),
    (b"\0" * 5000 + b"\n", NO_ROW),
]


def read(*paths):
    """Return the readings of logs, how many stood twice, and how many lines were skipped."""
    return tables.read([lines.log_at(path) for path in paths], lambda text: None)


def values(table):
    """Return the rows of a table as a list that can be compared."""
    table = table.assign(sensor=table.sensor.astype(str))
    columns = ["time", "sensor", "humidity", "temperature"]
    return [tuple(row) for row in table[columns].fillna(0).itertuples(index=False)]


# One log


@pytest.mark.parametrize("line, reason", BAD)
def test_a_bad_line_is_reported_with_its_number_and_skipped(tmp_path, capfd, line, reason):
    table, _, skipped = read(write(tmp_path / "datalog.csv", row(0), line, row(MINUTE)))
    assert (skipped, len(table)) == (1, 2)
    said = capfd.readouterr().err
    assert f"line 3 skipped ({reason}" in said and len(said) < 500


def test_what_is_reported_of_many_bad_lines_is_bounded(tmp_path, capfd):
    old = write(tmp_path / "datalog.csv.1", row(0), *["no row\n"] * 500)
    log = write(tmp_path / "datalog.csv", row(MINUTE), *["no row\n"] * 500)
    assert read(old, log)[2] == 1000
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 6 and said[-1] == "more lines skipped: 995"


def test_the_number_of_a_bad_line_far_behind(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(lines, "BLOCK_OF_LINES", 10_000)
    rows = [row(minute * MINUTE) for minute in range(3000)]
    log = write(tmp_path / "datalog.csv", *rows[:2777], "no row\n", *rows[2777:])
    assert len(read(log)[0]) == 3000
    assert "line 2779 skipped" in capfd.readouterr().err


def test_a_long_log_is_put_together_piece_by_piece(tmp_path, monkeypatch):
    names = "kitchen", "", "attic"
    rows = [row(minute * MINUTE, minute % 90, name=names[minute % 7 % 3]) for minute in range(900)]
    log, old = (
        write(tmp_path / "datalog.csv", *rows[500:]),
        write(tmp_path / "old.csv", *rows[:600]),
    )
    at_once = read(log, old)
    monkeypatch.setattr(lines, "BLOCK", 1_000)  # read at once: else these logs are a block each
    monkeypatch.setattr(lines, "BLOCK_OF_LINES", 1_000)
    monkeypatch.setattr(tables, "LARGE", 100)
    table, doubled, _ = read(log, old)
    assert (values(table), doubled) == (values(at_once[0]), at_once[1])
    assert (len(table), doubled) == (900, 100)
    said = []
    tables.read([lines.log_at(log)], said.append)
    assert said[-1] == f"400 rows of {log} read"


GOOD = [  # lines that the server does not write, but that are rows all the same
    row(0)[:-1] + "\r\n",
    row(0).replace("50.0", "50"),
    row(0).replace("50.0", " 50.25\t"),
    row(0, temperature=-0.0),
    row(0).replace("20.0", "-0.5"),
    row(0, 100.0, 80.0),
    row(0, 0.0, -40.0),
    row(0, name=""),
    row(0).replace("2026-11-21", "2024-02-29"),
    row(0).replace("192.168.1.7", "fe80::1"),
]


@pytest.mark.parametrize(
    "names", [["007"], ["7", "007"], ["1e5", "inf"], ["true", "FALSE"], ["nan"]]
)
def test_a_name_is_no_number_even_if_all_names_look_like_one(tmp_path, names):
    log = write(tmp_path / "datalog.csv", *(row(0, name=name) for name in names))
    assert [name for name, _ in tables.each_sensor(read(log)[0])] == sorted(names)


@pytest.mark.parametrize("header", [b"", HEADER.encode()])
def test_a_byte_order_mark_is_no_part_of_a_row(tmp_path, header):
    (tmp_path / "datalog.csv").write_bytes(b"\xef\xbb\xbf" + header + row(0).encode())
    table, _, skipped = read(tmp_path / "datalog.csv")
    assert (len(table), skipped) == (1, 0)


@pytest.mark.parametrize("line", GOOD)
def test_what_a_spreadsheet_may_make_of_a_row(tmp_path, line):
    table, _, skipped = read(write(tmp_path / "datalog.csv", line))
    assert (len(table), skipped) == (1, 0)
    fields = line.strip().split(",")
    assert table.humidity[0] == float(fields[3]) and table.temperature[0] == float(fields[4])


@pytest.mark.parametrize("ending", [".csv", ".txt"])
@pytest.mark.parametrize(
    "seed", [*range(3), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(3, 50))]
)
def test_blocks_are_checked_as_strictly_as_lines(tmp_path, capfd, monkeypatch, ending, seed):
    """Whatever a row is turned into: it is taken from a block only if it would be taken alone."""
    chance = random.Random(seed)
    monkeypatch.setattr(lines, "BLOCK", 400)  # read at once: else this log is one block
    monkeypatch.setattr(lines, "BLOCK_OF_LINES", 400)
    held = []
    for minute in range(300):
        named = chance.choice(["kitchen", ""])
        line = row(minute * MINUTE, chance.uniform(0, 100), chance.uniform(-40, 80), named)
        line = line if ending == ".csv" else ",".join(line.split(",")[3:5]) + "\n"
        line = bytearray(line.encode())
        if chance.random() < 0.3:  # a byte replaced, removed or inserted, a line end too
            at = chance.randrange(len(line))
            some = bytes([chance.choice(b'0123456789.,-:TZ \t\r\n\0z\xff"')])
            line[at : at + chance.randrange(2)] = some * chance.randrange(2)
        held.append(bytes(line))
    whole = b"".join(held)
    taken = []
    for line in BytesIO(whole):
        try:
            lines.check_line(line, ending)
        except ValueError:
            continue
        fields = line.split(b",")
        taken.append(tuple(map(float, fields[3:5] if ending == ".csv" else fields)))
    log = tmp_path / f"datalog{ending}"
    log.write_bytes(whole)
    table = read(log)[0]
    assert sorted(zip(table.humidity, table.temperature)) == sorted(taken)
    assert 150 < len(taken) < 300
    capfd.readouterr()


@pytest.mark.parametrize(
    "tail, count, skipped",
    [
        (row(2 * MINUTE), 3, 0),
        (row(2 * MINUTE)[:-1], 3, 0),
        (row(2 * MINUTE)[:-2], 2, 1),
        (row(2 * MINUTE)[:30], 2, 1),
        (row(2 * MINUTE, name="")[:-1], 3, 0),
        (row(2 * MINUTE, name="")[:-2], 2, 1),
    ],
)
def test_a_log_that_is_being_written(tmp_path, tail, count, skipped):
    table, _, left = read(write(tmp_path / "datalog.csv", row(0), row(MINUTE), tail))
    assert (len(table), left) == (count, skipped)


@pytest.mark.parametrize("held", [b"", content(), content(HEADER), b"\0" * 4096, b"no row at all"])
def test_nothing_to_report(tmp_path, held):
    (tmp_path / "datalog.csv").write_bytes(held)
    with pytest.raises(lines.Unreadable, match=r"datalog.csv \(no reading in it\)$"):
        read(tmp_path / "datalog.csv")


def test_a_clock_that_went_backwards(tmp_path, capfd):
    rows = [row(minute * MINUTE) for minute in (10, 11, 12, 5, 6, 7, 8, 9)]
    assert len(read(write(tmp_path / "datalog.csv", *rows))[0]) == 8
    said = capfd.readouterr().err
    assert said == "a clock went backwards (kitchen), sorted by time: 1\n"


# A row that stands twice


def test_rows_doubled_by_name_and_n_are_used_once(tmp_path, capfd):
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
    table, doubled, _ = read(log)
    assert "rows that stand twice, used once: 1\n" in capfd.readouterr().err
    assert doubled == 1
    assert table.sensor.value_counts().to_dict() == {"kitchen": 2, "attic": 1, "192.168.1.7": 2}
    assert table.humidity.max() == 50, "the first is kept"


def test_a_plain_row_in_two_files_is_used_once(tmp_path):
    """In one file it may stand twice: two datagrams of one moment."""
    a, b, c = (row(minute * MINUTE, name="") for minute in (1, 2, 3))
    one = write(tmp_path / "datalog.csv.1", a, b, b, b)
    two = write(tmp_path / "datalog.csv", b, b, c, c)
    table, doubled, _ = read(two, one)
    assert doubled == 2
    assert [time.minute for time in table.time] == [1, 2, 2, 2, 3, 3]


# Logs of any age

ROWS = [
    row(minute * MINUTE, 50 + minute % 9, -minute / 10, name)
    for minute in range(90)
    for name in ("kitchen", "")
]
PACKERS = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress}


@pytest.mark.parametrize(
    "name, ending, packing",
    [
        ("datalog.csv", ".csv", ""),
        ("datalog.csv.1", ".csv", ""),
        ("datalog.csv.23.gz", ".csv", ".gz"),
        ("datalog.csv-20261121", ".csv", ""),
        ("datalog.csv-20261121.xz", ".csv", ".xz"),
        ("datalog.csv-20261121-1795255202.bz2", ".csv", ".bz2"),
        ("datalog.csv.2026-11-21", ".csv", ""),
        ("datalog.txt.gz", ".txt", ".gz"),
        ("my.db.csv.1", ".csv", ""),
        ("datalog.db.1", ".db", ""),
    ],
)
def test_the_name_of_a_log(name, ending, packing):
    assert lines.log_at(Path("some.csv", name))[2:] == (ending, packing)


@pytest.mark.parametrize(
    "name",
    ["notes.md", "datalog.csv.new", "datalog.db-wal", "datalog.publish", "datalog.gz", ".", "csv"],
)
def test_the_name_of_no_log(name):
    with pytest.raises(ValueError):
        lines.log_at(Path(name))


@pytest.mark.parametrize("packing", PACKERS)
def test_rotated_and_packed_logs_in_any_order(tmp_path, capfd, packing):
    """A server that found its log rotated began the next with a header; rows may stand in both."""
    pack = PACKERS[packing]
    names = ["datalog.csv", "datalog.csv.1", f"datalog.csv.2{packing}", "datalog.csv.3"]
    for name, rows in zip(names, [ROWS[120:], ROWS[50:130], ROWS[:50], []]):
        held = content(*rows)
        (tmp_path / name).write_bytes(pack(held) if name.endswith(".2" + packing) else held)
    whole = read(write(tmp_path / "whole.csv", *ROWS))
    for order in (names, names[::-1], [names[1], names[0], names[3], names[2]]):
        table, doubled, skipped = read(*(tmp_path / name for name in order))
        assert values(table) == values(whole[0])
        assert (doubled, skipped) == (10, 0)
    assert "clock" not in capfd.readouterr().err


@pytest.fixture(scope="module")
def long_log():
    chance = random.Random(1)
    return content(*(row(minute * MINUTE, chance.uniform(0, 99)) for minute in range(20_000)))


@pytest.mark.parametrize("packing", [".gz", ".xz", ".bz2"])
def test_a_damaged_packed_log_is_read_as_far_as_it_goes(tmp_path, capfd, packing, long_log):
    packed = PACKERS[packing](long_log)
    most = len(packed) * 3 // 4
    for damage in (b"", bytes(len(packed) - most)):  # cut off, or not written to the disk
        old = tmp_path / f"datalog.csv.1{packing}"
        old.write_bytes(packed[:most] + damage)
        table = read(old, write(tmp_path / "datalog.csv", row(30_000 * MINUTE)))[0]
        assert 1 < len(table) < 20_000
        assert f"{old}: read as far as it goes (" in capfd.readouterr().err


def test_a_packed_log_that_is_none(tmp_path, capfd):
    (tmp_path / "datalog.csv.gz").write_text("no gzip")
    with pytest.raises(lines.Unreadable, match="no reading in it"):
        read(tmp_path / "datalog.csv.gz")
    assert "read as far as it goes (Not a gzipped file" in capfd.readouterr().err


def test_a_text_log_and_its_rotated_one(tmp_path, capfd):
    (tmp_path / "datalog.txt.1").write_bytes(b"74.3,25.7\n74.3,25.7\n")
    (tmp_path / "datalog.txt").write_bytes(
        b"74.3,25.7\n 65.25 ,\t25.0 \r\nfoo\n70,20,kitchen,1795255203000042,3.5\n70.0,-0.5\n71.0,2"
    )
    table, doubled, skipped = read(tmp_path / "datalog.txt", tmp_path / "datalog.txt.1")
    assert list(table.humidity) == [74.3, 65.25, 70.0, 74.3, 74.3]
    assert set(table.sensor) == {"datalog.txt"} and table.time.isna().all()
    assert (doubled, skipped) == (0, 3)
    said = capfd.readouterr().err
    assert "datalog.txt has neither times nor names: statistics only" in said
    assert "line 6 skipped (torn): b'71.0,2'" in said
    (tmp_path / "datalog.txt").write_bytes(b"74.3,25.7")
    assert len(read(tmp_path / "datalog.txt")[0]) == 1, "whole, but for its line end"


# Databases


def test_a_database_holds_the_same_as_the_csv(tmp_path):
    csv = write(tmp_path / "datalog.csv", *ROWS)
    with closing(write_db(tmp_path / "datalog.db", *ROWS)):
        assert values(read(tmp_path / "datalog.db")[0]) == values(read(csv)[0])
        table, doubled, _ = read(tmp_path / "datalog.db", csv)
        assert values(table) == values(read(csv)[0]) and doubled == len(ROWS)


def test_a_packed_database(tmp_path):
    write_db(tmp_path / "datalog.db", *ROWS).close()
    packed = tmp_path / "datalog.db-20261121.gz"
    packed.write_bytes(gzip.compress((tmp_path / "datalog.db").read_bytes()))
    assert values(read(packed)[0]) == values(read(tmp_path / "datalog.db")[0])


def test_a_running_server_keeps_its_database(tmp_path):
    with closing(write_db(tmp_path / "datalog.db", *ROWS)) as server:
        # Not committed
        server.execute("INSERT INTO reading VALUES ('torn', NULL, NULL, NULL, NULL, NULL)")
        assert read(tmp_path / "datalog.db")[2] == 0
        server.commit()
        assert read(tmp_path / "datalog.db")[2] == 1
        # Nobody in the way
        assert server.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0)


def test_one_row_of_a_database_is_one_line(tmp_path):
    whole = row(0).strip()
    with closing(write_db(tmp_path / "datalog.db", row(MINUTE))) as server:
        fields = [f"{whole}\n{whole[:24]}", *whole.split(",")[1:]]
        server.execute("INSERT INTO reading VALUES (?, ?, ?, ?, ?, ?)", fields)
        server.commit()
        table, _, skipped = read(tmp_path / "datalog.db")
        assert (len(table), skipped) == (1, 1)


def test_a_stopped_servers_database_is_left_as_it_is(tmp_path):
    folder = tmp_path / "50% #1?" if os.name == "posix" else tmp_path / "50% #1"
    folder.mkdir()
    write_db(folder / "datalog.db", *ROWS).close()
    before = (folder / "datalog.db").read_bytes()
    assert len(read(folder / "datalog.db")[0]) == len(ROWS)
    assert [path.name for path in folder.iterdir()] == ["datalog.db"]
    assert (folder / "datalog.db").read_bytes() == before
    with closing(sqlite3.connect(folder / "datalog.db")) as database:
        assert database.execute("SELECT max(time) FROM reading").fetchone()[0][:10] == "2026-11-21"
    assert read(folder / "datalog.db")[0].time.max() == datetime(2026, 11, 21, 1, 29)
