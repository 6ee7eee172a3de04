"""The way to an MQTT broker: a connection, and the next broker of a list after each failure."""

from __future__ import annotations

import random
import socket
import ssl
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, LogLevel, MQTTProtocolVersion
from paho.mqtt.reasoncodes import ReasonCode

from dht22.console import Once, say
from dht22.publish.messages import Message
from dht22.resolve import host_port
from dht22.stop import Stop

UNDER_WAY = 100  # messages at once; the broker may want fewer
KEEPALIVE = 30  # seconds
ANSWERS_WITHIN = 30.0  # seconds; a broker that does not acknowledge is connected to anew
CONNECT_AFTER = 1.0  # seconds; doubled after each failure
CONNECT_AFTER_MOST = 60.0
STEADY_AFTER = 60.0  # seconds, a connection
FAREWELL_WITHIN = 5.0  # seconds
V5, V311 = MQTTProtocolVersion.MQTTv5, MQTTProtocolVersion.MQTTv311
CLOSED = "closed by the other side"
OTHER_KEEPALIVE = "the broker asks for another keepalive"
NO_V5 = CLOSED, "Unsupported protocol version"  # how brokers of MQTT 3.1.1 refuse MQTT 5
WHO_WE_ARE = "user name", "authorized", "Banned", "authentication", "identifier"  # in reasons
PLAIN_OR_TLS = "is the URL's mqtt or mqtts the right one, and its port?"
REMEDIES = {  # by a part of the reason why there is no connection; the first counts
    "user name": "check the user in the URL and the password",
    "authorized": "check the user in the URL, the password, and what that user may do",
    "expired": "has the broker a newer certificate, and is the clock of this computer right?",
    "not yet valid": "is the clock of this computer right?",
    "CERTIFICATE_VERIFY_FAILED": "is --cafile the broker's CA, and is the host named as there?",
    "certificate required": "give a client certificate as --cert and --key",
    "Connection refused": "does a broker run there?",
    "not known": "is the name right?",
    CLOSED: PLAIN_OR_TLS,
    "Connection reset": PLAIN_OR_TLS,
    "WRONG_VERSION": PLAIN_OR_TLS,
    "EOF": PLAIN_OR_TLS,
}
RESTARTED = "was it restarted, or has another client the same id? give each publisher its own --id"


class Broker(NamedTuple):
    """Where a broker is, and how to log in there."""

    host: str
    port: int
    user: str | None
    password: str | None
    tls: ssl.SSLContext | None

    def __str__(self) -> str:
        return host_port(self.host, self.port)


