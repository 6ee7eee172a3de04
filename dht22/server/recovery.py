"""What the logs know of named sensors: the highest n of each name, in rotated files too."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from io import BufferedIOBase
from pathlib import Path

from dht22.console import Progress, say
from dht22.log.formats import NAMED_ROW, is_full, open_for_reading
from dht22.log.linefile import LONGEST_LINE
from dht22.log.rotated import BLOCK, DAMAGE, PACKED, rotated, unpacked

UNREADABLE = (*DAMAGE, OSError, ImportError, ValueError, sqlite3.Error)
NAMES = 10_000  # remembered
Version = tuple[int, int, int]  # inode, time of change (ns) and size of a file
OTHER_PACKINGS = ".zst", ".lz4", ".lzo", ".Z", ".7z", ".zip"


def is_recoverable(path: str) -> bool:
    """Tell whether a log of this format knows named sensors."""
    return os.path.splitext(path)[1] in RECOVERABLE


def recover(path: str) -> dict[str, int]:
    """Return the highest n of each name in a log and in what rotation has left beside it.

    Of too many names the latest are kept. Raise OSError if the log itself cannot be read; of the
    rotated ones that is reported, and they are read as far as it goes.
    """
    recover_one = RECOVERABLE[os.path.splitext(path)[1]]
    progress = Progress()
    highest: dict[str, int] = {}
    damage: dict[Version, str] = {}  # of what was read; nothing where it is whole
    while True:
        files = versions(path)
        for each, version in files.items():
            if version in damage:
                continue
            error = read_into(highest, recover_one(each, progress))
            if version_of(each) != version:
                continue  # it was renamed or packed meanwhile: the next look finds it
            why = getattr(error, "strerror", None) or str(error or "")
            if error and each == path:
                raise OSError(getattr(error, "errno", None) or errno.EIO, why)
            damage[version] = why
        if versions(path) == files and damage.keys() >= {*files.values()}:
            break  # else one may have been missed: look again
    for each, version in files.items():
        base, ending = os.path.splitext(each)
        is_being_packed = base in files and base != path and ending in (*PACKED, *OTHER_PACKINGS)
        if damage[version] and not is_being_packed:
            again = "what else is in it may be logged again"
            say(f"{each}: read as far as it goes ({damage[version]}); {again}")
    return highest


def read_into(highest: dict[str, int], names: Iterator[tuple[str, int]]) -> Exception | None:
    """Note the highest n of each name; return the error that ended it."""
    try:
        for name, n in names:
            known = highest.pop(name, 0)  # taken out, so that the latest name stands last
            highest[name] = max(n, known)
            if len(highest) > NAMES:
                del highest[next(iter(highest))]
    except UNREADABLE as error:
        return error
    return None


def versions(path: str) -> dict[str, Version]:
    """Return the versions of a log and of what rotation has left, by path: the log comes last."""
    found = {each: version_of(each) for each in [*rotated(path), path]}
    return {each: version for each, version in found.items() if version}


def version_of(path: str) -> Version | None:
    """Return what a file keeps when it is renamed, and has alone; None if it is not there."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def recover_csv(path: str, progress: Progress) -> Iterator[tuple[str, int]]:
    """Yield names with their n from a CSV, packed or not."""
    ending = os.path.splitext(path)[1]
    if ending in OTHER_PACKINGS:
        raise ValueError(f"{ending} cannot be read here; unpack it")
    with unpacked(Path(path)) as file:
        for block in blocks(file):
            if progress.is_due():
                progress.show(f"reading {path}: {percent_read(file)} %")
            for name, n in dict(NAMED_ROW.findall(block)).items():  # the last n of each name
                yield name.decode("ascii"), int(n)


def percent_read(file: BufferedIOBase) -> int:
    """Return how much of an open file has been read, packed or not."""
    position = os.lseek(file.fileno(), 0, os.SEEK_CUR)  # in the packed file, if it is one
    return 100 * position // max(1, os.fstat(file.fileno()).st_size)


def blocks(file: BufferedIOBase) -> Iterator[bytes]:
    """Yield a file in blocks of whole lines; what follows its last line end is left out."""
    rest = b""
    for block in iter(lambda: file.read1(BLOCK), b""):
        lines, _, rest = (rest + block).rpartition(b"\n")
        yield lines + b"\n"
        rest = rest[-LONGEST_LINE:]  # no line of ours is longer


def recover_db(path: str, progress: Progress) -> Iterator[tuple[str, int]]:
    """Yield names with their highest n from a database.

    One that was filled with `.import` of SQLite has empty texts where ours has NULL. One that
    cannot be opened because the disk is full yields none: later it ignores what it already has.
    """
    with closing(open_for_reading(path)) as database:
        try:
            yield from database.execute(
                "SELECT name, max(n) FROM reading WHERE name != '' AND typeof(n) = 'integer'"
                " GROUP BY name ORDER BY max(n)"
            )
        except sqlite3.OperationalError as error:
            if not is_full(error):
                raise


RECOVERABLE = {".csv": recover_csv, ".db": recover_db}  # formats of logs that know names and n
