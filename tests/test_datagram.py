"""Facts about the datagram: what is a reading, how it is logged, and that all else is refused."""

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht22 import datagram
from support.tools import lines, send, until

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
    import random

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
