"""Chaos: three named clients, a plain one and a server, and all that can happen to them at once.

    $ cd tests; unshare -rmpf --kill-child python3 -m support.chaos 7 40 FOLDER
    seed 7: 684 named readings, 681 on the CSV, 1 missing; 2 missing and 0 doubled for want of ...

The network loses, doubles and delays; logs are renamed and packed; both ends are killed, stopped
and continued; disks fill and are given room, for the logs and for the spools; the server's name
vanishes. The seed decides what happens, the machine when: to look at a failure, play its seed.
Odd seeds have keys, so that the plain client is refused; of each four two have a database.
"""

import gzip
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from support.chaos_checks import RESEND, check, rows_of
from support.disk import fill, give_room
from support.killed import readings_in
from support.numbered import numbered, taken, whole_lines
from support.relay import Relay
from support.tools import Script, options, until

# A tenth of those for a sensor that is read every 2 s, the microseconds in n too.
TIMERS = {
    "pi.delivery.RESEND": RESEND,
    "pi.delivery.RESEND_MOST": (2 * RESEND, 2 * RESEND),
    "pi.delivery.FIRST_UNANSWERED": 5 * RESEND,
    "pi.delivery.UNANSWERED": 20 * RESEND,
    "pi.delivery.LEAP": 100_000,
    "pi.link.LOOK_UP": RESEND,
    "pi.spool.WRITE_AGAIN": RESEND,
    "pi.spool.LONG_FILE": 40,
}

# Note what is said of the spool, and each look-up, with the time (monotonic). The server's name can
# vanish.
SETUP = """
import os, socket, time
from dht22.pi import spool

notes = open({notes!r}, "ab", buffering=0)

def note(word, text):
    notes.write(f"{{time.monotonic():.6f}} {{word}} {{text}}\\n".encode())

def say(line, say=spool.say):
    note("spool", line)
    say(line)

def getaddrinfo(host, *rest, look_up=socket.getaddrinfo, **keywords):
    note("look-up", host)
    if os.path.exists({vanished!r}):
        time.sleep(0.3)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    return look_up("127.0.0.1", *rest, **keywords)

spool.say = say
socket.getaddrinfo = getaddrinfo
"""


def mounted(path, size):
    """Return a small file system, in the namespace of mounts that this needs."""
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path], check=True)
    return path


class Life:
    """A client from its start to its end."""

    def __init__(self, script):
        self.script = script
        self.killed = False
        self.read = {}  # reading -> when
        self.said = []  # of the spool: when and what
        self.looked_up = 0.0  # when the last look-up began

    def failing_since(self):
        """Return since when its spool could not be written when it ended; None if it could."""
        since = None
        for at, line in self.said:
            if line.startswith("cannot write"):
                since = at
            elif line.endswith("is written again"):
                since = None
        return since

    def is_without_spool(self):
        """Tell whether the spool could not be written at the start."""
        return bool(self.said) and self.said[0][0] < min(self.read.values(), default=0.0)


