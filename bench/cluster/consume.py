"""Store what several desktops publish, each reading once.

$ python3 consume.py HOST PORT USER PASSWORD FILE.db
"""

import json
import sqlite3
import sys

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

host, port, user, password, path = sys.argv[1:]
database = sqlite3.connect(path, isolation_level=None)
database.execute("PRAGMA journal_mode = WAL")
database.execute(
    "CREATE TABLE IF NOT EXISTS reading (time TEXT, client TEXT, name TEXT, humidity REAL, "
    "temperature REAL, n INTEGER, UNIQUE (name, n))"  # of plain readings both are NULL: all differ
)


def store(client, _, message):
    database.execute(
        "INSERT INTO reading VALUES (:time, :client, :name, :humidity, :temperature, :n) "
        "ON CONFLICT DO NOTHING",
        {"name": None, "n": None, **json.loads(message.payload)},
    )
    client.ack(message.mid, message.qos)  # only now: it is on the disk


client = Client(
    CallbackAPIVersion.VERSION2,
    "archive",
    clean_session=False,  # the broker keeps a queue for it, here a quorum queue
    protocol=MQTTProtocolVersion.MQTTv311,
    manual_ack=True,
)
client.username_pw_set(user, password)
client.on_connect = lambda *_: client.subscribe("dht22/reading/+", qos=1)
client.on_message = store
client.connect(host, int(port))
client.loop_forever()
