"""The connection: look-ups never stand before a reading, each kind of trouble is told once."""

import errno
import os
import socket
import time

import pytest

from dht22 import console
from dht22.pi import link as module
from dht22.pi.link import Link, PlainSender
from dht22.stop import Stop
from support.tools import missing

REFUSED = (
    "nothing listens on desktop:9, or its firewall refuses UDP; it is this machine itself: SERVER"
    " is the computer that runs server.py"
)


@pytest.fixture
def way(monkeypatch):
    """Return a link to a name that was looked up, and the list of its look-ups."""
    look_ups = []

    def resolve(host, port):
        look_ups.append(host)
        return [(socket.AF_INET, ("127.0.0.1", 9))]

    monkeypatch.setattr(module, "resolve", resolve)
    monkeypatch.setattr(module, "LOOK_UP", 0.0)
    monkeypatch.setattr(module, "LOOK_UP_REST", 0)
    link = Link("desktop", 9)
    link.look_up()
    yield link, look_ups
    link.close()


def test_a_look_up_never_stands_before_a_reading_whose_address_is_known(way):
    link, look_ups = way
    plain = PlainSender(link, 2.0)
    assert plain.send("50.0,20.0")
    plain.finish(Stop())  # takes the error
    assert link.wants_look_up() and len(look_ups) == 1
    assert plain.send("50.0,20.0") and len(look_ups) == 1
    plain.serve(time.monotonic(), Stop())
    assert len(look_ups) == 2


def test_silence_turns_to_the_next_address_and_asks_for_a_look_up(way, monkeypatch):
    """Which goes on with the address that is used, if it is one still."""
    link, look_ups = way
    a, b, c = ((socket.AF_INET, (f"127.0.0.{number}", 9)) for number in (1, 2, 3))
    for found, used in ([a, b], a), ([a, b], b), ([b, c, a], a), ([c, b], b), ([a], a):
        monkeypatch.setattr(module, "resolve", lambda host, port: found)  # noqa: B023
        link.look_up()
        assert link.addresses[0] == used
        assert not link.wants_look_up()
        link.doubt()
        assert link.wants_look_up()


def test_after_silence_by_one_protocol_the_other_is_tried(desktop, monkeypatch):
    addresses = [(socket.AF_INET6, ("::1", 9, 0, 0)), (socket.AF_INET, desktop.getsockname())]
    monkeypatch.setattr(module, "resolve", lambda host, port: addresses)
    link = Link("desktop", 9)
    link.look_up()
    try:
        link.sock = module.open_socket(socket.AF_INET6)
    except OSError:
        missing("IPv6")
    link.doubt()
    assert link.send(b"50.0,20.0")
    assert desktop.recv(300) == b"50.0,20.0"
    link.close()


def test_each_kind_of_trouble_is_reported_once_until_the_connection_works(way, monkeypatch):
    link, _ = way
    said = []
    for each in console, module:
        monkeypatch.setattr(each, "say", said.append)
    for number in 3 * [errno.EHOSTUNREACH, errno.ECONNREFUSED, errno.ENETUNREACH]:
        link.fail(OSError(number, os.strerror(number)))
    assert len(said) == 3
    link.works("good")
    link.works("good")
    link.fail(OSError(errno.ECONNREFUSED, "Connection refused"))
    assert said[3:] == ["good", REFUSED]


def test_an_error_in_place_of_an_answer_is_reported(way, monkeypatch):
    link, _ = way
    said = []
    for each in console, module:
        monkeypatch.setattr(each, "say", said.append)
    assert link.send(b"50.0,20.0")
    assert link.wait(1.0, Stop()) == b""
    assert said == [REFUSED]
