#!/usr/bin/env python3
# /// script
# requires-python = ">=3.9"
# dependencies = ["paho-mqtt>=2"]
# ///
"""Publish the readings of a log to an MQTT broker, as the server logs them.

    $ python3 publish.py mqtt://broker.local
    publishing datalog.csv from its end on
    connected to broker.local:1883 (MQTT 5)
    ^C
    12 readings published

Each reading goes to dht22/reading/SENSOR: the sensor's name, or the address of one without a name.

    {"time":"2026-11-21T10:00:02.123Z","client":"192.168.1.7","name":"kitchen",
    "n":1795255202123456,"humidity":74.3,"temperature":25.7}

For displays the latest one goes to dht22/state/SENSOR too, once a second at most, and never when it
is older than three intervals of its sensor, and than 10 minutes. Home Assistant finds each sensor
by itself. dht22/status/ID, retained, is online or offline. Dots and colons in SENSOR become dashes,
and then a suffix keeps it unique.

Nothing is lost, whatever is killed, rotated, packed, edited or away: a reading is done once the
broker has acknowledged it, and the position in the log is recorded in datalog.publish beside it.
After a kill or a lost connection some readings are published again, with the same name and n.

Several URLs are the brokers of one cluster: after each failure the next one is tried. The password
comes from --password-file or MQTT_PASSWORD.

Needs paho-mqtt 2: sudo apt install python3-paho-mqtt (from Debian 13 on), or
python3 -m venv .venv && .venv/bin/pip install paho-mqtt && .venv/bin/python3 publish.py ...
Exit code: 0 = stopped by Ctrl+C or SIGTERM, or --once done, 1 = could not start, or the broker
refuses to let --once in, 2 = usage.
"""

from __future__ import annotations

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl+C during the imports just ends the script

import errno
import os
import re
import socket
import ssl
import sys
from argparse import ArgumentTypeError, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

try:
    from dht22.console import Parser, how_to_install, run_script, say
    from dht22.keys import check_private, plain
    from dht22.log.follow import Follower
    from dht22.log.position import Position
    from dht22.publish.bookmark import Bookmark
    from dht22.publish.messages import Display
    from dht22.stop import Stop
except (ImportError, SyntaxError) as error:
    sys.exit(
        f"publish.py: error: cannot start ({error}); is the folder dht22 whole?"
        " copy all of it beside this file"
    )

PORTS = {"mqtt": 1883, "mqtts": 8883}


# Converters


class Url(NamedTuple):
    tls: bool
    host: str
    port: int
    user: str | None
    prefix: str


def url(text: str) -> Url:
    """Convert `text` to where a broker is."""
    wrong = ArgumentTypeError(f"{text!r} is not a URL like mqtt://host or mqtts://user@host:8883")
    try:
        parts = urlsplit(text)
        port = PORTS[parts.scheme] if parts.port is None else parts.port
    except (ValueError, KeyError):
        raise wrong from None
    if not parts.hostname or not port or parts.query or parts.fragment:
        raise wrong
    if parts.password is not None:
        raise ArgumentTypeError("a password is given by --password-file or MQTT_PASSWORD, not here")
    prefix = parts.path.strip("/") or "dht22"
    if not re.fullmatch("[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*", prefix):
        raise ArgumentTypeError(f"{prefix!r} is not a prefix of topics (A-Z a-z 0-9 _ - and /)")
    user = None if parts.username is None else unquote(parts.username)
    return Url(parts.scheme == "mqtts", parts.hostname, port, user, prefix)


def log(text: str) -> Path:
    """Convert `text` to the path of a CSV log."""
    if not text.endswith(".csv"):
        raise ArgumentTypeError(f"{text!r} does not end in .csv: only that log knows when and who")
    return Path(text)


def word(text: str) -> str:
    """Convert `text` to a level of a topic."""
    if not re.fullmatch("[A-Za-z0-9_-]{1,64}", text):
        raise ArgumentTypeError(f"{text!r} is not valid (1 to 64 of A-Z a-z 0-9 _ -)")
    return text


def default_id(log: Path) -> str:
    """Return an id for the publisher of a log on this computer."""
    return re.sub("[^A-Za-z0-9_-]", "-", f"{socket.gethostname()}-{log.stem}")[:64]


def get_parser() -> Parser:
    parser = Parser("publish.py", __doc__)
    parser.add_argument(
        "url",
        nargs="+",
        type=url,
        metavar="URL",
        help="mqtt[s]://[user@]host[:port][/prefix], the prefix of the topics is dht22",
    )
    parser.add_argument(
        "--log",
        type=log,
        default=Path("datalog.csv"),
        metavar="FILE",
        help="the server's log in CSV (default: %(default)s)",
    )
    parser.add_argument(
        "--state",
        type=Path,
        metavar="FILE",
        help="where it records its position (default: the log's name with .publish for .csv)",
    )
    parser.add_argument(
        "--id",
        type=word,
        help="name of this publisher at the broker (default: made from those of computer and log)",
    )
    parser.add_argument(
        "--discovery",
        type=word,
        default="homeassistant",
        metavar="PREFIX",
        help="prefix of the topics by which Home Assistant finds sensors (default: %(default)s)",
    )
    parser.add_argument(
        "--no-discovery",
        dest="discovery",
        action="store_const",
        const=None,
        help="do not tell Home Assistant",
    )
    parser.add_argument(
        "--all", action="store_true", help="at the first start, publish what is in the log already"
    )
    parser.add_argument("--once", action="store_true", help="end at the end of the log")
    parser.add_argument(
        "--cafile", metavar="FILE", help="mqtts: certificate of the CA that signed the broker's"
    )
    parser.add_argument("--cert", metavar="FILE", help="mqtts: certificate of this publisher")
    parser.add_argument("--key", metavar="FILE", help="mqtts: its key, if not in the same file")
    parser.add_argument(
        "--password-file", metavar="FILE", help="password of the user (default: $MQTT_PASSWORD)"
    )
    return parser


