"""Calls to the system that fail, or are a script's last: strace notes them, and disturbs them."""

import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from support.tools import needs, until


def strace(trace, names, paths=(), inject=None):
    """Return the words before a command whose calls, on some paths only, are noted in a file."""
    needs("strace")
    words = ["strace", "-D", "-f", "-y", "-o", trace, "-e", f"trace={names}"]
    for path in paths:
        words += ["-P", path]
    return [*words, "-e", f"inject={inject}"] if inject else words


def read_trace(path):
    """Return a trace when it is complete."""
    return until(lambda: "+++ " in (text := path.read_text()) and text, "the end of the trace")


def calls(trace):
    """Return the name of each call of a trace, its number among those, and the rest of its line."""
    found, numbers = [], {}
    for name, rest in re.findall(r"^(?:\d+ +)?(\w+)\((.*)", trace, re.MULTILINE):
        numbers[name] = numbers.get(name, 0) + 1
        found.append((name, numbers[name], rest))
    return found


def at_each(points, play):
    """Play with a fault at each point, four at a time; return the results, if none has failed."""
    failures = []

    def run(point):
        try:
            return play(point)
        except (AssertionError, pytest.fail.Exception) as error:
            failures.append(f"{point}: {error}")
            return None

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(run, points))
    assert not failures, "\n".join(failures)
    return results
