"""A named client that is killed and started again, and what must not be lost or doubled of it."""

import csv
import sqlite3
from collections import Counter

from support.numbered import numbered, taken, whole_lines
from support.tools import DEADLINE, Script, readings

RESEND = 0.01  # seconds; what waits longer is spooled
LATE = 0.1  # seconds that this may take
# All times are a hundredth of those for a sensor that is read every 2 s, the microseconds in n too.
TIMERS = {
    "pi.delivery.LEAP": int(RESEND * 1_000_000),
    "pi.delivery.RESEND": RESEND,
    "pi.delivery.RESEND_MOST": (2 * RESEND, 2 * RESEND),
    "pi.spool.WRITE_AGAIN": RESEND,
}
# Note in a file what may stand twice after a kill: what is sent while the spool cannot be written,
# and the last reading that was sent before, whose n is the last on the disk.
NOTE_UNSURE = """
from dht22.pi import delivery
transmit, format_named = delivery.NamedSender.transmit, delivery.format_named
sure = ""

def noted(self):
    def format_noted(reading, *rest):
        global sure
        if self.spool.trouble.said:
            with open({unsure!r}, "a") as file:
                print(sure, reading, sep="\\n", file=file)
        else:
            sure = reading
        return format_named(reading, *rest)

    delivery.format_named = format_noted
    transmit(self)

delivery.NamedSender.transmit = noted
"""


class Client:
    """A client that is killed and started again on its spool; its readings are numbered."""

    def __init__(self, folder, number, port, disk=None):
        self.folder, self.number, self.port, self.disk = folder, number, port, disk
        self.name = f"s{number}"
        self.interval = 0.025 if number % 2 else 0.01
        self.spool = (disk or self).folder / f"{self.name}.spool"
        self.unsure = folder / f"{self.name}.unsure"
        self.notes = folder / f"{self.name}.taken"
        self.starts = []  # a Script each
        self.failing = []  # of each start: could the spool not be written when it ended?
        self.spooled = []  # readings in the spool before the start and after each end

    def start(self, count, interval, timers=None, setup="", prefix=()):
        # Were a note lost, its number would come again, but not at this temperature.
        temperature = 10 * self.number + len(self.starts)
        noted = numbered(self.notes, temperature=temperature)
        spool = f"disk/{self.spool.name}" if self.disk else self.spool
        script = Script(
            self.folder,
            *["client", "127.0.0.1", "--port", self.port, "--driver", "simulated"],
            *["--name", self.name, "--spool", spool, "--interval", interval, "--count", count],
            timers={**TIMERS, **(timers or {})},
            setup=noted + NOTE_UNSURE.format(unsure=str(self.unsure)) + setup,
            prefix=self.disk.inside if self.disk else prefix,
        )
        self.starts.append(script)

    @property
    def process(self):
        return self.starts[-1].process

    def has_ended(self):
        return self.process.poll() is not None

    def taken(self):
        """Return when each reading was taken."""
        return taken(self.notes)

    def note_end(self):
        err = self.starts[-1].err
        assert "Traceback" not in err, err
        self.failing.append(err.count("cannot write the spool") > err.count("is written again"))
        self.spooled += [each for each in readings_in(self.spool) if each not in self.spooled]

    def stop(self, number):
        self.process.send_signal(number)
        self.process.wait(DEADLINE)
        self.note_end()

    def missing(self, kept):
        """Return how old each reading that is not among `kept` was, when its client was killed.

        They have to be the last ones. A busy machine may keep a client from spooling, but then from
        reading as well: the age is that at the last reading but one. Those of a client that could
        not write its spool are left out: what is not on the disk then is lost, however old it is.
        """
        taken, ages = self.taken(), []
        for start, failing in zip(self.starts, self.failing):
            printed = start.out.splitlines()
            lost = [reading for reading in printed if reading not in kept]
            if not failing:
                assert printed[len(printed) - len(lost) :] == lost, "the last ones are missing"
                ages += [max(0.0, taken[printed[-2:][0]] - taken[reading]) for reading in lost]
        return ages


def readings_in(spool):
    fields = [line.split(",") for line in whole_lines(spool)]
    return [",".join(each[4:6]) for each in fields if each[0] != "n"]


def client_of(reading):
    return int(float(reading.split(",")[1])) // 10


def number_of(reading):
    """Return the number that the driver gave it."""
    return round(float(reading.split(",")[0]) * 10)


class Rows:
    """The rows of a CSV that is being written: name -> readings, and every n."""

    def __init__(self, path):
        self.path = path
        self.read = 0
        self.readings = {}
        self.n = {}

    def follow(self):
        if self.path.exists():
            with open(self.path, "rb") as file:
                file.seek(self.read)
                new = file.read()
            new = new[: new.rfind(b"\n") + 1]
            self.read += len(new)
            for row in csv.reader(new.decode("ascii").splitlines()):
                if row[5] != "n":
                    self.readings.setdefault(row[2], []).append(f"{row[3]},{row[4]}")
                    self.n.setdefault(row[2], []).append(int(row[5]))
        return self

    def delivered(self, name):
        return len(self.readings.get(name, []))


def in_database(path, name):
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
        found = connection.execute(
            "SELECT humidity, temperature FROM reading WHERE name = ? ORDER BY rowid", [name]
        ).fetchall()
    connection.close()
    return [f"{humidity},{temperature}" for humidity, temperature in found]


def check(folder, clients, doubled, acknowledged=(), ordered=True, twice=()):
    """Compare the logs with what was read, spooled and acknowledged (pairs of a name and an n).

    Return how old at the kill the missing readings were. doubled: a kill between two logs may have
    doubled a reading in the text log, or left one in the database alone. twice: readings that may
    stand twice in each log.
    """
    rows = Rows(folder / "a.csv").follow()
    text = readings(folder / "a.txt")
    missing = []
    for client in clients:
        name = client.name
        unsure = set(whole_lines(client.unsure)) if doubled else set(twice)
        kept = once(rows.readings.get(name, []), unsure, ordered, f"{name} on the CSV")
        assert rows.n[name] == sorted(set(rows.n[name]))
        received = {n for of, n in acknowledged if of == name}
        assert received <= set(rows.n[name]), "acknowledged, not on the CSV"
        assert set(client.spooled) <= set(kept), "spooled, not on the CSV"
        assert set(kept) <= client.taken().keys(), "made up"
        own = [reading for reading in text if client_of(reading) == client.number]
        assert set(kept) <= set(own), "lost by the text log"
        once(own, set(own) if doubled else set(twice), ordered, f"{name} on the text log")
        if (folder / "a.db").exists():
            inside = once(in_database(folder / "a.db", name), unsure, ordered, f"{name} in the db")
            assert set(kept) <= set(inside) if doubled else kept == inside, "lost by the database"
        missing += client.missing(kept)
    return missing


def once(found, unsure, ordered, where):
    """Return the readings found, each once; they have to be in order, and only `unsure` twice."""
    kept = list(dict.fromkeys(found))
    numbers = [number_of(reading) for reading in kept]
    assert numbers == sorted(set(numbers)) if ordered else len(set(numbers)) == len(numbers), where
    twice = {reading for reading, times in Counter(found).items() if times > 1}
    assert twice <= unsure, f"{where}: exactly once"
    return kept
