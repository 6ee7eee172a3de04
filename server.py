#!/usr/bin/env python3
"""Log the readings of any number of Raspberry Pis, as they arrive.

    $ python3 server.py
    listening on *:10001, logging to datalog.txt, datalog.csv
    on the Pi: python3 client.py 192.168.1.5
    10:00:02 192.168.1.7 74.3,25.7
    10:00:04 192.168.1.7 74.4,25.7
    ^C
    received 2 = logged 2 + duplicates 0 + refused 0 + overflowed 0; dropped 0
    192.168.1.7: 2 readings

A datagram is a reading: humidity in percent, temperature in degrees Celsius. The logs are appended to, never
overwritten. Exit code: 0 = stopped by Ctrl+C, SIGTERM or --count, 1 = could not start, 2 = usage.
"""

from __future__ import annotations

import argparse
import errno
import os
import secrets
import select
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from itertools import repeat, starmap
from operator import itemgetter

from dht22 import console
from dht22.console import Parser, Screen, say
from dht22.datagram import AS_LOGGED, LIMIT, PORT, Named, format_ack, parse, verify
from dht22.logs import LOGS, NAMES, Log, Row, TextLog
from dht22.sockets import drops, listen, own_address

BATCH = 10_000  # datagrams received before they are written
GATHER = 0.005  # seconds that a batch may gather under load
BEHIND = 1500  # datagrams in a batch, at which there is no time to gather
BACKLOG = 100_000  # readings kept while a log fails
RETRY = 1.0  # seconds from one try of a failing log to the next
SENDERS = 10_000  # remembered; what more there are is counted as `others`
SHOWN = 50  # in the summary at the end
SILENT = 60.0  # seconds without a reading, and at least 5 intervals

Peer = tuple[str, int]  # of IPv6 two more numbers
Datagram = tuple[bytes, Peer]


class Notices:
    """Warnings on stderr: at most a line a second of each kind, the first, with the number of the others."""

    def __init__(self) -> None:
        self.first: dict[str, str] = {}
        self.number: Counter[str] = Counter()
        self.due = 0.0

    def add(self, line: str, *facts: object) -> None:
        """Note a warning of the kind that `line` is; `facts` fill it."""
        if line not in self.first:
            self.first[line] = line % facts
        self.number[line] += 1

    def say(self, now: float) -> None:
        if self.first and now >= self.due:
            for kind, line in self.first.items():
                others = self.number[kind] - 1
                say(f"{line} (and {others} more)" if others else line)
            self.first.clear()
            self.number.clear()
            self.due = now + 1


class Sender:
    """What is remembered of a sensor: a name, or the address of one that sends plain readings."""

    def __init__(self, last: int = 0) -> None:
        self.taken = (
            last  # the highest n of this name that was taken: what is not above it is a duplicate
        )
        self.last = last  # the highest n that is on the disk: it is acknowledged
        self.duplicates = 0
        self.address = self.former = ""
        self.readings = 0
        self.heard = 0.0  # monotonic, seconds
        self.interval = 0.0  # seconds; follows a longer one at once, a shorter one by halves
        self.silent = False

    def hear(self, readings: int, now: float) -> None:
        if self.readings:
            self.interval = max(now - self.heard, self.interval / 2)
        self.readings += readings
        self.heard = now
        self.silent = False

    def alternates(self, address: str) -> bool:
        """Tell whether the name comes from two addresses in turn."""
        if address == self.address:
            return False
        alternates = address == self.former
        self.address, self.former = address, self.address
        return alternates

    def is_missed(self, now: float) -> bool:
        """Tell whether it was heard three times and then not for long."""
        return (
            self.readings >= 3
            and not self.silent
            and now - self.heard > max(SILENT, 5 * self.interval)
        )


