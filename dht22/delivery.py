"""Delivery of a named sensor's readings: each is sent until the server has it on the disk.

Only the oldest reading is under way, and it alone has an n. What waits for longer than the first timeout is written
to the spool, which is emptied once all is acknowledged: while all is well, nothing is written.
"""

from __future__ import annotations

import os
import select
import time
from collections import deque
from functools import partial
from itertools import takewhile

from dht22.console import say
from dht22.datagram import LIMIT, N, format_named, parse_ack, verify
from dht22.link import Link, Stop
from dht22.spool import BOOT, Spool, Waiting, boottime

RESEND = 1.0  # seconds to the first repetition, times 1 to 1.5, and doubled for each further one (RFC 7252, 4.2)
RESEND_MOST = 2.0, 60.0  # seconds to a repetition are the interval at most, but within these
SILENCE = (
    60.0  # seconds without an acknowledgement, after which that is said and the name resolved anew
)
SENDS = 16  # of one n, whose answers are told apart: over a slow link an earlier one is answered
LEAP = 1_000_000  # n grows by 1 to this, at random, so that two clients of one name hardly meet
QUEUE = 100_000  # readings kept
INTERVAL = 2, 86400  # seconds that a server may set


def chance() -> float:
    """Return a number from 0 up to 1, at random; the module for that would cost half a megabyte."""
    return int.from_bytes(os.urandom(4), "big") / 2**32


class Delivery:
    """Sends named readings, one after the other, each until it is acknowledged."""

    def __init__(
        self, link: Link, name: str, key: bytes | None, interval: float, spool: Spool
    ) -> None:
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
            say(
                "readings wait from before the Pi's last start: their time is right only if its clock was and is"
            )
        self.sends: deque[bytes] = deque(maxlen=SENDS)  # the MACs of this n
        self.timeout = RESEND  # seconds to the next repetition
        self.due = 0.0  # when the first in the queue is sent (monotonic)
        self.heard = (
            time.monotonic()
        )  # when there was an acknowledgement, or nothing to acknowledge
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
            self.say_once(
                "dropped",
                f"more than {QUEUE} readings wait: the oldest are dropped, and counted at the end",
            )
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
            n = (
                max(self.highest, wall if wall < N[1] - LEAP else 0, N[0])
                + 1
                + int(chance() * LEAP)
            )
            self.n = min(n, N[1] - 1)
            self.highest = self.n
            self.timeout = RESEND
            self.sends.clear()
            if self.spool.readings:
                self.spool.sent(first, self.n)
        if now - self.heard > SILENCE:
            self.say_once(
                "silent",
                f"no answer from {self.link} for {SILENCE:g} s: is server.py running there, can it"
                " be reached, does it hold this key? What was read is kept and sent again",
            )
            self.link.close()
            self.heard = now
        self.link.send(partial(self.datagram, first, self.n))
        most = max(
            RESEND_MOST[0], min(self.interval, RESEND_MOST[1])
        )  # never rarer than a plain client sends
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
        if (
            ack.name != self.name
            or self.n is None
            or bool(ack.mac) != bool(self.key)
            or ack.last < self.n
        ):
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
        if (
            ack.interval is not None
            and ack.interval != self.interval
            and INTERVAL[0] <= ack.interval <= INTERVAL[1]
        ):
            self.interval = float(ack.interval)
            say(f"the server sets the interval to {ack.interval} s")

    def renumber(self, last: int) -> None:
        """Let the reading under way have a new n: the server has a higher one of this name than we ever sent."""
        if last > N[1] - LEAP:
            self.say_once("bound", f"an acknowledgement of {last} is ignored: no n could follow")
            return
        if not self.first:
            self.say_once(
                "other",
                f"the server has later readings of {self.name}: does another client send as"
                f" {self.name}? Give each a name of its own",
            )
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
            say(
                f"{len(self.queue) - lost} readings wait in the spool"
                + (f", {lost} are lost" if lost else "")
            )
        if self.dropped:
            say(f"dropped {self.dropped} readings, the oldest of those that waited")
        self.link.close()
