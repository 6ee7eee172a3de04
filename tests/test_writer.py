"""The writer: what each log gets when, with logs that fail at chosen calls; and with real ones."""

import re
import socket
import subprocess

import pytest

from dht22.console import Notices
from dht22.server import writer
from support.tools import (
    free_port,
    inside_of,
    lines,
    needs,
    needs_namespaces,
    options,
    readings,
    send,
    until,
)


class FakeLog:
    """A log in memory: call k of `append` or `flush` fails where `fails(k)` says so."""

    def __init__(self, path, fails=lambda call: False):
        self.path = path
        self.fails = fails
        self.calls = 0
        self.rows, self.unflushed = [], []

    def call(self):
        self.calls += 1
        if self.fails(self.calls):
            self.unflushed = []  # a failed call undoes what it began, a flush its append too
            raise OSError(28, "No space left on device")

    def append(self, rows):
        rows = list(rows)
        self.commit()
        self.call()
        self.unflushed = rows

    def flush(self):
        self.call()
        self.commit()

    def commit(self):
        self.rows += self.unflushed
        self.unflushed = []

    def all(self):
        return [*self.rows, *self.unflushed]


def plain(k):
    return (float(k), "192.168.1.7", "", f"{k / 10:.1f},20.0", "")


def named(k, name="kitchen"):
    return (float(k), "192.168.1.8", name, f"{k / 10:.1f},21.0", str(10**15 + k))


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(writer, "LOG_RETRY", 0.0)


def opened(*logs):
    return writer.Writer(logs, Notices())


def test_all_logs_get_each_row_once_and_only_named_ones_are_flushed():
    logs = [FakeLog("a.txt"), FakeLog("a.db"), FakeLog("a.csv")]
    book = opened(*logs)
    assert book.write([plain(1), plain(2)]) == ([plain(1), plain(2)], [])
    assert [log.calls for log in logs] == [1, 1, 1], "no flush"
    logged, stored = book.write([named(3), plain(4), named(5)])
    assert logged == [plain(4), named(3), named(5)], "the order of each sender is kept"
    assert stored == [named(3), named(5)]
    assert [log.calls for log in logs] == [3, 3, 3]
    assert all(log.all() == [plain(1), plain(2), plain(4), named(3), named(5)] for log in logs)
    assert book.write([]) == ([], []) and not book.is_failing()
    assert (book.logged, book.pending, book.overflowed, book.left) == (5, 0, 0, 0)


@pytest.mark.parametrize("broken", [0, 1, 2])
def test_a_failing_log_does_not_stop_the_others(broken):
    logs = [FakeLog("a.txt"), FakeLog("a.db"), FakeLog("a.csv")]
    logs[broken].fails = lambda call: True
    others = [log for log in logs if log is not logs[broken]]
    book = opened(*logs)
    for k in range(5):
        assert book.write([plain(k)]) == ([plain(k)], [])
    assert all(log.all() == [plain(k) for k in range(5)] for log in others)
    assert book.is_failing() and book.logged == 5 and book.pending == 0
    logs[broken].fails = lambda call: False
    assert book.write([]) == ([], []), "nothing is logged for the first time twice"
    assert all(log.all() == [plain(k) for k in range(5)] for log in logs)
    assert not book.is_failing()
    assert list(book.summary()) == []


@pytest.mark.parametrize("broken", [0, 1])
def test_a_named_row_waits_for_the_other_logs_before_it_goes_to_the_last(broken):
    logs = [FakeLog("a.txt"), FakeLog("a.db"), FakeLog("a.csv")]
    logs[broken].fails = lambda call: True
    book = opened(*logs)
    logged, stored = book.write([named(1), plain(2)])
    assert plain(2) in logged and stored == []
    assert logs[2].all() == [plain(2)]
    book.write([plain(3)])
    assert logs[2].all() == [plain(2), plain(3)], "plain rows go past it"
    logs[broken].fails = lambda call: False
    logged, stored = book.write([plain(4)])
    assert stored == [named(1)]
    assert logs[2].all() == [plain(2), plain(3), plain(4), named(1)]
    assert all(sorted(log.all()) == [named(1), plain(2), plain(3), plain(4)] for log in logs)


