"""The scripts in the real Thonny and the real IDLE; test_screen.py has what both have in common."""

import importlib.util
import os
import re
import signal
import subprocess
import sys
from datetime import datetime, timezone

import pytest

from support.made import HEADER
from support.tools import DEADLINE, ROOT, missing, needs

READING = r"^\d+\.\d,\d+\.\d$"
STARTS = {
    "dht_read": (["--driver", "simulated"], READING, READING),
    "client": (["127.0.0.1", "--driver", "simulated"], READING, "^closing socket$"),
    "server": (["--port", "0", "--log", "{}/b.csv"], "^listening on ", "^0 readings logged$"),
    "report": (["{}/a.csv", "--last"], " 74.3,25.7 ", " 74.3,25.7 "),
}
EACH = pytest.mark.parametrize("name", STARTS)


@pytest.fixture
def folder(tmp_path):
    """Return a folder with a log that has a reading of now."""
    now = datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    (tmp_path / "a.csv").write_text(f"{HEADER}{now},192.168.1.7,,74.3,25.7,\n")
    return tmp_path


def start(folder, *command):
    return subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests"), "HOME": str(folder)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


@pytest.mark.long
@EACH
def test_in_thonny(folder, name):
    """Run shows what the script prints, Stop ends it as Ctrl+C does, and the shell lives on."""
    if not importlib.util.find_spec("thonny"):
        missing("Thonny (pip install thonny)")
    arguments, first, last = STARTS[name]
    arguments = [each.format(folder) for each in arguments]  # IDLE starts in the script's folder
    script = str(ROOT / f"{name}.py")
    thonny = start(folder, sys.executable, "-m", "support.thonny_shell", script, *arguments)
    shown = ""
    for line in thonny.stdout:
        shown += line
        if re.search(first, line) and name in ("client", "server"):
            thonny.send_signal(signal.SIGINT)
    assert re.search(first, shown, re.MULTILINE), shown
    assert re.search(last, shown, re.MULTILINE), shown
    assert shown.endswith("the shell is alive\n"), shown


@pytest.mark.long
@EACH
def test_in_idle(folder, name):
    needs("xvfb-run")
    if not importlib.util.find_spec("tkinter") or not importlib.util.find_spec("idlelib"):
        missing("IDLE")
    arguments, first, last = STARTS[name]
    arguments = [each.format(folder) for each in arguments]  # IDLE starts in the script's folder
    script = str(ROOT / f"{name}.py")
    idle = [sys.executable, "-m", "support.idle_shell", "6", script, *arguments]
    shown = start(folder, "xvfb-run", "-a", *idle).communicate(timeout=DEADLINE)[0]
    assert "Traceback" not in shown, shown
    assert re.search(first, shown, re.MULTILINE), shown
    assert re.search(last, shown, re.MULTILINE), shown
