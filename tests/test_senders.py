"""Who sends, and what the server believes of it."""

import pytest

from dht22.console import Notices
from dht22.datagram import HIGHEST_N, N_RANGE, Named, format_named
from dht22.server.recovery import NAMES
from dht22.server.senders import Senders
from support.made import row, write
from support.tools import ask, lines, send, until

KEY = bytes(range(32))
FIRST = N_RANGE[0]


@pytest.mark.parametrize(
    "strangers",
    [[("kitchen", FIRST + 5), *((f"s{k}", FIRST) for k in range(NAMES + 5))]],
    ids=["10,000 names"],
)
def test_what_strangers_did_before_there_were_keys_does_not_count(server, tmp_path, strangers):
    (tmp_path / "keys").write_text(f"kitchen {KEY.hex()}\nattic {KEY.hex()}\n")
    (tmp_path / "keys").chmod(0o600)
    seen = [*strangers, ("kitchen", FIRST + 6)]
    write(tmp_path / "datalog.csv", *(row(0, name=name, n=n) for name, n in seen))
    running = server("--keys", "keys")
    (answer,) = ask(running.port, format_named("50.0,20.0", "attic", FIRST + 1, 0.0, KEY))
    assert answer.startswith(b"ack,attic,%d," % (FIRST + 1))
    (answer,) = ask(running.port, format_named("50.0,20.0", "kitchen", FIRST + 6, 0.0, KEY))
    assert answer.startswith(b"ack,kitchen,%d," % (FIRST + 6)), "what is logged is logged once"
    assert running.stop() == 0
    assert "used up" not in running.err


def test_a_name_that_is_blocked_is_reported_at_the_start(server, tmp_path):
    last = row(0, name="kitchen", n=N_RANGE[1] - 1)
    write(tmp_path / "datalog.csv", last, row(0, name="attic", n=FIRST))
    running = server()
    running.says("^kitchen has used up its numbers: give that sensor another name$")
    assert running.stop() == 0
    assert "attic has" not in running.err


@pytest.mark.parametrize("name", ["192.168.1.7", "1.2.3.4", "127.0.0.1", "999.999.999.999"])
def test_an_address_is_no_name(server, tmp_path, name):
    running = server()
    send(running.port, b"50.0,20.0,%s,%d,0.000" % (name.encode(), FIRST), b"50.0,20.0")
    until(lambda: len(lines(tmp_path / "datalog.txt")) == 1)
    assert running.stop() == 0
    assert "refused 1: not a reading\n" in running.err
    assert lines(tmp_path / "datalog.csv")[1].endswith("127.0.0.1,,50.0,20.0,")


@pytest.mark.parametrize("name", ["1.2.3", "1.2.3.4.5", "192.168.1.7a", "1.2.3.4-b", "a1.2.3.4"])
def test_what_only_looks_like_an_address_is_a_name(server, tmp_path, name):
    running = server("--count", 1)
    send(running.port, b"50.0,20.0,%s,%d,0.000" % (name.encode(), FIRST))
    assert running.wait() == 0
    assert f",{name},50.0,20.0," in lines(tmp_path / "datalog.csv")[1]


def test_silence_goes_by_the_rhythm_of_each_sensor():
    notices = Notices()
    senders = Senders({}, None, notices)
    plain = (0.0, "192.168.1.7", "", "50.0,20.0", "")
    for now in (0.0, 100.0, 200.0):
        senders.hear([plain], now)
    senders.notice_changes(700.0)
    assert not notices.first, "five intervals"
    senders.notice_changes(701.0)
    senders.notice_changes(800.0)
    assert list(notices.first.values()) == ["192.168.1.7 silent for 501 s"]
    senders.hear([plain], 900.0)
    senders.notice_changes(900.0)
    assert list(notices.first.values())[1:] == ["192.168.1.7 is back"]


