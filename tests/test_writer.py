"""The writer: what each log gets when, with logs that fail at chosen calls; and with real ones."""

import pytest

from dht22.console import Notices
from dht22.server import writer
from support.tools import (
    lines,
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


def test_a_failing_log_is_tried_again_after_a_pause_and_at_the_end(monkeypatch):
    monkeypatch.setattr(writer, "LOG_RETRY", 60.0)
    text = FakeLog("a.txt", fails=lambda call: call == 1)
    book = opened(text)
    for k in range(3):
        book.write([plain(k)])
    assert text.calls == 1
    assert book.finish() == text.all() == [plain(0), plain(1), plain(2)]
    assert (book.logged, book.overflowed, book.left) == (3, 0, 0)


def test_what_the_last_log_alone_lacks_is_logged_and_not_left():
    text, csv = FakeLog("a.txt"), FakeLog("a.csv", fails=lambda call: True)
    book = opened(text, csv)
    assert book.write([named(0)]) == ([named(0)], [])
    book.finish()
    assert (book.logged, book.pending, book.overflowed, book.left) == (1, 0, 0, 0)


def test_there_is_always_room_for_a_named_row_that_was_taken(monkeypatch):
    """Its client would be told for ever that it is a duplicate, and never that it is logged."""
    monkeypatch.setattr(writer, "BACKLOG", 3)
    text, csv = logs = [FakeLog("a.txt"), FakeLog("a.csv")]
    text.fails = csv.fails = lambda call: True
    book = opened(*logs)
    book.write([named(0)])
    for k in range(1, 5):
        book.write([plain(k)])
    text.fails = lambda call: False
    assert book.write([])[1] == [] and named(0) in text.all()
    csv.fails = lambda call: False
    assert book.write([])[1] == [named(0)]
    assert csv.all() == [*map(plain, range(1, 4)), named(0)]


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
