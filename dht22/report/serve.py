"""The web server of report.py --live: the page, for a number of viewers, and for no other site."""

from __future__ import annotations

import gc
import logging
import os
import sys
from argparse import Namespace
from collections.abc import Callable
from contextlib import suppress
from html import escape
from ipaddress import ip_address
from socket import gethostname, socket
from subprocess import DEVNULL, Popen
from typing import Any
from urllib.parse import urlsplit

from bokeh.application import Application
from bokeh.application.handlers import FunctionHandler
from bokeh.document import Document
from bokeh.server.server import BaseServer
from bokeh.server.tornado import BokehTornado
from bokeh.util.logconfig import basicConfig
from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPServerRequest
from tornado.ioloop import IOLoop, PeriodicCallback
from tornado.netutil import bind_sockets
from tornado.web import RequestHandler

from dht22.addresses import own_addresses
from dht22.console import Once, Parser, say
from dht22.report.lines import LogFile
from dht22.report.recent import Recent
from dht22.report.times import Zone
from dht22.report.viewer import PAUSE, Viewer
from dht22.resolve import host_port
from dht22.stop import Stop

VIEWERS = 20  # at most
AGAIN = 10  # seconds, until one who was refused may try again
UNUSED = 5000  # ms; a page that nobody looks at any more is given up
PING = 20  # seconds; a browser that does not answer in that time is gone
MESSAGE = 1_000_000  # bytes; a browser tells where it looks, no more
IDLE = 60  # seconds; a connection on which nothing is asked
EVERYWHERE = ("0.0.0.0", "::")
DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY")  # in the environment, where there is a screen
SENTENCE = """<!DOCTYPE html><meta charset="utf-8"><meta http-equiv="refresh" content="{again}">
<meta name="viewport" content="width=device-width"><title>report.py</title><p>{sentence}</p>
"""


class Refused(RequestHandler):  # type: ignore[misc]
    """Says in a sentence why the page is not shown."""

    def initialize(self, refusal: str) -> None:
        self.refusal = refusal

    def prepare(self) -> None:
        self.set_status(503)
        self.finish(SENTENCE.format(again=AGAIN, sentence=self.refusal))


class OneLine(logging.Handler):
    """Says an error of Bokeh's or Tornado's in one line, the last of a traceback, and once."""

    once = Once()

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage().strip().rpartition("\n")[2]
        self.once.say(line, f"{record.name}: {line}")


class Page(BokehTornado):  # type: ignore[misc]
    """The page, for at most VIEWERS at once, and only as a page of its own."""

    name = ""  # of this computer, that was given with --host

    def find_handler(self, request: HTTPServerRequest, **keywords: Any) -> Any:
        refusal = self.refusal(request)
        if refusal:
            return self.get_handler_delegate(request, Refused, {"refusal": refusal})
        return super().find_handler(request, **keywords)

    def refusal(self, request: HTTPServerRequest) -> str:
        """Return why a request is refused, nothing if it is not."""
        # Set by a reverse proxy. A page of another site that opens a web socket cannot set it.
        forwarded = request.headers.get("X-Forwarded-Host", "")
        host = forwarded or request.host
        if not forwarded and not is_ours(host, self.name):
            return (
                f"{escape(host)} may be a name that another site has given to this computer. "
                "Type its address instead."
            )
        origin = request.headers.get("Origin", "").partition("://")[2]
        if request.path == "/ws" and origin != host:
            return "Another site's page may not read what is shown here."
        if request.path in ("/", "/ws") and self.viewers() >= VIEWERS:
            return f"{VIEWERS} are looking already. This page tries again in {AGAIN} seconds."
        return ""

    def viewers(self) -> int:
        return sum(session.connection_count > 0 for session in self.get_sessions("/"))


def is_ours(host: str, given: str) -> bool:
    """Tell whether a request's host is an address, or a name that only this network has for us."""
    name = host.lower()
    with suppress(ValueError):
        name = urlsplit(f"//{host}").hostname or ""
        return bool(ip_address(name))
    here = gethostname().lower()
    return name in ("localhost", here, f"{here}.local", given.lower())


def run(options: Namespace, parser: Parser, progress: Callable[[str], None]) -> None:
    """Serve the page until Ctrl+C or SIGTERM; end with 1 if it cannot be served.

    Raise OSError if the log cannot be read.
    """
    host, port = options.host, options.port
    try:
        # Of "::" alone, IPv4 would be left out
        sockets = bind_sockets(port, "" if host in EVERYWHERE else host)
    except OSError as error:
        where = host_port(host, port)
        parser.fail(f"cannot serve the page at {where} ({error.strerror}); try --host or --port")
    try:
        with Stop().interruptible():
            recent = Recent(options.log[0], options.chosen, progress)
            serve(sockets, host, recent, options.zone)
    finally:
        gc.freeze()  # or Python would look for circles in all of it before it ends, for a second


def serve(sockets: list[socket], host: str, recent: Recent, zone: Zone) -> None:
    """Serve the page until it is interrupted."""
    basicConfig(handlers=[OneLine(logging.ERROR)])
    logging.getLogger("tornado.access").disabled = True  # whom a page was refused knows it
    page = Page(
        Application(FunctionHandler(lambda document: show(recent, zone, document))),
        extra_websocket_origins=["*"],  # `refusal` decides
        include_headers=[],  # they would be sent along with the page, a proxy's password too
        include_cookies=[],
        unused_session_lifetime_milliseconds=UNUSED,
        check_unused_sessions_milliseconds=UNUSED,
        websocket_max_message_size_bytes=MESSAGE,
        websocket_ping_interval=PING,
        websocket_ping_timeout=PING,
        compress_response=True,
    )
    page.name = host
    server = HTTPServer(page, max_body_size=MESSAGE, idle_connection_timeout=IDLE)
    server.add_sockets(sockets)
    BaseServer(IOLoop.current(), page, server).start()
    PeriodicCallback(recent.look, PAUSE).start()
    introduce(host, sockets, recent.log)
    IOLoop.current().start()


def show(recent: Recent, zone: Zone, document: Document) -> None:
    Viewer(recent, zone, document)


def introduce(host: str, sockets: list[socket], log: LogFile) -> None:
    """Say where the page is, and open it in a browser where there is a screen."""
    address, port = sockets[0].getsockname()[:2]
    bound = ip_address(address.partition("%")[0])
    here = f"http://{host_port('127.0.0.1' if bound.is_unspecified else host, port)}/"
    say(f"{here} shows {log.path}; Ctrl+C ends it")
    if not bound.is_loopback:
        names = [*own_addresses(), f"{gethostname()}.local"] if bound.is_unspecified else [host]
        there = " or ".join(f"http://{host_port(name, port)}/" for name in names)
        say(f"everybody in your network can look, at {there}")
    if any(map(os.environ.get, DISPLAYS)) or sys.platform in ("darwin", "win32"):
        with suppress(OSError):  # then the address has to be typed
            # In a process of its own: some browsers return when they are closed
            Popen([sys.executable, "-m", "webbrowser", here], stdout=DEVNULL, stderr=DEVNULL)
