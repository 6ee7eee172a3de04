"""publish.py at a real mosquitto: what arrives, and what is reported when something is wrong."""

import json
import os
import re
import signal
import socket
import subprocess
import time

import pytest

from support.brokers import FAST, KEEPING, PATIENT, Way
from support.made import START, row
from support.rotation import append, copy_and_truncate, rename_and_pack
from support.tools import free_port, needs, until


def now(k=0):
    """Return the milliseconds from the start of made logs to now, and k seconds more."""
    return int((time.time() - START.timestamp() + time.timezone + k) * 1000)


def test_readings_states_discovery_status(publish, broker, subscriber, log):
    heard = subscriber(broker)
    first = now(-2)
    append(log, row(0, name="attic"), row(first), row(first + 1, name=""))
    running = publish(broker.url, "--all", "--id", "me")
    payloads = heard.wait_for("/reading/", 3)
    assert heard.rows() == [row(0, name="attic"), row(first), row(first + 1, name="")]
    assert "name" not in payloads[2] and "n" not in payloads[2]
    heard.wait_for("/state/", 4)
    assert {payload["client"] for payload in heard.payloads("/state/192-168-1-7-")} == {
        "192.168.1.7"
    }
    assert heard.payloads("/state/kitchen")[0] == payloads[1]
    assert heard.payloads("/state/attic") == [], "a backlog does not pass as now"
    assert len(heard.payloads("homeassistant/sensor/dht22_kitchen/")) == 2
    assert heard.payloads("dht22/status/me") == ["online"]
    assert running.stop() == 0
    assert heard.wait_for("dht22/status/me", 2) == ["online", "offline"]
    assert re.fullmatch(
        r"publishing datalog.csv from its beginning on\n"
        rf"connected to 127.0.0.1:{broker.port} \(MQTT 5\)\n3 readings published\n",
        running.err,
    )
    assert running.out == ""


def test_killed_it_is_offline(publish, broker, subscriber, log):
    heard = subscriber(broker)
    append(log, row(0))
    running = publish(broker.url, "--id", "me")
    heard.wait_for("/status/", 1)
    running.process.kill()
    assert heard.wait_for("/status/", 2) == ["online", "offline"]


def test_first_start_begins_at_the_end_and_the_next_where_it_was_left(
    publish, broker, subscriber, log
):
    heard = subscriber(broker)
    append(log, row(0), row(1))
    running = publish(broker.url)
    running.says("^publishing datalog.csv from its end on$")
    append(log, row(2))
    heard.wait_for_rows([row(2)])
    assert running.stop() == 0
    append(log, row(3))
    running = publish(broker.url, "--all", "--once")
    assert running.wait() == 0
    assert "from where it was left on" in running.err
    assert heard.rows() == [row(2), row(3)]


def test_once(publish, mosquitto, subscriber, log):
    broker = mosquitto(*PATIENT)
    heard = subscriber(broker)
    append(log, *map(row, range(3000)))
    rename_and_pack(log)
    append(log, row(3000))
    running = publish(broker.url, "--once", "--all")
    assert running.wait() == 0
    assert heard.rows() == [row(k) for k in range(3001)]
    assert "3001 readings published" in running.err
    again = publish(broker.url, "--once", "--all")
    again.says("^--all is for the first start: to publish all again, remove datalog.publish$")
    assert again.wait() == 0
    assert "0 readings published" in again.err


def test_log_not_there_yet_rotated_and_removed(publish, broker, subscriber, log):
    heard = subscriber(broker)
    running = publish(broker.url)
    running.says("^datalog.csv is not there yet; ")
    for k, go in enumerate([rename_and_pack, copy_and_truncate, os.remove]):
        append(log, row(2 * k))
        heard.wait_for_rows([row(2 * k)])
        append(log, row(2 * k + 1))
        go(log)
        for path in log.parent.glob("datalog.csv.1*"):
            path.rename(f"{path}.{k}")
    append(log, row(6))
    heard.wait_for_rows([row(6)])
    assert heard.rows() == [row(k) for k in range(7)]
    assert running.stop() == 0