def test_what_waited_on_a_pi_and_comes_in_a_burst_is_no_rhythm():
    notices = Notices()
    senders = Senders({}, None, notices)
    for number in range(12):  # an hour, at one reading every five minutes
        at = 0.01 * number
        named = Named("kitchen", FIRST + number, 300.0 * (12 - number), None)
        assert senders.take(named, "a", at, at, refusal="")
        senders.hear([(at - named.age, "a", "kitchen", "50.0,20.0", str(named.n))], at)
    senders.notice_changes(300.0)
    assert not notices.first
    senders.notice_changes(1501.0)
    assert list(notices.first.values()) == ["kitchen silent for 1501 s"]


def test_a_burst_of_a_plain_sensor_halves_its_interval_at_most():
    notices = Notices()
    senders = Senders({}, None, notices)
    for now in (0.0, 300.0, 600.0, 600.01):
        senders.hear([(now, "192.168.1.7", "", "50.0,20.0", "")], now)
    senders.notice_changes(1350.0)
    assert not notices.first
    senders.notice_changes(1351.0)
    assert len(notices.first) == 1


def test_of_sensors_that_fall_silent_together_each_is_named():
    """A router that is switched off, or a Pi with two sensors."""
    notices = Notices()
    senders = Senders({}, None, notices)
    plain = [(0.0, f"192.168.1.{k}", "", "50.0,20.0", "") for k in range(7, 60)]
    for now in (0.0, 1.0, 2.0):
        senders.hear(plain, now)
    senders.notice_changes(100.0)
    senders.hear(plain[:2], 110.0)
    senders.notice_changes(111.0)
    silent, back = notices.first.values()
    assert silent.startswith("192.168.1.7 silent for 98 s, 192.168.1.8 silent for 98 s, ")
    assert silent.endswith("192.168.1.56 silent for 98 s (and 3 more)")
    assert back == "192.168.1.7 is back, 192.168.1.8 is back"


def test_duplicates_and_refusals_are_told_apart():
    senders = Senders({"kitchen": FIRST + 5}, None, Notices())
    old, new = (Named("kitchen", FIRST + n, 0.0, None) for n in (5, 6))
    assert not senders.take(old, "a", 0.0, 0.0, refusal="")
    with pytest.raises(ValueError, match="log failing"):
        senders.take(new, "a", 0.0, 0.0, refusal="log failing")
    assert not senders.take(old, "a", 0.0, 0.0, refusal="log failing"), (
        "a duplicate, whatever fails"
    )
    assert senders.take(new, "a", 0.0, 0.0, refusal="")
    assert not senders.take(new, "a", 0.0, 0.0, refusal="")
    assert senders.duplicates() == 3
    assert senders.named["kitchen"].stored == FIRST + 5, "until it is on the disk"
    senders.store([(0.0, "a", "kitchen", "50.0,20.0", str(FIRST + 6))])
    assert senders.named["kitchen"].stored == FIRST + 6


def test_what_is_not_on_the_disk_yet_gets_no_answer():
    senders = Senders({}, None, Notices())
    named = Named("attic", FIRST, 0.0, None)
    assert senders.take(named, "a", 0.0, 0.0, refusal="")
    assert senders.acknowledgement(named, None) is None


def test_the_bound_of_n_is_told_from_what_is_below():
    for n, told in (HIGHEST_N - 1, 0), (HIGHEST_N, 1):
        notices = Notices()
        Senders({"kitchen": n}, None, notices)
        assert len(notices.first) == told


@pytest.mark.parametrize(
    "addresses, told",
    [
        *[("aaaaaa", False), ("aabbbb", False), ("aaabc", False), ("aaaba", True), ("abcb", True)],
        *[("aaabbbba", False), ("aaabba", True), ("aaab.......a", False), ("ab.a", True)],
    ],
)
def test_a_name_from_two_addresses_in_turn_is_reported(addresses, told):
    """Not a Pi that gets another address, nor one that has two ways and stays longer on each."""
    notices = Notices()
    senders = Senders({}, None, notices)
    for number, address in enumerate(addresses):  # a character an interval; none comes at a dot
        at = 2.0 * number
        named = Named("kitchen", FIRST + number, 0.0, None)
        if address != ".":
            assert senders.take(named, address, at, at, refusal="")
            senders.hear([(at, address, "kitchen", "50.0,20.0", str(named.n))], at)
    assert bool(notices.first) == told
