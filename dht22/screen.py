"""stdout and stderr, written to only while their reader keeps up: they can never stop the logging.

What there is no room for is left out, whole lines at a time.
"""

from __future__ import annotations

import errno
import os
import select
import signal
from contextlib import suppress
from functools import lru_cache
from io import TextIOWrapper

TYPE_CHECKING = False
if TYPE_CHECKING:  # not at run time: `typing` would cost the client on the Pi 0.7 MiB
    from typing import Any, TextIO

CHUNK = 4096  # bytes; PIPE_BUF on Linux: a pipe that polls writable accepts as many at once
ROOM = 65536  # bytes that may wait for a thread, as many as for the reader of a pipe on Linux
LAST_LINES = 1.0  # seconds that the end of a script waits for them, if the reader is slow


class Screen:
    """Nothing to print on: the script was started without stdout, or prints nothing (--quiet)."""

    def is_open(self) -> bool:
        return False

    def show(self, lines: str) -> None:
        """Write whole `lines`, as many as there is room for."""

    def finish(self) -> None:
        """Wait a moment for the last lines to be written."""


class PolledScreen(Screen):
    """A descriptor that tells when there is room: a pipe, a file or a terminal."""

    def __init__(self, stream: TextIOWrapper) -> None:
        self.fd = stream.fileno()
        self.encoding = stream.encoding
        self.unfinished = b""  # the rest of a line that was written in part
        if stream.isatty():
            self.fd = open_terminal(self.fd)

    def is_open(self) -> bool:
        return self.fd >= 0

    def show(self, lines: str) -> None:
        rest = self.unfinished + lines.encode(self.encoding, "backslashreplace")
        try:
            while rest and self.fd >= 0 and writable(self.fd):
                whole_lines = rest.rfind(b"\n", 0, CHUNK) + 1
                written = os.write(self.fd, rest[: whole_lines or CHUNK])
                self.unfinished = rest_of_line(rest, written)
                rest = rest[written:]
        except BlockingIOError:
            pass
        except OSError as error:
            if not may_pass(error):
                self.fd = -1


class ThreadedScreen(Screen):
    """A stream whose `write` alone is there, and may block: a thread of its own calls it.

    These are the shells of Thonny, IDLE and Jupyter, and everything on Windows, where a click into
    the window is enough to hold the output.
    """

    def __init__(self, stream: TextIO) -> None:
        import threading  # not needed on a Pi without an editor

        self.stream = stream
        self.encoding = stream.encoding or "utf-8"
        self.waiting = b""  # whole lines
        self.writing = False
        self.closed = False
        self.changed = threading.Condition()
        self.thread = threading.Thread(target=self.write_on, daemon=True)

    def is_open(self) -> bool:
        return not self.closed

    def show(self, lines: str) -> None:
        encoded = lines.encode(self.encoding, "backslashreplace")
        with self.changed:
            room = ROOM - len(self.waiting)
            self.waiting += encoded[: encoded.rfind(b"\n", 0, room) + 1]
            self.changed.notify_all()
        if self.thread.ident is None:
            self.thread.start()

    def finish(self) -> None:
        with self.changed:
            self.changed.wait_for(
                lambda: self.closed or not (self.waiting or self.writing), LAST_LINES
            )

    def write_on(self) -> None:
        """Write what waits, for as long as that is possible."""
        while not self.closed:
            with self.changed:
                self.changed.wait_for(lambda: self.waiting)
                lines, self.waiting = self.waiting, b""
                self.writing = True
            try:
                self.write(lines)
            except Exception as error:  # whatever an editor's stream raises once it is closed
                self.closed = not may_pass(error)
            with self.changed:
                self.writing = False
                self.changed.notify_all()

    def write(self, lines: bytes) -> None:
        if not isinstance(self.stream, TextIOWrapper):
            self.stream.write(lines.decode(self.encoding))
            self.stream.flush()
            return
        # Past the buffer: Python cannot end while a thread is stuck in it and holds its lock.
        file: Any = getattr(self.stream.buffer, "raw", self.stream.buffer)
        while lines:
            written = file.write(lines)
            lines = lines[written:]


def may_pass(error: Exception) -> bool:
    """Tell whether output may work again later: a full disk may get room."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def rest_of_line(lines: bytes, written: int) -> bytes:
    """Return what is missing of the line within which a write ended."""
    if lines[:written].endswith(b"\n"):
        return b""
    return lines[written : lines.find(b"\n", written) + 1]


def open_terminal(fd: int) -> int:
    """Return a descriptor of our own for a terminal, so that it alone is O_NONBLOCK; -1 for none.

    A terminal polls writable when a single byte fits: only O_NONBLOCK keeps a write from waiting.
    """
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # `stty tostop` stops who writes unasked
    flags = os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK
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
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return bool(poll.poll(0))


@lru_cache(maxsize=3)  # stdout, stderr and None
def screen_of(stream: TextIO | None) -> Screen:
    """Return the one screen of a stream.

    Python's own streams are TextIOWrapper. The stream of an editor's shell is not to be believed:
    it may have a `fileno`, which leads elsewhere, and say that it is a terminal.
    """
    if stream is None:  # it was closed before the start; its number may be a log's by now
        return Screen()
    if hasattr(select, "poll") and isinstance(stream, TextIOWrapper):
        with suppress(OSError, ValueError):  # no file at all, or closed
            return PolledScreen(stream)
    return ThreadedScreen(stream)
