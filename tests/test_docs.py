"""The documentation: its commands are run, and the options, links and files that it names exist."""

import importlib
import os
import re
import shlex
import subprocess
import sys
import warnings
from datetime import datetime, timedelta, timezone

import pytest

from dht22.report.lines import blocks, check_line, log_at
from support.made import HEADER, START, row, write, write_db
from support.tools import ROOT, bash, copied, lines, needs, until

PAGES = {path.name: path for path in [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]}
TEXT = {name: path.read_text(encoding="utf-8") for name, path in PAGES.items()}
REPORT = ROOT / "report.py"
SCRIPTS = sorted(path.stem for path in ROOT.glob("*.py"))
CALL = re.compile(rf"(?<![\w.])(?:python3|py) ({'|'.join(SCRIPTS)})\.py((?: [^`#|&<>();\n]*)?)")


def fenced(page, language, having=""):
    """Return the one block of a page in a language, or the one that has some words."""
    found = re.findall(rf"^```{language}\n(.*?)^```$", TEXT[page], re.MULTILINE | re.DOTALL)
    (block,) = (block for block in found if having in block)
    return block


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
    """Each block that is marked as code of a language is run, here or in test_docs_readme.py."""
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
    *making, start = fenced("keys.md", "sh").splitlines()
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


ROWS = [row(k * 60_000, 50 + k / 10, name=name) for k in range(61) for name in ("", "attic")]


def test_pandas_keeps_plain_readings(tmp_path, monkeypatch, capsys):
    """And names as they are; what goes on from there goes on."""
    pytest.importorskip("pandas")
    names = "", "attic", "007", "7", "NA", "null"
    rows = [row(k * 60_000, 50 + k / 10, name=name) for k in range(61) for name in names]
    write(tmp_path / "datalog.csv", *rows)
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exec(fenced("formats.md", "python", "hourly") + fenced("formats.md", "python", "grams"), {})
    hourly, daily, grams = re.split("(?m)^sensor.*\n", capsys.readouterr().out)[1:]
    shown = re.findall(r"^(\S+) +2026", hourly, re.MULTILINE)
    assert shown == sorted(["192.168.1.7", *names[1:]])
    assert re.findall(r" 0(\d):00:00\S* +(\d+\.\d)", hourly) == [("0", "52.9"), ("1", "56.0")] * 6
    assert daily.count("20.0\n") == 6
    assert len(re.findall(r" 9\.1\d+\n", grams)) == 6, "20 °C and 53 %: tables say 9.17 g"
    assert (tmp_path / "hourly.csv").read_text().count("\n") == 1 + 12


def test_sql_on_the_csv_and_the_database(tmp_path):
    needs("sqlite3")
    write(tmp_path / "datalog.csv", *ROWS)
    write_db(tmp_path / "datalog.db", *ROWS).close()
    shown = bash(fenced("formats.md", "sh", "avg"), tmp_path)
    assert shown.split() == ["192.168.1.7|53.0", "attic|53.0"] * 2


def test_a_sheet_has_times_that_are_times(tmp_path):
    needs("sqlite3")
    write(tmp_path / "datalog.csv", *ROWS)
    bash(fenced("formats.md", "sh", "sheet.csv"), tmp_path)
    made = lines(tmp_path / "sheet.csv")
    assert made[:2] == [
        "time,client,name,humidity,temperature",
        "2026-11-21 00:00:00,192.168.1.7,,50.0,20.0",
    ]
    assert len(made) == 1 + len(ROWS)


def test_a_csv_goes_into_a_database_of_the_server_and_back(tmp_path, server):
    """The server takes it, and knows the names in it; report.py reads the same from all three."""
    needs("sqlite3")
    server("--count", "1", "--log", "datalog.db").stop()
    write(tmp_path / "datalog.csv", *ROWS)
    bash(fenced("formats.md", "sh", "back.csv"), tmp_path)
    assert lines(tmp_path / "back.csv") == lines(tmp_path / "datalog.csv")
    server("--count", "1", "--log", "datalog.db").stop()
    bash(line_of("formats.md", "sqlite3 datalog.db '.backup"), tmp_path)
    read = [b"".join(blocks(log_at(tmp_path / name))) for name in ("datalog.db", "copy.db")]
    assert read == ["".join(ROWS).encode()] * 2


def test_logs_from_elsewhere_get_times(tmp_path, zone):
    zone("Europe/Berlin")
    (tmp_path / "datalog.txt").write_text("74.30000305175781,25.700000762939453\n65.2,25.0\n")
    (tmp_path / "mine.csv").write_text("when,temp,hum\n21.11.2026 10:00,25.7,74.3\n")
    for words in "course.csv", "mine.csv":
        command = [sys.executable, "-c", fenced("formats.md", "python", words)]
        subprocess.run(command, cwd=tmp_path, check=True)
    made = [row for name in ("course.csv", "old.csv") for row in lines(tmp_path / name)[1:]]
    for line in made:
        check_line(line.encode(), ".csv")  # raises unless it is a row
    assert made == [
        "2026-11-21T09:00:00.000Z,127.0.0.1,,74.3,25.7,",
        "2026-11-21T09:00:02.000Z,127.0.0.1,,65.2,25.0,",
        "2026-11-21T09:00:00.000Z,127.0.0.1,cellar,74.3,25.7,1795251600000000",
    ]


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


def test_telegraf_is_given_the_columns():
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    (tail,) = tomllib.loads(fenced("formats.md", "toml"))["inputs"]["tail"]
    assert ",".join(tail["csv_column_names"]) + "\n" == HEADER
    assert len(tail["csv_column_types"]) == len(tail["csv_column_names"])


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
