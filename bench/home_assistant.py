#!/usr/bin/env python3
"""Run a real Home Assistant, and print what it tells of the sensors that publish.py announces.

    $ python3 bench/home_assistant.py .venv-ha/bin/hass
    two readings are logged
    sensor.kitchen_humidity     74.3 %
    ...

It shows: the sensors appear by themselves, with value and unit; a backlog is not shown as now; they
are there at once after a restart of Home Assistant too, also the cellar, of one reading in 30
minutes; unavailable while the publisher is gone, and when a sensor is silent (for 20 s here instead
of 10 minutes).

Needs mosquitto, paho-mqtt 2, and Home Assistant in an environment of its own, with Python 3.11:

    python3.11 -m venv .venv-ha && .venv-ha/bin/pip install homeassistant==2024.1.6 paho-mqtt==1.6.1

Takes about a minute. Exit code: 0 = all as it should be, 1 = not.
"""

import contextlib
import json
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Optional

import measure

SILENT = 20  # seconds, instead of 10 minutes
PATIENCE = 300  # seconds; its first start takes long
HEADER = "time,client,name,humidity,temperature,n\n"
CONFIGURATION = """
api:
auth:
config:
http:
  server_host: 127.0.0.1
  server_port: {port}
"""
PUBLISH = """
import sys
sys.path.insert(0, {root!r})
import publish
from dht22.publish import messages
messages.EXPIRES_AFTER = {silent}
sys.exit(publish.main({argv!r}))
"""


class HomeAssistant:
    """Its folder with an MQTT entry and a user, and its API."""

    def __init__(self, hass: str, folder: Path, broker: int) -> None:
        self.command = [hass, "-c", str(folder)]
        self.folder = folder
        self.url = f"http://127.0.0.1:{measure.free_port(measure.socket.SOCK_STREAM)}"
        port = self.url.rsplit(":", 1)[1]
        (folder / "configuration.yaml").write_text(CONFIGURATION.format(port=port))
        entry = {
            "entry_id": "mqtt",
            "version": 1,
            "domain": "mqtt",
            "title": "mosquitto",
            "data": {"broker": "127.0.0.1", "port": broker, "discovery": True},
            "options": {},
            "pref_disable_new_entities": False,
            "pref_disable_polling": False,
            "source": "user",
            "unique_id": None,
            "disabled_by": None,
        }
        storage = folder / ".storage"
        storage.mkdir()
        (storage / "core.config_entries").write_text(
            json.dumps(
                {
                    "version": 1,
                    "minor_version": 1,
                    "key": "core.config_entries",
                    "data": {"entries": [entry]},
                }
            )
        )
        user = [hass, "--script", "auth", "-c", str(folder), "add", "me", "secret"]
        subprocess.run(user, check=True, stdout=subprocess.DEVNULL)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        with (self.folder / "out").open("a") as out:
            process = subprocess.Popen(self.command, stdout=out, stderr=out)
        try:
            until(self.log_in, "an answer of Home Assistant")
            yield
        finally:
            process.terminate()
            process.wait()

    def ask(self, path: str, content: Optional[bytes] = None, **headers: str) -> Any:
        request = urllib.request.Request(self.url + path, content, headers)
        with urllib.request.urlopen(request, timeout=5) as answer:
            return json.load(answer)

    def log_in(self) -> bool:
        """Get a token; return False while there is nobody to give one."""
        client = self.url + "/"
        try:
            flow = {"client_id": client, "redirect_uri": client, "handler": ["homeassistant", None]}
            asked = self.ask("/auth/login_flow", json.dumps(flow).encode())
            login = {"client_id": client, "username": "me", "password": "secret"}
            code = self.ask(f"/auth/login_flow/{asked['flow_id']}", json.dumps(login).encode())
        except (OSError, urllib.error.URLError):
            return False
        grant = {"grant_type": "authorization_code", "code": code["result"], "client_id": client}
        form = urllib.parse.urlencode(grant).encode()
        self.token = self.ask("/auth/token", form)["access_token"]
        return True

    def states(self) -> dict[str, str]:
        """Return the states of our sensors with their units, as GET /api/states tells them."""
        found = self.ask("/api/states", Authorization=f"Bearer {self.token}")
        return {
            each["entity_id"]: f"{each['state']} {each['attributes'].get('unit_of_measurement')}"
            for each in found
            if each["entity_id"].startswith("sensor.")
            and each["attributes"].get("device_class") in ("humidity", "temperature")
        }


