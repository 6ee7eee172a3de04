"""Delivery of a named sensor's readings: each is sent until the server has it on the disk.

Only the oldest reading is under way, and it alone has an n. What waits for longer than the first timeout is written
to the spool, which is emptied once all is acknowledged: while all is well, nothing is written.
"""
from __future__ import annotations

import errno
import os
import re
import select
import time
from collections import deque
from functools import partial
from itertools import takewhile

from console import say
from datagram import LIMIT, N, format_named, parse_ack, verify
from linefile import LineFile, was_moved

TYPE_CHECKING = False
if TYPE_CHECKING:
    from client import Link, Stop

RESEND = 1.0  # seconds to the first repetition, times 1 to 1.5, and doubled for each further one (RFC 7252, 4.2)
RESEND_MOST = 2.0, 60.0  # seconds to a repetition are the interval at most, but within these
SILENCE = 60.0  # seconds without an acknowledgement, after which that is said and the name resolved anew
SENDS = 16  # of one n, whose answers are told apart: over a slow link an earlier one is answered
LEAP = 1_000_000  # n grows by 1 to this, at random, so that two clients of one name hardly meet
QUEUE = 100_000  # readings kept
INTERVAL = 2, 86400  # seconds that a server may set

WAITING = re.compile(rb"([0-9a-f-]{1,36}),([0-9]{1,12}\.[0-9]{6}),([0-9]{1,12}\.[0-9]{6}),"
                     rb"([0-9]{1,3}\.[0-9],-?[0-9]{1,2}\.[0-9])")
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
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def chance() -> float:
    """Return a number from 0 up to 1, at random; the module for that would cost half a megabyte."""
    return int.from_bytes(os.urandom(4), "big") / 2**32


BOOT = boot_id()


class Waiting:
    """A reading that waits, and when it was read: a Pi has no clock after a power cut, so by two clocks."""

    def __init__(self, reading: str, boot: str, since: float, wall: float, place: int | None = None) -> None:
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
        return f"{self.boot},{self.since:.6f},{max(self.wall, 0):.6f},{self.reading}\n".encode("ascii")


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
            say(f"cannot write the spool {self.path} ({error.strerror}): what waits is kept in memory only")
        self.failing = True

    def load(self) -> tuple[deque[Waiting], int | None]:
        """Return the readings that wait and the last n that was sent, that of the first of them."""
        waiting: list[Waiting] = []
        done, n = 0, None
        if self.file:
            with open(self.path, "rb") as file:
                for line in file:
                    reading, sent = WAITING.fullmatch(line.rstrip()), NUMBERED.fullmatch(line.rstrip())
                    if reading:
                        boot, since, wall, text = (field.decode("ascii") for field in reading.groups())
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
        lines = b"" if n is None else b"n,%d,%d\n" % (self.readings, n)  # before it: a torn end shall not hide it
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


