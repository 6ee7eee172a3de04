"""Keys: without one nobody can write into the logs, make a client forget, or disturb a true one."""

import ast
import gzip
import random
import re
import shlex
import socket
import subprocess
import sys
import time

import pytest

from dht22 import datagram
from dht22.datagram import format_ack, format_named
from dht22.keys import read_keys
from support.tools import ATTIC, KITCHEN, ROOT, ask, bash, lines, resident, until, write_keys

START = 1795255202000000


# Attackers


def attacks():
    """Return datagrams and reasons; the attacker has attic's key and saw one of kitchen's."""
    good = format_named("50.0,20.0", "kitchen", START + 10**6, 0.0, KITCHEN)
    body, mac = good[:-33], good[-32:]
    of_attic = format_named("50.0,20.0", "attic", START + 10**6, 0.0, ATTIC)
    return [
        (b"74.3,25.7", "unsigned"),  # plain
        (body, "unsigned"),
        (body + b",", "not a reading"),
        (body + b"," + mac[:31], "not a reading"),
        (body + b"," + mac + b"0", "not a reading"),
        (body + b"," + mac.upper(), "not a reading"),
        (body + b"," + mac + b"," + mac, "not a reading"),
        (body + b"," + b"0" * 32, "wrongly signed"),
        (
            format_named("50.0,20.0", "kitchen", START + 10**6, 0.0, ATTIC),
            "wrongly signed",
        ),  # attic's own key
        (of_attic.replace(b"attic", b"kitchen"), "wrongly signed"),
        (good.replace(b"kitchen", b"attic"), "wrongly signed"),
        (good.replace(b"50.0", b"50.1"), "wrongly signed"),
        (good.replace(b"0.000", b"9.000"), "wrongly signed"),
        (good.replace(b"50.0,", b"50.0, "), "wrongly signed"),
        (datagram.sign(body, KITCHEN, b"0" * 32), "wrongly signed"),  # as an answer is
        (datagram.sign(body, b""), "wrongly signed"),
        (
            datagram.sign(body, KITCHEN.hex().encode()),
            "wrongly signed",
        ),  # the hex digits are not the key
        (format_named("50.0,20.0", "cellar", START, 0.0, KITCHEN), "name without a key"),
        (format_ack("kitchen", START + 10**6, 2, mac, KITCHEN), "not a reading"),
        (datagram.sign(b"74.3,25.7", KITCHEN), "not a reading"),
    ]


def test_only_what_is_signed_with_its_own_key_is_taken_or_answered(server, client, keys, tmp_path):
    running = server("--quiet", "--keys", keys)
    pi = write_keys(tmp_path / "pi", ("kitchen", KITCHEN))
    words = "--interval", 0.02, "--count", 30, "--key", pi, "--spool", "spool"
    true = client(running.port, *words)
    until(lambda: true.out.count("\n") > 3)
    good = format_named("50.0,20.0", "kitchen", START + 10**6, 0.0, KITCHEN)
    flipped = [
        good[:k] + bytes([good[k] ^ 1 << bit]) + good[k + 1 :]
        for k in range(len(good))
        for bit in range(8)
    ]
    table = attacks()
    last = format_named("51.0,20.0", "attic", START, 0.0, ATTIC)
    answers = ask(running.port, *(sent for sent, _ in table), *flipped, last)
    assert answers == [format_ack("attic", START, None, last[-32:], ATTIC)], "and no other"
    assert true.wait() == 0 and running.stop() == 0
    assert true.err.splitlines()[-1] == "closing socket" and len(true.err.splitlines()) == 3, (
        "unharmed"
    )
    logged = [line.split(",")[2:5] for line in lines(tmp_path / "datalog.csv")[1:]]
    assert logged.count(["attic", "51.0", "20.0"]) == 1
    assert [
        ",".join(reading) for name, *reading in logged if name == "kitchen"
    ] == true.out.splitlines()
    refused = {
        line[1]: int(line[0])
        for line in re.findall(r"^refused (\d+): ([^:\n]+)$", running.err, re.MULTILINE)
    }
    assert sum(refused.values()) == len(table) + len(flipped)
    for reason in {reason for _, reason in table}:
        assert refused[reason] >= sum(each == reason for _, each in table)
    assert "duplicates 0 " in running.err


@pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
def test_a_replay_is_a_duplicate_at_once_after_a_new_start_and_after_rotation(
    server, keys, tmp_path, signed
):
    options = ["--quiet", *(["--keys", keys] if signed else [])]
    key, csv = KITCHEN if signed else None, tmp_path / "datalog.csv"
    seen = [format_named(f"5{k}.0,20.0", "kitchen", START + k, 0.0, key) for k in range(5)]
    last = [
        format_ack("kitchen", START + 4, None, question[-32:] if signed else None, key)
        for question in seen
    ]

    def answers(*sent):
        return [ask(running.port, question)[0] for question in sent]

    running = server(*options)
    assert answers(*seen)[-1] == last[-1]
    assert answers(*seen) == last, "which fits no reading but the last: nothing else is freed"
    logged = csv.read_bytes()
    assert running.stop() == 0 and "logged 5 + duplicates 5 " in running.err
    for rotate in [
        lambda: None,
        lambda: csv.rename(tmp_path / "datalog.csv.1"),
        lambda: (
            (tmp_path / "datalog.csv.2.gz").write_bytes(
                gzip.compress((tmp_path / "datalog.csv.1").read_bytes())
            ),
            (tmp_path / "datalog.csv.1").unlink(),
        ),
    ]:
        rotate()
        running = server(*options)
        assert answers(*seen) == last
        assert running.stop() == 0 and "logged 0 + duplicates 5 " in running.err
    assert csv.read_bytes() == logged.splitlines(keepends=True)[0]
    running = server(*options)
    answers(format_named("60.0,20.0", "kitchen", START + 5, 0.0, key))
    csv.rename(tmp_path / "datalog.csv.1")  # under way
    answers(*seen)
    assert running.stop() == 0 and "logged 1 + duplicates 5 " in running.err


def test_a_server_without_keys_refuses_what_is_signed(server, tmp_path):
    running = server("--quiet")
    answers = ask(
        running.port,
        format_named("50.0,20.0", "kitchen", START, 0.0, KITCHEN),
        b"74.3,25.7",
        format_named("51.0,20.0", "attic", START, 0.0),
    )
    assert answers == [b"ack,attic,%d," % START]
    assert running.stop() == 0
    assert "\nrefused 1: signed, and this server has no --keys\n" in running.err
    assert len(lines(tmp_path / "datalog.csv")) == 3


@pytest.mark.parametrize("number", [30_000, pytest.param(1_000_000, marks=pytest.mark.long)])
def test_a_great_number_of_names_is_bounded(server, tmp_path, number):
    dice = random.Random(6)
    running = server("--quiet")
    sizes = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)  # for the answers
        sock.connect(("127.0.0.1", running.port))

        def settle():
            """Wait until the server has come so far: a known name is answered."""
            question = format_named("51.0,20.0", "known", START + sent, 0.0)
            end = time.monotonic()

            def answered():
                nonlocal end
                if time.monotonic() >= end:
                    sock.send(question)
                    end = time.monotonic() + 1
                try:
                    while True:
                        if sock.recv(300) == b"ack,known,%d," % (START + sent):
                            return True
                except BlockingIOError:
                    return False

            until(answered)

        sent = 0
        settle()
        while sent < number:
            for _ in range(1000):
                sock.send(format_named("50.0,20.0", dice.randbytes(16).hex(), START, 0.0))
            sent += 1000
            settle()
            if sent in (15_000, number):
                sizes.append(resident(running))
    print(f"resident after 15,000 names {sizes[0]:.1f} MiB, after {number:,} {sizes[1]:.1f} MiB")
    assert sizes[1] < sizes[0] + 1
    assert running.stop() == 0
    rows = [line.split(",")[2] for line in lines(tmp_path / "datalog.csv")[1:]]
    assert len(set(rows)) == 10_000
    dropped = int(re.search(r"dropped (\d+)$", running.err, re.MULTILINE)[1])
    refused = int(re.search(r"^refused (\d+): too many names$", running.err, re.MULTILINE)[1])
    assert number - dropped <= refused + 9_999 <= number
    assert running.err.count("\n") < 200 + number / 5000, "about a line a second"


