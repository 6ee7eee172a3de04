"""The spool: the readings that wait to be delivered, on the disk."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Collection, Iterable
from contextlib import suppress
from functools import cache
from itertools import chain

from dht22.console import Once, counted, how_to_write, say, typed
from dht22.log.linefile import LineFile, replace, was_moved
from dht22.pi.checksum import SPOOL_LINE, TORN_LINE, fields_of, restore, with_checksum

BOOT_ID = "/proc/sys/kernel/random/boot_id"
CLOCK_IS_SET = "/run/systemd/timesync/synchronized"  # systemd-timesyncd makes it, once in a boot
CLOCK_PATIENCE = 300.0  # seconds after the start of the machine that it may take
WRITE_AGAIN = 1.0  # seconds from one try of a spool that cannot be written to the next
LONG_FILE = 200_000  # lines, after which the file is replaced by one with only the unsent readings


@cache
def boot_id() -> str:
    """Return what tells one start of the machine from another."""
    try:
        with open(BOOT_ID) as file:
            return file.read().strip()
    except OSError:  # not Linux: each start of the client counts as one
        return os.urandom(8).hex()


def boottime() -> float:
    """Return the seconds since the machine was started, those that it slept included."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


def is_clock_set() -> bool:
    """Tell whether the clock was set in this boot, or there is nothing to wait for any more."""
    if not os.path.isdir(os.path.dirname(CLOCK_IS_SET)):  # systemd-timesyncd does not run here
        return True
    return os.path.exists(CLOCK_IS_SET) or boottime() > CLOCK_PATIENCE


class Waiting:
    """A reading that waits, and when it was read.

    Its place grows from one reading to the next. The time is kept by two clocks, because a Pi's
    clock does not run while it is off: seconds since the machine started, valid in this boot, and
    seconds since 1970, if the clock was right.
    """

    def __init__(self, place: int, boot: str, since: float, wall: float, reading: str) -> None:
        self.place = place
        self.boot = boot
        self.since = since
        self.wall = wall
        self.reading = reading

    def age(self) -> float:
        """Return the seconds since it was read; in another boot that depends on the clock."""
        if self.boot == boot_id():
            return boottime() - self.since
        least = boottime() if os.path.exists(BOOT_ID) else 0.0  # it was before this boot
        return max(least, time.time() - self.wall)

    def waits_for_clock(self) -> bool:
        """Tell whether its age may soon be known better: it is from another boot."""
        return self.boot != boot_id() and not is_clock_set()

    def line(self) -> bytes:
        wall = max(self.wall, 0)
        return with_checksum(f"{self.place},{self.boot},{self.since:.6f},{wall:.6f},{self.reading}")


