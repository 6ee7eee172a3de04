"""The server as its users meet it: started wrongly, stopped, started again, its terminal closed."""

import errno
import fcntl
import os
import re
import select
import shlex
import signal
import socket
import stat
import subprocess
import sys
import termios
import time
from contextlib import suppress

import pytest

from dht22.server import inbox
from dht22.server.remedies import OTHER_LOG, remedy
from support.made import HEADER
from support.tools import (
    ROOT,
    free_port,
    lines,
    needs,
    needs_namespaces,
    send,
    until,
)

STAMPED = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z,127\.0\.0\.1,,74\.3,25\.7,")


def test_logs_text_and_csv_and_prints(server, tmp_path):
    running = server("--count", 2)
    send(running.port, b"74.3,25.7", b"74.3,25.7")
    assert running.wait() == 0
    assert lines(tmp_path / "datalog.txt") == ["74.3,25.7"] * 2
    header, *rows = lines(tmp_path / "datalog.csv")
    assert header + "\n" == HEADER
    assert len(rows) == 2 and all(STAMPED.fullmatch(row) for row in rows)
    assert re.fullmatch(r"(\d\d:\d\d:\d\d 127\.0\.0\.1 74\.3,25\.7\n){2}", running.out)
    address = r"[^.]+\.local --port \d+|(\d+\.){3}\d+ --port \d+  # or [^.]+\.local"
    running.says(rf"^on the Pi: python3 client.py ({address})$")
    assert running.err.endswith("2 readings logged\n127.0.0.1: 2 readings\n")


def test_count_is_exact_when_more_arrive(server, tmp_path):
    running = server("--count", 7)
    send(running.port, *[b"1,1"] * 50)
    assert running.wait() == 0
    assert len(lines(tmp_path / "datalog.txt")) == 7


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stops_with_whole_lines_and_appends_when_started_again(server, tmp_path, number):
    for readings in 1, 2:
        running = server()
        send(running.port, b"74.3,25.7")
        until(lambda: len(lines(tmp_path / "datalog.txt")) == readings)
        assert running.stop(number) == 0
    assert (tmp_path / "datalog.txt").read_bytes() == b"74.3,25.7\n" * 2
    assert len(lines(tmp_path / "datalog.csv")) == 3


def test_a_client_goes_on_when_the_server_is_back_and_each_address_is_told_apart(
    script, server, tmp_path
):
    first = server()
    clients = [
        script(
            *["client", host, "--port", first.port, "--driver", "simulated", "--interval", 0.05],
            timers={"pi.link.RECOVERED": 1.0},
        )
        for host in ("127.0.0.1", "::1")
    ]
    third = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    third.bind(("127.0.0.2", 0))
    third.sendto(b"33.3,3.3", ("127.0.0.1", first.port))

    def heard(client):
        return [row for row in lines(tmp_path / "datalog.csv") if f",{client},," in row]

    for client in "127.0.0.1", "::1", "127.0.0.2":
        until(lambda: heard(client), f"a reading of {client}")  # noqa: B023
    assert first.stop() == 0
    before = [len(heard(client)) for client in ("127.0.0.1", "::1")]
    for client in clients:
        client.says(
            "^nothing listens on .*, or its firewall refuses UDP; it is this machine itself"
        )
    server(port=first.port)
    for client, readings in zip(("127.0.0.1", "::1"), before):
        until(lambda: len(heard(client)) > readings + 3, f"a reading of {client} again")  # noqa: B023
    for client in clients:
        client.says("^sending to .* again$")
        assert client.stop() == 0
        assert client.err.count("nothing listens") == 1, "one line a change of state"
        assert client.err.endswith("closing socket\n")
    third.close()