# Key files, and what is refused at the start

GOOD = b"kitchen " + b"0a" * 32 + b"\n"
NO_KEY = "line 1 is not `name key`"
KEY_FILES = {  # content, mode: what is wrong, None if nothing is
    (GOOD, 0o600): None,
    (GOOD.rstrip(), 0o400): None,
    (b"kitchen\t" + b"0A" * 32 + b" \r\n", 0o600): None,
    (b"# the kitchen's\n\n \t\n" + GOOD + b"\n#" + GOOD, 0o600): None,
    (GOOD.decode().encode("utf-16"), 0o600): None,  # by > in PowerShell
    (b"\xef\xbb\xbf" + GOOD.replace(b"\n", b"\r\n"), 0o600): None,
    (b"\xff\xfe" + GOOD, 0o600): NO_KEY,
    (GOOD, 0o640): "others can read it: chmod 600 key",
    (GOOD, 0o604): "others can read it: chmod 600 key",
    (GOOD, 0o610): "others can read it: chmod 600 key",
    (b"", 0o600): "there is none in it",
    (b"\n# none\n", 0o600): "there is none in it",
    (b"0a" * 32 + b"\n", 0o600): NO_KEY,
    (b"kitchen " + b"0a" * 31 + b"\n", 0o600): NO_KEY,
    (b"kitchen " + b"0a" * 33 + b"\n", 0o600): NO_KEY,
    (b"kitchen " + b"0g" * 32 + b"\n", 0o600): NO_KEY,
    (b"kitchen=" + b"0a" * 32 + b"\n", 0o600): NO_KEY,
    (b"k\xc3\xbcche " + b"0a" * 32 + b"\n", 0o600): NO_KEY,
    (b"k" * 33 + b" " + b"0a" * 32 + b"\n", 0o600): NO_KEY,
    (b"192.168.1.7 " + b"0a" * 32 + b"\n", 0o600): NO_KEY,
    (GOOD + b"kitchen\n", 0o600): "line 2 is not `name key`",
    (GOOD + b"\n" + GOOD, 0o600): "line 3 is a second key for kitchen",
    (b"\0" * 1000, 0o600): NO_KEY,
}


@pytest.mark.parametrize(
    "content, mode, wrong",
    [(*facts, wrong) for facts, wrong in KEY_FILES.items()],
    ids=lambda fact: ascii(fact)[-30:],
)
def test_key_file(tmp_path, content, mode, wrong):
    (tmp_path / "key").write_bytes(content)
    (tmp_path / "key").chmod(mode)
    if wrong is None:
        assert read_keys(str(tmp_path / "key")) == {"kitchen": b"\x0a" * 32}
    else:
        with pytest.raises(OSError) as raised:
            read_keys(str(tmp_path / "key"))
        key = shlex.quote(str(tmp_path / "key"))
        assert raised.value.strerror == wrong.replace("600 key", f"600 {key}")


def test_the_command_for_a_key_file_can_be_typed_as_it_is(tmp_path):
    path = tmp_path / "my key"
    path.write_bytes(GOOD)
    path.chmod(0o644)
    with pytest.raises(OSError, match="others can read it") as raised:
        read_keys(str(path))
    bash(raised.value.strerror.partition(": ")[2], tmp_path)
    assert read_keys(str(path))


