"""Facts about the files: what is mended at the start, what is refused, what rotation leaves."""

import bz2
import lzma
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import types

import pytest

from dht22 import console
from dht22.log import formats, linefile
from dht22.server import recovery
from support.made import HEADER
from support.tools import ROOT, needs_namespaces

PLAIN = "2026-11-21T10:00:02.123Z,192.168.1.7,,74.3,25.7,"
NAMED = "2026-11-21T10:00:02.123Z,fe80::1,kitchen,74.3,-5.7,1795255202123456"
ROW = (1795600000.0, "127.0.0.1", "", "50.0,20.0", "")
ROW_LINE = "2026-11-25T09:46:40.000Z,127.0.0.1,,50.0,20.0,\n"

MENDED = {  # ending: [(what is there, what is left of it)]
    ".txt": [
        ("", ""),
        ("74.3,25.7\n", "74.3,25.7\n"),
        (
            "74.30000305175781,25.700000762939453\n",
            "74.30000305175781,25.700000762939453\n",
        ),  # the course's log
        ("74.3,25.7\r\n", "74.3,25.7\r\n"),
        ("74.3,25.7", "74.3,25.7\n"),
        ("74.3,25.7\n48.9,-3.7", "74.3,25.7\n48.9,-3.7\n"),
        ("74.3,25.7\n48.9,-3.", "74.3,25.7\n"),
        ("74.3,25.7\n48.9,-3", "74.3,25.7\n"),
        ("74.3,25.7\n48.9,", "74.3,25.7\n"),
        ("74.3,25.7\n4", "74.3,25.7\n"),
        ("74.30000305175781,25.7\n74.30000305175781,2", "74.30000305175781,25.7\n"),
        ("7", ""),
        ("74.3,25.7\n\0\0\0", "74.3,25.7\n"),
        ("74.3,25.7\n48.9\0\0\0", "74.3,25.7\n"),
        ("74.3,25.7\n48.9,-3.7\0", "74.3,25.7\n48.9,-3.7\n"),
        ("74.3,25.7\n" + "\0" * 5000, "74.3,25.7\n"),
        ("\0" * 5000, ""),
        ("74.3,25.7\n" * 1000 + "1.", "74.3,25.7\n" * 1000),
    ],
    ".csv": [
        ("", HEADER),
        (HEADER, HEADER),
        (HEADER[:-1], HEADER),
        (HEADER[:7], HEADER),
        (HEADER + PLAIN + "\n", HEADER + PLAIN + "\n"),
        (HEADER + PLAIN, HEADER + PLAIN + "\n"),
        (HEADER + NAMED, HEADER + NAMED + "\n"),
        *[(HEADER + PLAIN[:cut], HEADER) for cut in range(1, len(PLAIN))],
        *[
            (HEADER + PLAIN + "\n" + NAMED[:cut], HEADER + PLAIN + "\n")
            for cut in range(1, len(NAMED))
        ],
        (HEADER + PLAIN + "\n\0\0", HEADER + PLAIN + "\n"),
        # Somebody emptied the file while it was written: the header is put back.
        (PLAIN + "\n", HEADER + PLAIN + "\n"),
        (PLAIN, HEADER + PLAIN + "\n"),
        (PLAIN + "\n" + NAMED + "\n\0\0", HEADER + PLAIN + "\n" + NAMED + "\n"),
        ((PLAIN + "\n") * 50_000, HEADER + (PLAIN + "\n") * 50_000),
    ],
}
REFUSED = {
    ".txt": [
        "notes",
        "buy milk\n",
        "74.3,25.7\nbuy milk\n",
        "buy milk\n74.3,25.7\n",
        "74.3,25.7\nbuy mi",
        "\n",
        "74.3;25.7\n",
        "x" * 5000,
        "74.3,25.7\n" * 500 + "x" * 5000,
        HEADER,
        PLAIN + "\n",
        "3317.3,20.0\n",
    ],
    ".csv": [
        "buy milk\n",
        "when,what\n",
        PLAIN + "\nbuy milk\n",
        PLAIN + "\nbuy mi",
        PLAIN[:20],
        HEADER + "buy milk\n",
        HEADER + PLAIN + "\nbuy mi",
        "time;client\n",
        "74.3,25.7\n",
        "x" * 5000,
    ],
    ".db": ["buy milk\n" * 100, "x"],
}


