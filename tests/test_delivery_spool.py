"""The spool of a named sensor on disks that are full, read-only or gone; a queue past its bound."""

import re
import signal

import pytest

from dht22.datagram import format_ack, parse
from dht22.pi.spool import Spool, Waiting, boot_id
from support.made import HEADER
from support.numbered import logged, size, taken
from support.tools import free_port, lines, until

ON_DISK = ["--spool", "disk/kitchen.spool"]
SOON = {"pi.spool.WRITE_AGAIN": 0.05}


@pytest.mark.parametrize(
    "mount, why", [("size=4k", "No space left on device"), ("ro", "Read-only file system")]
)
def test_a_spool_on_a_disk_that_is_full_or_read_only(sensor, server, disk, tmp_path, mount, why):
    port = free_port()
    argv = "--interval", 0.005, "--count", 200, *ON_DISK
    client = sensor(port, *argv, prefix=disk(mount).inside, timers=SOON)
    client.says(
        rf"^cannot write the spool disk/kitchen.spool \({why}\): readings wait in memory only$"
    )
    until(lambda: len(client.read()) == 200)
    server("--quiet", port=port)
    assert client.wait() == 0
    assert logged(tmp_path / "datalog.csv") == client.read() == lines(tmp_path / "datalog.txt")
    assert client.err.count("cannot write the spool") == 1
    assert "is written again" not in client.err, "no line comes and goes"


def test_without_the_option_the_reason_is_that_its_folder_cannot_be_made(client, disk, tmp_path):
    started = client(
        *[free_port(), "--name", "kitchen", "--interval", 0.1],
        env={"HOME": str(tmp_path / "disk"), "XDG_STATE_HOME": ""},
        prefix=disk("ro").inside,
    )
    path = r".+/disk/.local/state/dht22/kitchen.spool"
    started.says(rf"^cannot write the spool {path} \(Read-only file system\): readings wait in ")
    assert started.stop() == 0


def test_a_spool_that_is_given_room_is_written_again(sensor, server, disk, tmp_path):
    port, small = free_port(), disk("size=4k")
    client = sensor(port, "--interval", 0.005, *ON_DISK, prefix=small.inside, timers=SOON)
    client.says("^cannot write the spool")
    small.resize("1m")
    client.says("^the spool disk/kitchen.spool is written again$")
    client.stop(signal.SIGKILL)
    running = server("--quiet", port=port)
    again = sensor(port, "--count", 1, *ON_DISK, prefix=small.inside)
    assert again.wait() == 0 and running.stop() == 0
    *delivered, last = logged(tmp_path / "datalog.csv")
    assert [last] == again.read()
    assert delivered == client.read()[: len(delivered)]
    assert len(delivered) >= len(client.read()) - 1


def test_what_was_delivered_while_the_disk_was_full_stands_once_after_it_had_room_again(
    sensor, server, disk, tmp_path
):
    """270 readings wait, the disk is full, 240 are delivered; then there is room, and a kill."""
    port, small = free_port(), disk("size=64k")
    argv = "--interval", 0.01, *ON_DISK
    client = sensor(port, *argv, prefix=small.inside, timers=SOON)
    until(lambda: len(lines(small.folder / "kitchen.spool")) >= 270)
    small.fill()
    first = server("--quiet", "--count", 240, port=port)
    client.says("^cannot write the spool")
    assert first.wait() == 0
    small.give_room()
    small.resize("8m")  # on a busy machine much waits by now
    client.says("is written again$")
    client.stop(signal.SIGKILL)
    server("--quiet", port=port)
    again = sensor(port, *argv, "--count", 5, prefix=small.inside)
    assert again.wait() == 0
    delivered = logged(tmp_path / "datalog.csv")
    assert len(delivered) == len(set(delivered)) > 270
    assert delivered[-5:] == again.read()


def test_a_spool_that_is_removed_is_written_again_with_all_that_waits(sensor, server, tmp_path):
    port = free_port()
    spool = tmp_path / "kitchen0.spool"
    client = sensor(port, "--interval", 0.02)
    until(lambda: len(lines(spool)) > 10)
    already = len(client.read())
    spool.unlink()
    until(lambda: len(lines(spool)) > already + 10)
    client.stop(signal.SIGKILL)
    server("--quiet", port=port)
    again = sensor(port, "--count", 1)
    assert again.wait() == 0
    delivered = logged(tmp_path / "datalog.csv")
    assert delivered == client.read()[: len(delivered) - 1] + again.read()
    assert len(delivered) > already + 10


def test_the_spool_is_emptied_as_soon_as_all_is_acknowledged(sensor, server, tmp_path):
    port = free_port()
    client = sensor(port, "--interval", 0.3)
    until(lambda: size(tmp_path / "kitchen0.spool"))
    server("--quiet", port=port)
    until(lambda: logged(tmp_path / "datalog.csv") == client.read())
    until(lambda: size(tmp_path / "kitchen0.spool") == 0)
    assert client.process.poll() is None


