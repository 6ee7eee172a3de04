"""What the server knows after a restart of what named sensors have sent: from its logs."""

import gzip
import os
import re
import sqlite3
import time

import pytest

from dht22.datagram import format_named, parse_ack
from dht22.server import recovery
from support.made import HEADER, content, row, write, write_db
from support.numbered import size
from support.tools import ask, cpu, send

BLOCK = "".join(
    f"2026-11-21T10:00:02.123Z,192.168.1.7,,{k % 100}.3,25.7,\n"
    f"2026-11-21T10:00:02.123Z,fe80::1,kitchen,{k % 100}.3,-5.7,1763719%07d{k:02}\n"
    for k in range(100)
)


def peak(running):
    """Return the most memory that a process ever had, in MiB."""
    with open(f"/proc/{running.process.pid}/status") as status:
        return int(re.search(r"VmHWM:\s+(\d+)", status.read())[1]) / 1024


@pytest.mark.parametrize("mebibytes", [32, pytest.param(1024, marks=pytest.mark.long)])
def test_a_long_log_is_known_at_once_in_little_memory(server, tmp_path, mebibytes):
    with open(tmp_path / "datalog.csv", "w") as log:
        log.write(HEADER)
        k = 0
        while log.tell() < mebibytes << 20:
            log.write(BLOCK.replace("%07d", f"{k:07}"))
            k += 1
    number = int(f"1763719{k - 1:07}99")
    running = server("--quiet")
    took = cpu(running.process)
    start = time.process_time()
    with open(tmp_path / "datalog.csv", "rb") as log:
        assert sum(line.count(b",") for line in log) > k
    counting = time.process_time() - start
    print(f"{mebibytes} MiB: ready after {took:.1f} s, {peak(running):.1f} MiB; {counting:.1f} s")
    assert took < 3 * counting + 1 and peak(running) < 50
    before = size(tmp_path / "datalog.csv")
    assert ask(running.port, format_named("50.0,20.0", "kitchen", number, 0.0)) == [
        b"ack,kitchen,%d," % number
    ]
    assert size(tmp_path / "datalog.csv") == before
    assert ask(running.port, format_named("50.0,20.0", "kitchen", number + 1, 0.0)) == [
        b"ack,kitchen,%d," % (number + 1)
    ]
    assert running.stop() == 0
    assert "logged 1 + duplicates 1 " in running.err