def test_what_somebody_emptied_is_not_filled_with_nuls_when_an_append_is_undone(
    tmp_path, monkeypatch
):
    log = formats.open_log(str(tmp_path / "a.txt"), print)
    log.append([(0.0, "192.168.1.7", "", "50.0,20.0", "")])
    log.append([(2.0, "192.168.1.7", "", "50.0,20.0", "")])
    os.truncate(log.path, 0)

    def fail(_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(linefile, "sync", fail)
    with pytest.raises(OSError, match="Input/output error"):
        log.flush()
    assert (tmp_path / "a.txt").read_bytes() == b""


@pytest.mark.parametrize(
    "ending, there, left",
    [(ending, *facts) for ending, table in MENDED.items() for facts in table],
    ids=lambda text: ascii(text[-25:]),
)
def test_a_torn_end_is_mended_and_said(tmp_path, ending, there, left):
    path = tmp_path / f"log{ending}"
    path.write_bytes(there.encode())
    said = []
    log = formats.LOGS[ending](str(path), said.append)
    assert path.read_bytes().decode() == left
    assert bool(said) == (there not in (left, "")), "said, unless nothing was to be mended"
    log.append([ROW])
    log.flush()
    assert path.read_bytes().decode() == left + ("50.0,20.0\n" if ending == ".txt" else ROW_LINE)


@pytest.mark.parametrize(
    "ending, there",
    [(ending, there) for ending, table in REFUSED.items() for there in table],
    ids=lambda text: ascii(text[-25:]),
)
def test_a_foreign_file_is_refused_untouched(tmp_path, ending, there):
    path = tmp_path / f"log{ending}"
    path.write_text(there)
    with pytest.raises(OSError):
        formats.LOGS[ending](str(path), print)
    assert path.read_text() == there
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize(
    "ending, there, windows",
    [
        (".csv", b"\xef\xbb\xbf" + HEADER.encode(), r"byte order mark b'\xef\xbb\xbf'"),
        (".csv", HEADER.replace("\n", "\r\n").encode(), r"line end b'\r\n'"),
        (".csv", f"{HEADER}{PLAIN}\r\n".encode(), r"line end b'\r\n'"),
        (".csv", f"{HEADER}{NAMED}\r\n{PLAIN}".encode(), r"line end b'\r\n'"),
        (
            ".csv",
            f"\ufeff{HEADER}{NAMED}\n".replace("\n", "\r\n").encode(),
            r"byte order mark b'\xef\xbb\xbf' and the line end b'\r\n'",
        ),
        (".txt", b"\xef\xbb\xbf74.3,25.7\n", r"byte order mark b'\xef\xbb\xbf'"),
    ],
)
def test_what_an_editor_on_windows_put_into_a_log_is_shown_and_the_command_takes_it_off(
    script, tmp_path, ending, there, windows
):
    path = tmp_path / f"my log{ending}"
    path.write_bytes(there)
    running = script("server", "--port", 0, "--log", path.name)
    assert running.wait() == 1
    error = f"cannot log to {path.name} (an editor has put the {windows} into it); take that off: "
    assert error in running.err and running.err.count("\n") == 1
    assert path.read_bytes() == there
    command = running.err.partition("take that off: ")[2].partition("; or give")[0]
    subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True)
    said = []
    formats.LOGS[ending](str(path), said.append)
    assert path.read_bytes().startswith(there.lstrip(b"\xef\xbb\xbf").replace(b"\r\n", b"\n"))
    assert len(said) == (not there.endswith(b"\n")), "nothing else was to be mended"


@pytest.mark.parametrize(
    "table",
    [
        "milk (litres)",
        "reading (time, client, name, humidity, temperature, n)",
        formats.CREATE_TABLE.partition("TABLE ")[2].replace(", UNIQUE (name, n)", ""),
        formats.CREATE_TABLE.partition("TABLE ")[2].replace("REAL", "TEXT"),
    ],
    ids=["another", "no types", "no unique", "other types"],
)
def test_another_database_is_refused_untouched(tmp_path, table):
    with sqlite3.connect(tmp_path / "log.db") as connection:
        connection.execute(f"CREATE TABLE {table}")
    connection.close()
    before = (tmp_path / "log.db").read_bytes()
    with pytest.raises(OSError, match="its table is not that of our readings"):
        formats.DbLog(str(tmp_path / "log.db"), print)
    assert (tmp_path / "log.db").read_bytes() == before