def test_at_the_end_a_spool_that_could_not_be_written_is_tried_once_more(sensor, tmp_path):
    client = sensor(
        free_port(),
        *["--interval", 0.01],
        timers={"pi.spool.WRITE_AGAIN": 60},
        setup="""
from dht22.log import linefile
from dht22.pi import delivery
write, full = linefile.LineFile.append, True

def append(self, lines):
    if full and lines:
        raise OSError(28, "No space left on device")
    write(self, lines)

linefile.LineFile.append = append
close = delivery.NamedSender.close

def freed(self):
    global full
    full = False
    close(self)

delivery.NamedSender.close = freed
""",
    )
    client.says("^cannot write the spool")
    until(lambda: len(client.read()) > 20)
    assert client.stop() == 0
    client.says(f"^{len(client.read())} readings left in ")
    assert "lost" not in client.err
    assert len(lines(tmp_path / "kitchen0.spool")) == len(client.read()) + 1


def test_past_its_bound_the_queue_drops_the_oldest_and_says_so(sensor, server, tmp_path):
    port = free_port()
    client = sensor(port, "--interval", 0.002, "--count", 300, timers={"pi.delivery.QUEUE": 50})
    until(lambda: len(client.read()) == 300)
    client.says("^more than 50 unsent readings: the oldest are dropped")
    server("--quiet", port=port)
    assert client.wait() == 0
    assert logged(tmp_path / "datalog.csv") == client.read()[-50:]
    assert client.err.count("the oldest are dropped") == 1, "said once"
    assert re.search(
        r"^250 readings dropped: there were too many unsent ones$", client.err, re.MULTILINE
    ), "and counted"


def test_an_n_is_for_one_reading_only_whatever_is_dropped(sensor, desktop):
    client = sensor(desktop.getsockname()[1], "--interval", 0.01, timers={"pi.delivery.QUEUE": 5})
    questions = [parse(desktop.recv(300)) for _ in range(20)]
    client.stop()
    readings = {(named.n, reading) for reading, named in questions}
    assert len({n for n, _ in readings}) == len(readings) > 3


def test_an_n_is_in_the_spool_before_it_is_sent(sensor, desktop, tmp_path):
    port = desktop.getsockname()[1]
    client = sensor(port, "--interval", 0.01, "--count", 20)
    until(
        lambda: (
            (tmp_path / "kitchen0.spool").exists() and len(lines(tmp_path / "kitchen0.spool")) >= 20
        )
    )
    seen = set()
    while len(seen) < 20:
        question, peer = desktop.recvfrom(300)
        reading, named = parse(question)
        if named.n not in seen and len(seen) < 19:
            content = lines(tmp_path / "kitchen0.spool")
            assert re.fullmatch(
                rf"n,\d+,{named.n},[0-9a-f]{{8}}",
                [line for line in content if line.startswith("n,")][-1],
            )
        seen.add(named.n)
        desktop.sendto(format_ack("kitchen", named.n, None), peer)
    assert client.wait() == 0


def test_a_spool_that_was_rewritten_holds_what_waits_and_the_n_under_way(tmp_path):
    spool = Spool(str(tmp_path / "spool"))
    waiting = [Waiting(k, boot_id(), 100.0 + k, 1795600000.0 + k, f"{k}.0,20.0") for k in range(10)]
    spool.mark(0, 10**15)
    spool.write(waiting[:9])
    spool.mark(4, 10**15 + 4)
    spool.rewrite(waiting[4:9])
    spool.write(waiting[9:])
    left, n, highest = spool.load()
    assert [each.place for each in left] == list(range(4, 10))
    assert [each.reading for each in left] == [f"{k}.0,20.0" for k in range(4, 10)]
    assert n == highest == 10**15 + 4
    assert spool.next_place == 10 and spool.lines == 7


def test_a_damaged_spool_is_restored_and_delivered(sensor, server, tmp_path):
    path = tmp_path / "kitchen.spool"
    spool = Spool(str(path))
    assert spool.write(spool.stamp(f"{k}.0,20.0") for k in range(10))
    damaged = bytes(4000) + path.read_bytes().replace(b",5.0,", b",\x815.0,") + b"\xff" * 512
    path.write_bytes(damaged)
    spool.file.file.close()
    running = server("--quiet")
    client = sensor(running.port, "--count", 1, "--spool", "kitchen.spool")
    assert client.wait() == 0
    assert "kitchen.spool was damaged: 9 lines could be read and were kept; " in client.err
    left = [f"{k}.0,20.0" for k in range(10) if k != 5]
    assert logged(tmp_path / "datalog.csv") == left + client.read()
    assert (tmp_path / "kitchen.spool.damaged").read_bytes() == damaged
    assert size(path) == 0