class Client:
    """A client that is started again after each of its ends; number 0 has no name."""

    def __init__(self, folder, number, options):
        self.name = f"s{number}" if number else ""
        self.folder = folder
        self.options = options
        self.spool = folder / "spools" / f"{self.name}.spool"
        self.taken = folder / f"taken{number}"
        self.notes = folder / f"notes{number}"
        self.notes_read = 0
        self.lives = []
        self.spooled = set()  # readings that stood in the spool at an end
        self.setup = numbered(self.taken, temperature=10 * (number + 1)) + SETUP.format(
            notes=str(self.notes), vanished=str(folder / "vanished")
        )

    @property
    def process(self):
        return self.lives[-1].script.process

    def start(self, *argv):
        if self.lives and self.process.poll() is None:
            return
        named = ["--spool", self.spool] if self.name else []
        script = Script(
            self.folder,
            "client",
            "desktop.local",
            *self.options,
            *named,
            *argv,
            timers=TIMERS,
            setup=self.setup,
        )
        self.lives.append(Life(script))

    def end(self, number):
        """End it with a signal, or wait for its end; note what its spool holds then."""
        life = self.lives[-1]
        if life.script.process.poll() is None:
            life.killed = number == signal.SIGKILL
            life.script.process.send_signal(number)
            life.script.process.send_signal(signal.SIGCONT)
        self.note_end()

    def note_end(self):
        life = self.lives[-1]
        code = life.script.wait()
        life.end = time.monotonic()
        assert "Traceback" not in life.script.err, life.script.err
        before = self.read()
        for reading, at in taken(self.taken).items():
            if reading not in before:
                life.read[reading] = at
        notes = whole_lines(self.notes)
        for line in notes[self.notes_read :]:
            at, word, text = line.split(" ", 2)
            if word == "spool":
                life.said.append((float(at), text))
            else:
                life.looked_up = float(at)
        self.notes_read = len(notes)
        early = code == -signal.SIGTERM and not life.read  # it was still importing
        assert early or code == (-signal.SIGKILL if life.killed else 0), life.script.err
        if self.name:
            self.spooled |= set(readings_in(self.spool))

    def read(self):
        """Return all that was read, and when."""
        return {reading: at for life in self.lives for reading, at in life.read.items()}