@pytest.mark.parametrize(
    "argv, code, error",
    [
        (["--port", "70000"], 2, "'70000' is not a port"),
        (["--port", "http"], 2, "'http' is not a port"),
        (["--log", "datalog.json"], 2, "'datalog.json' does not end in .txt, .db, .csv"),
        (["--log", "a.txt", "--log", "b.txt"], 2, "two logs have the same ending"),
        (["--count", "0"], 2, "'0' is not a count"),
        (["--logs", "a.txt"], 2, "unrecognized arguments"),
        (["--host", "192.0.2.99", "--port", "0"], 1, "cannot listen on 192.0.2.99:0 ("),
        (["--host", "no.such.host.invalid"], 1, "cannot listen on no.such.host.invalid"),
        (["--host", "x" * 70], 1, "cannot listen on xxx"),
        (
            ["--port", "0", "--log", "missing/a.txt"],
            1,
            "cannot log to missing/a.txt (No such file or directory); "
            "make its folder: mkdir -p missing; or ",
        ),
        (["--port", "0", "--log", "folder.txt"], 1, "cannot log to folder.txt (Is a directory)"),
        (["--port", "0", "--log", "pipe.csv"], 1, "cannot log to pipe.csv (not a regular file)"),
        (["--port", "0", "--log", "notes.txt"], 1, "cannot log to notes.txt (not a file of ours"),
        (
            ["--port", "0", "--log", "other.csv"],
            1,
            "cannot log to other.csv (its first line is not time,client",
        ),
    ],
)
def test_an_error_is_one_line(script, tmp_path, argv, code, error):
    (tmp_path / "folder.txt").mkdir()
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "notes.txt").write_text("buy milk\ncall the lab\n")
    (tmp_path / "other.csv").write_text("when,what\n2026,tea\n")
    running = script("server", *argv)
    assert running.wait() == code
    assert running.err.startswith("server.py: error: ") and error in running.err
    assert running.err.count("\n") == 1 and "; " in running.err, "cause and remedy on one line"
    assert (tmp_path / "notes.txt").read_text() == "buy milk\ncall the lab\n"
    assert (tmp_path / "other.csv").read_text() == "when,what\n2026,tea\n"


def test_a_log_that_must_not_be_written(script, tmp_path):
    log, prefix, reason = tmp_path / "a.txt", [], "Permission denied"
    remedy = f"chmod u+w {shlex.quote(str(log))}; or give another file as --log"
    log.write_text("1.0,1.0\n")
    log.chmod(stat.S_IRUSR)
    if os.geteuid() == 0:  # who may write everything
        needs_namespaces()
        mount = "mount --bind a.txt a.txt && mount -o remount,bind,ro a.txt"
        prefix, reason = (
            ["unshare", "-rm", "sh", "-c", f'{mount} && exec "$@"', "sh"],
            "Read-only file system",
        )
        remedy = "give another file as --log"
    running = script("server", "--port", 0, "--log", log, prefix=prefix)
    assert running.wait() == 1
    assert running.err == f"server.py: error: cannot log to {log} ({reason}); {remedy}\n"
    assert log.read_text() == "1.0,1.0\n"


@pytest.mark.parametrize(
    "owner, command",
    [(0, "chmod u+w {}"), (1, "if it is from a start with sudo: sudo chown $USER {}")],
)
def test_what_to_type_where_a_log_must_not_be_written(tmp_path, monkeypatch, owner, command):
    log = tmp_path / "my log.csv"
    log.touch()
    monkeypatch.setattr(os, "geteuid", lambda: log.stat().st_uid + owner)
    told = remedy(PermissionError(errno.EACCES, "Permission denied"), str(log), windows=False)
    assert told == f"{command.format(shlex.quote(str(log)))}; or {OTHER_LOG}"


def test_what_a_killed_server_left_beside_a_database_is_in_the_command(tmp_path, monkeypatch):
    log = tmp_path / "a.db"
    for path in log, tmp_path / "a.db-wal":
        path.touch()
    monkeypatch.setattr(os, "geteuid", lambda: log.stat().st_uid + 1)
    told = remedy(PermissionError(errno.EACCES, "Permission denied"), str(log), windows=False)
    words = shlex.join([str(log), f"{log}-wal"])
    assert told == f"if it is from a start with sudo: sudo chown $USER {words}; or {OTHER_LOG}"


def test_a_second_server_on_the_port_refuses_to_start(script, server, tmp_path):
    first = server()
    (tmp_path / "elsewhere").mkdir()
    second = script("server", "--port", first.port, "--log", "elsewhere/a.txt")
    assert second.wait() == 1
    assert second.err == (
        f"server.py: error: cannot listen on port {first.port} (Address already in use); "
        "is another server running? stop it, or give another --port\n"
    )
    assert not (tmp_path / "elsewhere" / "a.txt").exists()


@pytest.mark.parametrize("log", ["a.txt", "a.csv", "a.db"])
def test_a_second_server_on_the_log_refuses_to_start(script, server, log):
    server("--log", log)
    second = script("server", "--port", 0, "--log", log)
    assert second.wait() == 1
    assert f"cannot log to {log} (another client or server writes it); " in second.err


def test_the_last_notices_are_shown_at_the_end(server, tmp_path):
    running = server()
    send(running.port, b"first")
    running.says("^refused")
    send(running.port, b"second", b"50.0,20.0")  # within a second of that notice
    until(lambda: lines(tmp_path / "datalog.txt"))
    assert running.stop() == 0
    assert "refused 127.0.0.1: not a reading: b'second'" in running.err


