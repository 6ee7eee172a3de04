"""A named client that is killed and started again, and knows what must not be lost."""

import math
import sqlite3
import time

from support.tools import DEADLINE, Script

RESEND = 0.01  # seconds; what waits longer is spooled
LATE = 0.4  # seconds that a busy machine may take for that
# All times are a hundredth of those for a sensor that is read every 2 s, the microseconds in n too.
TIMERS = f"""
from dht22.pi import delivery
from dht22.pi import spool
delivery.LEAP = {RESEND * 1_000_000:.0f}
delivery.RESEND = {RESEND}
delivery.RESEND_MOST = {2 * RESEND}, {2 * RESEND}
spool.WRITE_AGAIN = {RESEND}
"""
# A sensor whose readings are all different: the k-th ever taken is k/10 %, at a temperature of its
# own for each client and each start of it. It notes what it read, and when (monotonic), in a file.
# In another it notes what may stand twice after a kill: what is sent while the spool cannot be
# written, and the last reading that was sent before, whose n is the last on the disk.
COUNTER = (
    TIMERS
    + """
import os, time
from contextlib import suppress
from dht22.pi import sensor as room
def open_counter(sensor, pin):
    note = open("{note}", "a+b", buffering=0)
    note.seek(0)
    first = len(note.readlines())
    def read():
        nonlocal first
        reading = first / 10, {temperature}
        line = b"%.1f,%.1f %f\\n" % (*reading, time.monotonic())
        for _ in range(2):  # the first may meet a fault that is meant for the client
            with suppress(OSError):
                note.write(line)
                break
        first += 1
        return reading
    return room.Driver("simulated", "each is counted", read, 1, 0.0, made_up=True)
room.DRIVERS["simulated"] = open_counter

transmit, format_named = delivery.NamedSender.transmit, delivery.format_named
sure = ""
def noted(self):
    def format_noted(reading, *rest):
        global sure
        if self.spool.trouble.said:
            with open("{unsure}", "a") as file:
                print(sure, reading, sep="\\n", file=file)
        else:
            sure = reading
        return format_named(reading, *rest)
    delivery.format_named = format_noted
    transmit(self)
delivery.NamedSender.transmit = noted
"""
)


class Client:
    """A client that is killed and started again on its spool; knows what must not be lost."""

    def __init__(self, folder, number, port, disk=None):
        self.folder, self.number, self.port, self.disk = folder, number, port, disk
        self.name = f"s{number}"
        self.interval = 0.025 if number % 2 else 0.01
        self.spool = (disk or self).folder / f"{self.name}.spool"
        self.unsure = folder / f"{self.name}.unsure"  # see COUNTER
        self.note = folder / f"{self.name}.taken"
        self.starts = []  # a Script each
        self.ends = []  # when each had ended (monotonic)
        self.spooled = []  # readings in the spool before the start and after each end

    def start(self, count, interval, setup="", prefix=()):
        temperature = 10 * self.number + len(self.starts)
        setup = COUNTER.format(note=self.note, unsure=self.unsure, temperature=temperature) + setup
        if self.disk:
            prefix = self.disk.inside
        self.starts.append(
            Script(
                self.folder,
                "client",
                "127.0.0.1",
                "--port",
                self.port,
                "--name",
                self.name,
                "--spool",
                f"disk/{self.spool.name}" if self.disk else self.spool,
                "--driver",
                "simulated",
                "--interval",
                interval,
                "--count",
                count,
                setup=setup,
                prefix=prefix,
            )
        )

    @property
    def process(self):
        return self.starts[-1].process

    def has_ended(self):
        return self.process.poll() is not None

    def taken(self):
        """Return when each reading was taken."""
        return {line.split()[0]: float(line.split()[1]) for line in whole_lines(self.note)}

    def note_end(self):
        err = self.starts[-1].err
        failing = err.count("cannot write the spool") > err.count("is written again")
        # What is not on the disk then is lost, however old it is.
        self.ends.append(math.inf if failing else time.monotonic())
        assert not any("Traceback" in each.err for each in self.starts), self.starts[-1].err
        self.spooled += [
            reading
            for reading in [
                ",".join(line.split(",")[4:6])
                for line in whole_lines(self.spool)
                if not line.startswith("n,")
            ]
            if reading not in self.spooled
        ]

    def stop(self, number):
        self.process.send_signal(number)
        self.process.wait(DEADLINE)
        self.note_end()

    def printed(self):
        """Return the readings of each start."""
        return [each.out.splitlines() for each in self.starts]


def whole_lines(path):
    content = path.read_text() if path.exists() else ""
    return content[: content.rfind("\n") + 1].splitlines()


def k_of(reading):
    """Return which reading of its sensor this is, as the counter has numbered them."""
    return round(float(reading.split(",")[0]) * 10)


def in_database(path, name):
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
        found = connection.execute(
            "SELECT humidity, temperature, n FROM reading WHERE name = ? ORDER BY rowid", [name]
        ).fetchall()
    connection.close()
    return [f"{humidity},{temperature}" for humidity, temperature, _ in found], [
        n for *_, n in found
    ]


def lines_of(spool):
    return [",".join(line.split(",")[4:6]) for line in whole_lines(spool)]


def reading_of(k):
    return f"{k / 10:.1f},10.0"
