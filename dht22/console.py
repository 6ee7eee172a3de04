"""What the scripts share at the terminal: options, one-line errors, what they say."""

from __future__ import annotations

import argparse
import errno
import os
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from io import TextIOWrapper

from dht22 import VERSION
from dht22.datagram import NAME
from dht22.screen import screen_of
from dht22.stop import SIGNALS

TYPE_CHECKING = False
if TYPE_CHECKING:  # not at run time: `typing` would cost the client on the Pi 0.7 MiB
    from typing import Any, NoReturn

PYTHON = "py" if os.name == "nt" else "python3"  # what to type to start Python
PROGRESS = 2.0  # seconds from one line about the progress to the next


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
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # it may know no °

    def _print_message(self, message: str, file: Any = None) -> None:
        if file:  # Python 3.9 fails where stdout or stderr was closed before the start
            super()._print_message(message, file)

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        screen_of(sys.stderr).show(message or "")  # behind what was said before
        sys.exit(status)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}; see {self.prog} --help\n")

    def fail(self, message: str) -> NoReturn:
        """End a script that could not start: exit code 1."""
        self.exit(1, f"{self.prog}: error: {message}\n")


def run_script(main: Callable[[], int]) -> None:
    """Run a script; end with its exit code, unless that is 0, once its last lines are written.

    The shell of an editor goes on after it: it keeps its process, and gets its signals back.
    """
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    handlers[signal.SIGINT] = signal.default_int_handler  # the script's first lines let go of it
    try:
        code = main()
        if code:  # 0 needs no exit, which would end Thonny's process too
            sys.exit(code)
    finally:
        for stream in sys.stdout, sys.stderr:
            screen_of(stream).finish()
        if not isinstance(sys.stdout, TextIOWrapper):  # an editor's
            for number, handler in handlers.items():
                signal.signal(number, handler)
            # It keeps the last error, and with it all that main had open: the port, the spool.
            import traceback

            traceback.clear_frames(sys.exc_info()[2])


def how_to_install(debian: str, pypi: str, script: str) -> str:
    """Return the ways to packages that a script needs: by their names in Debian and in PyPI.

    `debian` is empty if Debian does not have them.
    """
    if sys.platform == "linux":
        apt = f"sudo apt install {debian}, or " if debian else ""
        venv = f"python3 -m venv .venv && .venv/bin/pip install {pypi}"
        return f"{apt}{venv} && .venv/bin/python3 {script}"
    return f"{PYTHON} -m pip install {pypi}"


def how_to_write(path: str, *others: str) -> str:
    """Return the command that lets this user write a file or folder that is there (POSIX).

    others are files that belong to it, if they are there.
    """
    words = " ".join([typed(path), *(typed(each) for each in others if os.path.exists(each))])
    if os.stat(path).st_uid == os.geteuid():
        return f"chmod u+w {words}"
    return f"if it is from a start with sudo: sudo chown $USER {words}"


def typed(path: str) -> str:
    """Return a path as it is typed in a shell."""
    import shlex  # for the line of an error only: it costs memory

    return shlex.quote(path)


def print_all(parser: Parser, text: str, what: str) -> None:
    """Print what was asked for, all of it, however slow its reader; end the script if that fails.

    A reader who has seen enough (`| head`) is no failure.
    """
    try:
        print(text, flush=True)
    except OSError as error:
        if isinstance(sys.stdout, TextIOWrapper):  # else Python tries once more as it exits
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno not in (errno.EPIPE, errno.EINVAL):  # so Windows calls a broken pipe
            parser.fail(f"cannot print {what} ({error.strerror}); is the disk full?")


def port(text: str) -> int:
    """Convert `text` to a port, 0 to 65535."""
    if not text.isascii() or not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port (0 to 65535)")
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


def say(line: str) -> None:
    """Show one line of talk on stderr, control characters as `\\x1b`."""
    printable = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in line)
    screen_of(sys.stderr).show(printable + "\n")
