"""client.py with a sensor whose readings are all different, and a note of each that is read.

    NOTES=FILE BASE=-40 FIRST=0 [LONG=40] numbered.py SERVER --driver simulated ...

A note is a line in FILE, the time and the reading, written before the client has the reading. FILE
may be a serial line that leads out of a virtual machine: then the note is out before it goes on.
Reading k is k % 1000 / 10 for the humidity and BASE + k // 1000 / 10 for the temperature; the first
one is FIRST. With LONG, the spool is rewritten when it is longer than that many lines.
"""

import os
import sys
import termios
import time

import client
from dht22.pi import drivers, spool

notes = os.open(os.environ["NOTES"], os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOCTTY, 0o600)
base = float(os.environ["BASE"])
number = int(os.environ["FIRST"])


def read():
    global number
    humidity, temperature = number % 1000 / 10, base + number // 1000 / 10
    number += 1
    os.write(notes, b"%.6f %.1f,%.1f\n" % (time.time(), humidity, temperature))
    if os.isatty(notes):
        termios.tcdrain(notes)
    return humidity, temperature


def open_numbered(model, pin):
    return drivers.Driver("simulated", "its readings are numbered", read, 1, 0.0, made_up=True)


if "LONG" in os.environ:
    spool.LONG_FILE = int(os.environ["LONG"])
drivers.DRIVERS["simulated"] = open_numbered
sys.exit(client.main())
