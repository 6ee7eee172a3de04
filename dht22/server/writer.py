"""All logs as one: each row goes to each of them once; one that fails does not stop the others.

What was taken and waits for a failing log, as on a full disk, is kept in memory; new named readings
are refused meanwhile, and wait on their Pi. Named readings are on the disk before they are
acknowledged. Plain ones are left to the operating system, which writes them within a minute; in a
database they are on the disk at once.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from dht22.console import Notices, counted, say
from dht22.log.formats import Log
from dht22.log.rows import Row, Rows, divided

BACKLOG = 100_000  # rows kept for a log while it fails
LOG_RETRY = 1.0  # seconds from one try of a failing log to the next


class Batch:
    """Rows that arrived together, either all named or all plain."""

    def __init__(self, rows: Rows, named: bool) -> None:
        self.rows = rows
        self.named = named
        self.logs = 0  # how many have it


class Backlog:
    """A log, and the batches that are not written to it yet. They stay only while it fails."""

    def __init__(self, log: Log, notices: Notices) -> None:
        self.log = log
        self.notices = notices
        self.batches: list[Batch] = []
        self.waiting = 0  # rows in them
        self.overflowed = 0  # rows that there was no room for
        self.trouble = ""  # why it fails
        self.retry_at = 0.0  # monotonic, seconds

    def add(self, batch: Batch) -> bool:
        """Let a batch wait for the log; return False if there is no room for all of it.

        For a named batch there always is: it was taken before the log failed, and while a log fails
        the server takes no new ones.
        """
        if self.trouble and self.waiting + len(batch.rows) > BACKLOG and not batch.named:
            self.overflowed += len(batch.rows)
            self.notices.add(
                f"overflowed {self.log.path}",
                f"no more readings are kept for {self.log.path} ({self.trouble})",
            )
            return False
        self.batches.append(batch)
        self.waiting += len(batch.rows)
        return True

    def write(self) -> list[Batch]:
        """Write what waits; return the batches that the log has from now on, none if it fails."""
        if not self.batches or (self.trouble and time.monotonic() < self.retry_at):
            return []
        try:
            self.log.append(joined(self.batches))
            if any(batch.named for batch in self.batches):
                self.log.flush()  # before it is acknowledged
        except OSError as error:
            self.note_failure(error)
            return []
        if self.trouble:
            self.trouble = ""
            say(f"{self.log.path} is written again, {counted(self.waiting, 'reading')} late")
        written, self.batches, self.waiting = self.batches, [], 0
        return written

    def note_failure(self, error: OSError) -> None:
        self.retry_at = time.monotonic() + LOG_RETRY
        if not self.trouble:
            self.trouble = str(error.strerror)
            say(
                f"cannot write {self.log.path} ({self.trouble}); up to {BACKLOG:,} readings wait"
                " until it can be written, those of named sensors with their clients"
            )

    def lacks(self) -> int:
        """Return how many plain readings the log will never have if nothing more is written."""
        return self.overflowed + sum(len(each.rows) for each in self.batches if not each.named)


class Writer:
    """All logs. The last one is that from which acknowledgements are recovered at the next start.

    So a named batch is held until the other logs have it, and goes to the last log then: whatever
    is killed in between, it is sent again, and no log is left without it.

    Where a row is, and what counts it; each is in one line of this table at a time:

        where it is                        a plain row is     a named row is
        in no log yet: it waits            pending            pending
        in at least one log                logged             logged
        in no log, there was no room       overflowed         (there always is: Backlog.add)
        at the end: in no log              overflowed         left, for its client still has it

    A named row in all logs is stored as well: it may be acknowledged. What a single log lacks is
    counted by its backlog.
    """

    def __init__(self, logs: Sequence[Log], notices: Notices) -> None:
        self.backlogs = [Backlog(log, notices) for log in logs]
        *self.others, self.last = self.backlogs
        self.held: list[Batch] = []  # named ones that some of the others lack
        self.logged = self.pending = self.overflowed = self.left = 0  # rows: see above

    def is_failing(self) -> bool:
        return any(backlog.trouble for backlog in self.backlogs)

    def write(self, rows: Rows) -> tuple[Rows, list[Row]]:
        """Write rows to each log that works.

        Return those that a log has for the first time, and the named ones that all logs have now:
        these are on the disk.
        """
        for batch in batches(rows):
            self.add(batch)
        newly: list[Batch] = []
        stored: list[Row] = []
        for backlog in self.backlogs:
            if backlog is self.last:
                self.release()
            for batch in backlog.write():
                batch.logs += 1
                if batch.logs == 1:
                    newly.append(batch)
                if batch.logs == len(self.backlogs) and batch.named:
                    stored += batch.rows
        logged = joined(newly)
        self.logged += len(logged)
        self.pending -= len(logged)
        return logged, stored

    def add(self, batch: Batch) -> None:
        """Let a batch wait for its logs: a plain one for all, a named one first for the others."""
        if batch.named:
            self.held.append(batch)
        waits_for = self.others if batch.named else self.backlogs
        has_room = [backlog.add(batch) for backlog in waits_for]  # each is asked
        if batch.named or any(has_room):
            self.pending += len(batch.rows)
        else:
            self.overflowed += len(batch.rows)

    def release(self) -> None:
        """Let the named batches that all other logs have wait for the last one."""
        while self.held and self.held[0].logs == len(self.others):
            self.last.add(self.held.pop(0))

    def finish(self) -> Rows:
        """Write what can be written now, count what cannot; return what a first log has now."""
        for backlog in self.backlogs:
            backlog.retry_at = 0.0
        logged, _ = self.write([])
        named = [batch for batch in self.held + self.last.batches if batch.named]
        self.left = sum(len(batch.rows) for batch in named if batch.logs == 0)
        self.overflowed += self.pending - self.left
        self.pending = 0
        return logged

    def summary(self) -> Iterator[str]:
        """Yield a line for each log that lacks readings."""
        for backlog in self.backlogs:
            if backlog.lacks():
                lacks = counted(backlog.lacks(), "reading")
                yield f"{backlog.log.path} lacks {lacks}: {backlog.trouble}"


def batches(rows: Rows) -> list[Batch]:
    """Return rows as a plain and a named batch, without those that would be empty."""
    plain, named = divided(rows)
    both = [Batch(plain, named=False), Batch(named, named=True)]
    return [batch for batch in both if batch.rows]


def joined(batches: Sequence[Batch]) -> Rows:
    """Return the rows of batches; of one, as nearly always, just as they are."""
    if len(batches) == 1:
        return batches[0].rows
    return [row for batch in batches for row in batch.rows]