@pytest.mark.parametrize("call", range(1, 13))
@pytest.mark.parametrize("failing", [0, 1, 2])
def test_one_call_that_fails_loses_and_doubles_nothing(failing, call):
    """Whatever the call, a row is stored only when all logs have it flushed."""
    logs = [FakeLog("a.txt"), FakeLog("a.db"), FakeLog("a.csv")]
    logs[failing].fails = lambda k: k == call
    book = opened(*logs)
    rows = [named(k) if k % 2 else plain(k) for k in range(10)]
    logged = []
    for row in rows:
        new, stored = book.write([row])
        logged += new
        for each in stored:
            assert all(each in log.rows for log in logs), "flushed before it is acknowledged"
    logged += book.finish()
    for log in logs:
        assert sorted(log.all()) == rows, "each row once"
        for kind in True, False:
            some = [row for row in log.all() if bool(row[2]) == kind]
            assert some == sorted(some), "in the order of each sender"
    assert sorted(logged) == rows and book.logged == 10


@pytest.mark.parametrize("waits", [1, 40, 1000])
def test_what_there_is_no_room_for_is_counted(monkeypatch, waits, capfd):
    monkeypatch.setattr(writer, "BACKLOG", 100)
    logs = [FakeLog("a.txt", lambda call: True), FakeLog("a.csv")]
    book = opened(*logs)
    for k in range(3):
        book.write([plain(k * waits + each) for each in range(waits)])
    assert book.logged == 3 * waits and book.overflowed == 0, "the other log has them"
    kept = {1: 3, 40: 80, 1000: 1000}[waits]  # the batch that failed first is kept whole
    assert book.finish() == []
    assert (
        list(book.summary()) == [f"a.txt lacks {3 * waits} readings: No space left on device"]
        and book.backlogs[0].overflowed == 3 * waits - kept
    )
    logs[0].fails = lambda call: False
    book.write([])
    assert len(logs[0].all()) == kept


def test_a_row_that_no_log_has_is_overflowed_and_a_named_one_left_with_its_client():
    logs = [FakeLog("a.txt", lambda call: True), FakeLog("a.csv", lambda call: True)]
    book = opened(*logs)
    assert book.write([plain(1), named(2), plain(3)]) == ([], [])
    assert book.pending == 3
    assert book.finish() == []
    assert (book.logged, book.overflowed, book.left) == (0, 2, 1)


def test_at_the_end_each_log_is_given_what_it_can_take():
    """The text log fails for good, the CSV only until the end."""
    logs = [FakeLog("a.txt", lambda call: True), FakeLog("a.csv", lambda call: call == 1)]
    book = opened(*logs)
    assert book.write([plain(1), named(2)]) == ([], [])
    assert book.finish() == [plain(1)]
    assert logs[1].all() == [plain(1)], "the named one is held back: its client sends it again"
    assert (book.logged, book.overflowed, book.left) == (1, 0, 1)
    assert list(book.summary()) == ["a.txt lacks 1 reading: No space left on device"]


# With real logs


def test_a_database_that_is_moved_away_does_not_stop_the_other_logs(server, tmp_path):
    logs = "a.txt", "a.csv", "a.db"
    running = server(*options(*logs), "--count", 80)
    send(running.port, *[b"50.0,20.0"] * 20)
    until(lambda: len(readings(tmp_path / "a.db")) == 20)
    (tmp_path / "a.db").rename(tmp_path / "away.db")
    for k in range(60):
        send(running.port, b"51.0,20.%d" % (k % 10))
        until(lambda: len(lines(tmp_path / "a.txt")) == 21 + k)
        until(lambda: len(lines(tmp_path / "a.csv")) == 22 + k)
        if k < 59:
            until(lambda: running.out.count("\n") == 21 + k, "a line of it on stdout")
    assert running.wait() == 0, "--count ends it"
    assert running.err.count("cannot write a.db (moved away)") == 1
    assert "80 readings logged\na.db lacks 60 readings: moved away\n127.0.0.1: 80" in running.err
    assert len(readings(tmp_path / "a.txt")) == len(readings(tmp_path / "a.csv")) == 80


FULL = b"50.0,20.0\n" * 409  # a page of 4,096 bytes is full in the middle of the next reading
SENT = b"11.1,1.1", b"22.2,2.2,kitchen,1795255202000001,0.000", b"33.3,3.3"
CALLS = "write", "fsync", "fdatasync", "pwrite64", "sendto"


