"""The window of report.py --live: what it keeps, and what it shows on a real display."""

import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

pytest.importorskip("pandas")
pytest.importorskip("matplotlib")

from dht22.report import figures, lines, live, times  # noqa: E402
from support.made import MINUTE, START, row, write  # noqa: E402
from support.tools import until  # noqa: E402

BLUE, ORANGE = bytes.fromhex("B27200 00"), bytes.fromhex("005ED5 00")  # the first two, as BGR


@pytest.fixture
def clock(monkeypatch):
    """Set the time, in minutes from the start of the rows."""

    def set_clock(minutes):
        monkeypatch.setattr(live, "now", lambda: START + timedelta(minutes=minutes))

    return set_clock


def shown(recent):
    """Return how many readings of each sensor the window has, by its label."""
    return {label: len(rows) for label, rows in recent.sensors().items()}


def test_the_last_minutes(tmp_path, clock):
    """Of the log and the one before it; a row counts once its line end is there."""
    log = tmp_path / "datalog.csv"
    torn = row(32 * MINUTE, 44.4, -3.0, name="")
    write(tmp_path / "datalog.csv.1", *(row(minute * MINUTE) for minute in range(30)))
    write(log, *(row(minute * MINUTE) for minute in range(30, 33)), "no row\n", torn[:-1])
    clock(32)
    recent = live.Recent(lines.log_at(log), 10)
    assert shown(recent) == {"kitchen  50.0 %  20.0 °C": 11}
    with log.open("a") as file:
        file.write("\n" + row(33 * MINUTE, 61.5)[:-5])
        file.flush()
        assert shown(recent) == {"192.168.1.7  44.4 %  -3.0 °C": 1, "kitchen  50.0 %  20.0 °C": 11}
        file.write(row(33 * MINUTE, 61.5)[-5:])
    clock(33)
    assert shown(recent) == {"192.168.1.7  44.4 %  -3.0 °C": 1, "kitchen  61.5 %  20.0 °C": 11}
    clock(43)
    assert shown(recent) == {"kitchen  61.5 %  20.0 °C": 1}
    clock(44)
    assert shown(recent) == {}


def test_a_log_that_comes_later_and_is_rotated(tmp_path, clock):
    log = tmp_path / "datalog.csv"
    clock(5)
    recent = live.Recent(lines.log_at(log), 10)
    assert shown(recent) == {}
    write(log, row(0), row(MINUTE))
    assert sum(shown(recent).values()) == 2
    with log.open("a") as file:
        file.write(row(2 * MINUTE))
    log.rename(tmp_path / "datalog.csv.1")
    assert sum(shown(recent).values()) == 3
    write(log, row(3 * MINUTE))
    assert sum(shown(recent).values()) == 4


def test_a_rise_is_not_marked(tmp_path, clock):
    """Somebody may breathe on the sensor; report.py would mark this one."""
    rows = [row(minute * MINUTE, 90 if minute == 7 else 50) for minute in range(15)]
    log = write(tmp_path / "datalog.csv", *rows)
    clock(15)
    (rows,) = live.Recent(lines.log_at(log), 20).sensors().values()
    assert not rows.suspicious_humidity.any()
    assert figures.examine(rows).suspicious_humidity.sum() == 1


# On a display


@contextmanager
def display(folder):
    """Start an X server without a screen; yield its name and the file with what it shows."""
    try:
        import tkinter  # noqa: F401

        read, written = os.pipe()
        command = ["Xvfb", "-displayfd", str(written), "-screen", "0", "1100x700x24"]
        server = subprocess.Popen(
            [*command, "-fbdir", folder], pass_fds=[written], stderr=subprocess.DEVNULL
        )
    except (ImportError, FileNotFoundError) as error:
        pytest.skip(f"no window here: {error}")
    try:
        with os.fdopen(read) as number:
            yield ":" + number.readline().strip(), Path(folder, "Xvfb_screen0")
    finally:
        server.terminate()
        server.wait()
        os.close(written)


def white(screen):
    return screen.read_bytes().count(b"\xff\xff\xff\0") > 500_000


def test_the_window(tmp_path, script):
    """The first sensor's readings come after the start, the second's after a rotation."""
    if not shutil.which("xdotool"):
        pytest.skip("no xdotool here")
    log = tmp_path / "datalog.csv"
    now = (times.now() - START) // timedelta(milliseconds=1)
    with display(tmp_path) as (name, screen):
        running = script("report", "--live", "1", env={"DISPLAY": name})

        def pixels(colour):
            assert running.process.poll() is None, running.err
            return screen.read_bytes().count(colour)

        until(lambda: white(screen), "an empty window")
        write(log, *(row(now - second * 1000, 50 + second, name="attic") for second in range(20)))
        until(lambda: pixels(BLUE) > 200 and pixels(ORANGE) == 0, "a blue line")
        log.rename(tmp_path / "datalog.csv.1")
        write(log, *(row(now - second * 1000, 40 + second) for second in range(20)))
        until(lambda: pixels(BLUE) > 200 and pixels(ORANGE) > 200, "a blue and an orange line")
        press = ["xdotool", "search", "--name", "datalog.csv", "windowfocus", "key", "q"]
        subprocess.run(
            press, env={**os.environ, "DISPLAY": name}, stderr=subprocess.DEVNULL
        )  # it complains that the window is gone when the key is released
        assert (running.wait(), running.out, running.err) == (0, "", "")


def test_ctrl_c(tmp_path, script):
    with display(tmp_path) as (name, screen):
        running = script("report", "--live", env={"DISPLAY": name})
        until(lambda: white(screen), "an empty window")
        assert (running.stop(signal.SIGINT), running.out, running.err) == (0, "", "")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a display that is always there")
def test_without_a_display(tmp_path, script):
    running = script("report", "--live", env={"DISPLAY": ""})
    assert running.wait() == 1
    assert running.err.startswith("report.py: error: cannot open a window (")
    assert running.err.endswith("); --plot FILE.png draws a picture instead\n")
    assert running.err.count("\n") == 1