@pytest.mark.parametrize(
    "kill",
    [
        "old = os.replace; os.replace = lambda *paths: die()",
        "old = os.replace; os.replace = lambda *paths: (old(*paths), die())",
        "old = spool.Spool.rewrite; spool.Spool.rewrite = lambda *all: (old(*all), die())",
    ],
    ids=["before it is in place", "once in place", "right after"],
)
def test_killed_while_the_spool_is_rewritten(sensor, server, tmp_path, kill):
    port = free_port()
    killed = sensor(
        port,
        *["--interval", 0.002],
        timers={"pi.delivery.QUEUE": 50, "pi.spool.LONG_FILE": 100},
        setup="import os; from dht22.pi import spool; die = lambda: os.kill(os.getpid(), 9)\n"
        + kill,
    )
    assert killed.wait() == -signal.SIGKILL
    read = list(taken(tmp_path / "notes0"))
    assert len(read) > 50, "the oldest were dropped"
    server("--quiet", port=port)
    again = sensor(port, "--count", 1)
    assert again.wait() == 0
    delivered = logged(tmp_path / "datalog.csv")
    assert delivered == (read + again.read())[-len(delivered) :], (
        "in order, none twice, none missing"
    )
    assert len(delivered) >= 51


def test_a_spool_whose_emptying_fails_keeps_what_comes_after(sensor, server, desktop, tmp_path):
    """The fsync of the emptied file fails; the next reading waits, and the client is killed."""
    spool = tmp_path / "kitchen0.spool"
    client = sensor(
        desktop.getsockname()[1],
        "--interval",
        0.5,
        setup="""
import os, stat
fsync, sizes = os.fsync, [0]

def fail_if_emptied(fd):
    if stat.S_ISREG(os.fstat(fd).st_mode):
        sizes.append(os.fstat(fd).st_size)
        if sizes[-2] and not sizes[-1]:
            raise OSError(5, "Input/output error")
    fsync(fd)

os.fsync = fail_if_emptied
""",
    )
    question, peer = desktop.recvfrom(300)
    until(lambda: size(spool))
    first = parse(question)[1]
    desktop.sendto(format_ack("kitchen", first.n, None), peer)
    client.says("^cannot write the spool .*Input/output error")
    until(lambda: b"0.1,0.0" in spool.read_bytes())
    client.stop(signal.SIGKILL)
    running = server("--quiet")
    again = sensor(running.port, "--count", 1)
    assert again.wait() == 0
    assert logged(tmp_path / "datalog.csv")[-2:] == [client.read()[-1], *again.read()]


# Whose spool it is, and where


def test_a_spool_that_another_client_has(sensor, tmp_path):
    port = free_port()
    having = sensor(port, "--interval", 0.01)
    until(lambda: size(tmp_path / "kitchen0.spool"))
    wanting = sensor(port, "--interval", 0.01)
    assert wanting.wait() == 1
    assert re.fullmatch(
        r"client.py: error: cannot use the spool .*/kitchen0.spool \(another .* writes it\); "
        r"give another --name or --spool; if it was cron .* \(docs/delivery.md\)\n",
        wanting.err,
    )
    assert wanting.out == "" and having.process.poll() is None
    assert having.stop() == 0


@pytest.mark.parametrize("state, folder", [("", "home/.local/state"), ("state", "state")])
def test_where_the_spool_is_without_the_option(client, tmp_path, state, folder):
    home, state = str(tmp_path / "home"), state and str(tmp_path / state)
    started = client(
        *[free_port(), "--interval", 0.01, "--name", "kitchen"],
        env={"HOME": home, "XDG_STATE_HOME": state},
        timers={"pi.delivery.RESEND": 0.05},
    )
    until(lambda: size(tmp_path / folder / "dht22" / "kitchen.spool"))
    assert started.stop() == 0
    assert list(tmp_path.rglob("*.spool")) == [tmp_path / folder / "dht22" / "kitchen.spool"]


def test_without_a_home_folder_it_asks_for_the_place_of_the_spool(client, tmp_path):
    started = client(
        *[free_port(), "--name", "kitchen"],
        env={"XDG_STATE_HOME": ""},
        setup="import os, pwd\ndel os.environ['HOME']\npwd.getpwuid = {}.__getitem__\n",
    )
    assert started.wait() == 1
    error = "the home folder of this user is unknown; give the spool's place with --spool"
    assert started.err == f"client.py: error: {error}\n"
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"buy milk\n",
        b"buy milk",
        b"74.3,25.7\n",
        HEADER.encode(),
        b"kitchen " + b"0" * 64 + b"\n",
        b"\n",
        b"\x89PNG\r\n",
        b"n,0,1795255202123456\nbuy milk\n",
        b"buy milk\nn,0,1795255202123456\n",
    ],
    ids=ascii,
)
def test_a_foreign_file_as_spool_is_refused_untouched(sensor, tmp_path, content):
    (tmp_path / "kitchen0.spool").write_bytes(content)
    client = sensor(10001)
    assert client.wait() == 1
    assert re.fullmatch(
        r"client.py: error: cannot use the spool .* \(not a file of ours: .*\); give another .*\n",
        client.err,
    )
    assert (tmp_path / "kitchen0.spool").read_bytes() == content


def test_a_spool_whose_folder_is_gone_is_said(sensor, desktop, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    client = sensor(desktop.getsockname()[1], "--interval", 0.05, "--spool", folder / "spool")
    until(lambda: size(folder / "spool"))
    folder.rename(tmp_path / "away")
    folder.write_text("no folder")
    client.says("^cannot write the spool .*: readings wait in memory only$")
    assert client.stop() == 0
    assert "Traceback" not in client.err
