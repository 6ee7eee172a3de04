"""What deploy/ and docs/years.md promise: units, six commands for each end, rotation under load."""

import gzip
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time

import pytest

from support.tools import DEADLINE, ROOT, bash, copied, lines, missing, needs, settle, until

YEARS = (ROOT / "docs/years.md").read_text(encoding="utf-8")
UNITS = sorted(path.name for path in ROOT.glob("deploy/*.service"))


def systemd_analyze(*argv):
    """Return what systemd-analyze prints; skip where it is missing or older than its options."""
    if not shutil.which("systemd-analyze"):
        missing("systemd-analyze")
    done = subprocess.run(
        ["systemd-analyze", *argv], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if "unrecognized option" in done.stdout:
        missing("systemd 250")
    return done


@pytest.mark.parametrize("unit", UNITS)
def test_units_are_valid(unit, tmp_path):
    """But for the virtual environment of publish.py, which is not here."""
    if not os.path.exists("/usr/bin/python3"):
        missing("/usr/bin/python3")
    text = (ROOT / "deploy" / unit).read_text()
    (tmp_path / unit).write_text(text.replace("/opt/dht22/.venv/bin/", "/usr/bin/"))
    done = systemd_analyze("verify", str(tmp_path / unit))
    assert done.returncode == 0 and unit.split("@")[0] not in done.stdout, done.stdout


@pytest.mark.parametrize("unit", UNITS)
def test_units_are_hardened(unit):
    done = systemd_analyze("security", "--offline=true", str(ROOT / "deploy" / unit))
    exposure = re.search(r"Overall exposure level for \S+ (\d+\.\d)", done.stdout)
    assert float(exposure[1]) <= 3.5, done.stdout


def settings(path):
    """Return the lines of a unit that set something."""
    return [line for line in path.read_text().splitlines() if re.match(r"\w+=", line)]


def test_the_client_can_reach_what_it_needs():
    """The pins, and the boot id that tells the age of what waits in the spool."""
    client = settings(ROOT / "deploy/dht22-client@.service")
    hiding = "PrivateDevices=", "ProtectClock=", "DeviceAllow=", "DevicePolicy=", "ProcSubset="
    assert not [line for line in client if line.startswith(hiding)]


@pytest.mark.parametrize("script", sorted(ROOT.glob("*.py")), ids=lambda path: path.name)
def test_scripts_can_be_started_by_their_names(script):
    assert os.access(script, os.X_OK)
    assert script.read_text(encoding="utf-8").startswith("#!/usr/bin/env ")


def six_commands(heading):
    """Return the first block under a heading of years.md."""
    section = YEARS[YEARS.index(f"## {heading}") :]
    return re.search(r"(?:^    .*\n)+", section, re.MULTILINE)[0]


def installed(folder, heading):
    """Type the six commands in a folder where `/` is the folder `root`; return what starts then."""
    root = copied(folder) / "root"
    (root / "etc/systemd/system").mkdir(parents=True)
    (root / "etc/logrotate.d").mkdir()
    (root / "opt").mkdir()
    for name, does in {
        "sudo": 'exec "$@"',
        "useradd": 'echo "useradd $@" >> done',
        "systemctl": 'echo "systemctl $@" >> done',
    }.items():
        (folder / "bin" / name).write_text(f"#!/bin/sh\n{does}\n")
        (folder / "bin" / name).chmod(0o755)
    commands = six_commands(heading)
    assert commands.count("\n") == 6
    bash(re.sub(r" /(etc|opt)/", r" root/\1/", commands), folder)
    added, enabled = (shlex.split(line) for line in lines(folder / "done"))
    assert added == ["useradd", "--system", "dht22"]
    assert enabled[:3] == ["systemctl", "enable", "--now"]
    return enabled[3]


def exec_start(folder, unit, **values):
    """Return what a unit starts, with other values of its variables."""
    (line,) = [
        line for line in settings(folder / "root/etc/systemd/system" / unit) if "ExecStart=" in line
    ]
    for name, value in values.items():
        line = line.replace(name, value)
    python, script, *arguments = shlex.split(line.partition("=")[2])
    assert python == "/usr/bin/python3" and script.startswith("/opt/dht22/")
    return [sys.executable, folder / f"root{script}", *arguments]


def test_six_commands_set_up_the_desktop_and_six_the_pi(tmp_path):
    """What they copy is enough, and what the units start logs a reading."""
    desktop, pi = tmp_path / "desktop", tmp_path / "pi"
    assert installed(desktop, "The desktop") == "dht22-server"
    assert installed(pi, "The Pi") == "dht22-client@kitchen"
    assert (desktop / "root/etc/logrotate.d/dht22").exists()
    assert lines(pi / "root/etc/dht22/kitchen.conf") == ["SERVER=192.168.1.5"]
    logs = tmp_path / "logs"
    logs.mkdir()
    server = exec_start(desktop, "dht22-server.service", **{"$OPTIONS": ""})
    with subprocess.Popen(
        [*server, "--count", "1", "--port", "0"], cwd=logs, stderr=subprocess.PIPE, text=True
    ) as running:
        try:
            port = re.search(r"^listening on \S+:(\d+), ", running.stderr.readline())[1]
            values = {"%i": "kitchen", "$SERVER": "127.0.0.1", "$OPTIONS": f"--port {port}"}
            client = exec_start(pi, "dht22-client@.service", **values)
            subprocess.run(
                [*client, "--driver", "simulated", "--count", "1"],
                env={**os.environ, "XDG_STATE_HOME": str(tmp_path)},
                timeout=DEADLINE,
                check=True,
            )
            assert running.wait(DEADLINE) == 0
        finally:
            running.kill()
    assert lines(logs / "datalog.csv")[1].split(",")[2] == "kitchen"


def test_the_figures_of_how_much_it_is():
    """From the length of a row, and rows a day."""
    row = len("2026-11-21T10:00:02.123Z,192.168.1.7,kitchen,74.3,25.7,1795255204126000\n")
    assert f"| a named reading | {len('74.3,25.7') + 1} bytes | {row} bytes |" in YEARS
    for seconds in 2, 60:
        day = 86400 / seconds * row / 1e6
        assert f"one every {seconds} s, a day |" in YEARS and f"| {day:.1f} MB |" in YEARS
        assert f"one every {seconds} s, a year |" in YEARS and f"| {365 * day:,.0f} MB |" in YEARS


def sender(port, going, sent):
    """Send readings that are all different, a few thousand a second, while told to."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        while going.is_set():
            k = len(sent)
            sent.append(f"{k % 1000 / 10},{k // 1000 / 10 - 40:.1f}")
            sock.sendto(sent[-1].encode(), ("127.0.0.1", port))
            if k % 20 == 19:
                time.sleep(0.005)


def content(path):
    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix == ".gz" else data).decode().splitlines()


def test_logrotate_under_load(server, tmp_path):
    """Twenty forced rotations: each line is in exactly one file."""
    needs("logrotate")
    settings = (ROOT / "deploy/logrotate.conf").read_text()
    settings = re.sub(r"/var/lib/dht22/(\S+)", rf'"{tmp_path}/\1"', settings)
    settings, changed = re.subn(r" +su dht22 dht22\n", "", settings)
    assert changed == 1, "the logs belong to whoever runs this test"
    (tmp_path / "conf").write_text(settings)
    (tmp_path / "conf").chmod(0o644)

    def grown():
        return all(len(lines(tmp_path / name)) > 20 for name in ("datalog.txt", "datalog.csv"))

    running = server("--quiet")
    going, sent = threading.Event(), []
    going.set()
    thread = threading.Thread(target=sender, args=(running.port, going, sent))
    thread.start()
    try:
        for _ in range(20):
            until(grown, "lines in both logs after a rotation")
            subprocess.run(
                ["logrotate", "--force", "--state", tmp_path / "state", tmp_path / "conf"],
                check=True,
            )
        until(grown, "lines in both logs after the last rotation")
    finally:
        going.clear()
        thread.join()
    settle(tmp_path / "datalog.csv")
    assert running.stop() == 0
    for name in "datalog.txt", "datalog.csv":
        files = [tmp_path / name, *tmp_path.glob(f"{name}.*")]
        assert len(files) == 21
        assert sum(path.suffix == ".gz" for path in files) == 19, "the last one is packed next time"
        logged = [line for path in files for line in content(path) if not line.startswith("time,")]
        if name.endswith(".csv"):
            logged = [",".join(line.split(",")[3:5]) for line in logged]
        assert sorted(logged) == sorted(sent)