def test_logging_goes_on_without_a_reader_of_stderr(script, tmp_path):
    port = free_port()
    reading, writing = os.pipe()
    os.write(writing, b"x" * 65536)  # full from the start
    running = script("server", "--port", port, "--log", "a.txt", stderr=writing)
    until((tmp_path / "a.txt").exists)
    send(port, b"junk", b"50.0,20.0")
    until(lambda: lines(tmp_path / "a.txt") == ["50.0,20.0"])
    assert running.stop() == 0
    os.close(reading)
    os.close(writing)


def test_logging_goes_on_with_a_terminal_that_stands_still(server, tmp_path):
    master, terminal = os.openpty()  # nobody reads it, as with a laptop that sleeps
    running = server("--log", "a.txt", stdout=terminal)
    for block in range(100):
        send(running.port, *[b"50.0,20.0"] * 100)
        until(lambda: len(lines(tmp_path / "a.txt")) == (block + 1) * 100)
    assert running.stop() == 0
    assert "10000 readings logged\n" in running.err
    assert os.read(master, 10).endswith(b" 1")
    os.close(master)
    os.close(terminal)


# A terminal that stands still, and is another user's: its device cannot be opened again.
OTHER_USERS = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs tmpfs /dev/pts && exec "$@"', "sh"]


@pytest.mark.parametrize("controls", [True, False])
def test_logging_goes_on_with_another_users_terminal_that_stands_still(server, tmp_path, controls):
    needs_namespaces()
    master, terminal = os.openpty()

    def take_control():
        os.setsid()
        fcntl.ioctl(1, termios.TIOCSCTTY, 0)

    running = server(
        "--log",
        "a.txt",
        stdout=terminal,
        prefix=OTHER_USERS,
        preexec_fn=take_control if controls else None,
    )
    for block in range(100):
        send(running.port, *[b"50.0,20.0"] * 100)
        until(lambda: len(lines(tmp_path / "a.txt")) == (block + 1) * 100)
    assert running.stop() == 0
    assert "10000 readings logged\n" in running.err
    assert bool(select.select([master], [], [], 0)[0]) == controls, "printed where that can be done"
    os.close(master)
    os.close(terminal)


def test_a_full_disk_under_stdout_silences_it_only_while_it_is_full(server, disk, tmp_path):
    """The line that was begun is finished, what there was no room for is left out."""
    into_disk = ["sh", "-c", 'exec "$@" > disk/out', "sh"]
    small = disk("size=4k")
    prefix = [*small.inside, *into_disk]
    running = server("--log", "a.txt", prefix=prefix, stdout=subprocess.PIPE)
    for k in range(200):
        send(running.port, b"50.0,20.0")
        until(lambda: len(lines(tmp_path / "a.txt")) == k + 1)
    small.resize("8m")
    for k in range(5):
        send(running.port, b"51.0,20.0")
        until(lambda: len(lines(tmp_path / "a.txt")) == 201 + k)
    assert running.stop() == 0
    printed = (small.folder / "out").read_text()
    assert re.fullmatch(r"(\d\d:\d\d:\d\d 127\.0\.0\.1 5[01]\.0,20\.0\n)+", printed)
    assert printed.count(" 51.0,20.0\n") == 5 and 50 < printed.count(" 50.0,20.0\n") < 200


def is_starting(pid):
    """Tell whether Python itself is still starting in a process, before the script's first lines.

    First it ignores SIGPIPE, then it catches SIGINT; the script lets go of that, then catches both
    SIGINT and SIGTERM.
    """
    with open(f"/proc/{pid}/status") as status:
        ignored, caught = re.findall(r"Sig(?:Ign|Cgt):\s+(\w+)", status.read())
    sigpipe, sigint, sigterm = (
        int(signals, 16) >> number - 1 & 1
        for signals, number in [
            (ignored, signal.SIGPIPE),
            (caught, signal.SIGINT),
            (caught, signal.SIGTERM),
        ]
    )
    return not sigpipe or (sigint and not sigterm)