class Connection:
    """A connection to a broker, and what is under way on it."""

    def __init__(
        self,
        broker: Broker,
        protocol: MQTTProtocolVersion,
        name: str,
        will: Message,
        keepalive: int,
        birth: str | None,
    ) -> None:
        """Connect; raise OSError, or ValueError for a host that none can have."""
        self.birth = birth
        self.births = 0  # of Home Assistant, since they were asked for
        self.keepalive = keepalive
        self.window = 0  # messages that may be under way: none until the broker has answered
        self.sent: dict[int, str] = {}  # their topics, by message id
        self.answers: list[tuple[int, str, str]] = []  # message id, topic, why it was refused
        self.ended = ""  # why
        self.begun = self.heard = time.monotonic()
        self.client = client = Client(CallbackAPIVersion.VERSION2, name, protocol=protocol)
        client.on_connect = self.on_connect
        client.on_publish = self.on_publish
        client.on_subscribe = self.on_subscribe
        client.on_message = self.on_message
        client.on_disconnect = self.on_disconnect
        client.on_log = self.on_log
        client.max_inflight_messages_set(0)  # the window is ours
        client.will_set(will.topic, will.payload, 1, will.retain)
        if broker.user is not None:
            client.username_pw_set(broker.user, broker.password)
        if broker.tls:
            client.tls_set_context(broker.tls)
        client.connect(broker.host, broker.port, keepalive)

    def serve(self, seconds: float) -> None:
        """Send and receive; wait for that, `seconds` at most."""
        self.client.loop(seconds)
        sock = self.client.socket()
        if sock and hasattr(socket, "TCP_QUICKACK"):  # Linux, which forgets it each time
            # mosquitto sends an answer only when TCP has acknowledged the one before (Nagle).
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        if not sock:
            self.ended = self.ended or CLOSED
        elif time.monotonic() - self.heard > ANSWERS_WITHIN and (self.sent or not self.window):
            self.ended = f"no answer for {ANSWERS_WITHIN:.0f} s"

    def publish(self, message: Message) -> int:
        """Send a message; return its id."""
        if not self.sent:
            self.heard = time.monotonic()
        mid: int = self.client.publish(message.topic, message.payload, 1, message.retain).mid
        self.sent[mid] = message.topic
        return mid

    def drop(self) -> None:
        """Close without a farewell: the broker publishes the will."""
        sock = self.client.socket()
        if sock:
            sock.close()

    def on_connect(
        self, _: Client, __: object, ___: object, reason: ReasonCode, properties: Any
    ) -> None:
        asked = getattr(properties, "ServerKeepAlive", 0) or KEEPALIVE  # 0 is without one
        self.keepalive = min(self.keepalive, asked)
        if reason.is_failure:
            self.ended = str(reason)
        elif self.keepalive < self.client.keepalive:  # paho-mqtt 2.1 goes on as before
            self.ended = OTHER_KEEPALIVE
        else:
            self.window = min(UNDER_WAY, getattr(properties, "ReceiveMaximum", UNDER_WAY))
            if self.birth:
                self.client.subscribe(self.birth, 1)
        self.client.on_log = None  # it costs time

    def on_publish(self, _: Client, __: object, mid: int, reason: ReasonCode, ___: object) -> None:
        self.heard = time.monotonic()
        refusal = str(reason) if reason.is_failure else ""
        self.answers.append((mid, self.sent.pop(mid, ""), refusal))

    def on_subscribe(
        self, _: Client, __: object, ___: int, reasons: list[ReasonCode], ____: object
    ) -> None:
        for reason in reasons:
            if reason.is_failure and self.birth:
                self.answers.append((0, self.birth, str(reason)))

    def on_message(self, _: Client, __: object, message: MQTTMessage) -> None:
        self.births += message.payload == b"online"

    def on_disconnect(
        self, _: Client, __: object, flags: Any, reason: ReasonCode, ___: object
    ) -> None:
        if flags.is_disconnect_packet_from_server:
            self.ended = self.ended or str(reason)

    def on_log(self, _: Client, __: object, level: int, text: str) -> None:
        if level == LogLevel.MQTT_LOG_ERR and "SSL" in text:  # paho tells it nowhere else
            self.ended = self.ended or text[text.index("[SSL") :]


