"""Key files, which tell which sensors may send, and other files that nobody else may read."""

from __future__ import annotations

import codecs
import errno
import os
import re
import stat
import sys
from io import IOBase

from dht22.console import Parser, print_all, typed
from dht22.datagram import NAME

KEY = re.compile(rb"(%b)[ \t]+([0-9a-fA-F]{64})[ \t]*" % NAME)


def check_private(path: str, file: IOBase) -> None:
    """Raise OSError if others than its owner may use an open file (POSIX only)."""
    if os.name == "posix" and stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
        raise OSError(errno.EPERM, f"others can read it: chmod 600 {typed(path)}")


def plain(text: bytes) -> bytes:
    """Return a text in UTF-8, without what PowerShell's `>` or an editor on Windows makes of it."""
    if text.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return text.decode("utf-16", "replace").encode()
    return text.removeprefix(codecs.BOM_UTF8)


def read_keys(path: str) -> dict[str, bytes]:
    """Return the keys in a file by name: a line each, a name, a blank, 64 hex digits.

    Blank lines and lines that begin with # are skipped. Raise OSError if they are not usable.
    """
    keys: dict[str, bytes] = {}
    with open(path, "rb") as file:
        check_private(path, file)
        lines = plain(file.read(1 << 24)).splitlines()
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith(b"#"):
            continue
        match = KEY.fullmatch(line)
        if not match:
            raise OSError(errno.EINVAL, f"line {number} is not `name key`")
        name, key = match.groups()
        if name.decode() in keys:
            raise OSError(errno.EINVAL, f"line {number} is a second key for {name.decode()}")
        keys[name.decode()] = bytes.fromhex(key.decode())
    if not keys:
        raise OSError(errno.EINVAL, "there is none in it")
    return keys


def print_new_key(parser: Parser, name: str) -> None:
    """Print a line with a new key for a sensor, as `read_keys` reads it."""
    if sys.stdout is None:
        parser.fail("cannot print the key (stdout is closed); open it")
    print_all(parser, f"{name} {os.urandom(32).hex()}", "the key")
