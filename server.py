#!/usr/bin/env python3
"""Log the readings of any number of Raspberry Pis, as they arrive.

    $ python3 server.py
    listening on *:10001, logging to /home/you/datalog.txt, /home/you/datalog.csv
    on the Pi: python3 client.py 192.168.1.5  # or desktop.local
    10:00:02 192.168.1.7 74.3,25.7
    10:00:04 192.168.1.7 74.4,25.7
    ^C
    2 readings logged
    192.168.1.7: 2 readings

A datagram is a reading: humidity in percent, temperature in degrees Celsius. The logs are appended
to, never overwritten. What was refused, lost or sent twice is reported at the end as well.
Exit code: 0 = stopped by Ctrl+C, SIGTERM or --count, 1 = could not start, or go on, 2 = usage.
"""

from __future__ import annotations

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl+C during the imports just ends the script

import argparse
import gc
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import repeat

try:
    from dht22 import console
    from dht22.console import Notices, Parser, counted, run_script, say
    from dht22.datagram import PORT, Named, parse, plain_readings
    from dht22.keys import print_new_key, read_keys
    from dht22.log.formats import LOGS, Log, open_log
    from dht22.log.rows import PlainRows, Row, Rows
    from dht22.screen import Screen, screen_of
    from dht22.server.arrival import Told, asked
    from dht22.server.inbox import BATCH, Broken, Inbox, Peer, Received, open_inbox
    from dht22.server.recovery import is_recoverable, recover
    from dht22.server.remedies import remedy
    from dht22.server.senders import Senders
    from dht22.server.writer import Writer
    from dht22.stop import Stop
except (ImportError, SyntaxError) as error:
    sys.exit(
        f"server.py: error: cannot start ({error}); is the folder dht22 whole?"
        " copy all of it beside this file"
    )

Question = tuple[Named, Peer, Told]  # who asks, and from which address the answer has to come
DEFAULT_LOGS = ["datalog.txt", "datalog.csv"]


@dataclass
class Server:
    """Takes readings from the inbox to the logs, and answers those of named sensors."""

    inbox: Inbox
    writer: Writer
    senders: Senders
    notices: Notices
    screen: Screen
    count: int | None  # readings to log, None without an end
    interval: int | None  # seconds, imposed on named clients; None for their own
    forgets: bool  # without a log that knows names: after a restart duplicates are not known
    refused: Counter[str] = field(default_factory=Counter)
    look_at: float = 0.0  # when to look for drops and silence again (monotonic)

    def run(self, stop: Stop) -> None:
        """Serve until told to stop, or `count` readings are logged; raise Broken."""
        going = True
        while going and self.writer.logged != self.count:
            going = self.inbox.wait(stop, self.room())
            rows, questions = self.check(self.inbox.receive(self.room()))
            written = self.write(rows)
            self.answer(questions)
            self.show(written)
            self.notice(rows)

    def room(self) -> int:
        """Return how many datagrams may be received now."""
        if self.count is None:
            return BATCH
        return self.count - self.writer.logged - self.writer.pending

    def check(self, batch: Received) -> tuple[Rows, list[Question]]:
        """Return a row for each new reading, and the named ones, new or not, that want an answer.

        All else is refused.
        """
        now, monotonic = time.time(), time.monotonic()
        clients, times = batch.clients(), batch.times(now)
        readings = plain_readings(batch.datagrams) if self.senders.keys is None else None
        if readings:  # as nearly always
            return PlainRows(times, clients, readings), []
        refusal = "log failing" if self.writer.is_failing() else ""
        rows: list[Row] = []
        questions: list[Question] = []
        columns = zip(batch.datagrams, batch.peers, clients, times, batch.told or repeat(()))
        for datagram, peer, client, at, told in columns:
            try:
                reading, named = parse(datagram)
                self.senders.authenticate(datagram, named)
                if named is None:
                    rows.append((at, client, "", reading, ""))
                    continue
                self.inbox.expect_named(batch)
                if self.senders.take(named, client, at, monotonic, refusal):
                    rows.append((at - named.age, client, named.name, reading, str(named.n)))
                questions.append((named, peer, asked(told)))
            except ValueError as error:
                self.refused[str(error)] += 1
                if str(error) != refusal:  # that a log fails was reported, once
                    self.notices.add("refused", f"refused {client}: {error}: {datagram[:58]!a}")
        return rows, questions

    def write(self, rows: Rows) -> Rows:
        """Write rows to the logs; return those that a first log has now."""
        written, stored = self.writer.write(rows)
        self.senders.store(stored)
        return written

    def answer(self, questions: Sequence[Question]) -> None:
        """Acknowledge each named reading with the highest n of its name that is on the disk."""
        for named, peer, source in questions:
            answer = self.senders.acknowledgement(named, self.interval)
            if answer:
                self.inbox.answer(answer, peer, source)
        if questions and self.forgets:
            self.forgets = False
            say("without a .csv or .db log, duplicates are known only until this server stops")

    def show(self, rows: Rows) -> None:
        """Print a line for each reading."""
        if self.screen.is_open():
            lines = [
                f"{time.strftime('%H:%M:%S', time.localtime(at))} {name or client} {reading}\n"
                for at, client, name, reading, _ in rows
            ]
            self.screen.show("".join(lines))

    def notice(self, rows: Rows) -> None:
        """Report who is back and, each second, what was dropped and who has fallen silent."""
        now = time.monotonic()
        self.senders.hear(rows, now)
        if now >= self.look_at:
            self.look_at = now + 1
            dropped = self.inbox.newly_dropped()
            if dropped:
                self.notices.add(
                    "dropped",
                    f"dropped {self.inbox.dropped} so far, {dropped} of them now: the receive"
                    f" buffer of {self.inbox.buffer >> 10} KiB was full",
                )
            self.senders.notice_changes(now)
        self.notices.show(now)

    def finish(self) -> None:
        """Write what is left, as far as that is possible, and report the summary."""
        self.show(self.writer.finish())
        self.screen.finish()  # then the summary
        self.look_at = self.notices.due = 0.0  # the last notices are due now
        self.notice([])
        for line in self.summary():
            say(line)

    def summary(self) -> list[str]:
        """Return what was logged, from whom, and an account of all that was not."""
        writer = self.writer
        duplicates, refused = self.senders.duplicates(), sum(self.refused.values())
        lines = [f"{counted(writer.logged, 'reading')} logged"]
        if duplicates or refused or writer.overflowed or writer.left or self.inbox.dropped:
            left = f" + left with their clients {writer.left}" if writer.left else ""
            dropped = self.inbox.dropped if self.inbox.knows_drops() else "unknown"
            lines = [
                f"received {self.inbox.received} = logged {writer.logged}"
                f" + duplicates {duplicates} + refused {refused}"
                f" + overflowed {writer.overflowed}{left}; dropped {dropped}"
            ]
        lines += [f"refused {times}: {reason}" for reason, times in self.refused.most_common()]
        return [*lines, *writer.summary(), *self.senders.summary()]


