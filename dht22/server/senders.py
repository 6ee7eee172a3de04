"""Who sends: the sensors that have a name, and the addresses of those that have none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from dht22.console import Notices, counted
from dht22.datagram import HIGHEST_N, Named, format_ack, verify
from dht22.log.rows import Row, Rows, senders_of
from dht22.server.recovery import NAMES
from dht22.silence import is_silent

ADDRESSES = 10_000  # remembered; what further ones send is counted together
OTHERS = "(others)"  # no sensor can have this name
SHOWN = 50  # in a line, and in the summary


class KnownSender:
    """What is remembered of a sensor that has sent something."""

    def __init__(self, stored: int = 0) -> None:
        self.taken = stored  # the highest n that was taken: what is not above it is a duplicate
        self.stored = stored  # the highest n that is on the disk: it is acknowledged
        self.duplicates = 0
        self.readings = 0
        self.address = self.former_address = ""
        self.address_heard = self.former_heard = 0.0  # when something new came from there last
        self.last_heard = 0.0  # monotonic, seconds
        self.interval = 0.0  # seconds; follows a longer one at once, a shorter one by halves
        self.last_read: float | None = None  # by the clock, seconds; of a named sensor
        self.is_silent = False

    def hear(self, readings: int, now: float) -> None:
        if self.readings and self.last_read is None:
            self.follow(now - self.last_heard)
        self.readings += readings
        self.last_heard = now
        self.is_silent = False

    def read(self, at: float) -> None:
        """Note when a named reading was read: what waited on the Pi arrives in a burst."""
        if self.last_read is not None:
            self.follow(at - self.last_read)
        self.last_read = at

    def follow(self, interval: float) -> None:
        self.interval = max(interval, self.interval / 2)

    def alternates(self, address: str, at: float) -> bool:
        """Tell whether a name comes from two addresses in turn: A, B, A within three intervals.

        A Pi that changes from cable to Wi-Fi, or from IPv6 to IPv4, stays longer on each.
        """
        is_back = address == self.former_address and at - self.former_heard <= 3 * self.interval
        if address != self.address:
            self.former_address, self.former_heard = self.address, self.address_heard
        self.address, self.address_heard = address, at
        return is_back

    def is_missed(self, now: float) -> bool:
        """Tell whether at least three of its readings came, and then none for long."""
        age = now - self.last_heard
        return self.readings >= 3 and not self.is_silent and is_silent(age, self.interval)


def listed(reports: Sequence[str]) -> str:
    """Return reports as one line, and how many more there are."""
    more = f" (and {len(reports) - SHOWN:,} more)" if len(reports) > SHOWN else ""
    return ", ".join(reports[:SHOWN]) + more


class Senders:
    """All of them, by name or address. Both are bounded, because anybody can send."""

    def __init__(
        self,
        recovered: dict[str, int],
        keys: dict[str, bytes] | None,
        notices: Notices,
    ) -> None:
        """Remember the names in `recovered`, with the highest n of each; with keys only theirs.

        Without keys, which are by name, unsigned readings are taken.
        """
        self.keys = keys
        # Without keys anybody can have sent anything: that does not count once there are keys.
        known = {name: n for name, n in recovered.items() if keys is None or name in keys}
        self.named = {name: KnownSender(n) for name, n in known.items()}
        self.plain: dict[str, KnownSender] = {}
        self.back: list[str] = []  # reports of those that were silent before
        self.notices = notices
        used_up = [f"{name} has used up its numbers" for name, n in known.items() if n >= HIGHEST_N]
        if used_up:
            notices.add("used up", f"{listed(used_up)}: give that sensor another name")

    def authenticate(self, datagram: bytes, named: Named | None) -> None:
        """Raise ValueError unless the datagram is signed as the keys demand."""
        if self.keys is None:
            if named and named.mac:
                raise ValueError("signed, and this server has no --keys")
        elif not named or not named.mac:
            raise ValueError("unsigned")
        elif named.name not in self.keys:
            raise ValueError("name without a key")
        elif not verify(datagram, self.keys[named.name]):
            raise ValueError("wrongly signed")

    def take(self, named: Named, address: str, at: float, now: float, refusal: str) -> bool:
        """Take a named reading if it is new, and tell whether it is.

        It arrived at `at`, by the clock; now it is `now`, monotonic (both in seconds).
        Raise ValueError if it cannot be taken now, because of a `refusal` or because there are too
        many names: its client keeps it.
        """
        sender = self.named.get(named.name)
        if sender and named.n <= sender.taken:
            sender.last_heard = now
            sender.duplicates += 1
            return False
        if refusal:
            if sender:
                sender.last_heard = now
            raise ValueError(refusal)
        if not sender:
            if len(self.named) >= NAMES:
                raise ValueError("too many names")
            sender = self.named[named.name] = KnownSender()
        sender.taken = named.n
        if sender.alternates(address, at):
            self.notices.add(
                "in turn",
                f"{named.name} comes from {sender.address} and {sender.former_address} in turn; has"
                " each Pi a name of its own?",
            )
        sender.read(at - named.age)
        return True

    def store(self, rows: Sequence[Row]) -> None:
        """Note that named rows are on the disk of every log: they may be acknowledged."""
        for _, _, name, _, n in rows:
            self.named[name].stored = int(n)

    def acknowledgement(self, named: Named, interval: int | None) -> bytes | None:
        """Return the answer to a named reading, None if nothing of that name is on the disk yet."""
        stored = self.named[named.name].stored
        key = self.keys[named.name] if self.keys else None
        return format_ack(named.name, stored, interval, named.mac, key) if stored else None

    def hear(self, rows: Rows, now: float) -> None:
        """Note who sent rows."""
        for key, readings in Counter(senders_of(rows)).items():
            sender = self.named.get(key) or self.plain.get(key)
            if not sender:
                if len(self.plain) >= ADDRESSES:
                    key = OTHERS
                sender = self.plain.setdefault(key, KnownSender())
            if sender.is_silent:
                self.back.append(f"{key} is back")
            sender.hear(readings, now)

    def notice_changes(self, now: float) -> None:
        """Report, once, each sensor that has fallen silent, and each that is back."""
        changes, self.back = self.back, []
        for key, sender in self.all():
            if sender.is_missed(now):
                sender.is_silent = True
                changes.append(f"{key} silent for {now - sender.last_heard:.0f} s")
        if changes:
            self.notices.add(listed(changes), listed(changes))  # each is news

    def all(self) -> list[tuple[str, KnownSender]]:
        return [*self.named.items(), *self.plain.items()]

    def duplicates(self) -> int:
        return sum(sender.duplicates for sender in self.named.values())

    def summary(self) -> Iterator[str]:
        """Yield a line for each sensor that was heard, the busiest first."""
        heard = [(key, each) for key, each in self.all() if each.readings or each.duplicates]
        heard.sort(key=lambda item: item[1].readings, reverse=True)
        for key, sender in heard[:SHOWN]:
            duplicates = f", {counted(sender.duplicates, 'duplicate')}" if sender.duplicates else ""
            yield f"{key}: {counted(sender.readings, 'reading')}{duplicates}"
        rest = [sender.readings for _, sender in heard[SHOWN:]]
        if rest:
            yield f"and {counted(len(rest), 'further sender')}: {counted(sum(rest), 'reading')}"