@pytest.mark.parametrize(
    "content, mode",
    [(GOOD, 0o640), (b"", 0o600), (GOOD + b"kitchen\n", 0o600), (b"\0" * 1000, 0o600)],
)
def test_a_key_file_that_is_refused(script, tmp_path, content, mode):
    wrong = KEY_FILES[content, mode]
    (tmp_path / "key").write_bytes(content)
    (tmp_path / "key").chmod(mode)
    server = script("server", "--port", 0, "--keys", "key")
    client = script(
        "client", "127.0.0.1", "--key", "key", "--spool", "spool", "--driver", "simulated"
    )
    assert (server.wait(), client.wait()) == (1, 1)
    assert (
        server.err
        == f"server.py: error: cannot use the keys in key ({wrong}); make them with --new-key\n"
    )
    assert (
        client.err == f"client.py: error: cannot use the key in key ({wrong});"
        " make one with server.py --new-key\n"
    )
    assert not (tmp_path / "datalog.csv").exists() and not (tmp_path / "spool").exists()


@pytest.mark.parametrize(
    "prog, argv, code, error",
    [
        (
            "client",
            ["h", "--key", "two"],
            1,
            "cannot use the key in two (it has several; a Pi needs only its own)",
        ),
        (
            "client",
            ["h", "--key", "none"],
            1,
            "cannot use the key in none (No such file or directory)",
        ),
        (
            "client",
            ["h", "--key", ""],
            1,
            "cannot use the key in  (No such file or directory)",
        ),  # a variable that is unset
        ("client", ["h", "--key", "."], 1, "cannot use the key in . (Is a directory)"),
        (
            "client",
            ["h", "--key", "one", "--name", "attic"],
            2,
            "--name attic differs from the key's, kitchen; leave it",
        ),
        ("client", ["h", "--name", "küche"], 2, "'küche' is not a name"),
        ("client", ["h", "--name", "a,b"], 2, "'a,b' is not a name"),
        ("client", ["h", "--name", "k" * 33], 2, "is not a name"),
        ("client", ["h", "--name", "192.168.1.7"], 2, "'192.168.1.7' is not a name"),
        ("client", ["h", "--key", "address"], 1, "cannot use the key in address (line 1 is not `"),
        ("client", ["h", "--spool", "spool"], 2, "--spool is for a named sensor; give a --name"),
        ("server", ["--keys", "one", "--log", "a.txt"], 2, "--keys needs a .csv or .db log"),
        (
            "server",
            ["--keys", "none"],
            1,
            "cannot use the keys in none (No such file or directory)",
        ),
        ("server", ["--keys", ""], 1, "cannot use the keys in  (No such file or directory)"),
        ("server", ["--new-key", "a b"], 2, "'a b' is not a name"),
        ("server", ["--new-key", ""], 2, "'' is not a name"),
        *[
            (
                "server",
                ["--interval", each],
                2,
                f"{each!r} is not an interval (whole seconds, 2 to 86400)",
            )
            for each in ("1", "0", "86401", "x", "2.5", "", "-2", "1e3", "٢٢", "nan")
        ],
    ],
)
def test_an_error_is_one_line(script, tmp_path, prog, argv, code, error):
    write_keys(tmp_path / "one", ("kitchen", KITCHEN))
    write_keys(tmp_path / "address", ("192.168.1.7", KITCHEN))
    write_keys(tmp_path / "two", ("kitchen", KITCHEN), ("attic", ATTIC))
    others = ["--port", 0] if prog == "server" else ["--driver", "simulated"]
    started = script(prog, *argv, *others)
    assert started.wait() == code, started.err
    assert started.err.startswith(f"{prog}.py: error: ") and error in started.err
    assert started.err.count("\n") == 1 and started.out == ""
    assert not list(tmp_path.glob("datalog*"))


