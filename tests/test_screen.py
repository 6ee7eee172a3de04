"""What the scripts print: a reader of stdout and stderr that stands still stops nothing."""

import fcntl
import os
import re
import signal
import subprocess
import sys
import termios
from datetime import datetime, timezone

import pytest

from dht22.screen import screen_of
from support.tools import DEADLINE, ROOT, free_port, lines, send, until


def test_what_a_slow_reader_has_no_room_for_is_left_out_line_by_line():
    reader, writer = os.pipe()
    with open(reader, "rb", buffering=0) as pipe, open(writer, "w") as stream:
        screen = screen_of(stream)
        screen.show("74.3,25.7\n" * 20_000)
        shown = pipe.read(50_000)
        screen.show("74.3,25.7\n" * 20_000)
        stream.close()
        shown += pipe.read()
        assert len(shown) < 400_000 and set(shown.splitlines()) == {b"74.3,25.7"}


def test_a_long_line_that_a_slow_reader_has_no_room_for_is_finished_later():
    reader, writer = os.pipe()
    with open(reader, "rb", buffering=0) as pipe, open(writer, "w") as stream:
        screen = screen_of(stream)
        long, short = "a" * 100_000 + "\n", "74.3,25.7\n"
        screen.show(long)
        shown = pipe.read(50_000)
        screen.show(short)
        stream.close()
        while piece := pipe.read(50_000):
            shown += piece
        assert shown.decode() == long + short


# Where stdout is no descriptor to poll

WITHOUT_POLL = "import select\ndel select.poll\n"  # as on Windows


@pytest.mark.parametrize("setup", ["", WITHOUT_POLL], ids=["poll", "no poll"])
def test_logging_goes_on_without_a_reader_of_stdout(server, tmp_path, setup):
    reading, writing = os.pipe()  # nobody reads: it is full after 64 KiB
    stalled = server("--log", "stalled.txt", stdout=writing, setup=setup)
    closed = server("--log", "closed.txt", stdout=subprocess.PIPE, setup=setup)
    closed.process.stdout.close()
    shut = ["sh", "-c", 'exec "$@" >&-', "sh"]
    none = server("--log", "none.txt", prefix=shut, setup=setup)
    for running, log, blocks in (stalled, "stalled", 60), (closed, "closed", 3), (none, "none", 3):
        for block in range(blocks):
            send(running.port, *[b"50.0,20.0"] * 100)
            until(lambda: len(lines(tmp_path / f"{log}.txt")) == (block + 1) * 100)
        assert running.stop() == 0
        assert f"{blocks}00 readings logged\n" in running.err
    os.close(writing)
    with open(reading) as pipe:
        printed = pipe.read().splitlines(keepends=True)
    assert 1000 < len(printed) < 6000
    # Without `poll` the write that waited for a reader was broken off by the end.
    assert all(line.endswith(" 127.0.0.1 50.0,20.0\n") for line in printed[: -1 if setup else None])


@pytest.mark.parametrize("setup", ["", WITHOUT_POLL], ids=["poll", "no poll"])
def test_the_encoding_of_the_terminal_is_kept(script, tmp_path, setup):
    running = script(
        "server",
        *["--port", 0, "--log", "José Ω.csv", "--quiet"],
        setup=setup,
        env={"PYTHONIOENCODING": "cp1252"},
    )
    until(lambda: b"listening on" in running.err_path.read_bytes())
    assert running.stop() == 0
    said = running.err_path.read_bytes()
    assert "José \\u03a9.csv\n".encode("cp1252") in said and b"0 readings logged\n" in said


SLOW_STDOUT = """
import sys, time
from dht22.screen import ThreadedScreen

def slowly(screen, lines, write=ThreadedScreen.write):
    if screen.stream is sys.stdout:
        time.sleep(0.2)
    write(screen, lines)

ThreadedScreen.write = slowly
"""


def test_the_readings_are_printed_before_the_last_word(script, desktop):
    port = desktop.getsockname()[1]
    running = script(
        *["client", "127.0.0.1", "--port", port, "--driver", "simulated"],
        *["--interval", 0, "--count", 10],
        stderr=subprocess.STDOUT,
        setup=WITHOUT_POLL + SLOW_STDOUT,
    )
    assert running.wait() == 0
    assert len(running.out.splitlines()) > 10
    assert running.out.splitlines()[-1] == "closing socket"


@pytest.mark.parametrize("name", ["client", "dht_read", "publish", "report", "server"])
def test_help_where_stdout_knows_no_degrees(script, name):
    running = script(name, "--help", env={"PYTHONIOENCODING": "ascii"})
    assert running.wait() == 0, running.err
    assert f"usage: {name}.py" in running.out