def test_a_database_with_a_view_or_an_index_of_the_users_is_ours(tmp_path):
    formats.DbLog(str(tmp_path / "log.db"), print).connection.close()
    with sqlite3.connect(tmp_path / "log.db") as connection:
        connection.execute("CREATE INDEX by_time ON reading (time)")
        connection.execute("CREATE VIEW warm AS SELECT * FROM reading WHERE temperature > 30")
    connection.close()
    formats.DbLog(str(tmp_path / "log.db"), print).append([ROW])


@pytest.mark.parametrize("ending", formats.LOGS)
def test_what_is_no_regular_file_is_refused(tmp_path, ending):
    path = tmp_path / f"log{ending}"
    os.mkfifo(path)
    with pytest.raises(OSError) as raised:
        formats.LOGS[ending](str(path), print)
    assert raised.value.strerror, "there is a reason to show"


def test_the_write_ahead_log_of_a_database_stays_small(tmp_path):
    log = formats.DbLog(str(tmp_path / "log.db"), print)
    for _ in range(400):
        log.append([ROW])
    assert os.path.getsize(tmp_path / "log.db-wal") < 500_000, "1.6 MB with SQLite's own limit"
    log.append([ROW] * 50_000)  # what waited while a disk was full
    for _ in range(2):
        log.append([ROW])
    assert os.path.getsize(tmp_path / "log.db-wal") < 500_000


def test_a_database_starts_on_a_disk_that_its_write_ahead_log_has_filled(tmp_path):
    needs_namespaces()
    (tmp_path / "disk").mkdir()
    fill = """
import os, signal
from dht22.log import formats
log, written = formats.DbLog("disk/a.db", print), 0
try:
    while True:
        log.append([(1795600000.0, "127.0.0.1", "", "50.0,20.0", "")])
        written += 1
except OSError:
    print(written, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)  # so that nothing is tidied up
"""
    again = """
from dht22.log import formats
log = formats.DbLog("disk/a.db", print)
print(log.connection.execute("SELECT count(*) FROM reading").fetchone()[0])
"""
    code = 'mount -t tmpfs -o size=300k tmpfs disk; "$0" -c "$1"; "$0" -c "$2"'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", code, sys.executable, fill, again],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    written, found = map(int, done.stdout.split())
    assert found == written > 10


def test_database_has_the_columns_of_the_csv_and_null_where_that_is_empty(tmp_path):
    log = formats.DbLog(str(tmp_path / "log.db"), print)
    named = (1795600001.5, "fe80::1", "kitchen", "74.3,-5.7", "1795255202123456")
    log.append([ROW, named])
    log.append([ROW, named])  # a plain reading may come twice; (name, n) may not
    with sqlite3.connect(tmp_path / "log.db") as reader:
        assert reader.execute("SELECT * FROM reading ORDER BY time").fetchall() == [
            ("2026-11-25T09:46:40.000Z", "127.0.0.1", None, 50.0, 20.0, None)
        ] * 2 + [("2026-11-25T09:46:41.500Z", "fe80::1", "kitchen", 74.3, -5.7, 1795255202123456)]
        assert reader.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    reader.close()


def test_a_database_that_is_removed_under_way_is_a_failing_log(tmp_path):
    log = formats.DbLog(str(tmp_path / "log.db"), print)
    os.rename(tmp_path / "log.db", tmp_path / "log.db.1")
    with pytest.raises(OSError, match="moved away"):
        log.append([ROW])


