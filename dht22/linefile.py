"""Files of lines that are trusted for years: the text logs and the spool."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from io import FileIO
from itertools import chain
from typing import IO

from dht22.datagram import LIMIT

try:
    import fcntl
except ImportError:  # Windows: there the port alone keeps a second server out
    fcntl = None  # type: ignore[assignment]

Warn = Callable[[str], None]

LINE = 2 * LIMIT  # bytes; no line of ours is longer


class LineFile:
    """A file that is only appended to, whole lines at a time.

    It is created again after it was renamed or removed. What may stand in it: `header`, lines that
    `is_ours` accepts, and a last line without its line end, which is completed if `whole` matches
    it, and cut off if `torn` does. Any other file is refused, untouched.
    """

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
        self.is_ours = is_ours
        self.whole = whole
        self.torn = torn
        self.size_before = 0  # of the last append
        self.must_undo = False  # that append failed, and could not be cut off yet
        self.file = self.open()
        self.append(b"")  # an empty file gets its header
        self.flush()  # what a killed predecessor wrote and did not flush counts from now on

    def open(self) -> FileIO:
        """Open the file, create it if it is missing; refuse one that is not ours or in use."""
        file = open(self.path, "a+b", buffering=0)  # noqa: SIM115
        try:
            lock(file)
            first, last, torn, nuls = ends(file)
            self.refuse_foreign(first, last, torn)
            if self.lacks_header(first, torn):
                self.put_header_back(file)
                file.close()
                return self.open()
            self.repair(file, torn, nuls)
            self.opened = os.fstat(file.fileno())
        except OSError:
            file.close()
            raise
        return file

    def lacks_header(self, first: bytes | None, torn: bytes) -> bool:
        """Tell whether a file that should begin with the header begins with a row."""
        return bool(self.header and self.whole.fullmatch(torn if first is None else first))

    def put_header_back(self, file: FileIO) -> None:
        """Put the header before the rows of a file that somebody emptied while it was written."""
        self.warn(f"{self.path}: put the missing header back")
        file.seek(0)
        rows = iter(lambda: file.read(1 << 20), b"")
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        replace(self.path, chain([self.header], rows), mode)

    def refuse_foreign(self, first: bytes | None, last: bytes | None, torn: bytes) -> None:
        """Raise OSError if a file with these first and last lines is none of ours."""
        title = self.header.rstrip(b"\n")
        if first is None or last is None:  # there is no whole line
            could_be_ours = title.startswith(torn) if title else self.is_end(torn)
            if not could_be_ours and not self.lacks_header(first, torn):
                raise foreign("it ends in", torn)
            return
        if title and first != title and not self.lacks_header(first, torn):
            raise OSError(errno.EINVAL, f"its first line is not {title.decode()}")
        for line in first, last:
            if not self.is_ours(line) and line + b"\n" != self.header:
                raise foreign("a line in it is", line)
        if not self.is_end(torn):
            raise foreign("it ends in", torn)

    def is_end(self, torn: bytes) -> bool:
        """Tell whether a last line without its line end is one of ours, or the beginning of one."""
        return bool(self.whole.fullmatch(torn) or self.torn.fullmatch(torn))

    def repair(self, file: FileIO, torn: bytes, nuls: int) -> None:
        """Complete a last line that lacks only its line end; cut off one that is torn."""
        complete = bool(self.whole.fullmatch(torn))
        cut = b"" if complete else torn
        if cut or nuls:
            self.warn(f"{self.path}: cut off a torn end, {cut!a} and {nuls} NUL bytes")
            file.truncate(file.seek(0, os.SEEK_END) - nuls - len(cut))
        if complete:
            self.warn(f"{self.path}: completed the last line, {torn!a}")
            file.write(b"\n")

    def append(self, lines: bytes) -> None:
        """Append whole lines; raise OSError, and nothing is appended, if they do not fit."""
        self.undo()
        self.size_before = self.size()
        rest = memoryview(lines if self.size_before else self.header + lines)
        try:
            while rest:
                rest = rest[self.file.write(rest) :]
        except OSError:
            self.fail()
            raise

    def size(self) -> int:
        """Return the size of the file, which is created again if it was renamed or removed."""
        with suppress(FileNotFoundError):
            found = os.stat(self.path)  # one system call for both questions
            if os.path.samestat(found, self.opened):
                return found.st_size
        old, self.file = self.file, self.open()
        with suppress(OSError):  # NFS may report only now that an earlier write has failed
            old.close()
        return os.fstat(self.file.fileno()).st_size

    def flush(self) -> None:
        """Put what was appended on the disk; raise OSError, and the last append is undone."""
        try:
            os.fsync(self.file.fileno())
        except OSError:  # Linux has dropped the pages: without a new write they would be lost
            self.fail()
            raise

    def clear(self) -> None:
        """Empty the file; raise OSError."""
        self.file.truncate(0)

    def fail(self) -> None:
        """Cut off what the last append wrote: now, or else before the next one."""
        self.must_undo = True
        with suppress(OSError):
            self.undo()

    def undo(self) -> None:
        if self.must_undo:
            size = os.fstat(self.file.fileno()).st_size
            if size > self.size_before:  # if not, somebody has emptied it
                self.file.truncate(self.size_before)
            self.must_undo = False


def ends(file: FileIO) -> tuple[bytes | None, bytes | None, bytes, int]:
    """Return the first and the last whole line of a file, None if there is none, and its end.

    The end is what follows the last line end, and the number of NUL bytes after it: a power cut
    leaves both. A line that is longer than any of ours is cut.
    """
    size = end = file.seek(0, os.SEEK_END)
    while True:  # until a block does not end in NUL bytes
        start = max(0, end - LINE)
        file.seek(start)
        block = file.read(end - start)
        if not block.endswith(b"\0"):
            break
        end = start + len(block.rstrip(b"\0"))
    *lines, torn = block.split(b"\n")
    file.seek(0)
    first = file.read(LINE).split(b"\n")[0]
    if not lines:
        return None, None, torn, size - end
    return first, lines[-1], torn, size - end


def foreign(where: str, line: bytes) -> OSError:
    return OSError(errno.EINVAL, f"not a file of ours: {where} {line[:60]!a}")


def replace(path: str, pieces: Iterable[bytes], mode: int = 0o600) -> None:
    """Put a new file in the place of another; raise OSError, and nothing of it is left behind."""
    new = path + ".new"
    with suppress(FileNotFoundError):
        os.unlink(new)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)  # follows no link
    try:
        with open(os.open(new, flags, mode), "wb") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    except OSError:
        with suppress(OSError):
            os.unlink(new)
        raise
    if os.name == "posix":  # the new name is on the disk only when its folder is
        folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def lock(file: IO[bytes]) -> None:
    """Keep other servers and clients, but no readers, out of a file; raise OSError if it is taken."""
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