@pytest.fixture
def editor(tmp_path):
    """Start scripts in the shell of an editor; its stdout is a pipe."""
    started = []

    def start(name, *argv):
        command = [sys.executable, "-m", "support.editor", str(ROOT / f"{name}.py")]
        started.append(
            subprocess.Popen(
                [*command, *map(str, argv)],
                cwd=tmp_path,
                env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
        return started[-1]

    yield start
    for each in started:
        each.kill()
        each.communicate()


def heard(editor, pattern):
    """Read what a script shows until a line matches; return the match, and all lines."""
    shown = []
    for line in editor.stdout:
        shown.append(line)
        match = re.search(pattern, line)
        if match:
            return match, shown
    pytest.fail(f"{pattern!r} is not among {shown[-20:]}")


@pytest.mark.parametrize(
    "name, argv, first",
    [
        ("dht_read", ["--driver", "simulated"], r"^\d+\.\d,\d+\.\d$"),
        ("client", ["127.0.0.1", "--driver", "simulated", "--count", 1], r"^\d+\.\d,\d+\.\d$"),
        ("server", ["--port", 0, "--new-key", "kitchen"], "^kitchen [0-9a-f]{64}$"),
        ("report", ["a.csv", "--last"], "74.3,25.7"),
    ],
)
def test_in_an_editor_a_script_shows_what_it_prints(editor, tmp_path, name, argv, first):
    """What ends well leaves the shell as it was, with its own Ctrl+C."""
    now = datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    (tmp_path / "a.csv").write_text(
        f"time,client,name,humidity,temperature,n\n{now},192.168.1.7,,74.3,25.7,\n"
    )
    shell = editor(name, *argv)
    heard(shell, first)
    heard(shell, "^ready$")
    shell.send_signal(signal.SIGINT)
    heard(shell, "^interrupted$")
    assert shell.wait(DEADLINE) == 0


SHELL = """
import runpy, sys
from support.editor import Shell
sys.stdout, sys.stderr = Shell(1), Shell(2)
errors = []
for _ in range(2):
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as error:
        errors.append(error)
"""


@pytest.mark.parametrize(
    "name, argv",
    [
        ("server", ["--log", "a.txt", "--log", "notes.csv"]),
        ("client", ["127.0.0.1", "--name", "a", "--spool", "a.spool", "--driver", "adafruit"]),
    ],
)
def test_in_an_editor_an_error_keeps_nothing_open(tmp_path, name, argv):
    """The shell keeps the error, as Jupyter does for %tb; the script is started again in it."""
    (tmp_path / "notes.csv").write_text("buy milk\n")
    argv = [str(ROOT / f"{name}.py"), *argv, "--port", str(free_port())]
    code = SHELL.replace("import runpy, sys", f"import runpy, sys\nsys.argv = {argv}")
    started = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])},
        stderr=subprocess.PIPE,
        text=True,
        timeout=DEADLINE,
    )
    first, second = started.stderr.splitlines()
    assert first == second and first.startswith(f"{name}.py: error: ")


def test_in_an_editor_that_stands_still_the_server_goes_on(editor, tmp_path):
    running = editor("server", "--port", 0, "--log", "a.txt")
    port = int(heard(running, r"^listening on \S+:(\d+), logging to")[0][1])
    for block in range(60):
        send(port, *[b"50.0,20.0"] * 100)
        until(lambda: len(lines(tmp_path / "a.txt")) == (block + 1) * 100)
    running.send_signal(signal.SIGINT)  # Ctrl+C, or Stop
    _, shown = heard(running, "^6000 readings logged$")
    readings = [line for line in shown[1:-1] if not line.startswith("on the Pi: ")]  # stderr's
    assert [line for line in readings if not line.endswith(" 127.0.0.1 50.0,20.0\n")] == []
    heard(running, "^ready$")


# A terminal that lets nobody in the background write


def test_in_the_background_of_a_terminal_with_tostop_the_server_goes_on(script, tmp_path):
    master, terminal = os.openpty()

    def take_control():
        os.setsid()
        fcntl.ioctl(1, termios.TIOCSCTTY, 0)

    background = ["sh", "-c", 'stty tostop <&1; set -m; "$@" & wait', "sh"]
    running = script(
        *["server", "--port", 0, "--log", "a.txt", "--count", 3],
        prefix=background,
        stdout=terminal,
        preexec_fn=take_control,
    )
    port = int(running.says(r"^listening on \S+:(\d+), logging to")[1])
    for k in range(3):
        send(port, b"50.0,20.0")
        until(lambda: len(lines(tmp_path / "a.txt")) == k + 1)
    assert running.wait() == 0
    assert b" 127.0.0.1 50.0,20.0" in os.read(master, 10_000)
    os.close(master)
    os.close(terminal)
