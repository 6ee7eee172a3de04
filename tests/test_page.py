"""The page of report.py --live: what it keeps, whom it refuses, and what a browser shows of it."""

import json
import os
import re
import shutil
import signal
import socket
import stat
import time
import urllib.request
from contextlib import closing, contextmanager, suppress
from datetime import datetime, timedelta, timezone

import pytest

pytest.importorskip("pandas")
pytest.importorskip("bokeh")

from bokeh.document import Document  # noqa: E402

import report  # noqa: E402
from dht22.report import page as plots  # noqa: E402
from dht22.report import recent  # noqa: E402
from dht22.report.lines import Chosen, log_at  # noqa: E402
from dht22.report.viewer import Viewer  # noqa: E402
from support.made import MINUTE, START, row, write  # noqa: E402
from support.rotation import ROTATIONS, append  # noqa: E402
from support.tools import missing, send, until  # noqa: E402

QUICK = {"silence.SILENT": 2.0}  # seconds


@pytest.fixture
def clock(monkeypatch):
    """Set the time, in minutes from the start of the rows."""

    def set_clock(minutes):
        monkeypatch.setattr(recent, "now", lambda: START + timedelta(minutes=minutes))

    return set_clock


def kept(log, *names, since=None):
    chosen = Chosen(since, names=frozenset(names))
    return recent.Recent(log_at(log), chosen, lambda line: None)


def times(readings, name="kitchen"):
    """Return the minutes from the start of the rows at which a sensor's readings were taken."""
    sensor = readings.sensors[name]
    start = START.replace(tzinfo=timezone.utc).timestamp() * 1000
    return [(time - start) / MINUTE for time in sensor.rows(0, sensor.count)["time"]]


# What it keeps


def test_what_is_loaded(tmp_path, clock):
    """Of the log and of what rotation left, each row once, from a time on; a torn one not yet."""
    log = tmp_path / "datalog.csv"
    rows = [row(minute * MINUTE) for minute in range(30)]
    write(tmp_path / "datalog.csv.1", *rows[:20])
    os.utime(tmp_path / "datalog.csv.1")
    torn = row(32 * MINUTE, 44.4, -3.0, name="")
    write(log, *rows[15:], "no row\n", row(5 * MINUTE, name="attic"), torn[:-1])
    clock(32)
    readings = kept(log)
    assert times(readings) == list(range(30)) and times(readings, "attic") == [5]
    with log.open("a") as file:
        file.write("\n" + row(33 * MINUTE, 61.5)[:-5])
        file.flush()
        readings.read()
        assert times(readings, "192.168.1.7") == [32] and times(readings)[-1] == 29
        file.write(row(33 * MINUTE, 61.5)[-5:])
    readings.read()
    assert times(readings)[-1] == 33
    assert readings.sensors["kitchen"].latest()[1:] == (61.5, 20.0)
    assert times(kept(log, since=START + timedelta(minutes=22)))[0] == 22
    assert kept(log, "attic").sensors.keys() == {"attic"}


def test_what_comes_late_stands_where_it_belongs(tmp_path, clock):
    clock(30)
    log = write(tmp_path / "datalog.csv", row(0), row(10 * MINUTE))
    readings = kept(log)
    append(log, row(5 * MINUTE), row(11 * MINUTE), row(10 * MINUTE), row(2 * MINUTE))
    readings.read()
    assert times(readings) == [0, 2, 5, 10, 11]
    assert readings.sensors["kitchen"].late == 1
    append(log, row(12 * MINUTE))
    readings.read()
    assert times(readings)[-1] == 12 and readings.sensors["kitchen"].late == 1


