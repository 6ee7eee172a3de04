"""Facts about the datagram: what is a reading, how it is logged, and that all else is refused."""

import hashlib
import random
import re
import socket
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dht22 import datagram
from dht22.console import Notices
from dht22.datagram import N_RANGE, format_ack, format_named, parse, parse_ack
from dht22.server.inbox import Received
from dht22.server.senders import Senders
from server import Server
from support.tools import ATTIC, KITCHEN, lines, send, until

START = 1795255202000000

READINGS = {  # datagram: how it is logged
    b"74.3,25.7": "74.3,25.7",
    b"74.3, 25.7\n": "74.3,25.7",  # netcat
    b"74.30000305175781,25.700000762939453": "74.3,25.7",  # the course's own client
    b"48.9,-3.7": "48.9,-3.7",
    b"48.9,-3.7\r\n": "48.9,-3.7",
    b" \t5 , 7\t ": "5.0,7.0",
    b"0,0": "0.0,0.0",
    b"-0.0,-0.0": "0.0,0.0",
    b"1.0,-0.04": "1.0,0.0",
    b"1.0,-0.06": "1.0,-0.1",
    b"100,80": "100.0,80.0",
    b"100.00,-40.00": "100.0,-40.0",
    b"007.5,021.04": "7.5,21.0",
    b"99.96,79.96": "100.0,80.0",
    b"1." + b"0" * 20 + b",2": "1.0,2.0",
    b"10.0,5.0" + b" " * 248: "10.0,5.0",  # 256 bytes
}

NOT_READINGS = [
    b"",
    b" ",
    b"\n",
    b",",
    b"5",
    b"5,",
    b",5",
    b"5,5,",
    b",5,5",
    b"5,5,5",
    b"5,5,,",
    b"55.3;21.4",
    b"55.3 21.4",
    b"nan,1",
    b"1,nan",
    b"inf,1",
    b"1,-inf",
    b"1_0,20",
    b"1e1,20",
    b"0x10,20",
    b"+5,20",
    b"5,+20",
    b"--5,20",
    b".5,20",
    b"5.,20",
    b"5.5.5,20",
    b"5,5,20",
    b"1000,20",
    b"0005,20",
    b"5,- 20",
    b"5 5,20",
    b"1." + b"0" * 21 + b",2",
    "٥٥,٢١".encode(),
    "５５,２１".encode(),
    "55,21°".encode(),
    b"\xff\xfe5\x005\x00",
    b"\xef\xbb\xbf55,21",
    b"3317.3,20.0",
    b"331.7,20.0",
    b"100.04,20",
    b"100.1,20",
    b"-0.1,20",
    b"50,-41",
    b"50,-40.04",
    b"50,80.04",
    b"50,563",
    b"50,947",
    b"55.3,21.4\n66.6,22.2",
    b"55.3,21.4\n\n",
    b"55.3,21.4\r",
    b"\n55.3,21.4",
    b"55.3\n,21.4",
    b"55.3,21.4\n ",
    b"55.3,21.4\0",
    b"\0",
    b"55.3,21.4\x1b[2J",
    b"55.3,21.4\v",
    b"55.3\xa0,21.4",
    b"10.0,5.0" + b" " * 249,
    b"5" * 257,
    b"55.3,21.4" + b"\n" * 400,
    b"5" * 65507,
    b"humidity,temperature",
    b"None,None",
    b"74.3,25.7,kitchen",
    b"GET / HTTP/1.1\r\n\r\n",
    b"{}",
]


def oracle(datagram):
    """Return the line to be logged for a datagram, or None; shares no code with the product."""
    if len(datagram) > 256 or any(byte > 127 for byte in datagram):
        return None
    text = datagram.decode("ascii")
    for end in "\r\n", "\n":
        if text.endswith(end):
            text = text[: -len(end)]
            break
    numbers = []
    for field in text.split(","):
        field = field.strip(" \t")
        digits = field[1:] if field.startswith("-") else field
        whole, point, decimals = digits.partition(".")
        if not 1 <= len(whole) <= 3 or not set(whole + decimals) <= set(string.digits):
            return None
        if point and not 1 <= len(decimals) <= 20:
            return None
        numbers.append(float(field))
    if len(numbers) != 2 or not 0 <= numbers[0] <= 100 or not -40 <= numbers[1] <= 80:
        return None
    return ",".join("0.0" if round(number, 1) == 0 else f"{number:.1f}" for number in numbers)


def parsed(bytes_):
    try:
        return datagram.parse(bytes_)[0]
    except ValueError:
        return None


@pytest.mark.parametrize("sent, logged", READINGS.items())
def test_reading(sent, logged):
    assert parsed(sent) == logged == oracle(sent)


@pytest.mark.parametrize("sent", NOT_READINGS, ids=lambda sent: ascii(sent[:30]))
def test_no_reading(sent):
    assert parsed(sent) is None is oracle(sent)


