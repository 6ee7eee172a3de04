"""The server killed, and its disk failing, at every point: whole lines, none lost, none doubled."""

import os
import shutil
import signal
import threading
import time

import pytest

from support.made import HEADER
from support.numbered import size
from support.tools import (
    READINGS,
    ask,
    blast,
    complete,
    options,
    readings,
    send,
    settle,
    summary,
    until,
)

LOGS = "a.txt", "a.db", "a.csv"


@pytest.mark.parametrize("number", [12, pytest.param(200, marks=pytest.mark.long)])
def test_killed_under_load_nothing_that_was_read_back_is_gone(server, tmp_path, number):
    paths = [tmp_path / log for log in LOGS]
    for kill in range(number):
        running = server("--quiet", *options(*LOGS))
        before = {path: readings(path) for path in paths}
        sender = threading.Thread(target=blast, args=(running.port, 2000, 40_000))
        sender.start()
        until(lambda: len(complete(paths[0])) > len(before[paths[0]]))
        time.sleep(kill % 7 / 200)
        seen = {path: complete(path) for path in paths}
        running.stop(signal.SIGKILL)
        sender.join()
        if kill % 10 == 0:  # as a power cut would leave it
            for path in paths[0], paths[2]:
                with open(path, "rb+") as log:
                    log.truncate(max(path.stat().st_size - 3, 0))
                seen[path] = seen[path][:-1]
        server("--quiet", *options(*LOGS)).stop()
        for path in paths:
            now = readings(path)
            kept = before[path][: len(seen[path])]
            assert now[: len(kept)] == kept
            assert len(now) >= len(seen[path])


def test_a_full_disk_that_is_given_room(server, disk):
    small = disk("size=64k")
    logs = options("disk/a.txt", "disk/a.csv")
    running = server("--quiet", *logs, prefix=small.inside, timers={"server.writer.LOG_RETRY": 0.1})
    blast(running.port, 20_000, 20_000)
    running.says(r"^cannot write disk/a.(txt|csv) \(No space left on device\)")
    assert running.err.count("cannot write disk/a.txt") <= 1, "said once"
    assert running.err.count("cannot write disk/a.csv") == 1, "said once"
    small.resize("8m")
    running.says("^disk/a.csv is written again")
    assert running.stop() == 0
    received, logged, *_, overflowed, dropped = summary(running)
    assert received == logged == 20_000 - dropped and overflowed == 0
    text = readings(small.folder / "a.txt")
    expected = [READINGS[k % len(READINGS)].decode() for k in range(20_000)]
    assert text == expected if not dropped else len(text) == logged
    assert readings(small.folder / "a.csv") == text


@pytest.mark.parametrize("logs", [["disk/a.db", "a.csv"], ["disk/a.db"], ["a.txt", "disk/a.csv"]])
def test_a_disk_that_is_full_at_the_start(server, disk, tmp_path, logs):
    """As a power cut leaves a database: with its -wal and without its -shm, which is never synced.

    A CSV that is not there yet has no room for its header.
    """
    small = disk("size=200k")
    log = next(each for each in logs if each.startswith("disk"))
    before = []
    if log == "disk/a.db":
        running = server("--quiet", "--log", log, prefix=small.inside)
        ask(running.port, b"50.0,20.0,kitchen,1000000000000001,0.000")
        running.process.kill()
        running.process.wait()
        (small.folder / "a.db-shm").unlink()
        before = ["50.0,20.0"]
    small.fill()
    timers = {"server.writer.LOG_RETRY": 0.1}
    running = server("--quiet", *options(*logs), prefix=small.inside, timers=timers)
    send(running.port, b"51.0,20.0")
    running.says(rf"^cannot write {log} \((disk I/O error|No space left on device)\)")
    if len(logs) == 2:  # the other one goes on
        until(lambda: "51.0,20.0" in (tmp_path / min(logs)).read_text())
    small.give_room()
    running.says(f"^{log} is written again, 1 reading late")
    question = b"52.0,20.0,kitchen,1000000000000002,0.000"
    assert ask(running.port, question) == [b"ack,kitchen,1000000000000002,"]
    assert running.stop() == 0
    copy = shutil.copytree(small.folder, tmp_path / "copy")  # SQLite follows no path through /proc
    assert readings(copy / log[5:]) == [*before, "51.0,20.0", "52.0,20.0"]
    assert running.err.count("cannot write") == 1, "said once"


def test_while_a_log_fails_no_more_are_taken_than_are_counted(server, disk):
    small = disk("size=8k")
    logs = options("disk/a.txt")
    running = server(
        "--count", 3, *logs, prefix=small.inside, timers={"server.writer.LOG_RETRY": 0}
    )
    small.fill()
    send(running.port, b"50.0,20.0")
    running.says("^cannot write disk/a.txt")
    send(running.port, *[b"51.0,20.0"] * 5)
    small.give_room()
    assert running.wait() == 0
    assert readings(small.folder / "a.txt") == ["50.0,20.0", "51.0,20.0", "51.0,20.0"]


def test_what_cannot_be_kept_is_counted(server, disk):
    timers = {"server.writer.BACKLOG": 1000, "server.writer.LOG_RETRY": 0.1}
    log = "--log", "disk/a.txt"
    running = server("--quiet", *log, prefix=disk("size=4k").inside, timers=timers)
    blast(running.port, 5000, 20_000)
    running.says(r"^no more readings are kept for disk/a.txt \(No space left on device\)")
    assert running.stop() == 0
    received, logged, _, _, overflowed, dropped = summary(running)
    assert received == logged + overflowed == 5000 - dropped and logged < 1000 and overflowed > 4000


def test_renamed_and_removed_under_load_each_reading_is_in_one_file(server, tmp_path):
    running = server("--quiet")
    sent, enough = 0, threading.Event()

    def send_on():
        nonlocal sent
        while not enough.is_set():
            blast(running.port, 5000, 50_000)
            sent += 5000

    sender = threading.Thread(target=send_on)
    sender.start()
    logs = tmp_path / "datalog.txt", tmp_path / "datalog.csv"
    try:
        for turn in range(50):
            for log in logs:
                until(lambda: size(log) > 100)
                kept = tmp_path / f"{turn}{log.suffix}"
                if turn % 2:
                    log.rename(kept)
                else:
                    os.link(log, kept)  # so that what is removed can be counted
                    log.unlink()
        until(lambda: all(size(log) > 100 for log in logs), "both logs once more")
    finally:
        enough.set()
        sender.join()
    settle(tmp_path / "datalog.csv")
    assert running.stop() == 0
    received, logged, *_, dropped = summary(running)
    assert received == logged == sent - dropped
    for suffix in ".txt", ".csv":
        files = list(tmp_path.glob(f"*{suffix}"))
        assert len(files) == 51
        assert sum(len(readings(path)) for path in files) == logged
    for path in tmp_path.glob("*.csv"):
        assert path.read_text().startswith(HEADER)
