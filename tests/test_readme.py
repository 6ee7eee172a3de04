"""What the README shows is run here, and what it lists is what the scripts know."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from tools import ROOT, lines

README = (ROOT / "README.md").read_text()
SCRIPTS = ["server", "client", "dht_read", "report"]


def block(heading):
    """Return the first code block under a heading."""
    return re.search(rf"^## {heading}$.*?^```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)[1]


def test_try_it_ends_with_readings_in_the_logs(tmp_path):
    for path in ROOT.glob("*.py"):
        shutil.copy(path, tmp_path)
    shutil.copytree(ROOT / "dht22", tmp_path / "dht22")
    python = tmp_path / "bin" / "python3"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    environment = {**os.environ, "PATH": f"{python.parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", block("Try it")],
        cwd=tmp_path,
        env=environment,
        timeout=60,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0
    readings = lines(tmp_path / "datalog.txt")
    assert len(readings) == 5
    assert all(re.fullmatch(r"\d{1,3}\.\d,-?\d{1,2}\.\d", reading) for reading in readings)
    rows = [row.split(",") for row in lines(tmp_path / "datalog.csv")[1:]]
    assert [",".join(row[3:5]) for row in rows] == readings
    assert {row[1] for row in rows} == {"127.0.0.1"}
    assert "\n".join(readings) + "\n" in done.stdout


def test_test_it_is_what_ci_runs():
    assert "README.md" in (ROOT / ".ci/run").read_text()
    assert "pytest" in block("Test it")
    for heading in "Try it", "Test it":
        assert block(heading).count("\n") == 1, "one command that can be pasted whole"


@pytest.mark.parametrize("name", SCRIPTS)
def test_options_in_the_readme_are_those_of_help(script, name):
    running = script(name, "--help")
    assert running.wait() == 0
    section = README[README.index("## Options") : README.index("## Formats")]
    table = re.search(rf"^\| `{name}\.py.*?\n\n", section, re.MULTILINE | re.DOTALL)[0]
    listed = set(re.findall(r"`(--[a-z-]+)", table)) | {"--help", "--version"}
    assert listed == set(re.findall(r"^  (?:-\w, )?(--[a-z-]+)", running.out, re.MULTILINE))


@pytest.mark.parametrize("name", SCRIPTS)
def test_version(script, name):
    running = script(name, "--version")
    assert running.wait() == 0
    assert re.fullmatch(rf"{name}\.py \d+\.\d+\.\d+\n", running.out)
