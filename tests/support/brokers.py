"""A real mosquitto for the tests of publish.py, and one who listens to it."""

import json
import signal
import socket
import subprocess
import threading
from collections import Counter
from contextlib import suppress

from support.tools import DEADLINE, free_port, needs, until

# With this publish.py tries again soon, and shows states often.
FAST = {
    "publish.broker.CONNECT_AFTER": 0.05,
    "publish.broker.CONNECT_AFTER_MOST": 0.1,
    "publish.publisher.SHOW_EVERY": 0.1,
}
PLAIN = ["allow_anonymous true"]
# It keeps any number of messages for a subscriber that is slow or away.
PATIENT = [*PLAIN, "max_queued_messages 0"]
# What it has acknowledged is on its disk; this costs it milliseconds a message.
KEEPING = [*PATIENT, "persistence true", "autosave_interval 1", "autosave_on_changes true"]


class Mosquitto:
    """A broker on loopback, in a folder of its own."""

    def __init__(self, folder, *config):
        needs("mosquitto", "mosquitto_sub")
        self.folder = folder
        self.port = free_port(socket.SOCK_STREAM)
        self.config = folder / f"mosquitto.{self.port}.conf"
        self.log = folder / f"mosquitto.{self.port}.log"
        folder.joinpath(f"kept.{self.port}").mkdir()
        lines = [
            "user root",  # else, started by root, it may not read our folder
            f"listener {self.port} 127.0.0.1",
            f"persistence_location {folder}/kept.{self.port}/",
            *(config or PLAIN),
        ]
        self.config.write_text("\n".join(lines) + "\n")
        self.start()

    @property
    def url(self):
        return f"mqtt://127.0.0.1:{self.port}"

    def start(self):
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                ["mosquitto", "-v", "-c", self.config], stdout=log, stderr=log
            )
        until(self.answers, f"mosquitto:\n{self.log.read_text()}")

    def answers(self):
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        self.process.wait(DEADLINE)


class Subscriber:
    """mosquitto_sub, its output in a file. Its session outlives a broker that keeps it."""

    def __init__(self, broker, *options, topic="#"):
        self.path = broker.folder / f"heard.{broker.port}"
        with self.path.open("wb") as out:
            self.process = subprocess.Popen(
                [
                    "mosquitto_sub",
                    "-p",
                    str(broker.port),
                    "-t",
                    topic,
                    "-q",
                    "1",
                    "-c",
                    "-i",
                    "heard",
                ]
                + ["-F", "%r %t %p", *options],
                stdout=out,
                stderr=subprocess.DEVNULL,
            )
        until(lambda: "Sending SUBACK to heard" in broker.log.read_text(), "the subscription")

    def messages(self):
        """Return topic and payload of what was heard, retained from before excepted."""
        heard = self.path.read_text()
        lines = heard[: heard.rfind("\n") + 1].splitlines()
        return [tuple(line.split(" ", 2)[1:]) for line in lines if line.startswith("0")]

    def end(self):
        """Return the end of what was heard: to look at all of it takes time."""
        with self.path.open("rb") as file:
            file.seek(max(0, self.path.stat().st_size - 1000))
            return file.read().decode()

    def payloads(self, part):
        """Return the payloads of the topics that contain `part`, decoded where they are JSON."""
        return [
            json.loads(payload) if payload.startswith("{") else payload
            for topic, payload in self.messages()
            if part in topic
        ]

    def rows(self):
        """Return the readings as the rows of the log that they were."""
        return [
            "{time},{client},{name},{humidity},{temperature},{n}\n".format(
                **{"name": "", "n": "", **payload}
            )
            for payload in self.payloads("/reading/")
        ]

    def wait_for(self, part, number):
        """Wait for messages with topics that contain `part`, and return their payloads."""
        until(lambda: len(self.payloads(part)) >= number, f"{number} times {part}")
        return self.payloads(part)

    def wait_for_rows(self, rows, seconds=DEADLINE):
        """Wait until all these rows were heard; return what was, in the order of arrival."""
        lacks = Counter(rows)
        until(lambda: not lacks - Counter(self.rows()), f"all of {len(rows)} rows", seconds)
        return self.rows()


class Way:
    """A way to a broker that cuts connections off, or refuses MQTT 5 as an old broker does."""

    def __init__(self, port, cuts=(), old=False):
        self.port = port
        self.cuts = list(cuts)  # after so many bytes of the client, a connection each
        self.old = old
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"mqtt://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client, _ = self.listener.accept()
            threading.Thread(target=self.relay, args=(client,), daemon=True).start()

    def relay(self, client):
        with client, socket.create_connection(("127.0.0.1", self.port)) as broker:
            first = client.recv(4096)
            level = first[first.index(b"MQTT") + 4]
            if self.old and level == 5:
                client.sendall(b"\x20\x02\x00\x01")  # CONNACK: unacceptable protocol version
                return
            left = self.cuts.pop(0) if self.cuts else None
            broker.sendall(first)
            threading.Thread(target=self.answer, args=(broker, client), daemon=True).start()
            while left is None or left > 0:
                some = client.recv(4096 if left is None else left)
                if not some:
                    break
                broker.sendall(some)
                left = None if left is None else left - len(some)
            for each in client, broker:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def answer(self, broker, client):
        with suppress(OSError):
            for some in iter(lambda: broker.recv(4096), b""):
                client.sendall(some)