def test_every_reading_of_the_sensor_keeps_its_value():
    for tenths in range(1001):
        text = f"{tenths / 10:.1f},{tenths * 1.2 / 10 - 40:.1f}".replace("-0.0", "0.0")
        assert parsed(text.encode()) == text


number = st.from_regex(rb"[ \t]?-?[0-9]{1,3}(\.[0-9]{1,21})?[ \t]?", fullmatch=True)
nearly = st.builds(
    lambda *parts: b"".join(parts),
    number,
    st.sampled_from([b",", b",", b",", b";", b""]),
    number,
    st.sampled_from([b"", b"\n", b"\r\n", b"\0", b"\n\n"]),
)


@given(
    st.one_of(
        st.binary(max_size=300),
        nearly,
        st.text("0123456789.,- \t\r\n", max_size=20).map(str.encode),
    )
)
def test_parse_agrees_with_the_oracle(sent):
    logged = parsed(sent)
    assert logged == oracle(sent)
    if logged is not None:
        assert re.fullmatch(r"\d{1,3}\.\d,-?\d{1,2}\.\d", logged, re.ASCII)
        assert parsed(logged.encode()) == logged


# Datagrams that are received together: they are looked at together, or one by one

AS_LOGGED = [b"74.3,25.7", b"50.0,-1.5", b"0.0,0.0", b"99.9,79.9", b"9.9,-39.9"]
PECULIAR = [
    *NOT_READINGS,
    *READINGS,
    *[b"74.3,25.7\n80.0,20.0", b"74.3,25.7\n80.0,20.0\n", b"74.3,25.7\n", b"\n74.3,25.7"],
    *[b"74.3,25.7\r", b"\r74.3,25.7", b"74.3,25.7,kitchen,1795255202000000,0.000,"],
]


class FakeWriter:
    def is_failing(self):
        return False


def check(*batch):
    """Let a server without keys check datagrams; return what it takes, and of whom."""
    asked = Server(None, FakeWriter(), Senders({}, None, Notices()), Notices(), None, None, None, 0)
    peers = [(f"::ffff:10.0.0.{k}", 1000, 0, 0) for k in range(len(batch))]
    rows, questions = asked.check(Received(batch, peers, ()))
    assert questions == []
    assert len(rows) + sum(asked.refused.values()) == len(batch)
    return [(client, reading) for _, client, name, reading, n in rows if name == n == ""]


def expected(*batch):
    return [(f"10.0.0.{k}", oracle(each)) for k, each in enumerate(batch) if oracle(each)]


@pytest.mark.parametrize("peculiar", PECULIAR, ids=lambda sent: ascii(sent[:30]))
def test_one_peculiar_datagram_in_any_place_changes_nothing_for_the_others(peculiar):
    for size in 1, 2, 5:
        for place in range(size):
            batch = AS_LOGGED[:size]
            batch[place] = peculiar
            assert check(*batch) == expected(*batch)
    assert check(b"74.3,25.7", peculiar, peculiar, b"50.0,20.0") == expected(
        b"74.3,25.7", peculiar, peculiar, b"50.0,20.0"
    )


@given(
    st.lists(
        st.one_of(
            st.sampled_from(AS_LOGGED),
            nearly,
            st.binary(max_size=20),
            st.text("0123456789.,-\n", max_size=12).map(str.encode),
            st.lists(st.sampled_from(AS_LOGGED), max_size=3).map(b"\n".join),
        ),
        max_size=8,
    )
)
def test_what_is_checked_together_is_as_the_oracle_says(batch):
    assert check(*batch) == expected(*batch)


def test_what_the_look_at_all_of_them_takes_is_just_what_parse_gives():
    tenths = [f"{k // 10}.{k % 10}" for k in range(1010)]
    readings = [f"{each},20.0" for each in tenths] + [
        f"50.0,{sign}{each}" for each in tenths for sign in ("", "-")
    ]
    for reading in readings:
        together = datagram.plain_readings([reading.encode()])
        assert together in ([parsed(reading.encode())], None)
    assert datagram.plain_readings([b"74.3,25.7"] * 12_000) == ["74.3,25.7"] * 12_000


@pytest.mark.parametrize(
    "humidity, temperature",
    [
        (-0.1, 20),
        (100.1, 20),
        (50, -40.1),
        (50, 80.1),
        (float("nan"), 20),
        (50, float("nan")),
        (float("inf"), 20),
    ],
)
def test_format_refuses_what_is_out_of_range(humidity, temperature):
    with pytest.raises(ValueError, match="out of range"):
        datagram.format_in_range(humidity, temperature)