def test_ctrl_c_at_any_moment_of_the_start_is_no_traceback(script):
    """From the line on that takes care of it: what Python does before is not ours to mend."""
    source = (ROOT / "server.py").read_text().splitlines()
    careful = next(number for number, line in enumerate(source, 1) if "signal.SIG_DFL" in line)
    ended = []
    for k in range(16):
        running = script("server", "--port", 0)
        time.sleep(k / 80)
        may_miss = is_starting(running.process.pid)
        running.process.send_signal(signal.SIGINT)
        # At its start Python may take it for an error ("Failed checking if argv[0] is ..."), or
        # pass over it without a word, about once in a hundred times, whatever the script.
        missed = "listening" if may_miss else r"argv\[0\]"
        until(lambda: running.process.poll() is not None or re.search(missed, running.err))  # noqa: B023
        if running.process.poll() is None:
            running.stop()
            continue
        ended.append(running.wait())
        for number in re.findall(r'server\.py", line (\d+)', running.err):
            assert int(number) <= careful, running.err
        assert str(ROOT / "dht22") not in running.err, running.err
    assert 0 in ended or -signal.SIGINT in ended


def test_without_a_route_the_name_of_the_machine_is_told(script):
    needs_namespaces()
    running = script("server", prefix=["unshare", "-rn"])
    running.says(rf"^on the Pi: python3 client.py {socket.gethostname().split('.')[0]}\.local$")
    assert running.stop() == 0


def test_the_host_that_was_asked_for_is_told(server):
    running = server("--host", "localhost")
    running.says(r"^listening on (127\.0\.0\.1|\[::1\]):\d+, logging to /")
    running.says(r"^on the Pi: python3 client.py localhost --port \d+$")
    assert running.stop() == 0


def test_with_keys_the_command_for_the_pi_has_one(server, keys):
    running = server("--keys", keys)
    running.says(r"^on the Pi: python3 client.py \S+ --port \d+ --key FILE")
    assert running.stop() == 0


def test_a_key_file_that_does_not_answer_can_be_interrupted(script, tmp_path):
    os.mkfifo(tmp_path / "keys")
    for name, option in ("server", "--keys"), ("client", "--key"):
        host = ["127.0.0.1", "--driver", "simulated"] if name == "client" else ["--port", 0]
        running = script(name, *host, option, "keys")
        wchan = f"/proc/{running.process.pid}/wchan"
        with suppress(pytest.fail.Exception):  # where the kernel does not tell: wait for a while
            until(lambda: "fifo" in open(wchan).read(), seconds=2)  # noqa: B023, SIM115
        assert running.stop() == 0
        assert "Traceback" not in running.err


# recvmsg and select fail


def strace(*injections):
    needs("strace")
    return ["strace", "-D", "-qq", "-o", "/dev/null", *(f"--inject={each}" for each in injections)]


SLEEPS = pytest.mark.skipif(sys.version_info < (3, 11), reason="time.sleep calls select, too")


@pytest.mark.parametrize(
    "call, error",
    [
        ("recvmsg", "ENOMEM"),
        ("recvmsg", "ENETDOWN"),
        pytest.param("select,pselect6", "ENOMEM", marks=SLEEPS),
    ],
)
def test_an_error_of_the_socket_that_passes(server, tmp_path, call, error):
    running = server("--log", "a.txt", prefix=strace(f"{call}:error={error}:when=2..4"))
    for k in range(5):
        send(running.port, b"50.0,2%d.0" % k)
    until(lambda: len(lines(tmp_path / "a.txt")) == 5)
    running.says(r"^cannot receive \(.*\); it keeps trying for 10 s$")
    assert running.stop() == 0
    assert "5 readings logged\n" in running.err and "Traceback" not in running.err


def test_an_error_of_the_socket_that_lasts_ends_the_server(server, tmp_path):
    running = server(
        "--log",
        "a.csv",
        prefix=strace("recvmsg:error=ENETDOWN:when=6+"),
        timers={"server.inbox.GIVE_UP": 0.3},
    )
    send(running.port, b"50.0,20.0")
    assert running.wait() == 1
    assert "server.py: error: cannot receive (Network is down); start it again\n" in running.err
    assert running.err.endswith("1 reading logged\n127.0.0.1: 1 reading\n")
    assert len(lines(tmp_path / "a.csv")) == 2


def test_an_error_that_passed_is_not_held_against_a_later_one(monkeypatch):
    monkeypatch.setattr(inbox, "GIVE_UP", 0.05)
    monkeypatch.setattr(inbox, "ERROR_PAUSE", 0.1)
    with inbox.listen("127.0.0.1", 0) as sock:
        box = inbox.Inbox(sock)
        box.wait_after(OSError(errno.ENOMEM, "Cannot allocate memory"))
        assert not box.receive(1).datagrams
        box.wait_after(OSError(errno.ENOMEM, "Cannot allocate memory"))
        with pytest.raises(inbox.Broken):
            box.wait_after(OSError(errno.ENOMEM, "Cannot allocate memory"))
