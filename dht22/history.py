"""What the logs know of named sensors: the highest n of each name, in rotated files too."""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from io import BufferedIOBase
from pathlib import Path
from urllib.parse import quote

from dht22.console import say
from dht22.linefile import LONGEST_LINE
from dht22.logs import NAMED_ROW
from dht22.rotation import BLOCK, DAMAGE, rotated, unpacked

UNREADABLE = (*DAMAGE, OSError, ImportError, ValueError, sqlite3.Error)
NAMES = 10_000  # remembered
PROGRESS = 2.0  # seconds from one line about the progress to the next
OTHER_PACKINGS = ".zst", ".lz4", ".lzo", ".Z", ".7z", ".zip"


class Progress:
    """A line on stderr every 2 s while logs are read."""

    def __init__(self) -> None:
        self.due = time.monotonic() + PROGRESS

    def show(self, path: str, fd: int) -> None:
        """Report how much of an open file has been read, if a line is due."""
        if time.monotonic() >= self.due:
            size = os.fstat(fd).st_size
            position = os.lseek(fd, 0, os.SEEK_CUR)  # in the packed file, if it is one
            say(f"reading {path}: {100 * position // max(1, size)} %")
            self.due = time.monotonic() + PROGRESS


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
    for each in [*rotated(path), path]:
        try:
            for name, n in recover_one(each, progress):
                known = highest.pop(name, 0)  # taken out, so that the latest name stands last
                highest[name] = max(n, known)
                if len(highest) > NAMES:
                    del highest[next(iter(highest))]
        except UNREADABLE as error:
            if each == path:
                raise OSError(getattr(error, "errno", None) or errno.EIO, str(error)) from None
            say(f"{each}: read as far as it goes ({error}); what else is in it may be logged again")
    return highest


def recover_csv(path: str, progress: Progress) -> Iterator[tuple[str, int]]:
    """Yield names with their n from a CSV, packed or not."""
    ending = os.path.splitext(path)[1]
    if ending in OTHER_PACKINGS:
        raise ValueError(f"{ending} cannot be read here; unpack it")
    with unpacked(Path(path)) as file:
        for block in blocks(file):
            progress.show(path, file.fileno())
            for name, n in dict(NAMED_ROW.findall(block)).items():  # the last n of each name
                yield name.decode("ascii"), int(n)


def blocks(file: BufferedIOBase) -> Iterator[bytes]:
    """Yield a file in blocks of whole lines; what follows its last line end is left out."""
    rest = b""
    for block in iter(lambda: file.read1(BLOCK), b""):
        lines, _, rest = (rest + block).rpartition(b"\n")
        yield lines + b"\n"
        rest = rest[-LONGEST_LINE:]  # no line of ours is longer


def recover_db(path: str, progress: Progress) -> Iterator[tuple[str, int]]:
    """Yield names with their highest n from a database."""
    # While the server has it open there is a -wal to be read, too. A rotated one has none, and
    # as `immutable` it gets none.
    way = "mode=ro" if os.path.exists(f"{path}-wal") else "immutable=1"
    with closing(sqlite3.connect(f"file:{quote(os.fsencode(path))}?{way}", uri=True)) as database:
        yield from database.execute(
            "SELECT name, max(n) FROM reading WHERE name IS NOT NULL GROUP BY name ORDER BY max(n)"
        )


RECOVERABLE = {".csv": recover_csv, ".db": recover_db}  # formats of logs that know names and n
