"""The lines of the spool, each with a checksum: made, checked, and saved from a damaged file."""

from __future__ import annotations

import os
import re
from binascii import crc32
from contextlib import suppress
from itertools import count

from dht22.console import counted, say
from dht22.log.linefile import lock, refuse_device, replace, sync, sync_folder

LARGEST = 1 << 28  # bytes; no spool is that large
SPOOL_LINE = re.compile(rb"([0-9a-fn.,-]{18,160}),([0-9a-f]{8})")  # what it says, and its checksum
TORN_LINE = re.compile(rb"[0-9a-fn.,-]{0,170}")


def with_checksum(text: str) -> bytes:
    """Return `text` as a line of the spool."""
    content = text.encode("ascii")
    return b"%b,%08x\n" % (content, crc32(content))


def is_intact(match: re.Match[bytes]) -> bool:
    """Tell whether the checksum of what SPOOL_LINE found is right."""
    return crc32(match[1]) == int(match[2], 16)


def fields_of(line: bytes) -> list[str]:
    """Return the fields of a line of the spool; raise ValueError if it is damaged."""
    match = SPOOL_LINE.fullmatch(line.rstrip(b"\n"))
    if match is None or not is_intact(match):
        raise ValueError("damaged")
    return match[1].decode("ascii").split(",", 4)


def restore(path: str) -> None:
    """Replace a damaged spool by what is intact in it, once it is copied; raise OSError.

    An SD card can damage any part of it: flip bits, lose a page, leave erased ones (0xFF). A file
    without a line of ours is left to LineFile, which refuses it.
    """
    refuse_device(path)
    with suppress(FileNotFoundError), open(path, "r+b") as file:
        lock(file)
        if os.fstat(file.fileno()).st_size > LARGEST:
            return
        content = file.read()
        if is_undamaged(content):
            return
        lines = list(SPOOL_LINE.finditer(content))
        intact = [match[0] + b"\n" for match in lines if is_intact(match)]
        if not content.strip(b"\0\xff"):
            say(f"{path} held nothing but an erased page; it was emptied")
            file.truncate(0)
        elif lines:
            copy = copy_damaged(path, content)
            try:
                replace(path, intact, old=file).close()
            except OSError:
                os.unlink(copy)
                raise
            say(
                f"{path} was damaged: {counted(len(intact), 'line')} could be read and were kept;"
                f" the damaged file is now {copy}"
            )


def is_undamaged(content: bytes) -> bool:
    """Tell whether a spool has nothing but intact lines, and perhaps an end that is torn.

    A power cut leaves that, and NUL bytes behind it: LineFile cuts it off.
    """
    end = 0  # of the intact lines
    for match in SPOOL_LINE.finditer(content):
        if match.start() != end or not is_intact(match):
            break
        end = match.end()
        if content[end : end + 1] == b"\n":
            end += 1
    tail = content[end:].rstrip(b"\0")
    looks_whole = SPOOL_LINE.fullmatch(tail)  # and is not: LineFile would complete it
    return bool(TORN_LINE.fullmatch(tail)) and not looks_whole


def copy_damaged(path: str, content: bytes) -> str:
    """Put a copy of a damaged file on the disk, as a new file; return its name; raise OSError."""
    for number in count(1):
        copy = f"{path}.damaged" if number == 1 else f"{path}.damaged.{number}"
        with suppress(FileExistsError):
            file = open(copy, "xb")  # noqa: SIM115
            break
    try:
        with file:
            file.write(content)
            file.flush()
            sync(file)
    except OSError:
        os.unlink(copy)
        raise
    sync_folder(copy)
    return copy
