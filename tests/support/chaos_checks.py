"""What has to hold after chaos: each reading in its logs as the promises say."""

import gzip
import sqlite3
import time
from collections import Counter
from datetime import datetime

from support.made import HEADER
from support.numbered import whole_lines

RESEND = 0.1  # seconds; all times are a tenth of those for a sensor that is read every 2 s
YOUNG = 1.5 * RESEND + 0.1  # seconds; what waits longer is spooled, even on a busy machine
LATE = 4.0  # seconds that a datagram may be under way, while those that pass it on are stopped


def rows_of(path):
    """Return the rows of a log, from the oldest rotated file on: lists of fields."""
    if path.suffix == ".db":
        with sqlite3.connect(path) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            found = connection.execute("SELECT * FROM reading ORDER BY rowid").fetchall()
        return [["" if each is None else str(each) for each in row] for row in found]
    rows = []
    for each in [*sorted(path.parent.glob(f"{path.name}.*")), path]:
        content = (gzip.open if each.suffix == ".gz" else open)(each, "rb").read().decode()
        assert content == "" or content.endswith("\n"), f"{each} ends in half a line"
        lines = content.splitlines()
        if path.suffix == ".csv" and lines:
            assert lines.pop(0) + "\n" == HEADER, each
        rows += [line.split(",") for line in lines]
    return rows


def check(chaos):
    """Compare the logs with what was read, spooled and acknowledged; return a summary."""
    text, table, *database = [rows_of(path) for path in chaos.paths]
    in_text = Counter(",".join(row) for row in text)
    missing = unspooled = doubled = on_csv = 0
    for client in chaos.clients[1:]:
        own = [row for row in table if row[2] == client.name]
        kept = {",".join(row[3:5]) for row in own}
        acknowledged = {n for name, n in chaos.acknowledged if name == client.name}
        on_csv += len(own)
        assert acknowledged <= {int(row[5]) for row in own}, "acknowledged, not on the CSV"
        assert client.spooled <= kept, f"spooled, not on the CSV: {client.spooled - kept}"
        assert kept <= in_text.keys(), f"not in the text log: {kept - in_text.keys()}"
        assert whole_lines(client.spool) == [], "delivered, and still in the spool"
        check_times(client, own)
        doubled += check_once_and_in_order(chaos, client, own)
        for rows in database:
            inside = [row for row in rows if row[2] == client.name]
            lacking = kept - {",".join(row[3:5]) for row in inside}
            assert not lacking, f"not in the database: {lacking}"
            check_once_and_in_order(chaos, client, inside)
        for life in client.lives:
            lost = check_missing(life, kept)
            if life.failing_since() is None:
                missing += lost
            else:
                unspooled += lost
    check_plain(chaos, [in_text, *map(plain, [table, *database])])
    read = sum(len(client.read()) for client in chaos.clients[1:])
    starts = sum(len(client.lives) for client in chaos.clients)
    spool_failed = sum(
        line.startswith("cannot write")
        for client in chaos.clients
        for life in client.lives
        for _, line in life.said
    )
    log_failed = sum(server.err.count("cannot write") for server in chaos.started)
    return (
        f"{read} named readings, {on_csv} on the CSV, {missing} missing;"
        f" {unspooled} missing and {doubled} doubled for want of a spool;"
        f" {starts} client and {len(chaos.started)} server starts, {chaos.rotations} rotations,"
        f" a spool failed {spool_failed} times, a log {log_failed} times"
    )


def check_once_and_in_order(chaos, client, rows):
    """Return how many stand twice."""
    order = list(client.read())
    without = {reading for life in client.lives if life.is_without_spool() for reading in life.read}
    numbers = [int(row[5]) for row in rows]
    assert numbers == sorted(set(numbers)), f"{client.name}: n does not grow"
    seen = {}  # reading -> n
    for row in rows:
        reading, n = ",".join(row[3:5]), int(row[5])
        assert reading in order, f"{reading} was made up"
        if reading in seen:
            assert may_stand_twice(chaos, client, seen[reading], n), f"{reading} stands twice"
        seen.setdefault(reading, n)
    places = [order.index(reading) for reading in seen if reading not in without]
    assert places == sorted(places), f"{client.name}: not in order"
    return len(rows) - len(seen)


def may_stand_twice(chaos, client, n, next_n):
    """Tell whether a reading was delivered while the spool could not be written, which is
    noticed before a further n is sent, and again after the client had ended like that."""
    following = min(
        (at for (name, each), at in chaos.passed.items() if name == client.name and each > n)
    )
    return any(
        life.failing_since() is not None
        and following >= life.failing_since()
        and chaos.passed[client.name, next_n] >= life.end
        for life in client.lives[:-1]
    )


def check_missing(life, kept):
    """Return how many readings of a life are missing.

    They were its last, and young when it was killed, or when its spool could not be written.
    """
    readings = list(life.read)
    missing = [reading for reading in readings if reading not in kept]
    assert readings[len(readings) - len(missing) :] == missing, f"a gap: {missing}"
    failing = life.failing_since()
    if missing and not life.is_without_spool():
        # A busy machine may keep a client from spooling, but then from reading as well.
        before = [at for at in life.read.values() if failing is None or at < failing]
        *_, last_but_one, _ = [0.0, 0.0, *before]
        age = last_but_one - life.read[missing[0]]
        assert age < YOUNG, f"{missing} lost, {age:.3f} s old and not spooled"
        assert failing or life.looked_up < life.read[missing[0]], "unspooled during a look-up"
    if not life.killed and failing is None:
        lost = set(missing) & set(life.script.out.splitlines())
        assert not lost, f"lost at a clean end: {lost}"
    return len(missing)


def check_times(client, rows):
    """Each reading stands on the CSV with the time when it was read."""
    wall = time.time() - time.monotonic()
    read = client.read()
    for row in rows:
        logged = datetime.fromisoformat(row[0].replace("Z", "+00:00")).timestamp()
        late = logged - wall - read[",".join(row[3:5])]
        assert -0.01 < late < LATE, f"{row}: {late:.3f} s from its time"


def check_plain(chaos, logs):
    """A plain reading stands in each log as often as it arrived at most; the last ones do."""
    client = chaos.clients[0]
    for log in logs:
        for reading in client.read():
            most = 0 if chaos.keyed else chaos.plain[reading]
            assert log[reading] <= most, f"{reading}: {log[reading]} times, not {most}"
        assert chaos.last_plain() <= log.keys(), "a plain one is lost"


def plain(rows):
    return Counter(",".join(row[3:5]) for row in rows if not row[2])