class Spool:
    """The readings that wait, on the disk.

    The file has a line for each reading, which begins with its place, and marks. While the file is
    in use, a mark is written before each new n is sent. An n that was sent earlier gets its mark
    when the file is begun.

        7,BOOT_ID,1234.567890,1795255202.123456,74.3,25.7,CHECKSUM
        n,7,1795255203000000,CHECKSUM

    The mark says that this n belongs to the reading at place 7, and that all earlier places are
    done. One that could not be written comes before any other line when there is room again.
    """

    def __init__(self, path: str, make_folder: bool = False) -> None:
        """Open the spool; raise OSError if another client has it or it is somebody else's file."""
        self.path = path
        self.lines = 0  # in the file
        self.next_place = 0
        self.last_mark = b""
        self.mark_is_written = True
        self.trouble = Once()
        self.retry_at = 0.0  # monotonic
        self.rewrite_at = LONG_FILE
        self.file: LineFile | None = None
        try:
            if make_folder:
                os.makedirs(os.path.dirname(path), exist_ok=True)
            restore(path)
            self.file = LineFile(path, say, b"", SPOOL_LINE.fullmatch, SPOOL_LINE, TORN_LINE)
        except OSError as error:
            if error.errno in (errno.EBUSY, errno.EINVAL):
                raise
            self.fail(error)
            self.report_left()

    def report_left(self) -> None:
        """Report how many readings wait in a spool that can be read but not written.

        They are not delivered now: that could not be noted, so each start would deliver them again.
        """
        with suppress(OSError):
            waiting, _, _ = self.read()
            if waiting:
                say(
                    f"{counted(len(waiting), 'reading')} in {self.path}: delivered when it can be"
                    " written and the client is started again"
                )

    def load(self) -> tuple[list[Waiting], int | None, int]:
        """Return the readings that wait, the n of the first if it was sent, and the last n sent."""
        if self.file is None:
            return [], None, 0
        waiting, place, n = self.read()
        self.next_place = 1 + max([place, *(each.place for each in waiting)])
        if n:
            self.last_mark = with_checksum(f"n,{place},{n}")
        return waiting, n if waiting and waiting[0].place == place else None, n

    def read(self) -> tuple[list[Waiting], int, int]:
        """Return the readings that wait, and the last mark: a place and an n; raise OSError."""
        readings: dict[int, Waiting] = {}  # by place: one that was written twice waits once
        place, n = -1, 0  # until there is a mark
        damaged = self.lines = 0
        with open(self.path, "rb") as file:
            for line in file:
                self.lines += 1
                try:
                    fields = fields_of(line)
                    if fields[0] == "n":
                        place, n = map(int, fields[1:])
                    else:
                        number, boot, since, wall, reading = fields
                        waiting = Waiting(int(number), boot, float(since), float(wall), reading)
                        readings[waiting.place] = waiting
                except ValueError:
                    damaged += 1
        if damaged:
            say(f"{self.path}: {counted(damaged, 'line')} cannot be read")
        return [each for each in readings.values() if each.place >= place], place, n

    def is_empty(self) -> bool:
        return self.lines == 0

    def stamp(self, reading: str) -> Waiting:
        """Return a reading that was read just now, with its place and its time."""
        self.next_place += 1
        return Waiting(self.next_place - 1, boot_id(), boottime(), time.time(), reading)

    def mark(self, place: int, n: int) -> None:
        """Note that the reading at this place is sent with this n; `write` puts it on the disk."""
        self.last_mark = with_checksum(f"n,{place},{n}")
        self.mark_is_written = False

    def write(self, waiting: Iterable[Waiting]) -> bool:
        """Put readings on the disk, and the last mark if it is not there; return False if it fails.

        A spool that cannot be written is tried again every WRITE_AGAIN seconds.
        """
        if self.file is None or time.monotonic() < self.retry_at:
            return False
        lines = [each.line() for each in waiting]
        if not self.mark_is_written:  # before them: a torn end must not hide it
            lines.insert(0, self.last_mark)
        if not lines:
            return True
        try:
            self.file.append(b"".join(lines))
            self.file.flush()
        except OSError as error:
            self.fail(error)
            return False
        self.lines += len(lines)
        self.mark_is_written = True
        if self.trouble.clear():
            say(f"the spool {self.path} is written again")
        return True

    def fail(self, error: OSError) -> None:
        self.trouble.say(
            "failing",
            f"cannot write the spool {self.path} ({error.strerror}): readings wait in memory only"
            + "".join(f"; {each}" for each in self.remedies(error)),
        )
        self.retry_at = time.monotonic() + WRITE_AGAIN

    def remedies(self, error: OSError) -> list[str]:
        """Return what to do about an error, as far as that is known."""
        folder = os.path.dirname(self.path)
        if os.name == "posix" and isinstance(error, PermissionError):
            there = os.path.abspath(self.path)
            while not os.path.exists(there):
                there = os.path.dirname(there)
            is_at_home = there.startswith(os.path.expanduser("~") + "/")
            if not os.path.exists(self.path) and not is_at_home:
                return ["give a --spool in a folder of this user"]  # this one is the system's
            remedy = how_to_write(there)
        elif os.name == "posix" and isinstance(error, FileNotFoundError) and folder:
            remedy = f"make its folder: mkdir -p {typed(folder)}"
        else:
            return []
        return [remedy] if self.file else [remedy, "then start the client again"]

    def clear(self) -> None:
        """Empty the file, all being acknowledged: on the disk, before a further n is sent."""
        try:
            if self.file and not self.is_empty():
                self.file.clear()
                self.lines = 0
                self.file.flush()
        except OSError as error:
            self.fail(error)
        if self.is_empty():
            self.mark_is_written = True  # there is nothing to strike out

    def was_removed(self) -> bool:
        """Tell whether the file was renamed or removed; the next line goes to a new one."""
        try:
            return self.file is not None and was_moved(self.path, self.file.file)
        except OSError as error:
            self.fail(error)
            return False

    def is_long(self) -> bool:
        return self.file is not None and self.lines > self.rewrite_at

    def rewrite(self, waiting: Collection[Waiting]) -> None:
        """Replace the file, which has grown long, by one with only the unsent readings."""
        if self.file is None:
            return
        lines = chain([self.last_mark], (each.line() for each in waiting))
        try:
            replace(self.path, lines, old=self.file.file).close()
        except OSError:  # the old one goes on; where there is no room for both, for long
            self.rewrite_at = self.lines + LONG_FILE
        else:
            self.lines = 1 + len(waiting)
            self.mark_is_written = True
            self.rewrite_at = LONG_FILE
        try:
            self.file.append(b"")  # opens it
        except OSError as error:
            self.fail(error)
