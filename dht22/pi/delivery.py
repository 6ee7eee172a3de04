"""Delivery of a named sensor's readings: each is sent until the server has it on the disk.

Only the oldest reading is under way, and it alone has an n. Readings that wait for longer than the
first timeout are written to the spool, which is emptied once all are acknowledged: while all is
well, nothing is written.
"""

from __future__ import annotations

import random
import time
from collections import deque
from itertools import islice

from dht22.console import Once, counted, say
from dht22.datagram import HIGHEST_N, N_RANGE, Ack, format_named, keyed, parse_ack, verify
from dht22.pi.link import Link
from dht22.pi.spool import Spool, boot_id, is_clock_set
from dht22.stop import Stop

# Seconds to the first repetition, times 1 to 1.5, and doubled for each further one (RFC 7252, 4.2)
RESEND = 1.0
RESEND_MOST = 2.0, 60.0  # bounds of the longest pause to a repetition, which is the interval
FIRST_UNANSWERED = 5.0  # seconds, after which it is reported that no answer has come yet
UNANSWERED = 60.0  # seconds, after which it is reported that no further answer comes
MACS = 16  # kept of one n: on a slow link an answer may be that to an earlier repetition
# n is drawn at random, by up to this much above the clock (µs) or the highest n so far: so two
# clients of one name hardly ever draw the same.
LEAP = 1_000_000
QUEUE = 100_000  # readings kept
INTERVAL = 2, 86400  # seconds that a server may set


