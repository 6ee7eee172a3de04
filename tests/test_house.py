"""The house: scripts at the top, a folder for each program in dht22/, arrows that run down only."""

import ast
import re

import pytest

from support.tools import ROOT

SCRIPTS = {path.stem: path for path in ROOT.glob("*.py")}
# By their names in the map: `console`, `pi/sensor`. The first file of a folder says what it is for.
MODULES = {
    path.relative_to(ROOT / "dht22").with_suffix("").as_posix(): path
    for path in ROOT.glob("dht22/**/*.py")
    if path.stem != "__init__"
}
SHARED = {"pi": {"log/linefile"}}  # of log/; the other folders may import all of it


def imported(path):
    """Return the scripts and modules that a file imports, anywhere in it, for types too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        found |= {name.removeprefix("dht22.").replace(".", "/") for name in names}
    return found & (SCRIPTS.keys() | MODULES.keys())


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_imports_modules_and_no_script(script):
    assert not imported(SCRIPTS[script]) & SCRIPTS.keys()


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_what_is_above_it_what_is_beside_it_and_log(module):
    folder = module.rpartition("/")[0]
    shared = {each for each in MODULES if each.startswith("log/")}
    for each in imported(MODULES[module]):
        of = each.rpartition("/")[0]
        allowed = of in ("", folder) or folder and each in SHARED.get(folder, shared)
        assert allowed, f"{module} imports {each}"


def test_arrows_run_down_only():
    """No circle, and the map names each module below those that it imports."""
    lines = ast.get_docstring(ast.parse((ROOT / "dht22/__init__.py").read_text())).splitlines()
    in_map = re.compile("    ([a-z]+(?:/[a-z]+)?) ")
    listed = [match[1] for match in map(in_map.match, lines) if match]
    assert sorted(listed) == sorted(MODULES)
    for number, module in enumerate(listed):
        assert imported(MODULES[module]) <= set(listed[:number]), module


@pytest.mark.parametrize("path", sorted(ROOT.glob("tests/**/*.py")), ids=lambda path: path.stem)
def test_no_test_imports_another_test_file(path):
    assert not re.search("^ *(import|from) test_", path.read_text(), re.MULTILINE)


LINES, LINES_OF_A_FUNCTION = 330, 40  # at most
LONGER = {"publish.get_parser": 55}  # one option after the other: nothing to follow


@pytest.mark.parametrize(
    "path",
    [*SCRIPTS.values(), *MODULES.values()],
    ids=lambda path: f"{path.parent.name}-{path.stem}",
)
def test_files_and_functions_are_short(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            most = LONGER.get(f"{path.stem}.{node.name}", LINES_OF_A_FUNCTION)
            assert node.end_lineno - node.lineno < most, f"{node.name} is too long"


def test_ci_installs_the_same_everywhere():
    here = re.search(r"wanted=\((.*?)\)", (ROOT / ".ci/run").read_text(), re.DOTALL)[1]
    workflow = (ROOT / ".github/workflows/test.yml").read_text()
    there = re.search(r"apt-get install -y (.*?)\n      -", workflow, re.DOTALL)[1]
    assert here.split() == there.split()