@pytest.mark.parametrize("ending", [".txt", ".csv"])
def test_rotation(tmp_path, ending):
    path = tmp_path / f"log{ending}"
    log = formats.LOGS[ending](str(path), print)
    log.append([ROW])
    whole = path.read_text()
    path.rename(tmp_path / "log.1")
    log.append([ROW])
    path.unlink()
    log.append([ROW])
    assert path.read_text() == (tmp_path / "log.1").read_text() == whole
    os.truncate(path, 0)  # logrotate's copytruncate
    log.append([ROW])
    assert path.read_text() == whole
    path.rename(tmp_path / "log.2")
    path.write_text("buy milk\n")
    with pytest.raises(OSError, match="not a file of ours|first line"):
        log.append([ROW])
    assert path.read_text() == "buy milk\n"
    path.unlink()
    log.append([ROW])
    assert path.read_text() == whole


def test_what_a_killed_server_left_in_the_write_ahead_log_is_flushed_at_the_start(tmp_path):
    killed = formats.DbLog(str(tmp_path / "killed.db"), print)
    killed.append([ROW])
    for ending in "", "-wal":
        shutil.copy(tmp_path / f"killed.db{ending}", tmp_path / f"log.db{ending}")
    assert (tmp_path / "log.db-wal").stat().st_size > 0
    log = formats.DbLog(str(tmp_path / "log.db"), print)  # closed, it would have no such file
    assert (tmp_path / "log.db-wal").stat().st_size == 0
    log.connection.close()
    with sqlite3.connect(tmp_path / "log.db") as connection:
        assert connection.execute("SELECT humidity FROM reading").fetchall() == [(50.0,)]


def test_a_database_goes_on_after_an_append_that_failed_half_way(tmp_path):
    database = formats.DbLog(str(tmp_path / "log.db"), print)
    with pytest.raises(OSError):
        database.append([ROW, (*ROW[:4], [])])  # SQLite takes no list
    database.append([(*ROW[:3], "60.0,30.0", "")])
    with sqlite3.connect(tmp_path / "log.db") as connection:
        assert connection.execute("SELECT humidity FROM reading").fetchall() == [(60.0,)]


@pytest.mark.parametrize("log", [b"", b"1.0,1.0\n"])
def test_a_failed_append_or_flush_leaves_nothing(tmp_path, monkeypatch, log):
    path = tmp_path / "log.txt"
    path.write_bytes(log)
    text = formats.TextLog(str(path), print)

    def fail(fd):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(linefile.os, "fsync", fail)
    text.append([ROW])
    with pytest.raises(OSError):
        text.flush()
    assert path.read_bytes() == log, "to be written again: Linux drops the pages of a failed fsync"
    monkeypatch.undo()
    text.append([ROW])
    text.flush()
    assert path.read_bytes() == log + b"50.0,20.0\n"


