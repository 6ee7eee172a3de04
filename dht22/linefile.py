"""Files of lines that are trusted for years: logs and spool."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from contextlib import suppress
from io import FileIO

from dht22.datagram import LIMIT

try:
    import fcntl
except ImportError:  # Windows: there the port alone keeps a second server out
    fcntl = None  # type: ignore[assignment]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO

Warn = Callable[[str], None]

LINE = 2 * LIMIT  # bytes; no line of ours is longer


class LineFile:
    """A file that is only appended to, whole lines at a time, and made anew after it was renamed or removed."""

    def __init__(
        self,
        path: str,
        warn: Warn,
        header: bytes,
        is_ours: Callable[[bytes], object],
        whole: re.Pattern[bytes],
        torn: re.Pattern[bytes],
    ) -> None:
        self.path = path
        self.warn = warn
        self.header = header
        self.is_ours = is_ours  # can a complete line stand in this file?
        self.whole = whole  # a last line without its line end that is only to be completed
        self.torn = torn  # one that a power cut has torn
        self.before = 0  # the size before the last append
        self.undone = True  # unless that append failed and could not be cut off
        self.file = self.open()
        self.append(b"")  # an empty file gets its header
        self.flush()  # what a killed predecessor wrote, and did not flush, counts from now on

    def open(self) -> FileIO:
        """Open the file, make it when missing; refuse one that is not ours or that another has."""
        file = open(self.path, "a+b", buffering=0)  # noqa: SIM115
        try:
            lock(file)
            self.mend(file)
            self.opened = os.fstat(file.fileno())
        except OSError:
            file.close()
            raise
        return file

    def mend(self, file: FileIO) -> None:
        """Complete or cut off a torn last line; raise OSError, the file untouched, if it is no log of ours."""
        size = end = file.seek(0, os.SEEK_END)
        while True:  # until the last block ends in no NULs: a power cut can leave them
            start = max(0, end - LINE)
            file.seek(start)
            block = file.read(end - start)
            if not block.endswith(b"\0"):
                break
            end = start + len(block.rstrip(b"\0"))
        *lines, torn = block.split(b"\n")
        file.seek(0)
        first = file.read(LINE)
        if lines and not first.startswith(self.header):
            raise OSError(errno.EINVAL, f"its first line is not {self.header.decode().strip()}")
        for line in [first.split(b"\n")[0], lines[-1]] if lines else []:
            if not self.is_ours(line) and line + b"\n" != self.header:
                raise OSError(errno.EINVAL, f"not a file of ours: a line in it is {line[:60]!a}")
        if lines or not self.header:
            complete, beginning = bool(self.whole.fullmatch(torn)), bool(self.torn.fullmatch(torn))
        else:
            complete, beginning = False, self.header.startswith(torn)
        if not complete and not beginning:
            raise OSError(errno.EINVAL, f"not a file of ours: it ends in {torn[-60:]!a}")
        cut = b"" if complete else torn
        if cut or end < size:
            self.warn(f"{self.path}: cut off a torn end, {cut!a} and {size - end} NUL bytes")
            file.truncate(end - len(cut))
        if complete:
            self.warn(f"{self.path}: completed the last line, {torn!a}")
            file.write(b"\n")

    def append(self, lines: bytes) -> None:
        """Append whole lines; raise OSError, and nothing is appended, if they do not fit."""
        self.undo()
        self.before = self.size()
        rest = memoryview(lines if self.before else self.header + lines)
        try:
            while rest:
                rest = rest[self.file.write(rest) :]
        except OSError:
            self.fail()
            raise

    def size(self) -> int:
        """Return the size of the file, made anew if it was renamed or removed: one system call for both."""
        with suppress(FileNotFoundError):
            found = os.stat(self.path)
            if os.path.samestat(found, self.opened):
                return found.st_size
        old, self.file = self.file, self.open()
        with suppress(OSError):  # NFS may tell now that an earlier write has failed
            old.close()
        return os.fstat(self.file.fileno()).st_size

    def flush(self) -> None:
        """Put what was appended on the disk; raise OSError, and the last append is undone, if that fails."""
        try:
            os.fsync(self.file.fileno())
        except (
            OSError
        ):  # Linux drops the pages then: trying again without writing again would lose them
            self.fail()
            raise

    def clear(self) -> None:
        """Empty the file; raise OSError."""
        self.file.truncate(0)

    def fail(self) -> None:
        """Cut off what the last append wrote: now, else before the next one."""
        self.undone = False
        with suppress(OSError):
            self.undo()

    def undo(self) -> None:
        if not self.undone:
            if os.fstat(self.file.fileno()).st_size > self.before:  # else somebody has emptied it
                self.file.truncate(self.before)
            self.undone = True


def lock(file: IO[bytes]) -> None:
    """Keep other servers and clients out of a file, not its readers; raise OSError if one has it."""
    try:
        if fcntl:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OSError(errno.EBUSY, "another client or server writes it") from None


def was_moved(path: str, file: IO[bytes]) -> bool:
    """Tell whether `file` is no longer what is found at `path`: renamed or removed."""
    try:
        return not os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except FileNotFoundError:
        return True
