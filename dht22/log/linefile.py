"""Files that whole lines are appended to, whatever crashes: the text logs and the spool."""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
from collections import namedtuple
from collections.abc import Callable, Iterable
from contextlib import suppress
from io import BufferedWriter, FileIO, IOBase
from itertools import chain

from dht22.datagram import LIMIT

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]
    import msvcrt

Warn = Callable[[str], None]

# How a file begins and ends: its first and last whole line if it has_lines; the tail, which is what
# follows the last line end; and how many nuls follow that. A power cut can leave both.
Ends = namedtuple("Ends", "has_lines first last tail nuls")

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
LONGEST_LINE = 2 * LIMIT  # bytes; no line of ours is longer

# On Windows nobody else can read what is locked: one byte is, at the last place that can be, and
# only in a file that is far from there. A name of a device is one with any ending, in any folder.
LOCKED_BYTE, LONGEST_LOCKED = (1 << 31) - 2, 1 << 30
DEVICE = r"(con|prn|aux|nul|com\d|lpt\d|conin\$|conout\$)(\..*)?"


class LineFile:
    """A file that is only appended to, whole lines at a time.

    It is created again after it was renamed or removed. It may hold: `header`, lines that `is_ours`
    accepts, and a tail, which is what a crash left of the last line. The tail gets its line end if
    the pattern `whole` matches it, and is cut off if `torn` does. Any other file is refused,
    untouched.
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
        self.title = header.rstrip(b"\n")
        self.is_ours = is_ours
        self.whole_pattern = whole
        self.torn_pattern = torn
        self.size_before = 0  # of the last append
        self.must_undo = False  # that append failed, and could not be cut off yet
        self.file = self.open()
        try:
            self.append(b"")  # an empty file gets its header
            self.flush()  # what a killed predecessor wrote and did not flush counts from now on
        except OSError:
            self.file.close()
            raise

    def open(self) -> FileIO:
        """Open the file, create it if it is missing; refuse one that is not ours or in use."""
        refuse_device(self.path)
        file = open(self.path, "a+b", buffering=0)  # noqa: SIM115
        try:
            lock(file)
            found = ends(file)
            self.refuse_foreign(found)
            if self.lacks_header(found):
                self.put_header_back(file)
                file.close()
                return self.open()
            self.repair(file, found)
            sync_folder(self.path)  # it may have been created just now
            self.opened = os.fstat(file.fileno())
        except OSError:
            file.close()
            raise
        return file

    def refuse_foreign(self, found: Ends) -> None:
        """Raise OSError if a file with these ends is not ours."""
        for line in (found.first, found.last) if found.has_lines else ():
            if self.is_line(line):
                continue
            if self.is_line(without_windows(line)):
                raise OSError(errno.EILSEQ, f"an editor has put {windows_bytes(line)} into it")
            if self.header and line is found.first:
                raise OSError(errno.EINVAL, f"its first line is not {self.title.decode()}")
            raise foreign("a line in it is", line)
        if not self.is_tail(found):
            raise foreign("it ends in", found.tail)

    def is_line(self, line: bytes) -> bool:
        """Tell whether this is the header or a line of ours."""
        return bool((self.header and line == self.title) or self.is_ours(line))

    def is_tail(self, found: Ends) -> bool:
        """Tell whether what follows the last line end can be what a crash left of our last line."""
        if self.whole_pattern.fullmatch(found.tail):
            return True
        if self.header and not found.has_lines:  # the header is torn, or the file is empty
            return self.title.startswith(found.tail)
        return bool(self.torn_pattern.fullmatch(found.tail))

    def lacks_header(self, found: Ends) -> bool:
        """Tell whether a file that should begin with the header begins with a row."""
        begins_with = found.first if found.has_lines else found.tail
        return bool(self.header and self.whole_pattern.fullmatch(begins_with))

    def put_header_back(self, file: FileIO) -> None:
        """Put the header before the rows of a file that somebody emptied while it was written."""
        self.warn(f"{self.path}: put the missing header back")
        file.seek(0)
        rows = iter(lambda: file.read(1 << 20), b"")
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        replace(self.path, chain([self.header], rows), mode, old=file).close()

    def repair(self, file: FileIO, found: Ends) -> None:
        """Complete a tail that lacks only its line end; cut off one that is torn."""
        complete = bool(self.whole_pattern.fullmatch(found.tail))
        cut = b"" if complete else found.tail
        if cut or found.nuls:
            nuls = f" and {found.nuls} NUL bytes" if found.nuls else ""
            self.warn(f"{self.path}: cut off a torn last line, {cut!a}{nuls}")
            file.truncate(file.seek(0, os.SEEK_END) - found.nuls - len(cut))
        if complete:
            self.warn(f"{self.path}: completed the last line, {found.tail!a}")
            file.write(b"\n")

    def append(self, lines: bytes) -> None:
        """Append whole lines; raise OSError, and nothing is appended, if they do not fit."""
        self.undo()
        self.size_before = self.recreate_if_moved()
        rest = memoryview(lines if self.size_before else self.header + lines)
        try:
            while rest:
                rest = rest[self.file.write(rest) :]
        except OSError:
            self.roll_back()
            raise

    def recreate_if_moved(self) -> int:
        """Create the file again if it was renamed or removed; return its size.

        On Windows it is closed while it is replaced, and opened again here.
        """
        with suppress(FileNotFoundError):
            found = os.stat(self.path)  # one system call for both questions
            if os.path.samestat(found, self.opened) and not self.file.closed:
                return found.st_size
        old, self.file = self.file, self.open()
        with suppress(OSError):  # NFS may report only now that an earlier write has failed
            old.close()
        return os.fstat(self.file.fileno()).st_size

    def flush(self) -> None:
        """Put what was appended on the disk; raise OSError, and the last append is undone."""
        try:
            sync(self.file)
        except OSError:  # Linux has dropped the pages: without a new write they would be lost
            self.roll_back()
            raise

    def clear(self) -> None:
        """Empty the file; raise OSError."""
        self.file.truncate(0)

    def roll_back(self) -> None:
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


def ends(file: FileIO) -> Ends:
    """Return how a file begins and ends; a line that is longer than any of ours is cut."""
    size = end = file.seek(0, os.SEEK_END)
    while True:  # until a block does not end in NUL bytes
        start = max(0, end - LONGEST_LINE)
        file.seek(start)
        block = file.read(end - start)
        if not block.endswith(b"\0"):
            break
        end = start + len(block.rstrip(b"\0"))
    *lines, tail = block.split(b"\n")
    file.seek(0)
    first = file.read(LONGEST_LINE).split(b"\n")[0]
    if not lines:
        return Ends(False, b"", b"", tail, size - end)
    return Ends(True, first, lines[-1], tail, size - end)


def without_windows(line: bytes) -> bytes:
    """Return a line without what editors on Windows put into a file."""
    return line.removeprefix(BYTE_ORDER_MARK).removesuffix(b"\r")


def windows_bytes(line: bytes) -> str:
    """Return what an editor on Windows has put into this line, as it is shown."""
    mark = "the byte order mark " + ascii(BYTE_ORDER_MARK) if line[:3] == BYTE_ORDER_MARK else ""
    line_end = "the line end " + ascii(b"\r\n") if line.endswith(b"\r") else ""
    return " and ".join(filter(None, [mark, line_end]))


def foreign(where: str, line: bytes) -> OSError:
    return OSError(errno.EINVAL, f"not a file of ours: {where} {line[:60]!a}")


def replace(
    path: str, pieces: Iterable[bytes], mode: int = 0o600, old: IOBase | None = None
) -> BufferedWriter:
    """Put a new file in the place of another, and return it, open and locked.

    Raise OSError, and nothing of it is left behind. Windows replaces no file that is open: there
    `old`, which is the one at the path if it is open, is closed before, and stays closed.
    """
    path = os.path.realpath(path)  # a link stays: the file may be on another disk
    folder, name = os.path.split(path)
    new = os.path.join(folder, f".{name}.dht22-new")  # a name that no user gives a file of his own
    with suppress(FileNotFoundError):
        os.unlink(new)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)  # follows no link
    file = open(os.open(new, flags, mode), "wb")  # noqa: SIM115
    try:
        lock(file)  # before anybody finds it at the path
        file.writelines(pieces)
        file.flush()
        sync(file)
        if os.name == "nt":
            file.close()
            if old:
                old.close()
        os.replace(new, path)
        if file.closed:
            file = open(path, "ab")  # noqa: SIM115
            lock(file)
    except OSError:
        with suppress(OSError):  # it may try to write the rest
            file.close()
        with suppress(OSError):
            os.unlink(new)
        raise
    with suppress(OSError):  # what was written is on the disk already
        sync(file)  # FAT puts the size into the file's new entry only now
    sync_folder(path)
    return file


def sync(file: IOBase) -> None:
    """Put on the disk what was written; raise OSError."""
    if hasattr(fcntl, "F_FULLFSYNC"):  # macOS, where fsync leaves it in the drive's own cache
        with suppress(OSError):  # a file system that does not know this, as on a network
            fcntl.fcntl(file.fileno(), fcntl.F_FULLFSYNC)
            return
    os.fsync(file.fileno())


def sync_folder(path: str) -> None:
    """Put on the disk that there is a file at `path`, as far as the file system can do that."""
    if os.name == "posix":
        with suppress(OSError):
            folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


def lock(file: IOBase) -> None:
    """Keep other servers and clients out of a file, but not readers; raise OSError if in use."""
    try:
        if fcntl:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        elif sys.platform == "win32" and os.fstat(file.fileno()).st_size < LONGEST_LOCKED:
            position = file.tell()
            file.seek(LOCKED_BYTE)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            file.seek(position)
    except OSError as error:
        if fcntl and not isinstance(error, BlockingIOError):
            raise
        raise OSError(errno.EBUSY, "another client or server writes it") from None


def is_device(name: str) -> bool:
    return bool(re.fullmatch(DEVICE, name, re.IGNORECASE))  # compiled on Windows alone


def refuse_device(path: str) -> None:
    """Raise OSError if a path leads to no file: to a device or a pipe, which may wait for ever."""
    if os.name == "nt" and is_device(os.path.basename(path)):
        raise OSError(errno.EINVAL, "that is the name of a device on Windows")
    with suppress(FileNotFoundError):
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # to open a folder says what it is
            raise OSError(errno.EINVAL, "not a regular file")


def was_moved(path: str, file: IOBase) -> bool:
    """Tell whether `file` is no longer what is found at `path`: renamed or removed."""
    try:
        return not os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except FileNotFoundError:
        return True
