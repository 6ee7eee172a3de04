"""The house: scripts at the top, rooms in dht22/, and arrows that run down only."""

import ast
import re

import pytest

from tools import ROOT

SCRIPTS = {path.stem: path for path in ROOT.glob("*.py")}
ROOMS = {path.stem: path for path in ROOT.glob("dht22/*.py") if path.stem != "__init__"}


def imported(path):
    """Return the scripts and rooms that a file imports, anywhere in it, for types too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {name.removeprefix("dht22.").partition(".")[0] for name in names}
    return found


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_imports_no_other_script(script):
    assert not imported(SCRIPTS[script]) & SCRIPTS.keys()


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_no_script(room):
    assert not imported(ROOMS[room]) & SCRIPTS.keys()


def test_the_map_names_each_room_below_those_that_it_imports():
    lines = ast.get_docstring(ast.parse((ROOT / "dht22/__init__.py").read_text())).splitlines()
    listed = [line.split()[0] for line in lines if line.startswith("    ")]
    assert sorted(listed) == sorted(ROOMS)
    for number, room in enumerate(listed):
        assert imported(ROOMS[room]) & ROOMS.keys() <= set(listed[:number]), room


@pytest.mark.parametrize("path", sorted(ROOT.glob("tests/*.py")), ids=lambda path: path.stem)
def test_no_test_imports_another_test_file(path):
    assert not any(name.startswith("test_") for name in imported(path))


def test_arrows_run_down_only():
    above = {room: imported(path) & ROOMS.keys() for room, path in ROOMS.items()}
    while above:
        lowest = {room for room, needs in above.items() if not needs & above.keys()}
        assert lowest, f"these import each other: {sorted(above)}"
        above = {room: needs for room, needs in above.items() if room not in lowest}


LINES, LINES_OF_A_FUNCTION = 330, 40  # at most
LONGER = {"publish.get_parser": 55}  # one option after the other: nothing to follow


@pytest.mark.parametrize("path", [*SCRIPTS.values(), *ROOMS.values()], ids=lambda path: path.name)
def test_files_and_functions_are_short(path):
    text = path.read_text()
    assert text.count("\n") <= LONGER.get(path.name, LINES)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            most = LONGER.get(f"{path.stem}.{node.name}", LINES_OF_A_FUNCTION)
            assert node.end_lineno - node.lineno < most, f"{node.name} is too long"


def test_ci_installs_the_same_everywhere():
    here = re.search(r"wanted=\((.*?)\)", (ROOT / ".ci/run").read_text(), re.DOTALL)[1]
    workflow = (ROOT / ".github/workflows/test.yml").read_text()
    there = re.search(r"apt-get install -y (.*?)\n      -", workflow, re.DOTALL)[1]
    assert here.split() == there.split()