def test_an_address_of_ipv6_is_shown_apart_from_its_port(publish, log):
    port = free_port()
    running = publish(f"mqtt://[::1]:{port}", "--all")
    running.says(rf"^cannot connect to \[::1\]:{port} ")
    assert running.stop() == 0


def test_broker_away_at_the_start_and_later(publish, mosquitto, subscriber, log):
    broker = mosquitto(*KEEPING)
    heard = subscriber(broker)
    broker.stop()
    append(log, *map(row, range(10)))
    running = publish(broker.url, "--all")
    running.says(rf"^cannot connect to 127.0.0.1:{broker.port} \(.*Connection refused\); does a ")
    expected = 10
    for _ in range(2):
        broker.start()
        heard.wait_for_rows([row(k) for k in range(expected)])
        broker.stop(signal.SIGKILL)
        append(log, *map(row, range(expected, expected + 10)))
        expected += 10
    broker.start()
    heard.wait_for_rows([row(k) for k in range(expected)])
    assert running.stop() == 0
    assert len(re.findall("^cannot connect", running.err, re.M)) <= 3, "once each time"
    assert len(re.findall("^connected to", running.err, re.M)) == 3


def test_broker_stopped_and_continued(publish, broker, subscriber, log):
    heard = subscriber(broker)
    running = publish(broker.url, timers={**FAST, "publish.broker.ANSWERS_WITHIN": 0.3})
    running.says("^connected")
    broker.process.send_signal(signal.SIGSTOP)
    append(log, *map(row, range(300)))
    running.says(r"^lost .* \(no answer for 0 s\); ")
    broker.process.send_signal(signal.SIGCONT)
    heard.wait_for_rows([row(k) for k in range(300)])
    assert running.stop() == 0


def test_connection_cut_in_the_middle_of_a_packet(publish, mosquitto, subscriber, log):
    broker = mosquitto(*PATIENT)
    heard = subscriber(broker)
    append(log, *map(row, range(3000)))
    cuts = [700 + 1237 * k for k in range(10)]
    way = Way(broker.port, cuts)
    running = publish(way.url, "--all", "--no-discovery")
    heard.wait_for_rows([row(k) for k in range(3000)])
    assert running.stop() == 0
    assert way.cuts == []
    assert len(re.findall("^lost", running.err, re.M)) == 10


def test_broker_of_mqtt_311(publish, broker, subscriber, log):
    heard = subscriber(broker)
    append(log, row(0))
    running = publish(Way(broker.port, old=True).url, "--all")
    heard.wait_for_rows([row(0)])
    running.says(r"^connected to .* \(MQTT 3.1.1\)\nby MQTT 3.1.1 a broker does not tell")
    assert running.stop() == 0
    assert "cannot connect" not in running.err


def test_home_assistant_that_has_started_is_told_again(publish, broker, subscriber, log):
    heard = subscriber(broker)
    append(log, row(now(-1)))
    running = publish(broker.url, "--all")
    heard.wait_for("/state/", 1)
    assert len(heard.wait_for("homeassistant/sensor/", 2)) == 2
    sent = len(heard.payloads("/state/"))
    tell = ["mosquitto_pub", "-p", str(broker.port), "-t", "homeassistant/status", "-m"]
    subprocess.run([*tell, "offline"], check=True)
    subprocess.run([*tell, "online"], check=True)
    heard.wait_for("homeassistant/sensor/", 4)
    heard.wait_for("/state/", sent + 1)
    assert running.stop() == 0
    assert heard.payloads("/reading/") == [heard.payloads("/state/")[0]], "once, as before"


