"""What the scripts share at the terminal: options, one-line errors, output that never blocks."""

from __future__ import annotations

import argparse
import errno
import os
import re
import select
import sys
import time
from collections import Counter
from contextlib import suppress
from functools import lru_cache

from dht22 import VERSION
from dht22.datagram import NAME, PORT

TYPE_CHECKING = False
if TYPE_CHECKING:  # not at run time: `typing` would cost the client on the Pi 0.7 MiB
    from typing import Any, NoReturn, TextIO

PROGRESS = 2.0  # seconds from one line about the progress to the next
CHUNK = 4096  # bytes; PIPE_BUF on Linux: a pipe that polls writable accepts as many at once


class Parser(argparse.ArgumentParser):
    """A parser whose manual is the script's docstring and whose error is one line."""

    def __init__(self, prog: str, manual: str | None) -> None:
        super().__init__(
            prog=prog,
            description=manual,
            allow_abbrev=False,
            formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, width=100),
        )
        self.add_argument("--version", action="version", version=f"%(prog)s {VERSION}")

    def _print_message(self, message: str, file: Any = None) -> None:
        if file:  # Python 3.9 fails where stdout or stderr was closed before the start
            super()._print_message(message, file)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}; see {self.prog} --help\n")

    def fail(self, message: str) -> NoReturn:
        """End a script that could not start: exit code 1."""
        self.exit(1, f"{self.prog}: error: {message}\n")


def port(text: str) -> int:
    """Convert `text` to a UDP port, 0 to 65535."""
    if not text.isascii() or not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a port (0 to 65535; the usual one is {PORT})"
        )
    return int(text)


def count(text: str) -> int:
    """Convert `text` to a number of readings, 1 or more."""
    if not text.isascii() or not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a count (a whole number, 1 or more)")
    return int(text)


def seconds(text: str) -> float:
    """Convert `text` to an interval in seconds, at most 1 day."""
    try:
        interval = float(text)
    except ValueError:
        interval = -1.0
    if interval != 0 and not 0.001 <= interval <= 86400:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not an interval (seconds, as 2 or 0.5, to 86400; 0 is without a pause)"
        )
    return interval


def interval(text: str) -> int:
    """Convert `text` to an interval for the clients: whole seconds, 2 to 1 day."""
    if not text.isascii() or not text.isdecimal() or not 2 <= int(text) <= 86400:
        raise argparse.ArgumentTypeError(f"{text!r} is not an interval (whole seconds, 2 to 86400)")
    return int(text)


def name(text: str) -> str:
    """Convert `text` to the name of a sensor."""
    if not re.fullmatch(NAME, text.encode()):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a name (1 to 32 of A-Z a-z 0-9 . _ -, no blanks, not an IP address)"
        )
    return text


def counted(count: int, noun: str) -> str:
    """Return a number with its noun, as in `1 reading` and `2 readings`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


class Once:
    """Says a line of each kind once, until it is cleared."""

    def __init__(self) -> None:
        self.said: set[object] = set()  # kinds

    def say(self, kind: object, line: str) -> None:
        """Show a line on stderr, unless one of this kind was shown since the last `clear`."""
        if kind not in self.said:
            self.said.add(kind)
            say(line)

    def clear(self) -> bool:
        """Let each kind be said again; tell whether anything was said since the last `clear`."""
        anything = bool(self.said)
        self.said.clear()
        return anything


class Notices:
    """Warnings on stderr: of each kind at most a line a second, which tells how many more came."""

    def __init__(self) -> None:
        self.first: dict[str, str] = {}  # the first line of each kind
        self.number: Counter[str] = Counter()
        self.due = 0.0

    def add(self, kind: str, line: str) -> None:
        """Note a warning."""
        self.first.setdefault(kind, line)
        self.number[kind] += 1

    def show(self, now: float) -> None:
        """Show what was noted, unless that was done less than a second ago (monotonic)."""
        if not self.first or now < self.due:
            return
        for kind, line in self.first.items():
            others = self.number[kind] - 1
            say(f"{line} (and {others} more)" if others else line)
        self.first.clear()
        self.number.clear()
        self.due = now + 1


class Progress:
    """A line on stderr every PROGRESS seconds while something takes long."""

    def __init__(self) -> None:
        self.due = time.monotonic() + PROGRESS

    def is_due(self) -> bool:
        return time.monotonic() >= self.due

    def show(self, line: str) -> None:
        """Show a line, if one is due."""
        if self.is_due():
            say(line)
            self.due = time.monotonic() + PROGRESS


class Screen:
    """stdout or stderr, written to only while its reader keeps up: it can never stop the logging.

    What there is no room for is left out, whole lines at a time.
    """

    def __init__(self, stream: TextIO | None) -> None:
        # A stream that was closed before the start is None; its number may be a log's by now.
        self.fd = stream.fileno() if stream else -1
        self.unfinished = b""  # the rest of a line that was written in part
        if stream and stream.isatty():
            self.fd = open_terminal(self.fd)

    def is_open(self) -> bool:
        return self.fd >= 0

    def show(self, lines: str) -> None:
        """Write `lines`, as many as there is room for."""
        rest = self.unfinished + lines.encode("utf-8", "backslashreplace")
        try:
            while rest and self.fd >= 0 and writable(self.fd):
                whole_lines = rest.rfind(b"\n", 0, CHUNK) + 1
                written = os.write(self.fd, rest[: whole_lines or CHUNK])
                self.unfinished = rest_of_line(rest, written)
                rest = rest[written:]
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):  # a full disk may get room again
                self.fd = -1


def rest_of_line(lines: bytes, written: int) -> bytes:
    """Return what is missing of the line within which a write ended."""
    if lines[:written].endswith(b"\n"):
        return b""
    return lines[written : lines.find(b"\n", written) + 1]


def open_terminal(fd: int) -> int:
    """Return a descriptor of our own for a terminal, so that it alone is O_NONBLOCK; -1 for none.

    A terminal polls writable when a single byte fits: only O_NONBLOCK keeps a write from waiting.
    """
    flags = os.O_WRONLY | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_NONBLOCK", 0)
    if os.name != "posix":
        return fd
    with suppress(OSError):
        return os.open(os.ttyname(fd), flags)
    with suppress(OSError):  # another user's terminal (sudo -u), but ours to write to
        os.tcgetpgrp(fd)  # raises unless this is the terminal that controls us
        return os.open("/dev/tty", flags)
    return -1


def writable(fd: int) -> bool:
    """Tell whether a write of CHUNK bytes would return at once.

    O_NONBLOCK would tell that too, but whoever gave us the descriptor would inherit it.
    """
    if not hasattr(select, "poll"):  # Windows
        return True
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return bool(poll.poll(0))


@lru_cache(maxsize=2)
def screen_of(stream: TextIO | None) -> Screen:
    """Return the one screen of a stream."""
    return Screen(stream)


def say(line: str) -> None:
    """Show one line of talk on stderr, control characters as `\\x1b`."""
    printable = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in line)
    screen_of(sys.stderr).show(printable + "\n")