class Disk:
    """A small tmpfs in a namespace of its own, which lives longer than the servers in it."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir(exist_ok=True)
        code = f"mount -t tmpfs -o size=4k tmpfs {folder} && touch {folder}/ready && exec sleep 600"
        self.holder = subprocess.Popen(["unshare", "-rm", "sh", "-c", code])
        self.inside = inside_of(self.holder)
        until(lambda: not self.run("test", "-e", folder / "ready").returncode, "the disk")

    def run(self, *command, **keywords):
        return subprocess.run([*self.inside, *command], stderr=subprocess.DEVNULL, **keywords)

    def write(self, name, content):
        self.run("dd", f"of={self.folder / name}", input=content, check=True)

    def read(self, name):
        return self.run("cat", self.folder / name, stdout=subprocess.PIPE, check=True).stdout

    def make_room(self):
        remount = "mount", "-o", "remount,size=1m", "tmpfs", self.folder
        self.run(*remount, check=True)


def text_log_fails(script, tmp_path, inject=None):
    """Let the text log fail while named and plain readings arrive, and then work again.

    Kill the server at a call of `inject`, start it again, and send what is not acknowledged.
    Return what the three logs hold, the trace, and whether it had to be started again.
    """
    for path in tmp_path.glob("a.*"):
        path.unlink()
    disk, trace = Disk(tmp_path / "disk"), tmp_path / "trace"
    disk.write("a.txt", FULL)
    logs = options(*(tmp_path / log for log in ("disk/a.txt", "a.csv", "a.db")))
    strace = ["strace", "-D", "-f", "-o", trace, "-e", f"trace={','.join(CALLS)}"]
    if inject:
        strace += ["-e", f"inject={inject}"]
    port = free_port()

    def start(*prefix):
        running = script(
            "server",
            "--port",
            port,
            "--quiet",
            *logs,
            prefix=[*disk.inside, *prefix],
            timers={"server.writer.LOG_RETRY": 0.05},
        )
        until(lambda: "listening" in running.err or running.process.poll() is not None)
        return running

    running = first = start(*strace)
    send(port, *SENT)
    plain_ones = [SENT[0].decode(), SENT[2].decode()]
    until(
        lambda: (
            running.process.poll() is not None
            or [r for r in readings(tmp_path / "a.csv") if r in plain_ones] == plain_ones
        )
    )
    if not inject:
        running.says(r"^cannot write .*/disk/a.txt \(No space left on device\)")
        assert "22.2,2.2" not in readings(tmp_path / "a.csv"), "held back"
    disk.make_room()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.2)
        sock.connect(("127.0.0.1", port))

        def acknowledged():
            nonlocal running
            if running.process.poll() is not None:
                running = start()
            try:
                sock.send(SENT[1])
                return sock.recv(300) == b"ack,kitchen,1795255202000001,"
            except OSError:  # also a time-out: before Python 3.10 that is no TimeoutError
                return False

        until(acknowledged, "an acknowledgement")
    text = disk.read("a.txt")[len(FULL) :].decode()
    assert text == "" or text.endswith("\n")
    found = text.splitlines(), readings(tmp_path / "a.csv"), readings(tmp_path / "a.db")
    running.process.kill()
    disk.holder.kill()
    disk.holder.wait()
    running.wait()
    return found, trace.read_text(), running is not first


@pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.long)])
def test_killed_at_each_call_while_the_text_log_fails(script, tmp_path, step):
    needs("strace", "nsenter")
    needs_namespaces()
    found, trace, _ = text_log_fails(script, tmp_path)
    assert all(sorted(log) == ["11.1,1.1", "22.2,2.2", "33.3,3.3"] for log in found)
    calls, numbers = [], {}
    for name in re.findall(rf"^\d+ +({'|'.join(CALLS)})\(", trace, re.MULTILINE):
        numbers[name] = numbers.get(name, 0) + 1
        calls.append(f"{name}:signal=KILL:when={numbers[name]}")
    assert len(calls) > 20
    killed = 0
    for inject in calls[::step]:
        (text, table, database), _, was_killed = text_log_fails(script, tmp_path, inject)
        killed += was_killed
        assert table.count("22.2,2.2") == database.count("22.2,2.2") == 1, inject
        assert text.count("22.2,2.2") >= 1, inject
        for log in text, table, database:
            for reading in "11.1,1.1", "33.3,3.3":
                assert log.count(reading) <= 1, inject
    # How many calls there are depends on which datagrams arrive together.
    assert killed > 0.6 * len(calls[::step])
    print(f"killed at {killed} calls")