def test_after_a_restart_the_sensors_are_known_from_the_log(publish, broker, subscriber, log):
    heard = subscriber(broker)
    append(log, *(row(now(60 * k)) for k in (-120, -90, -60, -30)))
    running = publish(broker.url)
    config = heard.wait_for("homeassistant/sensor/", 2)[0]
    assert config["expire_after"] == 5400
    assert heard.wait_for("/state/", 1)[0]["name"] == "kitchen"
    assert running.stop() == 0
    assert heard.payloads("/reading/") == []


def test_sensors_that_are_announced_are_bounded(publish, mosquitto, subscriber, log):
    """Somebody sends from many addresses; what is announced for him goes again."""
    broker = mosquitto(*PATIENT)
    heard = subscriber(broker, topic="homeassistant/#")
    append(
        log, *(row(now(k), name="").replace(".1.7,", f".{k % 250}.{k // 250},") for k in range(900))
    )
    running = publish(broker.url, "--all", timers={**FAST, "publish.messages.ANNOUNCED": 5})
    append(log, *(row(now(k % 3), name="").replace(".1.7,", f".9.{k // 3},") for k in range(60)))
    running.says("^5 sensors are announced, and no more: not ")
    append(log, *(row(now(), name=name) for name in ("kitchen", "attic")))
    heard.wait_for("dht22_attic", 2)
    assert running.stop() == 0
    there = {}
    for topic, payload in heard.messages():
        there[topic] = payload
    assert sum(payload != "" for payload in there.values()) == 2 * 5


CONNACK = b"\x20\x03\x00\x00\x00"  # of MQTT 5, without properties
CONNACK_1_S = b"\x20\x06\x00\x00\x03\x13\x00\x01"  # with a keepalive of its own


def answered(listener, connack, packet):
    """Let a client connect until it has sent this packet; return it from there, and the socket."""
    listener.settimeout(20)
    while True:
        broker, _ = listener.accept()
        broker.settimeout(20)
        broker.recv(4096)
        broker.sendall(connack)
        sent = b""
        while some := broker.recv(4096):
            sent += some
            if packet in sent:
                return sent[sent.index(packet) :], broker
        broker.close()


def test_keepalive_that_the_broker_asks_for(publish, log):
    """paho-mqtt 2.1.0 does not keep to it by itself."""
    append(log, row(0))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        running = publish(f"mqtt://127.0.0.1:{listener.getsockname()[1]}")
        pingreq = b"\xc0\x00"  # within 20 s; of itself it would come after 30 s
        answered(listener, CONNACK_1_S, pingreq)[1].close()
    running.process.kill()
    assert "lost" not in running.err and "cannot" not in running.err


def test_subscription_that_is_refused_is_told(publish, log):
    append(log, row(0))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        running = publish(f"mqtt://127.0.0.1:{listener.getsockname()[1]}")
        subscribe, broker = answered(listener, CONNACK, b"\x82")
        with broker:
            broker.sendall(b"\x90\x04" + subscribe[2:4] + b"\x00\x87")
            running.says(
                r"^refused homeassistant/status \(Not authorized\); "
                r"may the user subscribe to homeassistant/status\?$"
            )
    running.process.kill()


def test_the_next_broker_of_a_list(publish, mosquitto, subscriber, log):
    brokers = [mosquitto(*KEEPING), mosquitto()]
    heard = [subscriber(each) for each in brokers]
    append(log, row(0))
    running = publish(*[each.url for each in brokers], "--all")
    heard[0].wait_for_rows([row(0)])
    brokers[0].stop(signal.SIGKILL)
    append(log, row(1))
    heard[1].wait_for_rows([row(1)])
    brokers[1].stop(signal.SIGKILL)
    append(log, row(2))
    brokers[0].start()
    running.says(rf"connected to 127.0.0.1:{brokers[0].port} [^$]*" * 2)
    heard[0].wait_for_rows([row(2)])
    assert running.stop() == 0


