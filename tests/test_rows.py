"""Rows: columns are written as the same rows one by one, and a time as Python's own text of it."""

from datetime import datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from dht22.log import rows

TIMES = [1795600000.0, 1795600000.0, 1795600000.999, 1795600001.2]
COLUMNS = rows.PlainRows(
    TIMES,
    ["192.168.1.7", "192.168.1.8", "fe80::1", "192.168.1.7"],
    ["74.3,25.7", "0.0,0.0", "50.0,-3.7", "99.9,79.9"],
)
NAMED = (1795600000.5, "192.168.1.9", "kitchen", "61.0,21.4", "1795255204126000")


def test_columns_are_written_as_the_rows_that_they_are():
    one_by_one = list(COLUMNS)
    assert len(COLUMNS) == len(one_by_one) == 4
    assert one_by_one[2] == (1795600000.999, "fe80::1", "", "50.0,-3.7", "")
    for written in rows.text_lines, rows.csv_lines, rows.senders_of:
        assert written(COLUMNS) == written(one_by_one)
    assert rows.csv_lines(COLUMNS).splitlines()[2] == (
        b"2026-11-25T09:46:40.999Z,fe80::1,,50.0,-3.7,"
    )


def test_plain_and_named_rows_are_told_apart():
    plain = list(COLUMNS)
    assert rows.divided(COLUMNS) == (COLUMNS, [])
    assert rows.divided(plain) == (plain, [])
    assert rows.divided([plain[0], NAMED, plain[1]]) == (plain[:2], [NAMED])
    assert rows.senders_of([plain[0], NAMED]) == ["192.168.1.7", "kitchen"]


@given(st.integers(0, 4 * 10**15))
def test_a_time_is_as_python_writes_it(microseconds):
    expected = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(microseconds=microseconds)
    assert rows.rfc3339(microseconds / 1_000_000) == (
        expected.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    )