# What is opened at the start


def check_options(parser: Parser, options: Namespace) -> None:
    """End the script if options do not fit together."""
    tls = any(each.tls for each in options.url)
    if len({each.prefix for each in options.url}) > 1:
        parser.error("the URLs have different prefixes; they have to be brokers of one cluster")
    if not tls and (options.cafile or options.cert):
        parser.error("--cafile and --cert are for mqtts://")
    if options.key and not options.cert:
        parser.error("--key needs --cert")
    if options.password_file and not any(each.user for each in options.url):
        parser.error("--password-file needs a user: mqtt://user@host")


def read_password(parser: Parser, path: str | None) -> str | None:
    """Return the password, None if there is none; end the script if it cannot be used."""
    if path is None:
        return os.environ.get("MQTT_PASSWORD")
    try:
        with open(path, "rb") as file:
            check_private(path, file)
            return plain(file.read(1 << 16)).partition(b"\n")[0].rstrip(b"\r").decode()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", error)
        parser.fail(f"cannot read the password in {path} ({reason}); give another --password-file")


def open_tls(parser: Parser, options: Namespace) -> ssl.SSLContext:
    """Return what TLS is to check and show; end the script if a file is not usable."""
    files = [each for each in (options.cafile, options.cert, options.key) if each]
    try:
        for path in files:
            with open(path, "rb"):
                pass  # the errors below do not tell which file it is
        context = ssl.create_default_context(cafile=options.cafile)
        if options.cert:
            context.load_cert_chain(options.cert, options.key, password="")
    except ssl.SSLError as error:
        parser.fail(f"cannot use {' or '.join(files)} ({error}); they have to be in PEM")
    except OSError as error:
        parser.fail(f"cannot read {error.filename} ({error.strerror}); give another file")
    return context


def open_bookmark(parser: Parser, path: Path, log: str) -> tuple[Bookmark, Position | None]:
    """Return the file of the position, and what is in it; end the script if it is not usable."""
    try:
        bookmark = Bookmark(path, log)
        return bookmark, bookmark.load()
    except OSError as error:
        if error.errno == errno.EBUSY:
            parser.fail(f"cannot use {path} (another publisher has it); give each its own --state")
        there = "" if path.parent.is_dir() else "make its folder, give another --log, or "
        parser.fail(f"cannot use {path} ({error.strerror}); {there}give another file as --state")
    except ValueError as error:
        parser.fail(
            f"cannot use {path} ({error}); give another --state, or remove it to start over"
        )


def open_follower(
    parser: Parser, options: Namespace, bookmark: Bookmark, position: Position | None
) -> Follower:
    """Return what follows the log from the position on; at the first start save where that is."""
    follower = Follower(options.log, position or Position())
    if position is None:
        try:
            if not options.all:
                follower.skip()
        except OSError as error:
            path = error.filename or options.log
            parser.fail(f"cannot read {path} ({error.strerror}); give another file as --log")
        try:
            bookmark.save(follower.position)
        except OSError as error:
            parser.fail(
                f"cannot save the position in {bookmark.path} ({error.strerror}); "
                "give another file as --state"
            )
    if position is None:
        beginning = "its beginning" if options.all else "its end"
    else:
        beginning = "where it was left" if position.file else "its beginning"
    say(f"publishing {options.log} from {beginning} on")
    if options.all and position and position.file:
        say(f"--all is for the first start: to publish all again, remove {bookmark.path}")
    if not options.log.exists():
        say(f"{options.log} is not there yet; it waits for the server")
    return follower


def cannot_start(error: ImportError) -> str:
    """Return what is missing, and how to get it."""
    if (error.name or "").startswith("dht22"):
        return f"cannot start ({error}); copy the whole folder dht22"
    how = how_to_install("python3-paho-mqtt (from Debian 13 on)", "paho-mqtt", "publish.py")
    return f"cannot start without paho-mqtt 2 ({error}); {how}"


def main(argv: Sequence[str] | None = None) -> int:
    """Publish until told to stop; return 0, or 1 if the broker refuses to let --once in."""
    parser = get_parser()
    options = parser.parse_args(argv)
    check_options(parser, options)
    try:
        from dht22.publish.broker import Broker, BrokerLink
        from dht22.publish.publisher import Publisher
    except ImportError as error:
        parser.fail(cannot_start(error))
    password = read_password(parser, options.password_file)
    tls = open_tls(parser, options)
    brokers = [
        Broker(each.host, each.port, each.user, password, tls if each.tls else None)
        for each in options.url
    ]
    path = options.state or options.log.with_suffix(".publish")
    bookmark, position = open_bookmark(parser, path, options.log.name)
    stop = Stop()
    try:
        with stop.interruptible():  # to find the end of a log can take long
            follower = open_follower(parser, options, bookmark, position)
    except KeyboardInterrupt:
        return 0
    prefix = options.url[0].prefix
    status = f"{prefix}/status/{options.id or default_id(options.log)}"
    birth = f"{options.discovery}/status" if options.discovery else None  # Home Assistant's
    link = BrokerLink(brokers, status, birth, stop)
    display = Display(prefix, status, options.discovery)
    publisher = Publisher(follower, bookmark, link, display, prefix)
    publisher.run(stop, options.once)
    publisher.finish()
    return 1 if options.once and link.is_refused() else 0


if __name__ == "__main__":
    run_script(main)
