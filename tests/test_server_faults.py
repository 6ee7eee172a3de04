"""The server killed, and its disk failing, at every point: whole lines, none lost, none doubled."""

import os
import re
import signal
import sqlite3
import subprocess
import threading
import time

import pytest

from support.made import HEADER
from support.tools import (
    CALLS,
    READINGS,
    blast,
    calls,
    free_port,
    inside_of,
    needs,
    options,
    readings,
    send,
    settle,
    summary,
    until,
    with_small_disk,
)

LOGS = "a.txt", "a.db", "a.csv"


def complete(path):
    """Return the whole lines, or committed rows, that a reader can see now."""
    if path.suffix == ".db":
        try:
            return readings(path)
        except sqlite3.Error:  # no table yet
            return []
    content = path.read_text() if path.exists() else ""
    return content[: content.rfind("\n") + 1].splitlines()[path.suffix == ".csv" :]


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


# strace makes the k-th such call on a log kill the server, or fail.
SENT = [b"11.1,1.1", b"22.2,2.2", b"33.3,3.3", b"44.4,4.4"]


def short_run(script, tmp_path, logs, inject=None):
    """Run a server under strace for four batches; return it, what each log showed, the trace."""
    port = free_port()
    trace = tmp_path / "trace"
    prefix = ["strace", "-f", "-o", trace, "-e", f"trace={CALLS}"]
    for log in logs:
        for end in ("", "-wal", "-shm", "-journal") if log.endswith(".db") else ("",):
            prefix += ["-P", tmp_path / (log + end)]
    if inject:
        prefix += ["-e", f"inject={inject}"]
    paths = [tmp_path / log for log in logs]
    running = script(
        "server",
        "--port",
        port,
        *options(*paths),
        prefix=prefix,
        timers={"server.writer.LOG_RETRY": 0.05},
    )
    seen = {path: [] for path in paths}

    def ready():
        return running.process.poll() is not None or "listening" in running.err

    until(ready)
    for number, datagram in enumerate(SENT, 1):
        if running.process.poll() is None:
            send(port, datagram)
        until(
            lambda: (
                running.process.poll() is not None
                or all(len(complete(path)) >= number for path in paths)
            )
        )
        for path in paths:
            seen[path] = complete(path)
    if running.process.poll() is None:
        pid = int(
            subprocess.run(
                ["pgrep", "-P", str(running.process.pid)],
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            ).stdout.split()[0]
        )
        os.kill(pid, signal.SIGTERM)
        running.wait()
    return running, seen, trace.read_text()


@pytest.mark.parametrize(
    "logs", [("a.txt", "a.csv"), pytest.param(LOGS, marks=pytest.mark.long)], ids=len
)
@pytest.mark.parametrize(
    "fault", ["signal=KILL", "error=ENOSPC", pytest.param("error=EIO", marks=pytest.mark.long)]
)
def test_a_fault_at_every_call_on_a_log(script, server, tmp_path, fault, logs):
    needs("strace", "pgrep")
    sent = [datagram.decode() for datagram in SENT]
    paths = [tmp_path / log for log in logs]
    _, seen, trace = short_run(script, tmp_path, logs)
    assert all(seen[path] and readings(path) == sent for path in paths)
    every = calls(trace)
    assert len(every) > 8
    for name, k in every:
        for path in tmp_path.glob("a.*"):
            path.unlink()
        running, seen, trace = short_run(script, tmp_path, logs, f"{name}:{fault}:when={k}")
        said = f"{name} {k}: {running.err}"
        if fault == "signal=KILL":
            assert "killed by SIGKILL" in trace, said
            assert server("--quiet", *options(*paths)).stop() == 0
            for path in paths:
                now = readings(path)
                assert now == sent[: len(now)], said
                assert len(now) >= len([line for line in seen[path] if line]), said
        elif "listening" not in running.err:
            assert re.search("server.py: error: cannot log to .*; ", running.err), said
        else:
            for path in paths:
                assert readings(path) == sent, said
            assert summary(running)[:2] == [4, 4], said
            assert running.err.count("cannot write") == running.err.count("is written again"), said


def test_a_full_disk_that_is_given_room(script, tmp_path):
    prefix = with_small_disk(tmp_path, "size=64k")
    port = free_port()
    running = script(
        "server",
        "--port",
        port,
        "--quiet",
        *options("disk/a.txt", "disk/a.csv"),
        prefix=prefix,
        timers={"server.writer.LOG_RETRY": 0.1},
    )
    running.says("^listening")
    blast(port, 20_000, 20_000)
    running.says(r"^cannot write disk/a.(txt|csv) \(No space left on device\)")
    assert running.err.count("cannot write disk/a.txt") <= 1, "said once"
    assert running.err.count("cannot write disk/a.csv") == 1, "said once"
    inside = inside_of(running.process)
    subprocess.run(
        [*inside, "mount", "-o", "remount,size=8m", "tmpfs", tmp_path / "disk"], check=True
    )
    running.says("^disk/a.csv is written again")
    copy = subprocess.run(
        [*inside, "cat", tmp_path / "disk/a.txt", tmp_path / "disk/a.csv"],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert running.stop() == 0
    received, logged, *_, overflowed, dropped = summary(running)
    assert received == logged == 20_000 - dropped and overflowed == 0
    text, table = copy.stdout.split(HEADER)
    expected = [READINGS[k % len(READINGS)].decode() for k in range(20_000)]
    if not dropped:
        assert text.splitlines() == expected
    assert [",".join(line.split(",")[3:5]) for line in table.splitlines()] == text.splitlines()


def test_what_cannot_be_kept_is_counted(script, tmp_path):
    prefix = with_small_disk(tmp_path, "size=4k")
    running = script(
        "server",
        "--port",
        0,
        "--quiet",
        "--log",
        "disk/a.txt",
        prefix=prefix,
        timers={"server.writer.BACKLOG": 1000, "server.writer.LOG_RETRY": 0.1},
    )
    port = int(running.says(r"^listening on \S+:(\d+)")[1])
    blast(port, 5000, 20_000)
    running.says(r"^no more readings are kept for disk/a.txt \(No space left on device\)")
    assert running.stop() == 0
    received, logged, _, _, overflowed, dropped = summary(running)
    assert received == logged + overflowed == 5000 - dropped and logged < 1000 and overflowed > 4000


def test_renamed_and_removed_under_load_each_reading_is_in_one_file(server, tmp_path):
    running = server("--quiet")
    sender = threading.Thread(target=blast, args=(running.port, 150_000, 50_000))
    sender.start()
    for turn in range(50):
        for log in tmp_path / "datalog.txt", tmp_path / "datalog.csv":
            until(lambda: log.exists() and log.stat().st_size > 100)
            kept = tmp_path / f"{turn}{log.suffix}"
            if turn % 2:
                log.rename(kept)
            else:
                os.link(log, kept)  # so that what is removed can be counted
                log.unlink()
    sender.join()
    settle(tmp_path / "datalog.csv")
    assert running.stop() == 0
    received, logged, *_, dropped = summary(running)
    assert received == logged == 150_000 - dropped
    for suffix in ".txt", ".csv":
        files = list(tmp_path.glob(f"*{suffix}"))
        assert len(files) == 51
        assert sum(len(readings(path)) for path in files) == logged
    for path in tmp_path.glob("*.csv"):
        assert path.read_text().startswith(HEADER)