def test_new_keys_are_lines_for_both_sides(script, client, server, tmp_path):
    kitchen, attic = (
        script("server", "--new-key", "kitchen"),
        script("server", "--new-key", "attic"),
    )
    for each, name in (kitchen, "kitchen"), (attic, "attic"):
        assert each.wait() == 0 and each.err == ""
        assert re.fullmatch(rf"{name} [0-9a-f]{{64}}\n", each.out)
    assert kitchen.out.split()[1] != attic.out.split()[1]
    for path, text in ("keys", kitchen.out + attic.out), ("pi", kitchen.out):
        (tmp_path / path).write_text(text)
        (tmp_path / path).chmod(0o600)
    running = server("--keys", "keys")
    words = "--interval", 0, "--key", "pi", "--name", "kitchen", "--spool", "spool", "--count", 3
    sending = client(running.port, *words)
    assert sending.wait() == 0
    assert [line.split()[1:] for line in running.out.splitlines()] == [
        ["kitchen", r] for r in sending.out.split()
    ]


def test_the_server_sets_the_interval_of_named_clients(client, server, tmp_path):
    running = server("--interval", 2)

    def named(name, interval):
        words = "--name", name, "--spool", f"{name}.spool", "--count", 2
        return client(running.port, "--interval", interval, *words)

    slow, fast = named("slow", 3600), named("fast", 0.5)
    plain = client(running.port, "--interval", 0.5, "--count", 3)
    assert [each.wait() for each in (slow, fast, plain)] == [0, 0, 0]
    assert [
        each.err.count("the server sets the interval to 2 s\n") for each in (slow, fast, plain)
    ] == [1, 1, 0]
    seconds = {
        name: [
            float(line.split(",")[0][17:-1])
            for line in lines(tmp_path / "datalog.csv")
            if f",{name}," in line
        ]
        for name in ("slow", "fast")
    }
    for first, second in seconds.values():
        assert abs((second - first) % 60 - 2) < 0.2, "counted from its last reading"


# MACs are compared in constant time


def compared(source):
    """Return the lines in which an operator compares something called mac or digest."""

    def names(node):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("bool", "len")
        ):
            return
        if isinstance(node, (ast.Name, ast.Attribute)):
            yield node.id if isinstance(node, ast.Name) else node.attr
        for child in ast.iter_child_nodes(node):
            yield from names(child)

    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Compare)
        and not isinstance(node.comparators[0], ast.Constant)
        and any(re.search("mac|digest", name) for name in names(node))
    ]


@pytest.mark.parametrize(
    "line, found",
    [
        ("mac == mac_of(body, key)", True),
        ("named.mac != mac", True),
        ("mac_of(body, key) in self.sends", True),
        ("hmac.new(key, body).hexdigest() == mac", True),
        ("digest is not mac", True),
        ("bool(ack.mac) != bool(self.key)", False),
        ("mac is None", False),
        ("hmac.compare_digest(mac, mac)", False),
        ("named.name not in self.keys", False),
    ],
)
def test_the_check_below_can_fail(line, found):
    assert bool(compared(line)) == found


@pytest.mark.parametrize(
    "path", sorted([*ROOT.glob("*.py"), *ROOT.glob("dht22/**/*.py")]), ids=lambda path: path.name
)
def test_macs_are_compared_by_compare_digest_only(path):
    assert compared(path.read_text()) == []


def test_macs_are_made_and_compared_in_one_place():
    users = {
        path.name
        for path in [*ROOT.glob("*.py"), *ROOT.glob("dht22/**/*.py")]
        if re.search(r"\bhmac\b|compare_digest|mac_of", path.read_text())
    }
    assert users == {"datagram.py"}
    assert (ROOT / "dht22" / "datagram.py").read_text().count(
        "return hmac.compare_digest(mac_of("
    ) == 1


def test_a_client_with_a_key_has_loaded_what_signs_before_it_reads(tmp_path):
    """On a Pi that takes a second: the age of the first reading would be too small by it."""
    code = (
        "import sys\nfrom dht22.pi import delivery, spool\n"
        "for key in None, bytes(32):\n"
        "    waiting = spool.Spool(sys.argv[1] + str(key is None))\n"
        "    delivery.NamedSender(None, 'kitchen', key, 2.0, waiting)\n"
        "    print('hmac' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "spool"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
    )
    assert done.stdout == b"False\nTrue\n"