class Server:
    """A socket, the logs, and what is known of those who send."""

    def __init__(
        self,
        sock: socket.socket,
        logs: Sequence[Log],
        screen: Screen,
        count: int | None = None,
        interval: int | None = None,
        keys: dict[str, bytes] | None = None,
    ) -> None:
        self.sock = sock
        self.logs = logs
        self.screen = screen
        self.count = count
        self.interval = interval
        self.keys = keys
        known = [
            log.last() for log in logs[-1:] if not isinstance(log, TextLog)
        ]  # the csv is the last, else the db
        self.names = {name: Sender(last) for last_of in known for name, last in last_of.items()}
        self.forgets = not known
        self.questions: list[tuple[Peer, Named]] = []  # of the last batch
        self.received = self.logged = self.overflowed = self.dropped = 0
        self.refused: Counter[str] = Counter()
        self.plain: dict[str, Sender] = {}
        self.batch: list[Row] = []  # being written: the first `written` logs have it
        self.written = 0
        self.later: list[Row] = []  # what waits until every log has the batch
        self.failing = ""  # the log that fails, and why
        self.retry = 0.0  # when it is tried again (monotonic)
        self.notices = Notices()
        self.look = 0.0  # when to look for drops and silence again (monotonic)
        self.buffer = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)  # bytes, granted
        self.gather = min(
            GATHER, self.buffer / 800 / 400_000
        )  # seconds: the buffer holds what 400,000/s bring
        self.load = 0  # datagrams of the last batch beyond the first
        self.most = BATCH  # datagrams that the next one may have

    def run(self, stop: socket.socket) -> None:
        """Wait, receive, check, append, acknowledge, hear, print, notice; until `stop` is readable or all are in."""
        going = True
        while going and (self.room() or self.waiting()):
            going = self.wait(stop)
            rows = self.check(self.receive())
            logged = self.append(rows)
            self.acknowledge()
            self.hear(rows)
            self.show(logged)
            self.notice()

    def waiting(self) -> int:
        """Return how many readings are not yet in every log."""
        return len(self.batch) + len(self.later)

    def room(self) -> int:
        """Return how many datagrams may be received now."""
        return (
            self.most
            if self.count is None
            else min(self.most, self.count - self.logged - self.waiting())
        )

    def wait(self, stop: socket.socket) -> bool:
        """Wait for a datagram, a second at most; return False once told to stop."""
        sources = [self.sock, stop] if self.room() else [stop]
        waits = select.select(sources, [], [], 0)[0]
        going = stop not in (waits or select.select(sources, [], [], 1.0)[0])
        # What comes after a pause is logged before more is looked for.
        self.most = 1 if going and not waits and self.load < 1 else BATCH
        if going and 0 < self.load < BEHIND:
            time.sleep(min(self.gather, self.load * GATHER / 20))
        return going

    def receive(self) -> list[Datagram]:
        """Return the datagrams that wait in the socket, as many as there is room for."""
        batch: list[Datagram] = []
        try:
            batch.extend(starmap(self.sock.recvfrom, repeat((LIMIT + 1,), self.room())))
        except BlockingIOError:  # nothing more; what came before stays in the batch
            pass
        except ConnectionResetError:  # Windows: an answer went to a port that has closed
            pass
        except OSError as error:
            if error.errno != getattr(errno, "WSAEMSGSIZE", None):
                raise
            batch.append(
                (bytes(LIMIT + 1), ("?", 0))
            )  # Windows tells neither what was too long nor from whom
        self.load = len(batch) - 1
        self.received += len(batch)
        return batch

    def check(self, batch: Sequence[Datagram]) -> list[Row]:
        """Return a row for each datagram that is a new reading; refuse what is none."""
        now = time.time()
        rows: list[Row] = []
        self.questions = []
        as_logged = AS_LOGGED.fullmatch if self.keys is None else lambda _: None
        for datagram, peer in batch:
            address = peer[0].removeprefix("::ffff:")  # how a socket for both shows IPv4
            if as_logged(datagram):  # what parse() would tell, too, but most are so
                rows.append((now, address, "", datagram.decode(), ""))
                continue
            try:
                reading, named = parse(datagram)
                if named or self.keys is not None:
                    self.authenticate(datagram, named)
                if named is None:
                    rows.append((now, address, "", reading, ""))
                    continue
                if self.take(named, address):
                    rows.append((now - named.age, address, named.name, reading, str(named.n)))
                self.questions.append((peer, named))
            except ValueError as error:
                self.refused[str(error)] += 1
                self.notices.add("refused %s: %s: %.60a", address, error, datagram)
        return rows

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

    def take(self, named: Named, address: str) -> bool:
        """Tell whether a named reading is new; raise ValueError if it cannot be taken now: its client keeps it."""
        sender = self.names.get(named.name)
        if sender and (self.failing or named.n <= sender.taken):
            sender.heard = time.monotonic()  # it is not silent
        if sender and named.n <= sender.taken:
            sender.duplicates += 1
            return False
        if self.failing:
            raise ValueError("log failing")
        if not sender:
            if len(self.names) >= NAMES:
                raise ValueError("too many names")
            sender = self.names[named.name] = Sender()
        sender.taken = named.n
        if sender.alternates(address):
            self.notices.add(
                "%s comes from %s and %s in turn; has each Pi a name of its own?",
                named.name,
                sender.address,
                sender.former,
            )
        if self.forgets:
            self.forgets = False
            say("without a .csv or .db log, duplicates are known only until this server stops")
        return True

    def append(self, rows: Sequence[Row]) -> list[Row]:
        """Append rows to each log in turn; return those that are now in all of them.

        While a log fails they wait, and later ones behind them, so that every log gets each row once, in order.
        """
        fit = BACKLOG - self.waiting()
        if len(rows) > fit:
            self.overflowed += len(rows) - fit
            self.notices.add("overflowed: %s, and no more readings are kept", self.failing)
        self.later += rows[:fit]
        logged: list[Row] = []
        if self.failing and time.monotonic() < self.retry:
            return logged
        try:
            while self.batch or self.later:
                if not self.batch:
                    self.batch, self.later = self.later, []
                named = any(map(itemgetter(2), self.batch))
                while self.written < len(self.logs):
                    self.logs[self.written].append(self.batch)
                    if named:
                        self.logs[self.written].flush()
                    self.written += 1
                if named:
                    for _, _, name, _, n in self.batch:
                        if name:
                            self.names[name].last = int(n)
                logged += self.batch
                self.batch, self.written = [], 0
        except OSError as error:
            if not self.failing:
                self.failing = f"cannot write {self.logs[self.written].path} ({error.strerror})"
                say(
                    f"{self.failing}; readings are kept, {BACKLOG} at most, and written when that is mended"
                )
            self.retry = time.monotonic() + RETRY
        else:
            if self.failing:
                say(f"all logs are written again, {len(logged)} readings late")
                self.failing = ""
        self.logged += len(logged)
        return logged

    def acknowledge(self) -> None:
        """Answer each named reading that was received with the last n of its name that is on the disk."""
        for peer, named in self.questions:
            last = self.names[named.name].last
            if not last:
                continue  # nothing of it is written yet
            key = self.keys[named.name] if self.keys else None
            answer = format_ack(named.name, last, self.interval, named.mac, key)
            with suppress(OSError):  # lost on its way, as far as the client knows: it asks again
                self.sock.sendto(answer, peer)

    def hear(self, rows: Sequence[Row]) -> None:
        """Remember who sent readings, and when."""
        now = time.monotonic()
        for key, readings in Counter([name or client for _, client, name, _, _ in rows]).items():
            if key not in self.names and key not in self.plain and len(self.plain) >= SENDERS:
                key = "others"
            sender = self.names.get(key) or self.plain.setdefault(key, Sender())
            if sender.silent:
                self.notices.add("%s is back", key)
            sender.hear(readings, now)

    def show(self, rows: Sequence[Row]) -> None:
        """Print a line a reading."""
        if self.screen.is_open():
            self.screen.show(
                "".join(
                    [
                        f"{time.strftime('%H:%M:%S', time.localtime(at))} {name or client} {reading}\n"
                        for at, client, name, reading, _ in rows
                    ]
                )
            )

    def notice(self) -> None:
        """Say what was dropped, refused, or has gone silent."""
        now = time.monotonic()
        if now >= self.look:
            self.look = now + 1
            self.count_drops()
            for name, sender in [*self.names.items(), *self.plain.items()]:
                if sender.is_missed(now):
                    sender.silent = True
                    self.notices.add("%s silent for %.0f s", name, now - sender.heard)
        self.notices.say(now)

    def count_drops(self) -> None:
        """Say how many datagrams the kernel has dropped since the last look: its buffer was full."""
        dropped = drops(self.sock) or 0
        if dropped != self.dropped:
            self.notices.add(
                "dropped %d so far, %d of them now: the receive buffer of %d KiB was full",
                dropped,
                dropped - self.dropped,
                self.buffer >> 10,
            )
            self.dropped = dropped

    def finish(self) -> None:
        """Write what is left, if that is possible now, and say the summary."""
        self.retry = 0.0
        self.show(self.append([]))
        self.overflowed += self.waiting()
        self.look = self.notices.due = 0.0
        self.notice()
        refused = sum(self.refused.values())
        dropped = "unknown" if drops(self.sock) is None else self.dropped
        duplicates = sum(sender.duplicates for sender in self.names.values())
        say(
            f"received {self.received} = logged {self.logged} + duplicates {duplicates} + refused {refused}"
            f" + overflowed {self.overflowed}; dropped {dropped}"
        )
        for reason, number in self.refused.most_common():
            say(f"refused {number}: {reason}")
        heard = [
            item
            for item in [*self.names.items(), *self.plain.items()]
            if item[1].readings or item[1].duplicates
        ]
        senders = sorted(heard, key=lambda item: item[1].readings, reverse=True)
        for name, sender in senders[:SHOWN]:
            say(
                f"{name}: {sender.readings} readings"
                + (f", {sender.duplicates} duplicates" if sender.duplicates else "")
            )
        if senders[SHOWN:]:
            say(
                f"and {len(senders) - SHOWN} more: {sum(sender.readings for _, sender in senders[SHOWN:])} readings"
            )