def test_password(publish, mosquitto, subscriber, log, tmp_path):
    needs("mosquitto_passwd")
    passwords = tmp_path / "passwords"
    subprocess.run(["mosquitto_passwd", "-b", "-c", passwords, "ann o", "s:e cret"], check=True)
    broker = mosquitto("allow_anonymous false", f"password_file {passwords}")
    heard = subscriber(broker, "-u", "ann o", "-P", "s:e cret")
    url = broker.url.replace("//", "//ann%20o@")
    append(log, row(0))
    in_powershell = "s:e cret\r\n".encode("utf-16")  # by >
    for number, content in enumerate([b"s:e cret\n", b"wrong", in_powershell]):
        password = tmp_path / f"password{number}"
        password.write_bytes(content)
        password.chmod(0o600)
    wrong = publish(url, "--all", "--state", "wrong", "--password-file", "password1")
    none = publish(broker.url, "--all", "--state", "none")
    told = r"^cannot connect to .* \(Not authorized\); check the user in the URL, the password"
    for running in wrong, none:
        running.says(told)
    once = publish(url, "--all", "--once", "--state", "c", "--password-file", "password1")
    assert once.wait() == 1, "it would be refused for ever"
    assert re.search(told, once.err, re.MULTILINE)
    assert heard.rows() == []
    running = publish(url, "--all", "--once", "--password-file", "password0", "--id", "a")
    again = publish(url, "--all", "--once", "--state", "b", env={"MQTT_PASSWORD": "s:e cret"})
    third = publish(url, *["--all", "--once", "--state", "c", "--password-file", "password2"])
    assert running.wait() == again.wait() == third.wait() == 0
    assert heard.wait_for_rows([row(0)] * 3) == [row(0)] * 3
    for running in wrong, none:
        assert running.stop() == 0
        assert len(re.findall(told, running.err, re.M)) == 1, "told once"


def test_refused_readings_wait_in_the_log(publish, mosquitto, subscriber, log, tmp_path):
    rights = tmp_path / "acl"
    rights.write_text("topic read #\ntopic write dht22/status/#\n")
    broker = mosquitto("allow_anonymous true", f"acl_file {rights}")
    heard = subscriber(broker)
    append(log, *map(row, range(50)), row(now()))
    running = publish(broker.url, "--all")
    running.says(
        r"^refused dht22/reading/kitchen \(Not authorized\); readings wait in the log; "
        r"may the user publish to dht22/#\?$"
    )
    until(lambda: broker.log.read_text().count("Denied PUBLISH") > 100, "further tries")
    assert heard.rows() == []
    with rights.open("a") as file:
        file.write("topic write dht22/reading/#\n")
    broker.process.send_signal(signal.SIGHUP)
    heard.wait_for_rows([row(k) for k in range(50)])
    running.says(
        r"^refused homeassistant/sensor/.* \(Not authorized\); may the user publish to home"
    )
    running.says(
        r"^refused dht22/state/kitchen \(Not authorized\); may the user publish to dht22/#"
    )
    append(log, row(51))
    heard.wait_for_rows([row(51)])
    assert running.stop() == 0
    assert running.err.count("refused") == 3, "once each"
    assert running.err.count("connected") == 1