def test_server_logs_the_good_and_counts_the_bad(server, tmp_path):
    running = server()
    for bad in NOT_READINGS:
        send(running.port, bad, b"50.5,20.5")
    for good in READINGS:
        send(running.port, good)
    expected = ["50.5,20.5"] * len(NOT_READINGS) + list(READINGS.values())
    until(lambda: len(lines(tmp_path / "datalog.txt")) >= len(expected))
    assert running.stop() == 0
    assert lines(tmp_path / "datalog.txt") == expected
    assert [
        ",".join(row.split(",")[3:5]) for row in lines(tmp_path / "datalog.csv")[1:]
    ] == expected
    total = len(expected) + len(NOT_READINGS)
    assert (
        f"received {total} = logged {len(expected)} + duplicates 0 + refused {len(NOT_READINGS)} "
        in running.err
    )
    assert re.search("^refused 127.0.0.1: .*: b'", running.err, re.MULTILINE)
    assert running.err.count("refused 127.0.0.1") < 20, "one line a second of each kind"


def test_random_datagrams_are_logged_if_and_only_if_the_oracle_says_so(server, tmp_path):
    dice = random.Random(11)
    alphabet = "0123456789" * 3 + ".,-" * 3 + " \t\n\rex_"
    running = server("--log", "a.txt")
    expected, sent = [], 0
    for block in range(100):
        marker = b"90.0,%.1f" % (block / 2)
        datagrams = ["".join(dice.choices(alphabet, k=dice.randint(0, 12))) for _ in range(500)]
        datagrams += [
            f"{dice.uniform(-9, 120):.{dice.randint(0, 3)}f}"
            f",{dice.uniform(-50, 99):.{dice.randint(0, 3)}f}"
            for _ in range(500)
        ]
        datagrams = [text.encode() for text in datagrams] + [marker]
        send(running.port, *datagrams)
        sent += len(datagrams)
        expected += [logged for logged in map(oracle, datagrams) if logged]
        until(lambda: (tmp_path / "a.txt").read_bytes().endswith(b"\n%s\n" % marker))
    assert running.stop() == 0
    assert lines(tmp_path / "a.txt") == expected
    assert f"received {sent} = logged {len(expected)} " in running.err


# Named readings and answers, signed or not. The MAC, written without the product's means (RFC 2104)


def oracle_mac(key, body):
    block = key.ljust(64, b"\0")
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block) + body).digest()
    return hashlib.sha256(bytes(byte ^ 0x5C for byte in block) + inner).hexdigest()[:32].encode()


names = st.text("ABCxyz0189._-", min_size=1, max_size=32).filter(
    lambda name: not re.fullmatch(r"\d{1,3}(\.\d{1,3}){3}", name)  # an address is no name
)
ns = st.integers(N_RANGE[0], N_RANGE[1] - 1)
ages = st.integers(0, 999_999_999_000).map(lambda milliseconds: milliseconds / 1000)
readings = st.builds(
    lambda h, t: datagram.format_in_range(h / 10, t / 10),
    st.integers(0, 1000),
    st.integers(-400, 800),
)
maybe_keys = st.none() | st.binary(min_size=32, max_size=32)
intervals = st.none() | st.integers(2, 86400)


@given(readings, names, ns, ages, maybe_keys)
def test_a_named_reading_comes_back_as_it_was_sent(reading, name, n, age, key):
    sent = format_named(reading, name, n, age, key)
    assert len(sent) <= datagram.LIMIT
    assert sent.decode().split(",")[:4] == [*reading.split(","), name, str(n)]
    back, named = parse(sent)
    assert (back, named.name, named.n, named.age) == (reading, name, n, age)
    assert named.mac == (key and oracle_mac(key, sent[:-33]))
    if key:
        assert datagram.verify(sent, key) and datagram.verify(sent + b"\r\n", key)
        assert not datagram.verify(sent, key[::-1]) or key == key[::-1]
        assert not datagram.verify(sent, key, b"0" * 32)


@given(names, ns, intervals, maybe_keys, st.binary(min_size=16, max_size=16))
def test_an_acknowledgement_comes_back_as_it_was_sent(name, last, interval, key, question):
    question = question.hex().encode()
    sent = format_ack(name, last, interval, question if key else None, key)
    ack = parse_ack(sent)
    assert (ack.name, ack.last, ack.interval) == (name, last, interval)
    assert ack.mac == (key and oracle_mac(key, question + b"," + sent[:-33]))
    if key:
        assert datagram.verify(sent, key, question)
        assert (
            not datagram.verify(sent, key)
            and not datagram.verify(sent, key, question[::-1])
            or (question == question[::-1])
        )


field = st.from_regex(rb"\A[ \t]?-?[0-9]{1,3}(\.[0-9]{1,3})?\Z")
questions = st.builds(
    lambda *fields: b",".join(fields),
    field,
    field,
    names.map(str.encode),
    st.from_regex(rb"\A[ ]?[1-9][0-9]{15}\Z"),
    st.from_regex(rb"\A[0-9]{1,10}\.[0-9]{3}\n?\Z"),
)


