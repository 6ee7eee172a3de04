"""What waits to be delivered, on the disk."""

from __future__ import annotations

import errno
import os
import re
import time
from collections import deque

from dht22.console import say
from dht22.linefile import LineFile, was_moved

WAITING = re.compile(
    rb"([0-9a-f-]{1,36}),([0-9]{1,12}\.[0-9]{6}),([0-9]{1,12}\.[0-9]{6}),"
    rb"([0-9]{1,3}\.[0-9],-?[0-9]{1,2}\.[0-9])"
)
NUMBERED = re.compile(rb"n,([0-9]{1,9}),([0-9]{16})")
LINE = re.compile(WAITING.pattern + b"|" + NUMBERED.pattern)
TORN = re.compile(rb"[0-9a-fn.,-]{0,120}")


def boot_id() -> str:
    """Return what tells one start of the machine from another."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:  # not Linux: each start of the client counts as one
        return os.urandom(8).hex()


def boottime() -> float:
    """Return the seconds since the machine was started, those that it slept included."""
    return (
        time.clock_gettime(time.CLOCK_BOOTTIME)
        if hasattr(time, "CLOCK_BOOTTIME")
        else time.monotonic()
    )


BOOT = boot_id()


class Waiting:
    """A reading that waits, and when it was read: a Pi has no clock after a power cut, so by two clocks."""

    def __init__(
        self, reading: str, boot: str, since: float, wall: float, place: int | None = None
    ) -> None:
        self.reading = reading
        self.boot = boot
        self.since = since  # boottime, seconds
        self.wall = wall  # seconds since 1970, if the clock was right
        self.place = place  # in the spool

    def age(self) -> float:
        """Return the seconds since it was read; after a new start of the Pi that depends on its clock."""
        if self.boot == BOOT:
            return boottime() - self.since
        return max(boottime(), time.time() - self.wall)

    def line(self) -> bytes:
        return f"{self.boot},{self.since:.6f},{max(self.wall, 0):.6f},{self.reading}\n".encode(
            "ascii"
        )


class Spool:
    """The readings that wait, on the disk.

    A line for each, and before a new n is sent a line `n,place,n`: it belongs to the reading at this place, and those
    before it are done.
    """

    def __init__(self, path: str) -> None:
        """Open the spool; raise OSError if another client has it or it is somebody else's file."""
        self.path = path
        self.readings = 0  # in the file
        self.failing = False
        self.file: LineFile | None = None
        try:
            self.file = LineFile(path, say, b"", LINE.fullmatch, LINE, TORN)
        except OSError as error:
            if error.errno in (errno.EBUSY, errno.EINVAL):
                raise
            self.failed(error)

    def failed(self, error: OSError) -> None:
        if not self.failing:
            say(
                f"cannot write the spool {self.path} ({error.strerror}): what waits is kept in memory only"
            )
        self.failing = True

    def load(self) -> tuple[deque[Waiting], int | None]:
        """Return the readings that wait and the last n that was sent, that of the first of them."""
        waiting: list[Waiting] = []
        done, n = 0, None
        if self.file:
            with open(self.path, "rb") as file:
                for line in file:
                    reading, sent = (
                        WAITING.fullmatch(line.rstrip()),
                        NUMBERED.fullmatch(line.rstrip()),
                    )
                    if reading:
                        boot, since, wall, text = (
                            field.decode("ascii") for field in reading.groups()
                        )
                        waiting.append(Waiting(text, boot, float(since), float(wall), len(waiting)))
                    elif sent:
                        done, n = int(sent[1]), int(sent[2])
        self.readings = len(waiting)
        return deque(waiting[done:]), n

    def write(self, lines: bytes) -> bool:
        """Put lines on the disk; return False if that cannot be done now. A change of state is said, once."""
        if not self.file:
            return False
        try:
            self.file.append(lines)
            self.file.flush()
        except OSError as error:
            self.failed(error)
            return False
        if self.failing:
            say(f"the spool {self.path} is written again")
            self.failing = False
        return True

    def add(self, waiting: list[Waiting], n: int | None) -> None:
        """Write readings, and the n of the first of them if it has one."""
        lines = (
            b"" if n is None else b"n,%d,%d\n" % (self.readings, n)
        )  # before it: a torn end shall not hide it
        if self.write(lines + b"".join([each.line() for each in waiting])):
            for each in waiting:
                each.place = self.readings
                self.readings += 1

    def sent(self, first: Waiting, n: int) -> None:
        """Write the n that the first of those that wait is about to be sent with."""
        self.write(b"n,%d,%d\n" % (self.readings if first.place is None else first.place, n))

    def was_removed(self) -> bool:
        try:
            return self.file is not None and was_moved(self.path, self.file.file)
        except OSError as error:
            self.failed(error)
            return False

    def clear(self) -> None:
        """Empty the file, all being acknowledged: on the disk, before a further n is sent."""
        try:
            if self.file:
                self.file.clear()
            self.readings = 0
            if self.file:
                self.file.flush()
        except OSError as error:
            self.failed(error)

    def rewrite(self, waiting: deque[Waiting], n: int | None) -> None:
        """Write only what waits still, in place of a file that has grown long."""
        new = self.path + ".new"
        try:
            with open(new, "wb") as file:
                file.write(b"" if n is None else b"n,0,%d\n" % n)
                file.writelines(each.line() for each in waiting)
                file.flush()
                os.fsync(file.fileno())
            os.replace(new, self.path)
        except OSError as error:
            self.failed(error)
            return
        self.write(b"")  # opens it
        self.readings = len(waiting)
        for place, each in enumerate(waiting):
            each.place = place