def test_what_is_old_is_forgotten(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(recent, "ROOM", 3)
    log = write(tmp_path / "datalog.csv", row(0), row(MINUTE))
    clock(1)
    readings = kept(log, since=START - timedelta(minutes=9))
    most = 0
    for minute in range(2, 60):
        clock(minute)
        append(log, row(minute * MINUTE))
        readings.read()
        assert times(readings)[-10:] == list(range(max(0, minute - 9), minute + 1))
        most = max(most, len(readings.sensors["kitchen"].arrays["time"]))
    assert most < 25


@pytest.mark.parametrize("rotate", ROTATIONS, ids=lambda each: each.__name__)
def test_a_log_that_comes_later_and_is_rotated(tmp_path, clock, rotate):
    clock(30)
    log = tmp_path / "datalog.csv"
    readings = kept(log)
    assert not readings.sensors
    append(log, row(0), row(MINUTE))
    readings.read()
    append(log, row(2 * MINUTE))
    rotate(log)
    append(log, row(3 * MINUTE))
    until(lambda: readings.look() or times(readings) == [0, 1, 2, 3])


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="for root nothing is closed")
def test_a_log_that_cannot_be_read_for_a_while(tmp_path, clock):
    clock(30)
    log = write(tmp_path / "datalog.csv", row(0))
    readings = kept(log)
    log.rename(tmp_path / "datalog.csv.1")
    write(log, row(MINUTE)).chmod(0)
    readings.look()
    assert readings.trouble == f"{log} cannot be read (Permission denied)"
    log.chmod(stat.S_IRUSR)
    until(lambda: readings.look() or times(readings) == [0, 1])
    assert not readings.trouble


def test_dry_air_has_no_dew_point(tmp_path, clock):
    clock(1)
    readings = kept(write(tmp_path / "datalog.csv", row(0, 0.0, 20.0), row(0, 50.0, name="")))
    address, kitchen = Viewer(readings, timezone.utc, Document()).all_tiles()
    assert "dew point 9.3 °C" in address
    assert "dew point - °C" in kitchen


@pytest.mark.parametrize(
    "age, interval, button",  # s, s
    [(0, 2, "10 min"), (0, 60, "1 h"), (3600, 2, "1 d"), (0, 7200, "1 w"), (-86400, 2, "10 min")],
)
def test_the_page_begins_with_a_span_that_shows_something(tmp_path, age, interval, button):
    rows = [recently(age + interval * k) for k in reversed(range(30))]
    readings = kept(write(tmp_path / "datalog.csv", *rows))
    buttons = Viewer(readings, timezone.utc, Document()).buttons
    assert buttons.labels[buttons.active] == button


def test_what_comes_late_is_drawn_where_it_belongs(tmp_path):
    log = write(tmp_path / "datalog.csv", *(recently(60 * k) for k in (9, 8, 7, 2, 1)))
    readings = kept(log)
    seen = Viewer(readings, timezone.utc, Document())
    append(log, recently(300, 77.0))
    readings.look()
    seen.update()
    drawn = seen.plots.lines["kitchen"].sources["humidity"].data
    assert list(drawn["time"]) == sorted(drawn["time"])
    assert [value for value in drawn["value"] if value == value] == [50, 50, 50, 77, 50, 50]


def test_local_times(tmp_path):
    readings = kept(write(tmp_path / "datalog.csv", recently(60), recently(0)))
    seen = Viewer(readings, timezone(timedelta(hours=2)), Document())
    latest, _, _ = readings.sensors["kitchen"].latest()
    drawn = seen.plots.lines["kitchen"].sources["humidity"].data["time"][-1]
    assert drawn == latest + 120 * MINUTE
    assert seen.plots.range.start < drawn < seen.plots.range.end
    assert seen.plots.shown().start < latest < seen.plots.shown().end


@pytest.mark.parametrize("start, end", [(float("nan"), 5), (5, 5), (-1e300, 5), (5, 1e300)])
def test_whatever_a_browser_says_it_shows(tmp_path, start, end):
    seen = Viewer(kept(tmp_path / "datalog.csv"), timezone.utc, Document())
    seen.plots.range.update(start=start, end=end)
    seen.update()
    assert seen.plots.shown()[:2] == (0, plots.SHORTEST)


