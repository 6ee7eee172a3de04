"""Rules of the publisher that a broker would show too rarely."""

import os
from types import SimpleNamespace

import pytest

pytest.importorskip("paho.mqtt.enums")

from dht22.log.position import Position  # noqa: E402
from dht22.publish import bookmark  # noqa: E402
from dht22.publish.broker import Connection  # noqa: E402
from dht22.publish.publisher import Publisher  # noqa: E402


@pytest.fixture
def done():
    """Return what was done, in order."""
    return []


@pytest.fixture
def publisher(done):
    follower = SimpleNamespace(position=Position(), flush=lambda: done.append("log flushed"))
    bookmark = SimpleNamespace(path="x", save=lambda position: done.append("position saved"))
    link = SimpleNamespace(turn=lambda: done.append("next broker"), birth=None)
    return Publisher(follower, bookmark, link, SimpleNamespace(), "dht22")


def test_the_log_is_on_the_disk_before_a_position_in_it(publisher, done):
    publisher.position = Position(b"row", 1, b"row")
    publisher.save()
    assert done == ["log flushed", "position saved"]


def test_of_many_refused_readings_the_next_broker_is_turned_to_once(publisher, done):
    refused = [(mid, "dht22/reading/kitchen", "Not authorized") for mid in (1, 2, 3)]
    publisher.link.answers = lambda: refused
    publisher.settle()
    assert done == ["next broker"]


@pytest.mark.parametrize("told, window", [({}, 100), ({"ReceiveMaximum": 20}, 20)])
def test_no_more_is_under_way_than_the_broker_wants(told, window):
    connection = SimpleNamespace(keepalive=30, birth=None, client=SimpleNamespace(keepalive=30))
    accepted = SimpleNamespace(is_failure=False)
    Connection.on_connect(connection, None, None, None, accepted, SimpleNamespace(**told))
    assert connection.window == window


def test_a_position_that_is_replaced_while_it_is_opened(tmp_path, monkeypatch):
    """By another publisher, which ends then: the lock on what it has replaced is worth nothing."""
    path = tmp_path / "datalog.publish"
    path.touch()

    def lock_late(file):
        monkeypatch.undo()
        (tmp_path / "new").touch()
        (tmp_path / "new").replace(path)

    monkeypatch.setattr(bookmark, "lock", lock_late)
    opened = bookmark.Bookmark(path, "datalog.csv")
    assert os.path.samestat(os.fstat(opened.file.fileno()), path.stat())