def log(text: str) -> str:
    """Convert `text` to the path of a log; its ending is the format."""
    if os.path.splitext(text)[1] not in LOGS:
        raise argparse.ArgumentTypeError(f"{text!r} does not end in {', '.join(LOGS)}")
    return text


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
        "--keys", metavar="FILE", help="take only readings signed with a key of this file"
    )
    parser.add_argument(
        "--new-key",
        type=console.name,
        metavar="NAME",
        help="print a new key for a sensor, a line for --keys and for client.py --key, and stop",
    )
    parser.add_argument(
        "--interval",
        type=console.interval,
        metavar="SECONDS",
        help="interval of all sensors with a --name, 2 to 86400 (default: as their clients say)",
    )
    parser.add_argument(
        "--count", type=console.count, metavar="N", help="stop after N readings are logged"
    )
    parser.add_argument("--quiet", action="store_true", help="print no readings")
    return parser


def log_paths(parser: Parser, options: argparse.Namespace) -> list[str]:
    """Return the paths of the logs in the order in which they are written."""
    given = options.log or DEFAULT_LOGS
    paths = {os.path.splitext(path)[1]: path for path in given}
    if len(paths) < len(given):
        parser.error("two logs have the same ending; give one of each")
    in_order = [paths[ending] for ending in LOGS if ending in paths]
    if options.keys is not None and not is_recoverable(in_order[-1]):
        parser.error("--keys needs a .csv or .db log, to know duplicates after a restart")
    return in_order


def open_keys(parser: Parser, path: str) -> dict[str, bytes]:
    """Return the keys in a file; end the script if they cannot be used."""
    try:
        return read_keys(path)
    except OSError as error:
        parser.fail(f"cannot use the keys in {path} ({error.strerror}); make them with --new-key")


def open_logs(parser: Parser, paths: Sequence[str]) -> tuple[list[Log], dict[str, int]]:
    """Return the logs, and the highest n of each name that stands in the last of them.

    End the script if one cannot be used.
    """
    logs: list[Log] = []
    try:
        for path in paths:
            logs.append(open_log(path, say))
        return logs, recover(paths[-1]) if is_recoverable(paths[-1]) else {}
    except OSError as error:
        parser.fail(f"cannot log to {path} ({error.strerror}); {remedy(error, path)}")


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until told to stop; return the exit code."""
    stop = Stop()
    parser = get_parser()
    options = parser.parse_args(argv)
    if options.new_key:
        print_new_key(parser, options.new_key)
        return 0
    paths = log_paths(parser, options)
    inbox = open_inbox(parser, options.host, options.port)
    gc.set_threshold(100_000)  # a batch is thousands of tuples, which cannot be in circles
    try:
        with stop.interruptible():  # reading what was logged can take long
            keys = None if options.keys is None else open_keys(parser, options.keys)
            logs, recovered = open_logs(parser, paths)
    except KeyboardInterrupt:
        return 0
    say(f"listening on {inbox}, logging to {', '.join(map(os.path.abspath, paths))}")
    say(f"on the Pi: python3 client.py {inbox.client_arguments(options.host, keys is not None)}")
    notices = Notices()
    server = Server(
        inbox,
        Writer(logs, notices),
        Senders(recovered, keys, notices),
        notices,
        screen_of(None if options.quiet else sys.stdout),
        options.count,
        options.interval,
        forgets=not is_recoverable(paths[-1]),
    )
    try:
        server.run(stop)
    except Broken as error:
        say(f"server.py: error: {error}; start it again")
        return 1
    finally:
        server.finish()
    return 0


if __name__ == "__main__":
    run_script(main)