def stop_signals() -> socket.socket:
    """Return a socket that becomes readable on Ctrl+C and SIGTERM, so that they end no write half-way."""
    stop, bell = socket.socketpair()
    bell.setblocking(False)
    signal.set_wakeup_fd(bell.detach())
    for number in signal.SIGINT, signal.SIGTERM:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
    return stop


def log(text: str) -> str:
    """Convert `text` to the path of a log; its ending is the format."""
    if os.path.splitext(text)[1] not in LOGS:
        raise argparse.ArgumentTypeError(f"{text!r} does not end in {', '.join(LOGS)}")
    return text


def interval(text: str) -> int:
    """Convert `text` to an interval for the clients: whole seconds, 2 to 1 day."""
    if not text.isascii() or not text.isdecimal() or not 2 <= int(text) <= 86400:
        raise argparse.ArgumentTypeError(f"{text!r} is no interval (whole seconds, 2 to 86400)")
    return int(text)


def get_parser() -> Parser:
    parser = Parser("server.py", __doc__)
    parser.add_argument(
        "--host", help="address to listen on (default: every interface, IPv4 and IPv6)"
    )
    parser.add_argument(
        "--port",
        type=console.port,
        default=PORT,
        help="UDP port; 0 takes a free one (default: %(default)s)",
    )
    parser.add_argument(
        "--log",
        type=log,
        action="append",
        metavar="FILE",
        help="file to append to, can be repeated; the ending is the format, "
        f"{', '.join(LOGS)} (default: datalog.txt and datalog.csv)",
    )
    parser.add_argument(
        "--keys",
        metavar="FILE",
        help="take only readings that are signed with a key of this file (lines of --new-key)",
    )
    parser.add_argument(
        "--new-key",
        type=console.name,
        metavar="NAME",
        help="print a new key for a sensor, a line for --keys and for the client's --key, and end",
    )
    parser.add_argument(
        "--interval",
        type=interval,
        metavar="SECONDS",
        help="interval that named clients shall take over, 2 to 86400 (default: their own)",
    )
    parser.add_argument(
        "--count", type=console.count, metavar="N", help="stop after N readings are logged"
    )
    parser.add_argument("--quiet", action="store_true", help="print no readings")
    return parser