def until(condition: Any, what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(f"{what} did not come about")
        time.sleep(0.5)


def show(home: HomeAssistant, title: str, expected: dict[str, str]) -> None:
    """Wait until the states are the expected ones, and print them."""
    try:
        until(lambda: home.states() == expected, "this")
    except RuntimeError:
        raise RuntimeError(f"{title}: {home.states()} instead of {expected}") from None
    print(f"\n{title}")
    for entity, state in home.states().items():
        print(f"    {entity:28}{state}")
    sys.stdout.flush()


def log(path: Path, name: str, reading: str, age: float = 0.0) -> None:
    """Log a reading as the server does."""
    at = datetime.now(timezone.utc) - timedelta(seconds=age)
    stamp = at.isoformat(timespec="milliseconds")[:-6]
    with path.open("a") as file:
        file.write(f"{stamp}Z,192.168.1.7,{name},{reading},{int(at.timestamp() * 1e6)}\n")


@contextlib.contextmanager
def publisher(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    argv = [f"mqtt://127.0.0.1:{port}", "--log", str(folder / "datalog.csv"), "--all", "--id", "me"]
    code = PUBLISH.format(root=str(measure.ROOT), argv=argv, silent=SILENT)
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def states(
    kitchen: tuple[str, str],
    attic: tuple[str, str],
    cellar: tuple[str, str] = ("80.0", "12.0"),
) -> dict[str, str]:
    return {
        "sensor.cellar_humidity": f"{cellar[0]} %",
        "sensor.cellar_temperature": f"{cellar[1]} °C",
        "sensor.kitchen_humidity": f"{kitchen[0]} %",
        "sensor.kitchen_temperature": f"{kitchen[1]} °C",
        "sensor.attic_humidity": f"{attic[0]} %",
        "sensor.attic_temperature": f"{attic[1]} °C",
    }


def run(home: HomeAssistant, folder: Path, port: int) -> None:
    """Go through what a user may see."""
    gone = ("unavailable", "unavailable")
    path = folder / "datalog.csv"
    path.write_text(HEADER)
    for age in 3900, 2100, 300:
        log(path, "cellar", "80.0,12.0", age)
    with home.running(), publisher(folder, port):
        log(path, "kitchen", "74.3,25.7")
        log(path, "attic", "40.0,-1.5", age=3600)
        title = "logged: the kitchen now, the attic an hour ago"
        show(home, title, states(("74.3", "25.7"), gone))
        log(path, "attic", "41.0,-0.4", age=2)  # two make its rhythm: the hour was a pause
        log(path, "attic", "41.0,-0.5")
        log(path, "kitchen", "74.0,25.6")
        show(home, "logged: both now", states(("74.0", "25.6"), ("41.0", "-0.5")))
        time.sleep(SILENT / 2)
        log(path, "kitchen", "73.9,25.5")
        show(home, "the attic has been silent", states(("73.9", "25.5"), gone))
    with publisher(folder, port) as process:
        with home.running():
            log(path, "attic", "42.0,0.0")
            log(path, "kitchen", "73.8,25.4")
            show(home, "both restarted", states(("73.8", "25.4"), ("42.0", "0.0")))
        # What it has remembered would show the cellar, too; a crash may leave that out.
        (home.folder / ".storage/core.restore_state").unlink(missing_ok=True)
        with home.running():
            # Nothing is logged meanwhile: the cellar's state is sent again, the others' are old.
            show(home, "Home Assistant restarted", states(gone, gone))
            log(path, "kitchen", "73.7,25.3")
            show(home, "the kitchen logged again", states(("73.7", "25.3"), gone))
        process.kill()
    with home.running():
        show(home, "the publisher killed", states(gone, gone, gone))


def main(argv: list[str]) -> int:
    """Print the states; return 0 if they are as they should be."""
    if len(argv) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), measure.free_port(measure.socket.SOCK_STREAM)
        (folder / "conf").write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
        with (folder / "log").open("w") as out:
            broker = subprocess.Popen(["mosquitto", "-c", folder / "conf"], stderr=out)
        try:
            measure.await_port(port, "tcp")
            (folder / "home").mkdir()
            run(HomeAssistant(argv[0], folder / "home", port), folder, port)
        except RuntimeError as reason:
            print(f"home_assistant.py: error: {reason}", file=sys.stderr)
            return 1
        finally:
            broker.terminate()
            broker.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
