"""The readings on their way from a log to a broker: each is done once it is acknowledged."""

from __future__ import annotations

import time
from collections import deque
from contextlib import suppress

from dht22.console import Once, counted, say
from dht22.log.follow import Follower
from dht22.log.formats import LoggedReading, parse_row
from dht22.log.position import Position, rows_before
from dht22.log.rotated import PACKED
from dht22.publish.bookmark import Bookmark
from dht22.publish.broker import BrokerLink
from dht22.publish.messages import Display, Message, level, payload
from dht22.stop import Stop

LOOK_EVERY = 0.2  # seconds, at the log
SAVE_EVERY = 1.0  # seconds, the position
SAVE_AFTER = 800  # acknowledged readings, if that is earlier
SHOW_EVERY = 1.0  # seconds, at most one state of a sensor
RECENT = 1 << 22  # bytes of a log, read at the start: some 60,000 rows tell which sensors there are


class Publisher:
    """The readings on their way from the log to the broker."""

    def __init__(
        self,
        follower: Follower,
        bookmark: Bookmark,
        link: BrokerLink,
        display: Display,
        prefix: str,
    ) -> None:
        self.follower = follower
        self.bookmark = bookmark
        self.link = link
        self.display = display
        self.prefix = prefix
        self.connections = 0  # of the link, that were noticed
        self.unsent: deque[tuple[Position, LoggedReading]] = deque()
        self.at_end = False  # of the log, at the last look
        self.look_due = 0.0  # monotonic, as all times here
        self.under_way: deque[tuple[int, Position]] = deque()  # by message id, oldest first
        self.acknowledged: set[int] = set()  # of them
        self.position = self.saved = follower.position  # all before it is acknowledged
        self.published = self.unsaved = 0  # readings
        self.save_due = 0.0
        self.messages: deque[Message] = deque()  # for displays
        self.show_due = 0.0
        self.refused = Once()  # by the broker
        self.not_saved = Once()  # until it is saved again
        self.not_read = Once()  # until the log is read again
        self.not_rows = Once()

    def run(self, stop: Stop, once: bool) -> None:
        """Publish until told to stop, or once: to the end of the log, or until it is refused."""
        self.recall()
        while not stop.asked and not (once and (self.is_done() or self.link.is_refused())):
            self.link.serve(LOOK_EVERY)
            if self.link.home_assistant_has_started():
                self.display.begin()
            if self.link.connections > self.connections:
                self.begin()
            self.settle()
            self.show()
            self.send()
            self.save()

    def recall(self) -> None:
        """Learn from the log which sensors there are, and how often they are read.

        A packed file is left out: it would have to be unpacked as a whole.
        """
        position = self.follower.position
        with suppress(OSError):  # it may be rotated just now
            files = self.follower.files()
            for first in (*position.finished[-1:], position.file):
                plain = [path for path in files.get(first, []) if path.suffix not in PACKED]
                for path in plain[-1:]:
                    end = position.offset if first == position.file else path.stat().st_size
                    for row in rows_before(path, end, RECENT):
                        with suppress(ValueError):
                            self.display.hear(parse_row(row))

    def is_done(self) -> bool:
        waits = self.unsent or self.under_way or self.messages or self.display.is_due()
        return self.at_end and not waits

    def begin(self) -> None:
        """Go back to what is acknowledged: what was under way on another connection may be lost."""
        self.connections = self.link.connections
        self.unsent.clear()
        self.under_way.clear()
        self.acknowledged.clear()
        self.messages.clear()
        self.follower.rewind(self.position)
        self.at_end = False
        self.display.begin()

    def settle(self) -> None:
        """Move the position over what is acknowledged without a gap; a refused reading holds it."""
        for mid, topic, refusal in self.link.answers():
            is_reading = topic.startswith(f"{self.prefix}/reading/")
            if refusal:
                self.report(topic, refusal, is_reading)
                if is_reading:
                    self.link.turn()
                    break  # all after it is read again for the next connection
            elif is_reading:
                self.acknowledged.add(mid)
        while self.under_way and self.under_way[0][0] in self.acknowledged:
            mid, self.position = self.under_way.popleft()
            self.acknowledged.remove(mid)
            self.published += 1
            self.unsaved += 1

    def report(self, topic: str, refusal: str, is_reading: bool) -> None:
        """Report, once, which kind of message the broker refuses."""
        root = topic.split("/")[0]
        waits = "; readings wait in the log" if is_reading else ""
        right = f"publish to {root}/#" if topic != self.link.birth else f"subscribe to {topic}"
        line = f"refused {topic} ({refusal}){waits}; may the user {right}?"
        self.refused.say((right, is_reading), line)

    def show(self) -> None:
        """Have the states of the sensors and their discovery published before more readings."""
        now = time.monotonic()
        if now >= self.show_due and not self.messages and self.link.room() > 0:
            self.messages.extend(self.display.due())
            self.show_due = now + SHOW_EVERY

    def send(self) -> None:
        while self.link.room() > 0:
            if self.messages:
                self.link.publish(self.messages.popleft())
                continue
            if not self.unsent:
                self.look()
            if not self.unsent:
                return
            position, reading = self.unsent.popleft()
            topic = f"{self.prefix}/reading/{level(reading.sensor)}"
            mid = self.link.publish(Message(topic, payload(reading)))
            self.under_way.append((mid, position))
            self.display.hear(reading)

    def look(self) -> None:
        """Read what is new in the log."""
        now = time.monotonic()
        if now < self.look_due:
            return
        try:
            positions = self.follower.read()
            self.not_read.clear()
            self.at_end = not positions
        except OSError as error:
            path = error.filename or self.follower.path
            self.not_read.say(path, f"cannot read {path} ({error.strerror}); it keeps trying")
            positions = []
        for position in positions:
            try:
                self.unsent.append((position, parse_row(position.line)))
            except ValueError as reason:
                self.not_rows.say("row", f"passed over {position.line.decode('ascii')} ({reason})")
        if not positions:
            self.look_due = now + LOOK_EVERY

    def save(self, at_once: bool = False) -> None:
        """Save the position, each second or after many readings."""
        now = time.monotonic()
        is_due = at_once or now >= self.save_due or self.unsaved >= SAVE_AFTER
        if self.position is self.saved or not is_due:
            return
        self.save_due = now + SAVE_EVERY
        self.unsaved = 0
        try:
            self.follower.flush()
            self.bookmark.save(self.position)
        except OSError as error:
            line = (
                f"cannot save the position in {self.bookmark.path} ({error.strerror}); "
                "after a restart, what is published from now on is published again"
            )
            self.not_saved.say("position", line)
            return
        self.saved = self.position
        if self.not_saved.clear():
            say(f"the position is saved again in {self.bookmark.path}")

    def finish(self) -> None:
        """Disconnect from the broker, and save what it has acknowledged."""
        self.link.close()
        self.settle()
        self.save(at_once=True)
        say(f"{counted(self.published, 'reading')} published")