@pytest.fixture
def certificates(tmp_path):
    """Make a CA, and with it a certificate for localhost and one for a client."""
    needs("openssl")

    def openssl(*words):
        subprocess.run(["openssl", *words], cwd=tmp_path, check=True, stderr=subprocess.DEVNULL)

    new = ["req", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    signs = "-x509", "-days", "9", "-addext", "keyUsage=critical,keyCertSign"
    openssl(*new, *signs, "-subj", "/CN=CA", "-keyout", "ca.key", "-out", "ca.pem")
    for name in "localhost", "client":
        openssl(*new, *f"-subj /CN={name} -keyout {name}.key -out {name}.csr".split())
        (tmp_path / "extensions").write_text(
            f"subjectAltName=DNS:{name}\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
        )
        openssl(
            *f"x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 9".split(),
            *f"-extfile extensions -out {name}.pem".split(),
        )
    return tmp_path


def test_tls(publish, mosquitto, subscriber, log, certificates):
    folder = certificates
    tls = [
        f"cafile {folder}/ca.pem",
        f"certfile {folder}/localhost.pem",
        f"keyfile {folder}/localhost.key",
    ]
    ports = free_port(), free_port()
    broker = mosquitto(
        "allow_anonymous true",
        *[f"listener {ports[0]}", *tls],
        *[f"listener {ports[1]}", *tls, "require_certificate true"],
    )
    heard = subscriber(broker)
    append(log, row(0))
    client = ["--cert", "client.pem", "--key", "client.key"]
    told = {
        (f"mqtts://localhost:{ports[0]}", "--cafile", "ca.pem"): "^connected to localhost",
        (f"mqtts://localhost:{ports[1]}", "--cafile", "ca.pem", *client): "^connected to localhost",
        (
            f"mqtts://localhost:{ports[0]}",
        ): r"CERTIFICATE_VERIFY_FAILED.*; is --cafile the broker's",
        (
            f"mqtts://127.0.0.1:{ports[0]}",
            "--cafile",
            "ca.pem",
        ): "IP address mismatch.*; is --cafile",
        (
            f"mqtts://localhost:{ports[1]}",
            "--cafile",
            "ca.pem",
        ): "equired.*; give a client certificate",
        (
            f"mqtts://localhost:{broker.port}",
        ): "^cannot connect to .*; is the URL's mqtt or mqtts the right",
        (f"mqtt://localhost:{ports[0]}",): "^cannot connect to .*closed by the other side",
    }
    started = [
        (publish(*argv, "--all", "--state", f"state{k}", "--id", f"id{k}"), pattern)
        for k, (argv, pattern) in enumerate(told.items())
    ]
    for running, pattern in started:
        running.says(pattern)
    assert heard.wait_for_rows([row(0)] * 2) == [row(0)] * 2
    for running, _ in started:
        assert running.stop() == 0


def test_two_publishers_with_one_id(publish, broker, log):
    append(log, row(0))
    pair = [publish(broker.url, "--id", "same", "--state", f"state{k}") for k in range(2)]
    for running in pair:
        running.says("^lost .*; .* another client the same id\\? give each publisher its own --id$")
    for running in pair:
        assert running.stop() == 0


def test_two_publishers_with_one_state(publish, broker, log):
    append(log, row(0))
    first = publish(broker.url, "--id", "a")
    first.says("^connected")
    for _ in range(3):
        append(log, row(1))
        second = publish(broker.url, "--id", "b")
        assert second.wait() == 1
        assert re.fullmatch(
            r"publish.py: error: cannot use datalog.publish \(another publisher has it\); "
            r"give each its own --state\n",
            second.err,
        )
    assert first.stop() == 0


@pytest.mark.parametrize(
    "content, reason",
    [
        ("notes\n", "it was not written by publish.py"),
        ("[1]", "it was not written by publish.py"),
        ('{"log": "b.csv"}', "it belongs to b.csv"),
    ],
)
def test_state_that_is_of_no_use(publish, log, content, reason):
    log.with_suffix(".publish").write_text(content)
    running = publish("mqtt://127.0.0.1")
    assert running.wait() == 1
    assert running.err == (
        f"publish.py: error: cannot use datalog.publish ({reason}); "
        "give another --state, or remove it to start over\n"
    )
    assert log.with_suffix(".publish").read_text() == content


@pytest.mark.parametrize(
    "content", ["", "\0" * 99, '{"lo', '{"log": "datalog.csv", "file": "2026', '{"log": "d\0\0\0']
)
def test_state_that_a_power_cut_has_torn_is_no_first_start(publish, log, content):
    append(log, row(0))
    log.with_suffix(".publish").write_text(content)
    running = publish("mqtt://127.0.0.1:1")
    running.says(
        "^datalog.publish is empty or torn, as after a power cut; datalog.csv is published"
    )
    running.says("^publishing datalog.csv from its beginning on$")
    assert running.stop() == 0


def test_first_start_that_is_killed_is_one_again(publish, log):
    """While it looks for the end of a long log, the state has the name of the log alone."""
    append(log, row(0))
    log.with_suffix(".publish").write_text('{"log": "datalog.csv"}\n')
    running = publish("mqtt://127.0.0.1:1")
    running.says("^publishing datalog.csv from its end on$")
    assert running.stop() == 0


@pytest.mark.parametrize(
    "argv, error",
    [
        (
            ["--state", "none/a"],
            "cannot use none/a (No such file or directory); make its folder, give another --log,"
            " or give another file as --state",
        ),
        (["--state", "pipe"], "cannot use pipe (not a regular file); give another file as --state"),
        (["--state", "a.csv"], "cannot use a.csv (Is a directory); give another file as --state"),
        (["--log", "a.csv"], "cannot read a.csv (Is a directory); give another file as --log"),
    ],
)
def test_state_or_log_that_is_no_file(publish, tmp_path, argv, error):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "a.csv").mkdir()
    running = publish("mqtt://127.0.0.1", *argv)
    assert running.wait() == 1
    assert running.err == f"publish.py: error: {error}\n"


