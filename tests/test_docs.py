"""The documentation: its commands are run, and the options, links and files that it names exist."""

import importlib
import os
import re
import shlex
import subprocess
import sys
from datetime import datetime, timedelta, timezone

import pytest

from support.made import START, row, write
from support.tools import ROOT, bash, copied, lines, needs, until

PAGES = {path.name: path for path in [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]}
TEXT = {name: path.read_text(encoding="utf-8") for name, path in PAGES.items()}
REPORT = ROOT / "report.py"
SCRIPTS = sorted(path.stem for path in ROOT.glob("*.py"))
CALL = re.compile(rf"(?<![\w.])(?:python3|py) ({'|'.join(SCRIPTS)})\.py((?: [^`#|&<>();\n]*)?)")


def line_of(page, pattern):
    """Return the line of a page's code that matches."""
    return re.search(rf"^ +(?:\$ )?({pattern}.*)$", TEXT[page], re.MULTILINE)[1]


def calls(text):
    """Return each call of a script: {"client 192.168.1.5": ("client", ["192.168.1.5"])}."""
    found = {}
    for script, rest in CALL.findall(text):
        arguments = shlex.split(rest.replace("datalog.csv*", "datalog.csv"))
        found[" ".join([script, *arguments])] = script, arguments
    return found


CALLS = calls("\n".join(TEXT.values()))


def calls_of(script):
    found = [arguments for name, arguments in CALLS.values() if name == script]
    return pytest.mark.parametrize("arguments", found, ids=" ".join)


@pytest.mark.parametrize("script, arguments", CALLS.values(), ids=CALLS)
def test_each_call_is_understood(script, arguments):
    importlib.import_module(script).get_parser().parse_args(arguments)


@pytest.mark.parametrize("page", PAGES)
def test_each_option_that_is_named_exists(page):
    """Of `server.py --interval 60` and the like."""
    for script, rest in re.findall(rf"`({'|'.join(SCRIPTS)})\.py( [^`\n]*)`", TEXT[page]):
        known = importlib.import_module(script).get_parser().format_help()
        for option in re.findall(r"(?<!\S)--[a-z-]+", rest):
            assert re.search(rf"{option}\b", known), f"{script}.py has no {option}"


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_tables_of_options_are_those_of_help(script):
    table = re.search(rf"^\| `{script}\.py.*?(?:\n\n|\Z)", TEXT["options.md"], re.M | re.S)[0]
    listed = set(re.findall(r"`(--[a-z-]+)", table)) | {"--help", "--version"}
    known = importlib.import_module(script).get_parser().format_help()
    assert listed == set(re.findall(r"^  (?:-\w, )?(--[a-z-]+)", known, re.MULTILINE))


@pytest.mark.parametrize("name", SCRIPTS)
def test_version(script, name):
    running = script(name, "--version")
    assert running.wait() == 0
    assert re.fullmatch(rf"{name}\.py \d+\.\d+\.\d+\n", running.out)


