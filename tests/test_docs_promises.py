"""docs/promises.md names tests; each of them exists."""

import re

from support.tools import ROOT

PAGE = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")


def test_each_test_that_is_named_exists():
    named = re.findall(r"`(test_\w+\.py)::(\w+)`", PAGE)
    assert len(named) > 50
    for file, test in named:
        text = (ROOT / "tests" / file).read_text(encoding="utf-8")
        assert re.search(rf"^def {test}\(", text, re.MULTILINE), f"{file}::{test}"


def test_each_promise_names_a_test():
    promises = PAGE.partition("## What was tried")[0]
    rows = re.findall(r"^\| (?!promise).*", promises, re.MULTILINE)
    assert rows and all("`test_" in row for row in rows)


def test_what_has_a_full_size_is_marked():
    for file, test, mark in re.findall(r"`(test_\w+\.py)::(\w+)`(⁺?)", PAGE):
        text = (ROOT / "tests" / file).read_text(encoding="utf-8")
        decorators = re.search(rf"((?:^[@ \])\[(].*\n)*)^def {test}\(", text, re.MULTILINE)[1]
        has_full_size = "mark.long" in decorators or "*FULL" in decorators or "*LONG" in decorators
        assert bool(mark) == has_full_size, f"{file}::{test}"