def test_state_on_a_full_disk(publish, broker, subscriber, log, disk):
    heard = subscriber(broker)
    small = disk("size=64k")
    running = publish(broker.url, "--state", "disk/state", prefix=small.inside)
    running.says("^connected")
    small.fill()
    append(log, row(0))
    running.says(
        r"^cannot save the position in disk/state \(No space left on device\); "
        "after a restart, what is published from now on is published again$"
    )
    append(log, row(1))
    heard.wait_for_rows([row(0), row(1)])
    small.give_room()
    running.says("^the position is saved again in disk/state$")
    assert json.loads((small.folder / "state").read_text())["line"] + "\n" == row(1)
    assert os.listdir(small.folder) == ["state"]
    assert running.stop() == 0
    assert running.err.count("cannot save") == 1


@pytest.mark.parametrize("scheme", ["mqtt", "mqtts"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stopped_while_the_broker_does_not_answer(publish, log, scheme, number):
    append(log, row(0))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        running = publish(f"{scheme}://127.0.0.1:{silent.getsockname()[1]}")
        with silent.accept()[0]:
            begun = time.monotonic()
            assert running.stop(number) == 0
            assert time.monotonic() - begun < 2
    assert running.err.endswith("0 readings published\n")


@pytest.mark.parametrize(
    "host, failure, reason",
    [
        ("x" * 64, "", ".*label.*"),
        ("127.0.0.1", "TimeoutError('timed out')", "timed out"),
        ("127.0.0.1", "OSError(113, 'No route to host')", "No route to host"),
    ],
    ids=["no host", "no answer", "no route"],
)
def test_whatever_keeps_it_from_connecting_is_said_and_tried_again(publish, host, failure, reason):
    fail = f"def fail(*_, **__): raise {failure}\nimport socket; socket.create_connection = fail\n"
    running = publish(f"mqtt://{host}", setup=failure and fail)
    running.says(rf"^cannot connect to {host}:1883 \({reason}\); it keeps trying$")
    assert running.stop() == 0
    assert "Traceback" not in running.err


def test_stopped_while_it_waits_for_the_next_try(publish, log):
    append(log, row(0))
    running = publish(
        f"mqtt://127.0.0.1:{free_port()}", timers={"publish.broker.CONNECT_AFTER": 60.0}
    )
    running.says("^cannot connect")
    assert running.stop() == 0
    assert json.loads(log.with_suffix(".publish").read_text())["line"] + "\n" == row(0)


def test_stopped_under_load_nothing_is_published_twice(publish, mosquitto, subscriber, log):
    broker = mosquitto(*PATIENT)
    heard = subscriber(broker)
    append(log, *map(row, range(5000)))
    for _ in range(3):
        before = len(heard.rows())
        running = publish(broker.url, "--all")
        until(lambda: len(heard.rows()) > before + 500, "readings")
        assert running.stop() == 0
    assert publish(broker.url, "--once").wait() == 0
    assert heard.wait_for_rows([row(4999)]) == [row(k) for k in range(5000)]
    assert heard.payloads("/status/") == ["online", "offline"] * 4


@pytest.mark.parametrize(
    "argv, reason",
    [
        ([], "the following arguments are required: URL"),
        (["host"], "'host' is not a URL like mqtt://host or mqtts://user@host:8883"),
        (["http://host"], "'http://host' is not a URL like"),
        (["mqtt://host:x"], "'mqtt://host:x' is not a URL like"),
        (["mqtt://host:99999"], "'mqtt://host:99999' is not a URL like"),
        (["mqtt://host:0"], "'mqtt://host:0' is not a URL like"),
        (["mqtt://[::1"], "is not a URL like"),
        (["mqtt:///prefix"], "is not a URL like"),
        (["mqtt://host?a"], "is not a URL like"),
        (["mqtt://me:secret@host"], "a password is given by --password-file or MQTT_PASSWORD"),
        (["mqtt://host/a.b"], "'a.b' is not a prefix of topics"),
        (["mqtt://host/a/+"], "'a/+' is not a prefix of topics"),
        (["mqtt://a/b", "mqtt://c/d"], "the URLs have different prefixes"),
        (["mqtt://a", "--log", "datalog.txt"], "'datalog.txt' does not end in .csv"),
        (["mqtt://a", "--id", "a/b"], "'a/b' is not valid"),
        (["mqtt://a", "--cafile", "ca.pem"], "--cafile and --cert are for mqtts://"),
        (["mqtts://a", "--key", "key.pem"], "--key needs --cert"),
        (["mqtt://a", "--password-file", "x"], "--password-file needs a user"),
    ],
)
def test_usage(argv, reason, capsys):
    import publish

    with pytest.raises(SystemExit) as ended:
        publish.main(argv)
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert reason in said and said.count("\n") == 1


@pytest.mark.parametrize(
    "argv, reason",
    [
        (["mqtt://me@a", "--password-file", "none"], "cannot read the password in none"),
        (
            ["mqtt://me@a", "--password-file", "open"],
            "cannot read the password in open (others can",
        ),
        (["mqtts://a", "--cafile", "none"], "cannot read none (No such file or directory); give"),
        (["mqtts://a", "--cafile", "open"], "cannot use open ("),
        (["mqtts://a", "--cert", "open"], "cannot use open ("),
    ],
)
def test_files_that_are_of_no_use(publish, tmp_path, argv, reason):
    (tmp_path / "open").write_text("x")
    (tmp_path / "open").chmod(0o644)
    running = publish(*argv)
    assert running.wait() == 1
    assert running.err.startswith(f"publish.py: error: {reason}") and running.err.count("\n") == 1


@pytest.mark.parametrize("version", ["", "MQTTv5 = 5\n"], ids=["none", "1.6"])
def test_without_paho_mqtt_2(publish, tmp_path, version):
    package = tmp_path / "packages" / "paho" / "mqtt"
    package.mkdir(parents=True)
    for folder in package.parent, package:
        (folder / "__init__.py").write_text("")
    if version:
        (package / "client.py").write_text(f"class Client: pass\n{version}")
    running = publish("mqtt://a", path=[tmp_path / "packages"], timers=None)
    assert running.wait() == 1
    assert re.fullmatch(
        r"publish.py: error: cannot start without paho-mqtt 2 \(.*\); sudo apt install .*\n",
        running.err,
    )
    assert publish("--help", path=[tmp_path / "packages"], timers=None).wait() == 0