def test_on_macos_the_drive_itself_is_asked_to_write(tmp_path, monkeypatch):
    """There fsync leaves it in the drive's cache. Not every file system knows the request."""
    log = formats.TextLog(str(tmp_path / "log.txt"), print)
    asked, synced, knows = [], [], True

    def ask(fd, request):
        asked.append((fd, request))
        if not knows:
            raise OSError(45, "Operation not supported")

    monkeypatch.setattr(linefile.fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(linefile.fcntl, "fcntl", ask)
    monkeypatch.setattr(linefile.os, "fsync", synced.append)
    log.append([ROW])
    log.flush()
    fd = log.file.file.fileno()
    assert (asked, synced) == ([(fd, 51)], [])
    knows = False
    log.flush()
    assert (asked, synced) == ([(fd, 51)] * 2, [fd])
    database = formats.DbLog(str(tmp_path / "log.db"), print)
    assert database.connection.execute("PRAGMA fullfsync").fetchone() == (1,)


def test_a_file_of_the_users_beside_a_log_is_left_alone(tmp_path):
    path, mine = tmp_path / "log.csv", tmp_path / "log.csv.new"
    path.write_text(PLAIN + "\n")
    mine.write_text("my own notes\n")
    formats.CsvLog(str(path), print)
    assert path.read_text() == HEADER + PLAIN + "\n"
    assert mine.read_text() == "my own notes\n"
    assert recovery.recover(str(path)) == {}
    assert sorted(os.listdir(tmp_path)) == ["log.csv", "log.csv.new"]


@pytest.mark.parametrize("nuls", [1, 100, 490, 508, 511, 512, 513, 1024, 4096, 70_000])
def test_nuls_at_the_end_of_a_log(tmp_path, nuls):
    path = tmp_path / "log.csv"
    whole = HEADER + (PLAIN + "\n") * 20
    path.write_bytes(whole.encode() + b"\0" * nuls)
    formats.CsvLog(str(path), print)
    assert path.read_text() == whole
    notes = "dear diary\n" * 100 + "call 555" + "\0" * nuls
    path = tmp_path / "notes.txt"
    path.write_text(notes)
    with pytest.raises(OSError, match="not a file of ours"):
        formats.TextLog(str(path), print)
    assert path.read_text() == notes


def test_a_header_that_is_put_back_keeps_the_mode_and_follows_no_link(tmp_path):
    path, other = tmp_path / "log.csv", tmp_path / "other"
    path.write_text(PLAIN + "\n")
    path.chmod(0o640)
    other.write_text("mine")
    (tmp_path / ".log.csv.dht22-new").symlink_to(other)
    formats.CsvLog(str(path), print)
    assert path.read_text() == HEADER + PLAIN + "\n"
    assert path.stat().st_mode & 0o777 == 0o640
    assert other.read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["log.csv", "other"]


def test_what_lies_beside_a_log_is_no_reason_to_fail(tmp_path):
    formats.CsvLog(str(tmp_path / "log.csv"), print)
    (tmp_path / "log.csv.old").symlink_to(tmp_path / "nowhere")
    (tmp_path / "log.csv.d").mkdir()
    for ending in "gz", "xz", "bz2":
        (tmp_path / f"log.csv.2.{ending}").write_text("neither packed nor a log")
    assert recovery.recover(str(tmp_path / "log.csv")) == {}


def named_row(name, n):
    return f"2026-11-21T10:00:02.123Z,192.168.1.7,{name},74.3,25.7,{n}\n"


def test_packed_logs_are_known_and_other_packings_reported(tmp_path, capfd):
    content = {name: (HEADER + named_row(name, 10**15 + 1)).encode() for name in ("a", "b", "c")}
    (tmp_path / "log.csv").write_text(HEADER)
    (tmp_path / "log.csv.1.xz").write_bytes(lzma.compress(content["a"]))
    (tmp_path / "log.csv.2.bz2").write_bytes(bz2.compress(content["b"]))
    (tmp_path / "log.csv.3.zst").write_bytes(content["c"])
    (tmp_path / "log.csv.\x1b[31m.zst").write_bytes(content["c"])
    (tmp_path / "log.csv.new").write_bytes(content["c"])
    assert recovery.recover(str(tmp_path / "log.csv")) == {"a": 10**15 + 1, "b": 10**15 + 1}
    said = capfd.readouterr().err
    assert "log.csv.3.zst: read as far as it goes (.zst cannot be read here; unpack it); " in said
    assert r"log.csv.\x1b[31m.zst: " in said and "\x1b" not in said
    assert said.count("\n") == 2


def test_the_start_tells_its_progress_and_can_be_interrupted(script, tmp_path):
    """Half a gigabyte of history takes seconds."""
    with open(tmp_path / "datalog.csv.1", "w") as log:
        log.write(HEADER)
        block = "".join(named_row("kitchen", 10**15 + k) for k in range(10_000))
        for _ in range(150):
            log.write(block)
    running = script("server", "--port", 0, timers={"console.PROGRESS": 0.0})
    running.says(r"^reading datalog.csv.1: \d+ %$")
    begun = time.monotonic()
    assert running.stop(signal.SIGTERM) == 0
    assert "listening" not in running.err and "Traceback" not in running.err
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    "position, percent", [(0, 0), (1, 0), (2000, 50), (3999, 99), (4000, 100)], ids=str
)
def test_progress_is_the_share_that_was_read(tmp_path, position, percent):
    (tmp_path / "datalog.csv").write_bytes(bytes(4000))
    with open(tmp_path / "datalog.csv", "rb", buffering=0) as file:
        file.seek(position)
        assert recovery.percent_read(file) == percent


def test_progress_is_told_every_two_seconds(monkeypatch):
    now, told = 0.0, []
    monkeypatch.setattr(console, "time", types.SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(console, "say", lambda line: told.append(now))
    progress = console.Progress()
    while now <= 10:
        progress.show("reading")
        now += 0.5
    assert told == [2, 4, 6, 8, 10]