class Chaos:
    """One run."""

    def __init__(self, folder, seed):
        self.folder = folder
        self.dice = random.Random(seed)
        self.keyed = seed % 2 == 1
        self.logs = mounted(folder / "logs", "4m")
        self.spools = mounted(folder / "spools", self.dice.choice(["64k", "512k"]))
        endings = ["txt", "csv", "db"] if seed % 4 < 2 else ["txt", "csv"]
        self.paths = [folder / "logs" / f"a.{ending}" for ending in endings]
        self.server = None
        self.started = []  # servers
        self.rotations = 0
        self.passed = {}  # name and n -> when it first reached the server
        self.plain = Counter()  # plain readings that reached it
        self.acknowledged = set()  # name and n
        self.loss = self.dice.uniform(0.05, 0.3)
        self.relay = Relay(
            0, seed, self.loss, doubled=0.15, late=0.1, watch=self.answered, passed=self.passes
        )
        self.clients = [self.client(number) for number in range(4)]

    def client(self, number):
        words = ["--port", self.relay.port, "--driver", "simulated"]
        words += ["--interval", f"{self.dice.uniform(0.05, 0.25):.3f}"]
        if number and self.keyed:
            with (
                open(self.folder / "keys", "a") as keys,
                open(self.folder / f"{number}.key", "w") as key,
            ):
                for file in keys, key:
                    os.chmod(file.name, 0o600)
                    file.write(f"s{number} {number:064x}\n")
            words += ["--key", self.folder / f"{number}.key"]
        elif number:
            words += ["--name", f"s{number}"]
        return Client(self.folder, number, words)

    def answered(self, answer):
        _, name, last, *_ = answer.decode().split(",")
        self.acknowledged.add((name, int(last)))

    def passes(self, datagram):
        fields = datagram.decode().split(",")
        if len(fields) == 2:
            self.plain[datagram.decode()] += 1
        else:
            self.passed.setdefault((fields[2], int(fields[3])), time.monotonic())

    def start_server(self):
        if self.server and self.server.process.poll() is None:
            return
        keys = ["--keys", self.folder / "keys"] if self.keyed else []
        self.server = Script(
            self.folder,
            "server",
            "--quiet",
            *["--host", "127.0.0.1", "--port", 0],
            *keys,
            *options(*self.paths),
            timers={"server.writer.LOG_RETRY": RESEND},
        )
        self.started.append(self.server)
        if self.dice.random() < 0.2:  # killed while it starts
            time.sleep(self.dice.uniform(0, 0.3))
            self.server.process.kill()
            self.server.wait()
        ready = r"^listening on \S+:(\d+)"
        until(
            lambda: (
                self.server.process.poll() is not None
                or re.search(ready, self.server.err, re.MULTILINE)
            )
        )
        if self.server.process.poll() is None:
            self.relay.server = int(re.search(ready, self.server.err, re.MULTILINE)[1])

    def end_server(self, number):
        process = self.server.process
        running = process.poll() is None
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)
        code = self.server.wait()
        self.relay.server = 0  # its port may be another's by now
        assert "Traceback" not in self.server.err, self.server.err
        if running:
            assert code == (-number if number == signal.SIGKILL else 0), self.server.err
        elif code == 1:
            assert "server.py: error: cannot log to" in self.server.err, self.server.err

    # What happens: each begins something, and returns what ends it

    def end_or_kill(self):
        return self.dice.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])

    def server_ends(self):
        self.end_server(self.end_or_kill())
        return self.start_server

    def client_ends(self):
        client = self.dice.choice(self.clients)
        if client.process.poll() is None:
            client.end(self.end_or_kill())
        return client.start

    def one_is_stopped(self):
        process = self.dice.choice([self.server, *self.clients]).process
        process.send_signal(signal.SIGSTOP)
        return lambda: process.send_signal(signal.SIGCONT)

    def the_disk_of_the_logs_fills(self):
        fill(self.logs, self.dice.choice([0, 0, 1, 3]))
        return lambda: give_room(self.logs)

    def the_disk_of_the_spools_fills(self):
        fill(self.spools, self.dice.choice([0, 0, 1, 3]))
        return lambda: give_room(self.spools)

    def the_name_vanishes(self):
        vanished = self.folder / "vanished"
        vanished.touch()
        return lambda: vanished.unlink(missing_ok=True)

    def the_network_is_away(self):
        self.relay.loss = 1

        def come_back():
            self.relay.loss = self.loss

        return come_back

    def logs_are_rotated(self):
        self.rotations += 1
        for path in self.paths[:2]:
            if path.exists():  # so the server does not write to what was renamed before
                for old in path.parent.glob(f"{path.name}.*[0-9]"):
                    if not (self.logs / "filler").exists():
                        Path(f"{old}.gz").write_bytes(gzip.compress(old.read_bytes()))
                        old.unlink()
                path.rename(f"{path}.{self.rotations:05}")
        return lambda: None

    def run(self, seconds):
        happens = [
            self.server_ends,
            self.client_ends,
            self.client_ends,
            self.one_is_stopped,
            self.the_disk_of_the_logs_fills,
            self.the_disk_of_the_spools_fills,
            self.the_disk_of_the_spools_fills,
            self.the_name_vanishes,
            self.the_network_is_away,
            self.logs_are_rotated,
        ]
        self.start_server()
        for client in self.clients:
            client.start()
        ends = []
        mends = self.dice.uniform(0.1, 0.5)  # how soon what began ends
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            ends.append(self.dice.choice(happens)())
            time.sleep(self.dice.uniform(0, 0.4))
            over = [each for each in ends if self.dice.random() < mends]
            for each in over:
                each()
            ends = [each for each in ends if each not in over]
        for each in ends:
            each()

    def calm_down(self):
        """Let all that waits be delivered; each client is ended and started once more."""
        self.relay.loss = 0
        until(lambda: self.start_server() or self.server.process.poll() is None)
        for client in self.clients:
            client.start()
            client.end(signal.SIGTERM)
            client.start("--count", 1 if client.name else 10)
        for client in self.clients:
            client.note_end()
        until(lambda: not self.relay.under_way)
        until(lambda: self.last_plain() <= {",".join(row) for row in rows_of(self.paths[0])})
        self.end_server(signal.SIGTERM)

    def last_plain(self):
        """Return the plain readings that arrived after all was calm; with keys none is taken."""
        sent = self.clients[0].lives[-1].read
        return set() if self.keyed else {each for each in sent if self.plain[each]}


def main():
    seed, seconds, folder = int(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3])
    folder.mkdir(exist_ok=True)
    chaos = Chaos(folder, seed)
    try:
        with chaos.relay:
            chaos.run(seconds)
            chaos.calm_down()
        print(f"seed {seed}: {check(chaos)}")
    except BaseException:
        for disk in "logs", "spools":  # which end with this process
            shutil.copytree(folder / disk, folder / f"{disk}-kept")
        raise


if __name__ == "__main__":
    main()