def open_keys(parser: Parser, path: str) -> dict[str, bytes]:
    """Return the keys in a file; end the script if they cannot be used."""
    try:
        return console.read_keys(path)
    except OSError as error:
        parser.fail(f"cannot use the keys in {path} ({error.strerror}); make them with --new-key")


def open_socket(parser: Parser, host: str | None, port: int) -> socket.socket:
    """Return the socket to listen on; end the script if there is none to be had."""
    try:
        return listen(host, port)
    except OSError as error:
        remedy = {
            errno.EADDRINUSE: "is another server running? give another --port",
            errno.EACCES: "ports below 1024 are the system's; give another --port",
        }.get(error.errno or 0, "give an address of this machine as --host")
        parser.fail(f"cannot listen on {host or 'port'} {port} ({error.strerror}); {remedy}")


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until told to stop; return 0."""
    parser = get_parser()
    options = parser.parse_args(argv)
    if options.new_key:
        try:
            os.write(1, f"{options.new_key} {secrets.token_hex(32)}\n".encode("ascii"))
        except OSError as error:
            parser.fail(f"cannot print the key ({error.strerror}); is stdout open, the disk full?")
        return 0
    paths = {
        os.path.splitext(path)[1]: path for path in options.log or ["datalog.txt", "datalog.csv"]
    }
    if options.log and len(paths) < len(options.log):
        parser.error("two logs end alike; one of each format is all there can be")
    if options.keys is not None and paths.keys() == {".txt"}:
        parser.error("--keys needs a .csv or .db log, to know duplicates after a new start")
    keys = None if options.keys is None else open_keys(parser, options.keys)
    stop = stop_signals()
    sock = open_socket(parser, options.host, options.port)
    screen = Screen(None if options.quiet else sys.stdout)
    early: list[str] = []  # what was mended in the logs: said after the line that others wait for
    listening = False
    logs: list[Log] = []
    try:
        for ending in [each for each in LOGS if each in paths]:
            logs.append(
                LOGS[ending](paths[ending], lambda line: (say if listening else early.append)(line))
            )
        server = Server(sock, logs, screen, options.count, options.interval, keys)
    except OSError as error:
        for line in early:
            say(line)
        parser.fail(f"cannot log to {paths[ending]} ({error.strerror}); give another file as --log")
    host, port = sock.getsockname()[:2]
    named = options.host and host not in ("0.0.0.0", "::")
    say(
        f"listening on {host if named else '*'}:{port}, logging to {', '.join(log.path for log in logs)}"
    )
    say(
        f"on the Pi: python3 client.py {options.host if named else own_address()}"
        + (f" --port {port}" if port != PORT else "")
    )
    listening = True
    for line in early:
        say(line)
    server.run(stop)
    server.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