def anchors(page):
    headings = re.findall("^#+ (.*)$", TEXT[page], re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", TEXT[page]):
        path = PAGES[page].parent / target
        assert path.exists(), target
        assert not anchor or anchor in anchors(path.name), f"{target}#{anchor}"


@pytest.mark.parametrize("page", PAGES)
def test_files_that_are_named_exist(page):
    folders = r"bench|deploy|dht22|docs|tests|\.ci|\.github"
    for path in re.findall(rf"(?<![\w./])((?:{folders})/[\w@./-]*\w)", TEXT[page]):
        if re.match("dht22/(reading|state|status)/", path):  # a topic
            continue
        assert (ROOT / path).exists(), path


def test_each_page_is_linked_from_the_readme():
    linked = re.findall(r"\]\(docs/([\w-]+\.md)", TEXT["README.md"])
    assert set(linked) == PAGES.keys() - {"README.md"}


def test_what_was_not_tried_is_told_once():
    words = " ".join(" ".join(TEXT.values()).split())
    assert words.count("real Pi") == words.count("Nothing was tried on a real Pi") == 1


# What can be run here is run. Only addresses and ports are replaced, and the sensor is simulated.


def simulated(port, *options):
    return [
        *["127.0.0.1", *options, "--port", port],
        *["--driver", "simulated", "--interval", "0", "--count", "1"],
    ]


def test_no_block_is_forgotten():
    """Each block that is marked as code of a language is run, here or in test_docs_*.py."""
    marked = {page: re.findall(r"^```(\w+)$", text, re.MULTILINE) for page, text in TEXT.items()}
    marked.pop("publish.md", None)  # needs a broker: test_publish.py
    assert {page: blocks for page, blocks in marked.items() if blocks} == {
        "README.md": ["sh", "sh"],
        "formats.md": ["python", "python", "sh", "sh", "toml", "python", "python", "sh"],
        "keys.md": ["sh"],
    }


@calls_of("client")
def test_each_client_sends(server, script, tmp_path, arguments):
    keys = []
    if "--key" in arguments:
        made = script("server", "--new-key", "kitchen")
        assert made.wait() == 0
        keys = ["--keys", arguments[arguments.index("--key") + 1]]
        (tmp_path / keys[1]).write_text(made.out)
        (tmp_path / keys[1]).chmod(0o600)
    started = server("--count", "1", *keys)
    state = {"XDG_STATE_HOME": str(tmp_path)}
    client = script("client", *simulated(started.port, *arguments[1:]), env=state)
    assert client.wait() == started.wait() == 0
    assert len(lines(tmp_path / "datalog.txt")) == 1


@calls_of("dht_read")
def test_each_check_of_the_sensor_reads(script, arguments):
    assert script("dht_read", *arguments, "--driver", "simulated").wait() == 0


def test_both_keys_are_made_and_accepted(tmp_path, server, script):
    *making, start = re.search("^```sh\n(.*?)^```$", TEXT["keys.md"], re.M | re.S)[1].splitlines()
    bash("\n".join(making), copied(tmp_path))
    ((_, arguments),) = calls(start).values()
    started = server("--count", "2", *arguments)
    for name in "kitchen", "attic":
        options = ["--key", f"{name}.key", "--spool", name]
        assert script("client", *simulated(started.port, *options)).wait() == 0
    assert started.wait() == 0
    names = [line.split(",")[2] for line in lines(tmp_path / "datalog.csv")]
    assert names == ["name", "kitchen", "attic"]


def test_anything_can_send_a_reading(tmp_path, server):
    needs("nc")
    started = server("--count", "1")
    command = line_of("formats.md", "printf")
    bash(command.replace("192.168.1.5 10001", f"127.0.0.1 {started.port}"), tmp_path)
    assert started.wait() == 0
    assert lines(tmp_path / "datalog.txt") == ["74.3,25.7"]


def test_a_tcp_client_reaches_the_server_through_socat(tmp_path, server):
    needs("socat", "nc")
    started = server("--count", "1")
    relay = line_of("from-the-course.md", "socat").replace("10001", str(started.port))
    ask = line_of("from-the-course.md", "printf")
    said = tmp_path / "socat.err"
    with (
        said.open("wb") as err,
        subprocess.Popen(
            ["socat", "-d", "-d", *shlex.split(relay.replace("LISTEN:1234", "LISTEN:0"))[1:]],
            stderr=err,
        ) as running,
    ):
        try:
            port = until(lambda: re.search(r"listening on .*:(\d+)", said.read_text()))[1]
            ask = ask.replace("192.168.1.5 1234", f"127.0.0.1 {port}")
            assert bash(ask, tmp_path) == "ack,kitchen,1795255202123456,"
            assert started.wait() == 0
        finally:
            running.kill()
    rows = [line.split(",")[1:5] for line in lines(tmp_path / "datalog.csv")[1:]]
    assert rows == [["127.0.0.1", "kitchen", "74.3", "25.7"]]


def test_the_alarms_come_once(tmp_path):
    """As cron runs them: by mail, which is what they print, and by curl, which fails at first."""
    home = tmp_path / "home"
    home.mkdir()
    sent = home / "curl"
    sent.write_text("#!/bin/sh\ntest -e ~/network && cat ~/dht22.now >>~/sent\n")
    sent.chmod(0o755)
    mail, curl = re.findall(r"^ +\*/10 \* \* \* \* (.*report\.py.*)$", TEXT["looking.md"], re.M)
    environment = {**os.environ, "HOME": str(home), "PATH": f"{home}:{os.environ['PATH']}"}

    def cron(command, temperature):
        ms = (datetime.now(timezone.utc).replace(tzinfo=None) - START) // timedelta(milliseconds=1)
        write(tmp_path / "datalog.csv", row(ms, 60, temperature, name="freezer"))
        command = command.replace("/var/lib/dht22", shlex.quote(str(tmp_path)))
        command = command.replace("python3 /opt/dht22/report.py", f"'{sys.executable}' '{REPORT}'")
        done = subprocess.run(["sh", "-c", command], env=environment, capture_output=True)
        assert done.stderr == b""
        return done.stdout.decode()

    told = [cron(mail, temperature) for temperature in (-20, -10, -9, -20, -8)]
    assert [": temperature outside -40..-15\n" in each for each in told] == [0, 1, 0, 0, 1]
    assert [each for each in told if "outside" not in each] == [""] * 3
    assert cron(curl, -10) == "" and not (home / "sent").exists(), "no network"
    (home / "network").touch()
    assert [cron(curl, temperature) for temperature in (-10, -9, -20, -8)] == [""] * 4
    assert len(lines(home / "sent")) == 2


@calls_of("report")
def test_each_report_is_made(tmp_path, monkeypatch, capfd, arguments):
    if "--live" in arguments:
        pytest.skip("it serves a page until Ctrl+C")
    if "--last" not in arguments:
        pytest.importorskip("pandas")
    name = arguments[arguments.index("--name") + 1] if "--name" in arguments else "attic"
    now = (datetime.now(timezone.utc).replace(tzinfo=None) - START) // timedelta(milliseconds=1)
    october = -30 * 86_400_000
    rows = [row(ms + k, 50, -20, name) for ms in (october, now) for k in (-60_000, 0)]
    write(tmp_path / "datalog.csv", *rows)
    monkeypatch.chdir(tmp_path)
    assert importlib.import_module("report").main(arguments) == 0
    assert name in capfd.readouterr().out
