"""Named readings, each logged once, through a bad network and kills at any moment."""

import random
import signal
import time

import pytest

from dht22.datagram import parse_ack
from support.killed import LATE, RESEND, Client, Rows, check
from support.numbered import whole_lines
from support.relay import Relay
from support.tools import DEADLINE, options, readings, until

SEEDS = 500  # of each test at its full size: some ten seconds each


def collect(acknowledged):
    """Return a watch for the relay, which collects what was acknowledged: pairs of a name and n."""

    def watch(answer):
        ack = parse_ack(answer)
        acknowledged.add((ack.name, ack.last))

    return watch


def change(disk, dice):
    """Leave a disk as it is, most times; else let it become full, or free."""
    changes = dice.random() < 0.02
    if disk.is_full() and changes:
        disk.give_room()
    elif disk.is_full() or changes:
        disk.fill()


def through_a_bad_network(
    server, folder, seed, sensors, count, server_kills, client_kills, number, disk=None
):
    """Deliver `count` readings of each sensor while server and clients get the signal `number`.

    The spools are on `disk` if there is one, which is filled and freed at random. Return the age of
    each reading that is missing.
    """
    dice = random.Random(seed)
    acknowledged = set()
    rows = Rows(folder / "a.csv")
    logs = "--quiet", "--host", "127.0.0.1", *options("a.txt", "a.csv", "a.db")
    total = sensors * count

    def start_server():
        running = server(*logs, timers={"server.writer.LOG_RETRY": 0.05})
        relay.server = running.port
        return running

    def reached(client):
        return len(client.taken()) if client.number % 2 else rows.delivered(client.name)

    def end_client(client):
        if disk and number == signal.SIGTERM:
            disk.give_room()
        client.stop(number)
        client.start(max(1, count - len(client.taken())), client.interval)

    def end_server():
        running.stop(number)
        relay.server = 0  # its port may be another's by now
        assert "Traceback" not in running.err
        return start_server()

    with Relay(0, seed, loss=0.3, doubled=0.2, late=0.1, watch=collect(acknowledged)) as relay:
        clients = [Client(folder, each, relay.port, disk) for each in range(1, sensors + 1)]
        # Each is killed when so many readings are logged, some clients when so many are read: at
        # any moment of a run, however fast. These read as often as they can deliver; the spools of
        # the others grow.
        kills = {
            each: sorted(dice.sample(range(1, count * 9 // 10), client_kills)) for each in clients
        }
        of_server = sorted(dice.sample(range(1, total * 9 // 10), server_kills))
        running = start_server()
        try:
            for client in clients:
                client.start(count, client.interval)
            end = time.monotonic() + 3 * DEADLINE
            while not all(client.has_ended() for client in clients):
                assert time.monotonic() < end, [client.starts[-1].err for client in clients]
                rows.follow()
                if disk:
                    change(disk, dice)
                for client in clients:
                    if kills[client] and reached(client) >= kills[client][0]:
                        kills[client].pop(0)
                        end_client(client)
                delivered = sum(rows.delivered(client.name) for client in clients)
                if of_server and delivered >= of_server[0]:
                    of_server.pop(0)
                    running = end_server()
                time.sleep(0.002)
            # What a kill costs while the disk is full is never delivered: the last may not come.
            left = 1 if disk else 0
            assert all(len(rest) <= left for rest in [of_server, *kills.values()]), "too few kills"
            assert [client.process.returncode for client in clients] == [0] * sensors
            assert not any(whole_lines(client.spool) for client in clients), "emptied at the end"
        finally:
            for client in clients:
                client.process.kill()
                client.process.wait()
    for client in clients:
        client.note_end()
    assert running.stop() == 0
    missing = check(folder, clients, number == signal.SIGKILL, acknowledged)
    if disk:
        starts = [each for client in clients for each in client.starts]
        failed = sum("cannot write the spool" in each.err for each in starts)
        print(f"the spool could not be written in {failed} of {len(starts)} starts")
    taken = sum(len(client.taken()) for client in clients)
    halfway = sensors * client_kills  # noted by the driver and not yet returned at a kill, at most
    assert taken >= total
    assert disk or len(readings(folder / "a.csv")) >= taken - len(missing) - halfway
    return missing


FULL = [pytest.param(seed, 5, 400, 10, 3, marks=pytest.mark.long) for seed in range(SEEDS)]
SMALL = [(seed, 3, 40, 3, 1) for seed in range(1000, 1004)]
SEED = "seed, sensors, count, server_kills, client_kills"


@pytest.mark.parametrize(SEED, [*SMALL[:3], *FULL])
def test_killed_in_a_bad_network(
    server, tmp_path, disk, seed, sensors, count, server_kills, client_kills
):
    """In half of the seeds the spools are on a disk that is full now and then."""
    missing = through_a_bad_network(
        *(server, tmp_path, seed, sensors, count, server_kills, client_kills, signal.SIGKILL),
        disk("size=256k") if seed % 2 else None,
    )
    oldest = max(missing, default=0)
    print(f"missing {len(missing)}, read {oldest * 1000:.0f} ms before the kill at most")
    assert oldest < RESEND + LATE, "younger than the first timeout"


@pytest.mark.parametrize(SEED, [*SMALL[2:], *FULL])
def test_stopped_in_a_bad_network_nothing_is_missing_and_nothing_twice(
    server, tmp_path, disk, seed, sensors, count, server_kills, client_kills
):
    """In half of the seeds the spools are on a disk that is full now and then, not at the stop."""
    missing = through_a_bad_network(
        *(server, tmp_path, seed, sensors, count, server_kills, client_kills, signal.SIGTERM),
        disk("size=256k") if seed % 2 else None,
    )
    assert missing == []


def test_stopped_before_anything_was_spooled_or_acknowledged(server, tmp_path):
    acknowledged = set()
    running = server("--quiet", "--host", "127.0.0.1", *options("a.txt", "a.csv"))
    with Relay(running.port, loss=1, watch=collect(acknowledged)) as relay:
        client = Client(tmp_path, 1, relay.port)
        client.start(100, 0.01, {"pi.delivery.RESEND": 60})
        until(lambda: len(client.starts[0].out.splitlines()) >= 5)
        assert whole_lines(client.spool) == []
        client.stop(signal.SIGTERM)
        assert client.process.returncode == 0
        assert set(client.starts[0].out.splitlines()) <= set(client.spooled)
        relay.loss = 0
        client.start(1, 0.01)
        assert client.starts[-1].wait() == 0
        client.note_end()
    assert running.stop() == 0
    assert check(tmp_path, [client], False, acknowledged) == []