def test_time_goes_by(tmp_path, clock, monkeypatch):
    """The plots move on with it; a sensor that is read twice an hour is silent after 2.5 hours."""
    rows = [row(30 * minutes * MINUTE) for minutes in range(3)]
    clock(60)
    readings = kept(write(tmp_path / "datalog.csv", *rows))
    minutes = [60]
    monkeypatch.setattr("dht22.report.viewer.now", lambda: START + timedelta(minutes=minutes[0]))
    seen = Viewer(readings, timezone.utc, Document())
    end = seen.plots.shown().end
    for minutes[0], silent in (60, False), (205, False), (215, True):
        seen.update()
        moved, column = seen.plots.shown().end - end, seen.plots.shown().column
        assert moved == pytest.approx((minutes[0] - 60) * MINUTE, abs=column)
        assert ("silent for" in seen.tiles.text) == silent


# Whom it serves


class Page:
    """A page that is served."""

    def __init__(self, running):
        self.running = running
        self.port = int(running.says(r"^http://127\.0\.0\.1:(\d+)/ shows ")[1])
        self.url = f"http://127.0.0.1:{self.port}/"


@pytest.fixture
def page(script):
    """Serve the page of the log in the test's folder."""

    def start(*argv, port=0, **keywords):
        argv = "--live", "--port", port, *argv
        prefix = ["env", "-u", "DISPLAY", "-u", "WAYLAND_DISPLAY"]
        return Page(script("report", *argv, prefix=prefix, **keywords))

    return start