@given(questions, maybe_keys, intervals, ns)
def test_an_answer_is_never_longer_than_its_question(question, key, interval, last):
    question = datagram.sign(question.rstrip(), key)
    try:
        named = parse(question)[1]
    except ValueError:
        return  # is not answered
    assert len(format_ack(named.name, last, interval, named.mac, key)) <= len(question)


@pytest.mark.parametrize("key", [None, KITCHEN], ids=["unsigned", "signed"])
def test_the_longest_answer_to_the_shortest_question(key):
    question = datagram.sign(b"0,0,k,1000000000000000,0.000", key)
    assert len(format_ack("k", N_RANGE[1] - 1, 86400, parse(question)[1].mac, key)) == len(question)


@given(
    st.binary(max_size=300)
    | questions
    | st.from_regex(datagram.ACK, fullmatch=True)
    | st.from_regex(datagram.READING, fullmatch=True)
)
def test_what_cannot_be_parsed_raises_a_value_error_and_nothing_else(sent):
    for parser in parse, parse_ack:
        try:
            parser(sent)
        except ValueError as error:
            assert len(str(error)) < 60


BOUNDS = {  # n, age: is it a reading?
    ("1000000000000000", "0.000"): True,
    ("8999999999999999", "999999999.999"): True,
    ("8999999999999999", "000000000.001"): True,
    ("0999999999999999", "0.000"): False,
    ("9000000000000000", "0.000"): False,
    ("9999999999999999", "0.000"): False,
    ("999999999999999", "0.000"): False,
    ("10000000000000000", "0.000"): False,
    ("9" * 200, "0.000"): False,
    ("-100000000000000", "0.000"): False,
    ("+100000000000000", "0.000"): False,
    ("1e15", "0.000"): False,
    ("100000000000000_", "0.000"): False,
    ("١٠٠٠٠٠٠٠٠٠٠٠٠٠٠٠", "0.000"): False,
    ("1000000000000000", "1000000000.000"): False,
    ("1000000000000000", "9" * 200 + ".000"): False,
    ("1000000000000000", "-0.001"): False,
    ("1000000000000000", "0"): False,
    ("1000000000000000", "0.00"): False,
    ("1000000000000000", "0.0000"): False,
    ("1000000000000000", ".000"): False,
    ("1000000000000000", "nan"): False,
    ("1000000000000000", "inf"): False,
    ("1000000000000000", "1e3.000"): False,
    ("1000000000000000", ""): False,
    ("", "0.000"): False,
}


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
def test_n_and_age_at_and_past_their_bounds_never_stop_the_server(server, tmp_path, keys, signed):
    running = server("--quiet", *(["--keys", keys] if signed else []))
    key, attic = (KITCHEN, ATTIC) if signed else (None, None)
    number = 0

    def answered(n, age):
        """Send a reading as kitchen, then one as attic to know the end; was the first answered?"""
        nonlocal number
        number += 1
        sock.send(datagram.sign(f"50.0,20.0,kitchen,{n},{age}".encode(), key))
        sock.send(
            format_named("51.0,20.0", "attic", START + number, 0.0, ATTIC if signed else None)
        )
        answers = [sock.recv(300)]
        while not answers[-1].startswith(b"ack,attic,%d," % (START + number)):
            answers.append(sock.recv(300))
        return [answer.startswith(b"ack,kitchen,") for answer in answers] == [True, False]

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        sock.connect(("127.0.0.1", running.port))
        for (n, age), good in BOUNDS.items():
            assert answered(n, age) == good, (n, age)

        @settings(max_examples=200)
        @given(
            st.integers(-10, 10**17)
            | st.sampled_from([N_RANGE[0] - 1, N_RANGE[0], N_RANGE[1] - 1, N_RANGE[1]]),
            st.integers(-5, 10**13),
        )
        def every(n, milliseconds):
            age = f"{milliseconds / 1000:.3f}"
            assert answered(n, age) == (
                N_RANGE[0] <= n < N_RANGE[1] and 0 <= milliseconds < 10**12
            ), (n, age)

        every()
    assert running.stop() == 0
    assert all(
        re.fullmatch(
            r"\d{4}-[\d:T.-]{18}Z,127.0.0.1,(kitchen|attic),5[01].0,20.0,[1-8]\d{15}", line
        )
        for line in lines(tmp_path / "datalog.csv")[1:]
    )


@pytest.mark.parametrize("age, sent", [(-5.0, b"0.000"), (1e12, b"999999999.000")])
def test_an_age_that_a_clock_makes_impossible_is_bounded(age, sent):
    datagram = format_named("50.0,20.0", "kitchen", START, age)
    assert datagram.endswith(b"," + sent)
    assert parse(datagram)[1].n == START
