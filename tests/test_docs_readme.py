"""The README: what it shows is run here, and it stays short."""

import re

import pytest

from support.tools import ROOT, bash, copied, lines

README = (ROOT / "README.md").read_text(encoding="utf-8")
HEADINGS = [
    "Try it",
    "On the Pi",
    "Troubleshooting",
    "The logs",
    "Going further",
    "What it does not do",
    "Test it",
]
ALARMING = re.compile("error|refused|cannot|nothing listens|no route|Traceback|Terminated", re.I)


def block(heading):
    """Return the first code block under a heading."""
    return re.search(rf"^## {heading}$.*?^```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)[1]


def test_it_is_short_and_in_order():
    assert README.count("\n") <= 170
    assert max(map(len, README.splitlines())) <= 110
    assert re.findall("^## (.*)$", README, re.MULTILINE) == HEADINGS


@pytest.mark.parametrize("heading", ["Try it", "Test it"])
def test_each_can_be_pasted_whole(heading):
    assert block(heading).replace("\\\n", "").count("\n") == 1


def test_try_it_ends_with_readings_in_the_logs(tmp_path):
    folder = copied(tmp_path)
    # Until the server is there, which takes more than a second on a busy machine.
    patient = "#!/bin/sh\nuntil [ -e datalog.csv ]; do /bin/sleep 0.1; done\n"
    (folder / "bin" / "sleep").write_text(patient)
    (folder / "bin" / "sleep").chmod(0o755)
    output = bash(block("Try it"), folder)
    readings = lines(tmp_path / "datalog.txt")
    assert len(readings) == 5
    assert all(re.fullmatch(r"\d{1,3}\.\d,-?\d{1,2}\.\d", reading) for reading in readings)
    rows = [row.split(",") for row in lines(tmp_path / "datalog.csv")[1:]]
    assert [",".join(row[3:5]) for row in rows] == readings
    assert {row[1] for row in rows} == {"127.0.0.1"}
    assert output.endswith("\n".join(readings) + "\n"), "the log comes last"
    assert "closing socket" in output
    assert not ALARMING.search(output)


def test_the_two_terminals_show_what_is_true(server, script, tmp_path):
    started = server("--count", "1")
    client = script(
        *["client", "127.0.0.1", "--driver", "simulated", "--port", started.port, "--count", "1"]
    )
    assert client.wait() == started.wait() == 0
    said = started.err + started.out + client.err + client.out
    said = said.replace(str(tmp_path), "/home/you/logger")
    section = README[README.index("## Try it") : README.index("## On the Pi")]
    shown = re.findall("^    ([^$].*)$", section, re.MULTILINE)
    assert len(shown) == 6
    for line in shown:  # but for the address of this machine
        assert masked(line.partition(" 192.")[0]) in masked(said)


def masked(text):
    """Return a text in which all numbers, times and addresses are alike."""
    return re.sub(r"\d+(\.\d+)*", "0", text)


def test_what_is_copied_to_the_pi_is_enough(tmp_path, desktop):
    home = tmp_path / "pi"
    home.mkdir()
    command = re.search(r"^ +(scp -r .*) \S+:$", README, re.MULTILINE)[1]
    bash(command.replace("scp", "cp") + " ../pi", copied(tmp_path / "desktop"))
    python, port = "../desktop/bin/python3", desktop.getsockname()[1]
    bash(f"{python} dht_read.py --driver simulated", home)
    bash(f"{python} client.py 127.0.0.1 --port {port} --driver simulated --count 1", home)
    assert re.fullmatch(rb"[\d.]+,[\d.]+", desktop.recv(300))


@pytest.mark.parametrize(
    "before, kept",
    [
        ("arm_64bit=1\n", "arm_64bit=1\n"),
        ("arm_64bit=1", "arm_64bit=1"),  # no line end
        ("x=1\n[pi5]\ny=1\n", "x=1\n[pi5]\ny=1\n"),  # what follows holds for a Pi 5 alone
        ("[pi5]\ny=1\ndtoverlay=dht11,gpiopin=11\n", "[pi5]\ny=1\n"),
        ("dtoverlay=dht11,gpiopin=11\nx=1\n", "x=1\n"),
    ],
)
def test_the_line_in_config_txt_holds_for_every_pi_however_often_it_is_typed(
    tmp_path, before, kept
):
    command = re.search(r"^ +sudo (sed -i (?:.*\\\n)?.*) /boot/firmware/config.txt$", README, re.M)[
        1
    ]
    (tmp_path / "config.txt").write_text(before)
    for _ in range(2):
        bash(f"{command} config.txt", tmp_path)
        config = (tmp_path / "config.txt").read_text()
        assert config == "dtoverlay=dht11,gpiopin=11\n" + kept


def test_test_it_is_what_ci_runs():
    assert "README.md" in (ROOT / ".ci/run").read_text()
    assert "pytest" in block("Test it")
