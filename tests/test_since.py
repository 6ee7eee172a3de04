"""Readings since a time, read from a log's end: what is late, what is older, how much is read."""

import gzip
import os
from datetime import datetime, timedelta

import pytest

from dht22.report import lines
from support.made import MINUTE, START, row, stamp, write, write_db

SINCE = 500  # minutes


def minutes_of(path, since=SINCE):
    """Return the minutes of the rows that are read since a minute."""
    rows = b"".join(lines.blocks(lines.log_at(path), stamp(since * MINUTE)[:23].encode()))
    stamps = [line[:23].decode() for line in rows.splitlines() if line.startswith(b"2026")]
    return [(datetime.fromisoformat(each) - START) // timedelta(minutes=1) for each in stamps]


@pytest.fixture
def late(monkeypatch):
    """Look back 50 rows, 10 at a time."""
    monkeypatch.setattr(lines, "BLOCK_OF_LINES", 10 * len(row(0)))
    monkeypatch.setattr(lines, "LATE_BYTES", 50 * len(row(0)))
    monkeypatch.setattr(lines, "LATE_ROWS", 50)


ORDERS = {  # the minutes of a log's rows, in the order in which they were delivered
    "in order": [*range(1000)],
    "a spool of old ones at the end": [*range(100, 1000), *range(40)],
    "a spool of older and newer ones": [*range(480), *range(520, 1000), *range(480, 520)],
    "older ones between newer ones": [*range(600), *range(100, 140), *range(600, 1000)],
    "only older ones": [*range(400)],
    "only newer ones": [*range(500, 900)],
    "the first alone is newer": [999, *range(40)],
}


@pytest.mark.parametrize("minutes", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("ending", [".csv", ".db"])
def test_all_that_is_newer_is_read(tmp_path, late, minutes, ending):
    rows = [row(minute * MINUTE, n=10**15 + place) for place, minute in enumerate(minutes)]
    path = tmp_path / f"datalog{ending}"
    if ending == ".csv":
        write(path, *rows)
    else:
        write_db(path, *rows).close()
    found = minutes_of(path)
    newer = [minute for minute in minutes if minute >= SINCE]
    assert [minute for minute in found if minute >= SINCE] == newer
    assert found == minutes[len(minutes) - len(found) :], "from one row on to the end"


@pytest.mark.parametrize("ending", [".csv", ".db"])
def test_it_ends_where_a_spools_worth_is_older_throughout(tmp_path, late, ending):
    """What lies before that is not read, newer or not: else the last week would take years."""
    minutes = [700, *range(100), *range(500, 600)]
    rows = [row(minute * MINUTE, n=10**15 + place) for place, minute in enumerate(minutes)]
    if ending == ".csv":
        write(tmp_path / "datalog.csv", *rows)
    else:
        write_db(tmp_path / "datalog.db", *rows).close()
    found = minutes_of(tmp_path / f"datalog{ending}")
    assert found[-100:] == [*range(500, 600)] and len(found) < 111


def test_lines_that_are_no_rows_stop_nothing(tmp_path, late):
    rows = [row(minute * MINUTE) for minute in range(900)]
    held = [*rows[:800], b"\0" * 2000 + b"\n", "no row\n", *rows[800:], rows[-1][:30]]
    assert minutes_of(write(tmp_path / "datalog.csv", *held))[-401:] == [*range(500, 900), 899]
    assert minutes_of(write(tmp_path / "datalog.csv", b"\0" * 9000)) == []
    (tmp_path / "datalog.csv").write_bytes(b"")
    assert minutes_of(tmp_path / "datalog.csv") == []


def test_a_packed_log_is_read_from_its_start(tmp_path):
    held = write(tmp_path / "datalog.csv", *(row(minute * MINUTE) for minute in range(900)))
    packed = tmp_path / "datalog.csv.1.gz"
    packed.write_bytes(gzip.compress(held.read_bytes()))
    assert minutes_of(packed) == [*range(900)]


def test_the_last_week_of_years_takes_as_long_as_a_week(tmp_path):
    """A gigabyte that is nothing but a hole, and behind it a day."""
    path = write(tmp_path / "datalog.csv")
    with path.open("r+b") as log:
        log.seek(2**30)
        log.write(b"\n" + b"".join(row(minute * MINUTE).encode() for minute in range(1440)))
    began = os.times()
    found = minutes_of(path)
    assert found[-940:] == [*range(500, 1440)] and len(found) <= 1440
    assert os.times().user - began.user < 1


# What is wanted

pandas = pytest.importorskip("pandas")

from dht22.report import tables  # noqa: E402


def chosen(path, **wanted):
    return tables.read([lines.log_at(path)], lambda text: None, tables.Chosen(**wanted))[0]


def test_since_until_and_names(tmp_path):
    rows = [row(m * MINUTE, name=name) for m in range(60) for name in ("kitchen", "attic", "")]
    path = write(tmp_path / "datalog.csv", *rows)
    since, until = (START + timedelta(minutes=minute) for minute in (20, 30))
    found = chosen(path, since=since, until=until, names=frozenset(["attic", "192.168.1.7"]))
    assert set(found.sensor) == {"attic", "192.168.1.7"}
    assert (found.time.min(), found.time.max(), len(found)) == (
        since,
        until - timedelta(minutes=1),
        20,
    )
    assert len(chosen(path, names=frozenset(["kitchen"]))) == 60
    with pytest.raises(lines.Unreadable, match="no reading of cellar"):
        chosen(path, names=frozenset(["cellar"]))


def test_a_bad_line_has_no_number_where_the_start_is_not_read(tmp_path, capfd):
    path = write(tmp_path / "datalog.csv", row(0), "no row\n", row(MINUTE))
    assert len(chosen(path, since=START)) == 2
    assert f"{path} a line skipped (not a row as" in capfd.readouterr().err
