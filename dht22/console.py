"""What the scripts share at the terminal: options, errors of one line, and printing that never waits."""

from __future__ import annotations

import argparse
import errno
import os
import re
import select
import sys
from contextlib import suppress

from dht22.datagram import PORT, VERSION

TYPE_CHECKING = False
if (
    TYPE_CHECKING
):  # here and in what the Pi runs: to import typing costs a tenth of the client's memory
    from typing import NoReturn, TextIO

NAME = re.compile("[A-Za-z0-9._-]{1,32}")
KEY = re.compile(rb"([A-Za-z0-9._-]{1,32})[ \t]+([0-9a-fA-F]{64})[ \t]*")
CHUNK = 4096  # bytes; PIPE_BUF on Linux: a pipe that polls writable takes so much without blocking


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

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}; see {self.prog} --help\n")

    def fail(self, message: str) -> NoReturn:
        """End a script that could not start: exit code 1."""
        self.exit(1, f"{self.prog}: error: {message}\n")


def port(text: str) -> int:
    """Convert `text` to a UDP port, 0 to 65535."""
    if not text.isascii() or not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no port (0 to 65535; the usual one is {PORT})"
        )
    return int(text)


def count(text: str) -> int:
    """Convert `text` to a number of readings, 1 or more."""
    if not text.isascii() or not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no count (a whole number, 1 or more)")
    return int(text)


def seconds(text: str) -> float:
    """Convert `text` to an interval in seconds, at most 1 day."""
    try:
        interval = float(text)
    except ValueError:
        interval = -1.0
    if interval != 0 and not 0.001 <= interval <= 86400:
        raise argparse.ArgumentTypeError(f"{text!r} is no interval (seconds, 0.001 to 86400, or 0)")
    return interval


def name(text: str) -> str:
    """Convert `text` to the name of a sensor."""
    if not NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no name (1 to 32 of A-Z a-z 0-9 . _ -)")
    return text


def read_keys(path: str) -> dict[str, bytes]:
    """Return the keys in a file, a line each: a name, a blank, 64 hex digits; raise OSError if they are not usable."""
    with open(path, "rb") as file:
        if os.name == "posix" and os.fstat(file.fileno()).st_mode & 0o077:
            raise OSError(errno.EPERM, "others can read it: chmod 600")
        keys: dict[str, bytes] = {}
        for number, line in enumerate(file.read(1 << 24).splitlines(), 1):
            match = KEY.fullmatch(line)
            if not match or match[1].decode() in keys:
                raise OSError(
                    errno.EINVAL, f"line {number} is no `name key`, or a name's second one"
                )
            keys[match[1].decode()] = bytes.fromhex(match[2].decode())
    if not keys:
        raise OSError(errno.EINVAL, "it is empty")
    return keys


class Screen:
    """stdout or stderr, written to only while its reader keeps up, so that it can never stop the logging."""

    def __init__(self, stream: TextIO | None) -> None:
        # A stream that was closed before the start is None; its number may be a log's by now.
        self.fd = stream.fileno() if stream else -1
        try:
            self.terminal = os.ttyname(self.fd)
        except (AttributeError, OSError):  # a file or a pipe; Windows
            self.terminal = ""

    def is_open(self) -> bool:
        return self.fd >= 0

    def show(self, lines: str) -> None:
        """Write `lines`; leave out what its reader has no room for, and everything once it is gone."""
        rest = lines.encode("utf-8", "backslashreplace")
        fd, own = self.fd, False
        if (
            self.terminal
        ):  # it polls writable with room for one byte: a way of our own, which may be O_NONBLOCK
            with suppress(OSError):
                fd = os.open(self.terminal, os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
                own = True
        try:
            while rest and fd >= 0 and writable(fd):
                whole = rest.rfind(b"\n", 0, CHUNK) + 1 or CHUNK
                rest = rest[os.write(fd, rest[:whole]) :]
        except BlockingIOError:
            pass
        except OSError:
            self.fd = -1
        finally:
            if own:
                os.close(fd)


def writable(fd: int) -> bool:
    """Tell whether a write of CHUNK bytes would return at once (never O_NONBLOCK: others share what was given)."""
    if not hasattr(select, "poll"):  # Windows
        return True
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return bool(poll.poll(0))


def say(line: str) -> None:
    """Show one line of talk on stderr."""
    Screen(sys.stderr).show(line + "\n")