def answer(page, path="/", **headers):
    """Return the status and the text with which the page answers."""
    request = urllib.request.Request(page.url.rstrip("/") + path, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


HANDSHAKE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


@contextmanager
def viewer(page):
    """Look at a page as a browser does, as far as its server can tell."""
    token = re.search(r'"token":"([^"]+)"', answer(page)[1])[1]
    lines = {
        "Host": f"127.0.0.1:{page.port}",
        "Origin": f"http://127.0.0.1:{page.port}",
        **HANDSHAKE,
        "Sec-WebSocket-Protocol": f"bokeh, {token}",
    }
    request = "GET /ws HTTP/1.1\r\n" + "".join(f"{each}: {lines[each]}\r\n" for each in lines)
    with closing(socket.create_connection(("127.0.0.1", page.port), timeout=60)) as sock:
        sock.sendall(request.encode() + b"\r\n")
        assert b" 101 " in sock.recv(1000)
        yield sock


def test_only_its_own_page_may_read(tmp_path, page):
    """Neither another site's, nor one that has given its name to this computer."""
    write(tmp_path / "datalog.csv", row(0))
    served = page()
    here = f"127.0.0.1:{served.port}"
    assert answer(served)[0] == 200
    assert answer(served, Host=f"localhost:{served.port}")[0] == 200
    assert answer(served, Host=f"{socket.gethostname()}.local")[0] == 200
    status, text = answer(served, Host="evil.example")
    assert status == 503 and "another site" in text
    for origin, status in {
        "http://evil.example": 503,
        f"http://{here}": 400,  # taken as far as the handshake, which lacks its token
        "null": 503,
        "": 503,
    }.items():
        assert answer(served, "/ws", Origin=origin, **HANDSHAKE)[0] == status, origin
    proxied = {"X-Forwarded-Host": "house.example", "Origin": "https://house.example"}
    assert answer(served, "/ws", **proxied, **HANDSHAKE)[0] == 400
    assert served.running.stop() == 0
    assert served.running.err.count("\n") == 1


def test_twenty_viewers_and_one_more(tmp_path, page):
    """Everybody can look. None of these reads what it is sent, as a phone in a tunnel."""
    write(tmp_path / "datalog.csv", row(0))
    few = {"report.serve.VIEWERS": 3, "report.serve.PING": 1000}
    served = page("--host", "0.0.0.0", timers=few)
    line = served.running.says("^everybody in your network can look, at (.*)$")[1]
    assert line.endswith(f"http://{socket.gethostname()}.local:{served.port}/")
    with viewer(served), viewer(served):
        with viewer(served):
            status, text = until(lambda: answer(served)[0] == 503 and answer(served))
            assert "<p>3 are looking already. This page tries again in 10 seconds.</p>" in text
            assert 'http-equiv="refresh"' in text
        until(lambda: answer(served)[0] == 200, "room for another")
    assert served.running.stop() == 0
    assert served.running.err.count("\n") == 2


def test_it_ends_at_once_and_has_written_nothing(tmp_path, page):
    folder = tmp_path / "logs"
    folder.mkdir()
    write(folder / "datalog.csv", row(0))
    before = (folder / "datalog.csv").stat()
    served = page(folder / "datalog.csv")
    with viewer(served):
        began = time.monotonic()
        assert served.running.stop(signal.SIGINT) == 0
        assert time.monotonic() - began < 20
    assert served.running.err == f"{served.url} shows {folder}/datalog.csv; Ctrl+C ends it\n"
    assert [each.name for each in folder.iterdir()] == ["datalog.csv"]
    after = (folder / "datalog.csv").stat()
    assert (after.st_mtime_ns, after.st_size) == (before.st_mtime_ns, before.st_size)


@pytest.mark.parametrize(
    "host, reason",
    [
        ("127.0.0.1", "Address already in use"),
        ("192.0.2.1", "Cannot assign requested address"),
        ("no.invalid", ".*"),
    ],
)
def test_where_it_cannot_be_served(capfd, host, reason):
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(SystemExit) as ended:
        port = other.getsockname()[1]
        report.main(["--live", "--host", host, "--port", str(port)])
    assert ended.value.code == 1
    where = rf"report\.py: error: cannot serve the page at {host}:{port}"
    said = capfd.readouterr().err
    assert re.fullmatch(rf"{where} \({reason}\); try --host or --port\n", said), said


def test_without_bokeh(script):
    running = script("report", "--live", setup="import sys; sys.modules['bokeh'] = None")
    assert running.wait() == 1
    assert re.fullmatch(r"report\.py: error: cannot start \(.*bokeh.*\); .*\n", running.err)


# In a browser


OPTIONS = """
    --headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync
    --disable-background-networking --disable-component-update --window-size=1000,1000
"""
FIND = """
const models = () => [...Bokeh.documents[0]._all_models.values()]
const all = (type) => models().filter((each) => each.type == type)
const lines = (name) => all("GlyphRenderer").filter((each) => each.name == name)
const parts = (view) => [...(view.child_views ?? []), ...(view.renderer_views?.values() ?? [])]
const views = (view) => [view, ...parts(view).flatMap(views)]
const roots = () => [...(Bokeh.index[Symbol.iterator] ? Bokeh.index : Object.values(Bokeh.index))]
const view = (type) => roots().flatMap(views).find((each) => each.model.type == type)
"""


class Browser:
    """A browser, and what it shows in its window under way."""

    def __init__(self, driver):
        self.driver = driver

    def open(self, url):
        self.driver.get(url)
        self.wait("Bokeh.documents.length > 0 && Bokeh.documents[0].is_idle")

    def run(self, code):
        """Return the value of an expression in the window; None while the page is being loaded."""
        from selenium.common.exceptions import JavascriptException

        with suppress(JavascriptException):
            return self.driver.execute_script(f"{FIND}\nreturn {code}")

    def wait(self, code):
        """Wait until an expression is true in the window."""
        return until(lambda: self.run(code), code)

    def tiles(self):
        """Return the text of each tile."""
        text = self.run(
            'all("Div").map((each) => each.text).find((each) => each.includes("tiles"))'
        )
        tiles = re.split('<div class="tile ', text)[1:]
        return [" ".join(re.sub("<[^>]*>|^[^>]*>|&[a-z]+;", " ", each).split()) for each in tiles]

    def values(self, name="kitchen"):
        """Return the humidities in a sensor's line."""
        found = self.run(f"[...(lines({name!r})[0]?.data_source.data.value ?? [])]")
        return [round(each, 1) for each in found or [] if each is not None and each == each]

    def asked(self):
        """Return the address of each request since the test began."""
        log = [
            json.loads(each["message"])["message"] for each in self.driver.get_log("performance")
        ]
        sent = [each["params"] for each in log if each["method"] == "Network.requestWillBeSent"]
        return [each["request"]["url"] for each in sent]

    def click(self, x, y):
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).move_by_offset(x, y).click().move_by_offset(-x, -y).perform()

    @contextmanager
    def of_a_phone(self):
        size = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        try:
            yield
        finally:
            self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    def press(self, label):
        """Press one of the buttons of time."""
        number = ["10 min", "1 h", "1 d", "1 w", "1 month", "all"].index(label)
        self.run(f'view("RadioButtonGroup").shadow_el.querySelectorAll("button")[{number}].click()')


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    """Start a browser for all tests of this file; skip where there is none."""
    pytest.importorskip("selenium")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    program = shutil.which("chromium") or shutil.which("google-chrome")
    if not program or not shutil.which("chromedriver"):
        missing("chromium with chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for option in [*OPTIONS.split(), f"--user-data-dir={tmp_path_factory.mktemp('browser')}"]:
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    started = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    yield started
    started.quit()


@pytest.fixture
def browser(driver):
    driver.get("about:blank")
    for log in "performance", "browser":
        driver.get_log(log)  # forgets what was before
    return Browser(driver)


def recently(seconds, *values, **fields):
    """Return the row of a reading that was taken some seconds ago."""
    now = datetime.now(timezone.utc).replace(tzinfo=None) - START
    return row(round((now.total_seconds() - seconds) * 1000), *values, **fields)


def test_a_reading_is_seen_as_it_arrives(tmp_path, server, page, browser):
    """In tile and plot; in two windows; over a rotation; until the sensor falls silent."""
    readings = server()
    served = page(timers=QUICK)
    browser.open(served.url)
    assert browser.tiles() == []
    send(readings.port, b"74.3,25.7")
    sent = time.monotonic()
    until(lambda: browser.tiles() and browser.values("127.0.0.1") == [74.3, 74.3])
    took = time.monotonic() - sent
    assert took < 20, took
    tile = r"127\.0\.0\.1 74\.3 % 25\.7 °C dew point 20\.8 °C \d+ s ago"
    assert re.fullmatch(tile, browser.tiles()[0])
    first = browser.driver.current_window_handle
    browser.driver.switch_to.new_window("window")
    browser.open(served.url)
    (tmp_path / "datalog.csv").rename(tmp_path / "datalog.csv.1")
    send(readings.port, b"75.1,25.9")
    until(lambda: 75.1 in browser.values("127.0.0.1"))
    until(lambda: "75.1 % 25.9 °C" in browser.tiles()[0])
    browser.driver.close()
    browser.driver.switch_to.window(first)
    until(lambda: 75.1 in browser.values("127.0.0.1"))
    # The usual interval becomes next to nothing
    send(readings.port, *(b"%d.0,25.9" % humidity for humidity in range(30, 50)))
    until(lambda: "49.0 % 25.9 °C" in browser.tiles()[0])
    until(lambda: "silent for" in browser.tiles()[0])


def test_report_py_is_killed_and_started_again(tmp_path, page, browser):
    log = write(tmp_path / "datalog.csv", recently(60), recently(30), recently(1))
    quick = "from dht22.report import page; page.TEMPLATE = page.TEMPLATE.replace('> 8', '> 2')"
    served = page(setup=quick)
    browser.open(served.url)
    browser.wait("silence >= 0")  # it was heard
    served.running.process.kill()
    served.running.process.wait()
    browser.wait('!document.getElementById("lost").hidden')
    append(log, recently(0, 61.5))
    page(port=served.port, setup=quick)
    browser.wait('document.getElementById("lost").hidden')
    until(lambda: 61.5 in browser.values())


def test_a_spike_of_one_reading_in_a_month(tmp_path, page, browser):
    """It is there before anyone zooms in, and after; the readings around it are fetched."""
    rows = [recently(60 * k, 99.0 if k == 20_000 else 50 + k % 7 / 10) for k in range(43_000)]
    write(tmp_path / "datalog.csv", *reversed(rows))
    browser.open(page().url)
    browser.press("1 month")
    until(lambda: len(browser.values()) > 2000)
    assert 99.0 in browser.values() and len(browser.values()) < 6000
    spike = 'lines("kitchen")[0].data_source.data'
    moment = browser.run(f"{spike}.time[[...{spike}.value].indexOf(99)]")
    browser.run(f'all("Range1d")[0].setv({{start: {moment} - 1800000, end: {moment} + 1800000}})')
    until(lambda: len(browser.values()) < 200)
    assert 99.0 in browser.values() and len(browser.values()) > 60  # an hour and its margins
    assert browser.run('all("RadioButtonGroup")[0].active') is None


def test_the_legend_hides_a_line(tmp_path, page, browser):
    rows = [recently(k, name=name) for k in range(30) for name in ("attic", "kitchen")]
    write(tmp_path / "datalog.csv", *reversed(rows))
    browser.open(page().url)
    plot = 'view("Legend").parent.el.getBoundingClientRect()'
    box = 'view("Legend").bbox'
    x, y = browser.wait(f"[{plot}.left + {box}.left + 30, {plot}.top + {box}.top + 10]")
    browser.click(round(x), round(y))
    browser.wait('lines("attic").every((each) => !each.visible)')
    assert browser.run(
        'lines("attic").length == 2 && lines("kitchen").every((each) => each.visible)'
    )


def test_a_phone(tmp_path, page, browser):
    """Nothing scrolls sideways; and all that is loaded comes from report.py."""
    names = "kitchen", "x" * 32, "W" * 32, "a.long-name-with-1234567890"
    write(tmp_path / "datalog.csv", *(recently(k, name=name) for k in range(5) for name in names))
    with browser.of_a_phone():
        served = page()
        browser.open(served.url)
        until(lambda: len(browser.tiles()) == len(names))
        browser.wait("document.documentElement.scrollWidth <= 360 && innerWidth == 360")
    events = [
        json.loads(each["message"])["message"] for each in browser.driver.get_log("performance")
    ]
    asked = [each["params"] for each in events if each["method"] == "Network.requestWillBeSent"]
    asked = [each["request"]["url"] for each in asked]
    assert len(asked) >= 3
    assert [url for url in asked if not url.startswith((served.url, "data:", "about:"))] == []
    assert [each for each in browser.driver.get_log("browser") if each["level"] == "SEVERE"] == []


def test_a_file_that_needs_nothing(tmp_path, script, browser):
    rows = [recently(60 * k, name=name) for k in range(20_000) for name in ("attic", "kitchen")]
    write(tmp_path / "datalog.csv", *reversed(rows))
    assert script("report", "--plot", "plots.html").wait() == 0
    assert (tmp_path / "plots.html").stat().st_size < 3_000_000
    browser.open((tmp_path / "plots.html").as_uri())
    assert len(browser.values("attic")) > 1000
    events = [
        json.loads(each["message"])["message"] for each in browser.driver.get_log("performance")
    ]
    asked = [each["params"] for each in events if each["method"] == "Network.requestWillBeSent"]
    assert {each["request"]["url"].partition(":")[0] for each in asked} <= {"file", "data", "about"}


def test_a_file_on_a_phone(tmp_path, script, browser):
    """Its legend has as many columns as there is room for."""
    if not plots.HAS_WINDOW_AXIS:
        pytest.skip("before Bokeh 3.7 the legend stays as it is")
    rows = [recently(k, name=f"{name}{'x' * 20}") for k in range(5) for name in "abcd"]
    write(tmp_path / "datalog.csv", *rows)
    assert script("report", "--plot", "plots.html").wait() == 0
    browser.open((tmp_path / "plots.html").as_uri())
    browser.wait('all("Legend")[0].ncols == 4')
    with browser.of_a_phone():
        browser.wait('all("Legend")[0].ncols == 1')


def test_sensors_that_a_file_has_no_room_for(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(plots, "MOST_LINES", 2)
    write(tmp_path / "datalog.csv", *(row(0, name=name) for name in ("a", "b", "c", "d")))
    monkeypatch.chdir(tmp_path)
    assert report.main(["--plot", "plots.html"]) == 0
    assert "2 sensors are left out of plots.html: --name chooses" in capfd.readouterr().err