class Delivery:
    """Sends named readings, one after the other, each until it is acknowledged."""

    def __init__(self, link: Link, name: str, key: bytes | None, interval: float, spool: Spool) -> None:
        self.link = link
        self.name = name
        self.key = key
        self.interval = interval
        self.spool = spool
        self.queue, self.n = spool.load()  # n: that of the first in the queue, once it is sent
        self.highest = self.n or 0  # own n or last of an acknowledgement
        if not self.queue:
            self.n = None
            if spool.readings:
                spool.clear()
        elif any(each.boot != BOOT for each in self.queue):
            say("readings wait from before the Pi's last start: their time is right only if its clock was and is")
        self.sends: deque[bytes] = deque(maxlen=SENDS)  # the MACs of this n
        self.timeout = RESEND  # seconds to the next repetition
        self.due = 0.0  # when the first in the queue is sent (monotonic)
        self.heard = time.monotonic()  # when there was an acknowledgement, or nothing to acknowledge
        self.first = True  # no n was settled since the start
        self.dropped = 0  # for want of room
        self.said: set[str] = set()

    def send(self, reading: str) -> bool:
        """Queue a reading that was just read."""
        if not self.queue:
            self.heard = time.monotonic()
            self.due = 0.0
        self.queue.append(Waiting(reading, BOOT, boottime(), time.time()))
        if len(self.queue) > QUEUE:
            self.queue.popleft()
            self.n = None
            self.dropped += 1
            self.say_once("dropped", f"more than {QUEUE} readings wait: the oldest are dropped, and counted at the end")
        return True

    def serve(self, until: float | None, stop: Stop) -> bool:
        """Send and take acknowledgements until then (monotonic), or (None) until nothing waits.

        Return False before that if the server has changed the interval.
        """
        interval = self.interval
        pause = 0.0  # an acknowledgement may wait since before the sensor was read
        while until is not None or self.queue:
            sources = [self.link.sock] if self.link.sock else []
            if stop.during(select.select, sources, [], [], max(0.0, pause))[0]:
                self.receive()
            if self.interval != interval:
                return False
            self.keep()
            now = time.monotonic()
            if self.queue and now >= self.due:
                self.transmit(now)
            if until is not None and now >= until:
                break
            pause = (until or now + RESEND) - now
            if self.queue:
                pause = min(pause, self.due - now, RESEND)
        return True

    def keep(self) -> None:
        """Spool the readings that have waited long, and those behind them."""
        if self.spool.readings and self.spool.was_removed():
            self.spool.rewrite(self.queue, self.n)
        if not self.queue or self.queue[-1].place is not None:
            return
        if self.spool.readings or boottime() - self.queue[0].since > RESEND:
            self.spool_rest()
            if self.spool.readings > 2 * QUEUE:
                self.spool.rewrite(self.queue, self.n)

    def spool_rest(self) -> None:
        """Spool what is not there yet, the last of those that wait."""
        new = list(takewhile(lambda each: each.place is None, reversed(self.queue)))[::-1]
        if new:
            self.spool.add(new, self.n if new[0] is self.queue[0] else None)

    def transmit(self, now: float) -> None:
        """Send the first in the queue, with an age drawn anew."""
        first = self.queue[0]
        if self.n is None:
            wall = int(time.time() * 1_000_000)
            n = max(self.highest, wall if wall < N[1] - LEAP else 0, N[0]) + 1 + int(chance() * LEAP)
            self.n = min(n, N[1] - 1)
            self.highest = self.n
            self.timeout = RESEND
            self.sends.clear()
            if self.spool.readings:
                self.spool.sent(first, self.n)
        if now - self.heard > SILENCE:
            self.say_once("silent", f"no answer from {self.link} for {SILENCE:g} s: is server.py running there, can it"
                          " be reached, does it hold this key? What was read is kept and sent again")
            self.link.close()
            self.heard = now
        self.link.send(partial(self.datagram, first, self.n))
        most = max(RESEND_MOST[0], min(self.interval, RESEND_MOST[1]))  # never rarer than a plain client sends
        self.due = now + min(self.timeout * (1 + chance() / 2), most)
        self.timeout *= 2

    def datagram(self, waiting: Waiting, n: int) -> bytes:
        """Return a reading as it is sent at this moment."""
        datagram = format_named(waiting.reading, self.name, n, waiting.age(), self.key)
        self.sends.append(datagram.rpartition(b",")[2])
        return datagram

    def receive(self) -> None:
        """Take an acknowledgement. Only one that equals the n under way settles it."""
        try:
            datagram = self.link.sock.recv(LIMIT + 1) if self.link.sock else b""
            ack = parse_ack(datagram)
        except (OSError, ValueError):
            return
        if ack.name != self.name or self.n is None or bool(ack.mac) != bool(self.key) or ack.last < self.n:
            return
        if self.key and not any(verify(datagram, self.key, question) for question in self.sends):
            return
        if ack.last > self.n:
            self.renumber(ack.last)
            return
        self.queue.popleft()
        self.n = None
        self.due = 0.0
        self.first = False
        self.heard = time.monotonic()
        if "silent" in self.said:
            self.said.remove("silent")
            say(f"{self.link} answers again")
        if not self.queue and self.spool.readings:
            self.spool.clear()
        if ack.interval is not None and ack.interval != self.interval and INTERVAL[0] <= ack.interval <= INTERVAL[1]:
            self.interval = float(ack.interval)
            say(f"the server sets the interval to {ack.interval} s")

    def renumber(self, last: int) -> None:
        """Let the reading under way have a new n: the server has a higher one of this name than we ever sent."""
        if last > N[1] - LEAP:
            self.say_once("bound", f"an acknowledgement of {last} is ignored: no n could follow")
            return
        if not self.first:
            self.say_once("other", f"the server has later readings of {self.name}: does another client send as"
                          f" {self.name}? Give each a name of its own")
        self.first = False
        self.highest = max(self.highest, last)
        self.n = None
        self.due = 0.0

    def say_once(self, kind: str, line: str) -> None:
        if kind not in self.said:
            self.said.add(kind)
            say(line)

    def close(self) -> None:
        """Spool what is not acknowledged."""
        self.spool_rest()
        if self.queue:
            lost = sum(each.place is None for each in self.queue)
            say(f"{len(self.queue) - lost} readings wait in the spool" + (f", {lost} are lost" if lost else ""))
        if self.dropped:
            say(f"dropped {self.dropped} readings, the oldest of those that waited")
        self.link.close()