class NamedSender:
    """Sends named readings, one after the other, each until it is acknowledged."""

    def __init__(
        self, link: Link, name: str, key: bytes | None, interval: float, spool: Spool
    ) -> None:
        self.link = link
        self.name = name
        self.key = key
        if key:
            keyed(key)  # loads OpenSSL now, not between the first reading's age and its sending
        self.interval = interval  # seconds from one reading to the next
        self.spool = spool
        # n is that of the oldest reading, None until it is about to be sent; highest is the highest
        # that was ever seen.
        waiting, self.n, self.highest = spool.load()
        self.queue = deque(waiting)  # the readings that wait, the oldest first
        self.spooled = len(waiting)  # how many of them, from the oldest on, are in the spool
        self.macs: deque[bytes] = deque(maxlen=MACS)  # of what was sent with this n
        self.timeout = RESEND  # seconds to the next repetition
        self.due = 0.0  # when the oldest reading is sent (monotonic)
        self.renumber_at = 0.0  # not before may an answer make us draw a new n again (monotonic)
        self.was_answered = False  # since the start
        # The last answer, or report of silence, or first reading in an empty queue (monotonic)
        self.silent_since = time.monotonic()
        self.dropped = 0  # for want of room
        self.said = Once()
        if not waiting:
            spool.clear()
        elif any(each.boot != boot_id() for each in waiting):
            say(
                "some unsent readings are from before the Pi was restarted: their times are right"
                " only if its clock was right then and is right now"
            )
            if not is_clock_set():
                say("they wait until the clock is set, for 5 minutes after the start at most")

    def send(self, reading: str) -> bool:
        """Queue a reading that was just read."""
        if not self.queue:
            self.silent_since = time.monotonic()
            self.due = 0.0
        self.queue.append(self.spool.stamp(reading))
        if len(self.queue) > QUEUE:
            self.remove_oldest()
            self.dropped += 1
            self.said.say(
                "dropped",
                f"more than {QUEUE} unsent readings: the oldest are dropped, counted at the end",
            )
        return True

    def serve(self, until: float, stop: Stop) -> None:
        """Deliver until then (monotonic), or until the server has changed the interval."""
        interval = self.interval
        self.receive(self.link.wait(0.0, stop))  # what came while the sensor was read
        while True:
            self.deliver(until, stop)
            if time.monotonic() >= until or self.interval != interval:
                return

    def finish(self, stop: Stop) -> None:
        """Deliver until no reading is left, however long that takes; Ctrl+C ends it."""
        self.receive(self.link.wait(0.0, stop))
        while self.queue:
            self.deliver(time.monotonic() + RESEND, stop)

    def deliver(self, until: float, stop: Stop) -> None:
        """Do what is due, then wait for an answer: until then, or until something is due again."""
        self.keep()
        if self.queue and self.queue[0].waits_for_clock():
            self.silent_since = time.monotonic()  # no answer is expected
        elif self.queue:
            if time.monotonic() >= self.due:
                self.transmit()
            until = min(until, self.due)
            self.notice_silence()
        if self.link.wants_look_up():
            self.update_spool()  # a look-up can take long
            self.link.look_up()
        self.receive(self.link.wait(until - time.monotonic(), stop))

    # The spool

    def keep(self) -> None:
        """Spool all readings once the oldest has waited for long, and while the spool is in use."""
        if not self.spool.is_empty():
            if self.spool.was_removed():
                self.spooled = 0
            self.update_spool()
        elif self.queue and self.queue[0].age() > RESEND:
            self.update_spool()
        if self.spool.is_long() and self.spooled == len(self.queue):
            self.spool.rewrite(self.queue)

    def update_spool(self) -> None:
        """Write what the spool lacks: a mark that could not be written, and readings."""
        if self.spooled == 0 and self.n is not None:
            # The oldest was sent before the file was begun: its n is not in there yet.
            self.spool.mark(self.queue[0].place, self.n)
        if self.spool.write(islice(self.queue, self.spooled, None)):
            self.spooled = len(self.queue)

    # Sending

    def transmit(self) -> None:
        """Send the oldest reading, with its age at this moment; for the first time with a new n."""
        now = time.monotonic()
        most = max(RESEND_MOST[0], min(self.interval, RESEND_MOST[1]))
        n = self.draw_n() if self.n is None else self.n
        if n is None:
            self.due = now + most
            return
        oldest = self.queue[0]
        datagram = format_named(oldest.reading, self.name, n, oldest.age(), self.key)
        if self.key:
            self.macs.append(datagram.rpartition(b",")[2])
        self.link.send(datagram)
        self.due = now + min(self.timeout * random.uniform(1, 1.5), most)
        self.timeout *= 2

    def draw_n(self) -> int | None:
        """Give the oldest reading an n above all that were seen; return None if none is left."""
        clock = int(time.time() * 1_000_000)
        n = max(self.highest, clock if clock < HIGHEST_N else 0, N_RANGE[0])
        n += random.randint(1, LEAP)
        if n > HIGHEST_N:
            self.said.say(
                "last n",
                f"the server has had the last n of {self.name}, so nothing can be sent under this"
                " name; readings are kept; give another --name, or use keys",
            )
            return None
        self.n = self.highest = n
        self.timeout = RESEND
        self.macs.clear()
        if not self.spool.is_empty():  # on the disk, if it can be written, before it is sent
            self.spool.mark(self.queue[0].place, n)
            self.update_spool()
        return n

    def notice_silence(self) -> None:
        """Report that no acknowledgement comes, and doubt the server's address."""
        patience = UNANSWERED if self.was_answered or self.link.trouble.said else FIRST_UNANSWERED
        now = time.monotonic()
        if self.n is None or now - max(self.silent_since, self.link.failed_at) <= patience:
            return
        self.link.doubt()
        self.link.trouble.say(
            "silent",
            f"no answer from {self.link} for {patience:g} s: is server.py running there, and does"
            " its firewall let UDP in? It keeps trying; the server's own screen tells what it"
            " refuses",
        )
        self.silent_since = now

    # Answers

    def receive(self, datagram: bytes) -> None:
        """Take an acknowledgement of the oldest reading, which has the n under way.

        A higher n makes us give it a new one; a lower one, a late answer, is ignored.
        """
        try:
            ack = parse_ack(datagram)
        except ValueError:
            return
        if self.n is None or ack.last < self.n or not self.is_genuine(ack, datagram):
            return
        if ack.last == self.n:
            self.settle(ack.interval)
        else:
            self.renumber(ack.last)

    def is_genuine(self, ack: Ack, datagram: bytes) -> bool:
        """Tell whether an answer is for us; with a key, whether it is to one of our datagrams."""
        if ack.name != self.name:
            return False
        if self.key is None:
            return ack.mac is None
        return any(verify(datagram, self.key, mac) for mac in self.macs)

    def settle(self, interval: int | None) -> None:
        """Go on to the next reading: the server has the oldest on its disk."""
        self.remove_oldest()
        self.was_answered = True
        self.silent_since = time.monotonic()
        self.link.works(f"{self.link} answers")
        if not self.queue:
            self.spool.clear()
        if interval is None or interval == self.interval:
            return
        if INTERVAL[0] <= interval <= INTERVAL[1]:
            self.interval = float(interval)
            say(f"the server sets the interval to {interval} s")

    def remove_oldest(self) -> None:
        self.queue.popleft()
        self.spooled = max(0, self.spooled - 1)
        self.n = None
        self.due = 0.0

    def renumber(self, last: int) -> None:
        """Let the oldest reading have a new n: the server has a higher one than we ever sent.

        It is from another client of this name, or ours and the spool was lost, or the answer is
        forged.
        """
        if last > HIGHEST_N:
            self.said.say(
                "bound",
                f"an acknowledgement of {last} is ignored: no n could follow; give another --name,"
                " or use keys",
            )
            return
        if self.was_answered:
            self.said.say(
                "other",
                f"the server has later readings of {self.name}: does another client send as"
                f" {self.name}? Give each a name of its own",
            )
        self.was_answered = True
        self.silent_since = time.monotonic()
        self.highest = max(self.highest, last)
        self.n = None
        # Once in a while only: forged answers must cost neither disk nor network.
        self.due = max(time.monotonic(), self.renumber_at)
        self.renumber_at = self.due + RESEND

    def close(self) -> None:
        """Spool what is not acknowledged."""
        self.spool.retry_at = 0.0
        if not self.queue:
            self.spool.clear()
        self.update_spool()
        lost = len(self.queue) - self.spooled
        if self.spooled:
            waiting = counted(self.spooled, "reading")
            say(f"{waiting} left in {self.spool.path}, to be delivered after the next start")
        if lost:
            say(f"{counted(lost, 'reading')} lost: the spool cannot be written")
        if self.dropped:
            say(f"{counted(self.dropped, 'reading')} dropped: there were too many unsent ones")
        self.link.close()
