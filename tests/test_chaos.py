"""All that can happen, at once; see chaos.py."""

import subprocess
import sys

import pytest

from support.tools import ROOT, needs_namespaces

LONG = [pytest.param(seed, 40, marks=pytest.mark.long) for seed in range(100)]


@pytest.mark.parametrize(("seed", "seconds"), [(100, 4), (101, 4), *LONG])
def test_nothing_is_lost_and_nothing_is_logged_twice(tmp_path, seed, seconds):
    needs_namespaces()
    command = ["unshare", "-rmpf", "--kill-child", sys.executable, "-m", "support.chaos"]
    command += [str(seed), str(seconds), tmp_path / "chaos"]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT / "tests"
    )
    print(done.stdout)
    assert done.returncode == 0, " ".join(map(str, command))