def test_what_rotation_has_left_is_known_too(server, tmp_path):
    """One name in each file, and a torn one said; whatever stands beside it."""
    torn = gzip.compress(content(*(row(0, name="torn", n=10**15 + k) for k in range(1, 10_000))))
    plain, cut = row(0, name=""), row(0, name="cut", n=10**15)[:-5]
    write(tmp_path / "datalog.csv", row(0, name="now", n=10**15 + 5), plain, cut)
    of_one = row(0, name="one", n=10**15 + 4), row(0, name="now", n=10**15 + 4)
    write(tmp_path / "datalog.csv.1", *of_one)
    of_two = content(row(0, name="two", n=10**15 + 3))
    (tmp_path / "datalog.csv.2.gz").write_bytes(gzip.compress(of_two))
    of_day = row(0, name="dated", n=10**15 + 2), row(0, name="dated", n=10**15 + 7)[:-4]
    write(tmp_path / "datalog.csv-20261121", *of_day)
    (tmp_path / "datalog.csv.3.gz").write_bytes(torn[: len(torn) // 2])
    (tmp_path / "datalog.csv.4.gz").write_bytes(b"buy milk\n")
    (tmp_path / "datalog.csv.folder").mkdir()
    (tmp_path / "datalog.csv.binary").write_bytes(os.urandom(100_000))
    running = server("--quiet")
    for name in "datalog.csv.3.gz", "datalog.csv.4.gz":
        running.says(
            rf"^{name}: read as far as it goes .*; what else is in it may be logged again$"
        )
    last = {"now": 5, "one": 4, "two": 3, "dated": 2}
    for name, n in last.items():
        assert ask(running.port, format_named("50.0,20.0", name, 10**15 + n, 0.0)) == [
            b"ack,%s,%d," % (name.encode(), 10**15 + n)
        ]
    known = int(
        parse_ack(ask(running.port, format_named("50.0,20.0", "torn", 10**15 + 1, 0.0))[0]).last
    )
    assert known > 10**15 + 1, "as far as it goes"
    assert (
        ask(running.port, format_named("50.0,20.0", "dated", 10**15 + 7, 0.0))[0]
        == b"ack,dated,1000000000000007,"
    )
    assert running.stop() == 0
    assert "received 6 = logged 1 + duplicates 5 " in running.err


@pytest.mark.parametrize("moment", range(3))
def test_a_rotation_while_the_logs_are_read_hides_nothing(tmp_path, monkeypatch, capfd, moment):
    """As logrotate does it, when the first file is about to be opened, or a later one."""
    log = tmp_path / "log.csv"
    names = {log: "now", tmp_path / "log.csv.1": "one"}
    for path, name in names.items():
        write(path, row(0, name=name, n=10**15))
    packed = gzip.compress(content(row(0, name="two", n=10**15)))
    (tmp_path / "log.csv.2.gz").write_bytes(packed)
    read = []

    def rotate():
        (tmp_path / "log.csv.2.gz").rename(tmp_path / "log.csv.3.gz")
        one = tmp_path / "log.csv.1"
        (tmp_path / "log.csv.2.gz").write_bytes(gzip.compress(one.read_bytes()))
        one.unlink()
        log.rename(one)

    def recover_csv(path, progress):
        if len(read) == moment:
            rotate()
        read.append(path)
        return recovery.recover_csv(path, progress)

    monkeypatch.setitem(recovery.RECOVERABLE, ".csv", recover_csv)
    assert recovery.recover(str(log)) == dict.fromkeys(("now", "one", "two"), 10**15)
    assert not capfd.readouterr().err


def test_a_log_that_is_only_just_being_packed_is_not_called_damaged(tmp_path, capfd):
    rows = [row(k, name="one", n=10**15 + k) for k in range(1000)]
    write(tmp_path / "log.csv.1", *rows)
    (tmp_path / "log.csv.1.gz").write_bytes(gzip.compress(content(*rows))[:500])
    assert recovery.recover(str(tmp_path / "log.csv")) == {"one": 10**15 + 999}
    assert not capfd.readouterr().err


@pytest.mark.parametrize("name", ["log.db.1", "log.db.old", "log.db.gz", "log.db.1.old"])
def test_whatever_a_rotated_log_is_called_that_it_cannot_be_read_is_reported(tmp_path, capfd, name):
    for other in "log.db", "log.db.1":
        write_db(tmp_path / other, row(0, name="one", n=10**15)).close()
    write(tmp_path / name, row(0, name="two", n=10**15))
    assert recovery.recover(str(tmp_path / "log.db")) == {"one": 10**15}
    assert capfd.readouterr().err == (
        f"{tmp_path / name}: read as far as it goes (file is not a database);"
        " what else is in it may be logged again\n"
    )


def test_a_neighbour_that_leads_nowhere_does_not_stop_the_server(server, tmp_path):
    (tmp_path / "datalog.csv.latest").symlink_to("removed long ago")
    running = server("--quiet")
    assert ask(running.port, b"50.0,20.0,kitchen,1000000000000001,0.000") == [
        b"ack,kitchen,1000000000000001,"
    ]


def test_without_a_csv_the_database_knows(server, tmp_path):
    options = "--quiet", "--log", "a.txt", "--log", "a.db"
    running = server(*options)
    ask(
        running.port,
        *(format_named("50.0,20.0", "kitchen", 10**15 + k, 0.0) for k in range(5)),
        format_named("50.0,20.0", "attic", 10**15, 0.0),
    )
    assert running.stop() == 0
    os.rename(tmp_path / "a.db", tmp_path / "a.db.1")
    running = server(*options)
    ask(running.port, format_named("51.0,20.0", "kitchen", 10**15 + 5, 0.0))
    assert running.stop() == 0
    running = server(*options)
    for name, last in ("attic", 0), ("kitchen", 5):
        for k in range(last + 1):
            assert ask(running.port, format_named("52.0,20.0", name, 10**15 + k, 0.0)) == [
                b"ack,%s,%d," % (name.encode(), 10**15 + last)
            ]
    assert running.stop() == 0
    assert "logged 0 + duplicates 7 " in running.err
    with sqlite3.connect(tmp_path / "a.db") as reader:
        assert reader.execute("SELECT name, n FROM reading").fetchall() == [("kitchen", 10**15 + 5)]
    reader.close()


def test_with_a_text_log_only_that_duplicates_are_forgotten_is_said_once(server):
    running = server("--quiet", "--log", "a.txt")
    send(running.port, b"50.0,20.0")
    ask(running.port, b"50.0,20.0,kitchen,1000000000000001,0.000")
    ask(running.port, b"50.0,20.0,kitchen,1000000000000002,0.000")
    assert running.stop() == 0
    assert (
        running.err.count(
            "without a .csv or .db log, duplicates are known only until this server stops\n"
        )
        == 1
    )


def test_of_too_many_names_the_latest_are_known_and_the_others_refused(server, tmp_path):
    rows = [row(0, name=f"s{k}", n=10**15 + k) for k in range(20_000)]
    write(tmp_path / "datalog.csv", *rows, row(0, name="s9999", n=10**15 + 20_000))
    running = server("--quiet")
    before = size(tmp_path / "datalog.csv")
    questions = [
        format_named("50.0,20.0", f"s{k}", 10**15 + k, 0.0)
        for k in (0, 9_999, 10_000, 10_001, 19_999)
    ]
    assert ask(running.port, *questions) == [
        b"ack,s9999,1000000000020000,",
        b"ack,s10001,1000000000010001,",
        b"ack,s19999,1000000000019999,",
    ]
    assert running.stop() == 0
    assert size(tmp_path / "datalog.csv") == before
    assert (
        "duplicates 3 + refused 2 " in running.err
        and "\nrefused 2: too many names\n" in running.err
    )


def test_a_rotated_log_that_went_through_an_editor_on_windows_is_known(server, tmp_path):
    row = "2026-11-21T10:00:02.123Z,fe80::1,kitchen,74.3,-5.7,1763719202123456\n"
    content = "\ufeff" + (HEADER + row).replace("\n", "\r\n")
    (tmp_path / "datalog.csv.1").write_bytes(content.encode())
    running = server("--quiet")
    question = b"74.3,-5.7,kitchen,1763719202123456,0.000"
    assert ask(running.port, question) == [b"ack,kitchen,1763719202123456,"]
    assert running.stop() == 0
    assert (tmp_path / "datalog.csv").read_text() == HEADER, "it is a duplicate"


def test_a_database_that_was_filled_with_a_csv_is_known(server, tmp_path):
    """SQLite's `.import` puts empty texts where there is nothing between two commas."""
    rows = [
        "'','77.9','12.8',''",
        "'kitchen','77.9','12.8','1763719202123456'",
        "'kitchen','77.9','12.8',''",
        "'attic','77.9','12.8',NULL",
    ]
    assert server("--log", "a.db").stop() == 0
    with sqlite3.connect(tmp_path / "a.db") as database:
        for row in rows:
            values = f"'2026-11-14T06:58:29.147Z','192.168.1.9',{row}"
            database.execute(f"INSERT INTO reading VALUES ({values})")
    database.close()
    running = server("--log", "a.db", "--quiet")
    question = b"77.9,12.8,kitchen,1763719202123456,0.000"
    assert ask(running.port, question) == [b"ack,kitchen,1763719202123456,"]
    assert running.stop() == 0
    assert "1 duplicate" in running.err and "Traceback" not in running.err