class BrokerLink:
    """A connection to one of the brokers, made again when it is lost; changes are reported."""

    def __init__(
        self, brokers: Sequence[Broker], status: str, birth: str | None, stop: Stop
    ) -> None:
        self.brokers = list(brokers)  # the first is the one to try
        self.status = status  # the topic for our `online` and `offline`
        self.name = status.rpartition("/")[2]  # of the client; a broker has one of each name
        self.birth = birth  # that for Home Assistant's
        self.keepalive = KEEPALIVE
        self.refusals = 0  # one after the other, of who we are
        self.stop = stop
        self.protocol = V5
        self.connection: Connection | None = None
        self.connections = 0  # so far
        self.due = 0.0  # when to connect (monotonic)
        self.retry = CONNECT_AFTER
        self.trouble = Once()  # since the last connection

    def serve(self, seconds: float) -> None:
        """Send and receive, or connect; wait for that, `seconds` at most."""
        if self.connection:
            was_answered = self.connection.window > 0
            self.connection.serve(seconds)
            if self.connection.window and not was_answered:
                self.begin(self.connection)
            if self.connection.ended:
                self.lose(self.connection.ended)
            return
        with suppress(KeyboardInterrupt), self.stop.interruptible():
            time.sleep(min(seconds, max(0.0, self.due - time.monotonic())))
            if time.monotonic() >= self.due:
                self.connect()

    def connect(self) -> None:
        will = Message(self.status, "offline", retain=True)
        try:
            self.connection = Connection(
                self.brokers[0], self.protocol, self.name, will, self.keepalive, self.birth
            )
        except (OSError, ValueError) as error:
            self.lose(getattr(error, "strerror", None) or str(error))

    def begin(self, connection: Connection) -> None:
        """Greet a broker that has answered."""
        if self.trouble.clear() or not self.connections:
            say(f"connected to {self.brokers[0]} (MQTT {'5' if self.protocol is V5 else '3.1.1'})")
            if self.protocol is V311:
                say("by MQTT 3.1.1 a broker does not tell what it denies: check what arrives there")
        self.connections += 1
        self.refusals = 0
        connection.publish(Message(self.status, "online", retain=True))

    def lose(self, reason: str) -> None:
        """Report why there is no connection, and turn to the next broker."""
        connected = self.connection is not None and self.connection.window > 0
        if self.connection and reason == OTHER_KEEPALIVE:
            self.keepalive = self.connection.keepalive
            self.drop(0.0)
            return
        if not connected and self.protocol is V5 and reason in NO_V5:
            self.protocol = V311
            self.drop(0.0)
            return
        self.refusals = self.refusals + 1 if any(part in reason for part in WHO_WE_ARE) else 0
        if not connected:
            what = "cannot connect to"
            remedies = [REMEDIES[part] for part in REMEDIES if part in reason]
        else:
            what = "lost"
            remedies = [] if self.is_steady() else [RESTARTED]
        remedy = remedies[0] if remedies else "it keeps trying"
        line = f"{what} {self.brokers[0]} ({reason}); {remedy}"
        self.trouble.say(line, line)
        self.turn()

    def is_steady(self) -> bool:
        """Tell whether the connection has lasted so long that its end is no failure."""
        return (
            self.connection is not None and time.monotonic() - self.connection.begun > STEADY_AFTER
        )

    def turn(self) -> None:
        """Give up the connection, and try the next broker after a while."""
        if self.is_steady():
            self.retry = CONNECT_AFTER
        self.drop(self.retry * random.uniform(1, 1.5))
        self.retry = min(2 * self.retry, CONNECT_AFTER_MOST)
        self.protocol = V5
        self.brokers.append(self.brokers.pop(0))

    def drop(self, pause: float) -> None:
        if self.connection:
            self.connection.drop()
        self.connection = None
        self.due = time.monotonic() + pause

    def is_refused(self) -> bool:
        """Tell whether each broker has refused who we are, the last time that it was tried."""
        return self.refusals >= len(self.brokers)

    def home_assistant_has_started(self) -> bool:
        """Tell whether it has told so since this was asked before."""
        if not self.connection or not self.connection.births:
            return False
        self.connection.births = 0
        return True

    def room(self) -> int:
        """Return how many messages may be sent now."""
        if not self.connection:
            return 0
        return self.connection.window - len(self.connection.sent)

    def publish(self, message: Message) -> int:
        """Send a message; return its id. There has to be room for it."""
        assert self.connection
        return self.connection.publish(message)

    def answers(self) -> list[tuple[int, str, str]]:
        """Return what was answered since: message id, topic, and why it was refused."""
        if not self.connection:
            return []
        answers, self.connection.answers = self.connection.answers, []
        return answers

    def close(self) -> None:
        """Wait for what is under way, publish `offline`, and disconnect."""
        end = time.monotonic() + FAREWELL_WITHIN
        self.wait_for_answers(end)
        if self.room() > 0:
            self.publish(Message(self.status, "offline", retain=True))
        self.wait_for_answers(end)
        if self.connection:
            self.connection.client.disconnect()

    def wait_for_answers(self, end: float) -> None:
        while self.connection and self.connection.sent and time.monotonic() < end:
            self.serve(0.1)
