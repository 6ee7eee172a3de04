"""The benchmarks work; what they measure is for a quiet machine, and nothing is asserted of it."""

import subprocess
import sys

import pytest

from support.tools import ROOT, needs


@pytest.mark.long
@pytest.mark.parametrize(
    "name, programs",
    [
        ("receive", ["cc", "taskset", "socat", "rsyslogd"]),
        ("deliver", ["taskset", "mosquitto"]),
        ("poll", ["taskset"]),
    ],
)
def test_bench(name, programs):
    needs(*programs)
    done = subprocess.run(
        [sys.executable, ROOT / "bench" / f"{name}.py", "--quick"],
        timeout=120,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert done.returncode == 0, done.stderr
    head, rule, *rows = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert rows and all(row.count("|") == head.count("|") == rule.count("|") for row in rows)
    assert "not installed" not in done.stdout
