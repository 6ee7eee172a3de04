"""What Windows does otherwise: run there, by the workflow."""

import errno
import os
import re
import subprocess
import sys
import time

import pytest

from dht22.log.linefile import LONGEST_LOCKED, is_device, lock
from dht22.pi import spool
from dht22.server.remedies import OTHER_LOG, remedy
from support.made import HEADER
from support.tools import ROOT, lines, needs, until

windows = pytest.mark.skipif(os.name != "nt", reason="not Windows")


@pytest.mark.parametrize(
    "name", ["con.csv", "NUL.txt", "aux", "com1.db", "lpt9.csv.gz", "CONIN$.csv"]
)
def test_a_name_of_a_device(name):
    assert is_device(name)


@pytest.mark.parametrize("name", ["console.csv", "com.csv", "com12.csv", "my con.csv", "x.con"])
def test_no_name_of_a_device(name):
    assert not is_device(name)


def test_the_command_that_takes_off_what_an_editor_put_into_a_log(tmp_path):
    """It is for PowerShell and cmd; bash reads it alike."""
    needs("bash")
    log = tmp_path / "my log.csv"
    log.write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n")
    error = OSError(errno.EILSEQ, "an editor has put the byte order mark into it")
    line = remedy(error, str(log), windows=True)
    command = re.fullmatch("take that off: py (.*); or give another file as --log", line)[1]
    subprocess.run(["bash", "-c", f'"$0" {command}', sys.executable], check=True)
    assert log.read_bytes() == b"one\ntwo\n"
    assert os.listdir(tmp_path) == [log.name]


@pytest.mark.parametrize(
    "error, path, what",
    [
        (
            FileNotFoundError(errno.ENOENT, "none"),
            "a b/c/x.csv",
            'make its folder: mkdir "a b/c"; ',
        ),
        (PermissionError(errno.EACCES, "no"), __file__, "close it where it is open, as in Excel; "),
        (PermissionError(errno.EACCES, "no"), "none/x.csv", ""),
    ],
)
def test_remedies_exist_on_windows(error, path, what):
    assert remedy(error, path, windows=True) == f"{what}{'or ' * bool(what)}{OTHER_LOG}"


def start(folder, name, *argv):
    """Return a script that runs, its stdout and stderr in a pipe."""
    return subprocess.Popen(
        [sys.executable, ROOT / f"{name}.py", *map(str, argv)],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )


@pytest.fixture
def run(tmp_path):
    """Start scripts; end those that still run."""
    started = []

    def run(name, *argv):
        started.append(start(tmp_path, name, *argv))
        return started[-1]

    yield run
    for each in started:
        each.kill()
        each.wait()
        each.stdout.close()


@windows
def test_a_missing_header_is_put_back(run, tmp_path):
    row = "2026-11-28T06:40:11.538Z,127.0.0.1,,45.0,20.0,"
    (tmp_path / "a.csv").write_text(f"{row}\n", newline="\n")
    server = run("server", "--port", 0, "--log", "a.csv")
    assert server.stdout.readline() == "a.csv: put the missing header back\n"
    assert server.stdout.readline().startswith("listening on ")
    assert lines(tmp_path / "a.csv") == [HEADER.rstrip("\n"), row]


@windows
def test_a_long_spool_is_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(spool, "LONG_FILE", 3)  # lines
    path = tmp_path / "s.spool"
    kept = spool.Spool(str(path))
    readings = [kept.stamp("45.0,20.0") for _ in range(6)]
    kept.load()
    kept.write(readings)
    kept.rewrite(readings[3:])
    kept.write(readings[:1])
    assert path.read_bytes().count(b"\n") <= 5
    with open(path, "ab") as other, pytest.raises(OSError):
        lock(other)
    kept.file.file.close()


@windows
def test_what_another_program_has_open_is_not_replaced_and_goes_on(tmp_path):
    path = tmp_path / "s.spool"
    kept = spool.Spool(str(path))
    readings = [kept.stamp("45.0,20.0") for _ in range(6)]
    kept.load()
    kept.write(readings)
    with open(path, "rb"):
        kept.rewrite(readings[3:])
    assert kept.write(readings[:1])
    assert path.read_bytes().count(b"\n") == 7
    assert list(tmp_path.glob(".*")) == []
    kept.file.file.close()


@windows
@pytest.mark.parametrize("name", ["con.csv", "nul.txt", "con.db"])
def test_a_device_is_no_log(run, name):
    server = run("server", "--port", 0, "--log", name)
    error = f"cannot log to {name} (that is the name of a device on Windows)"
    assert server.communicate()[0] == f"server.py: error: {error}; give another file as --log\n"
    assert server.returncode == 1


@windows
@pytest.mark.parametrize("log", ["a.txt", "a.csv", "a.db"])
def test_a_second_server_on_the_log_refuses_to_start(run, log):
    first = run("server", "--port", 0, "--log", log)
    assert first.stdout.readline().startswith("listening on ")
    second = run("server", "--port", 0, "--log", log)
    assert "another client or server writes it" in second.communicate()[0]


@windows
def test_a_second_client_on_the_spool_refuses_to_start(run):
    argv = ["127.0.0.1", "--driver", "simulated", "--name", "kitchen", "--spool", "s"]
    client = run("client", *argv)
    assert client.stdout.readline().startswith("driver simulated")
    assert "another client or server writes it" in run("client", *argv).communicate()[0]


@windows
def test_a_locked_log_can_be_read(tmp_path):
    path = tmp_path / "a.csv"
    with open(path, "a+b", buffering=0) as log:
        lock(log)
        log.write(b"one\n")
        assert path.read_bytes() == b"one\n"
        assert path.stat().st_size < LONGEST_LOCKED


@windows
def test_logging_goes_on_while_nobody_reads_stdout(run, tmp_path):
    server = run("server", "--port", 0, "--log", "a.txt")
    port = int(server.stdout.readline().split(",")[0].rpartition(":")[2])
    client = ["127.0.0.1", "--port", port, "--driver", "simulated", "--interval", 0, "--quiet"]
    for _ in range(3):
        assert run("client", *client, "--count", 1000).wait(60) == 0
    until(lambda: len(lines(tmp_path / "a.txt")) > 2900)
    time.sleep(0.1)
    server.kill()
