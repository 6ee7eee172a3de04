"""A position in a log, kept in a file that is replaced as a whole, by one publisher at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import IO

from dht22.log.follow import Position
from dht22.log.linefile import lock, replace, was_moved


class Bookmark:
    """The file at `path`, for the log of the name `log`; raise OSError if another has it."""

    def __init__(self, path: Path, log: str) -> None:
        self.path = path
        self.log = log
        self.file = self.open()

    def open(self) -> IO[bytes]:
        """Open the file, create it if it is missing, and lock it."""
        while True:
            file = open(self.path, "a+b")  # noqa: SIM115
            lock(file)
            if not was_moved(str(self.path), file):
                return file
            file.close()  # another publisher has just replaced it

    def load(self) -> Position | None:
        """Return the position, None if there is none yet; raise ValueError if it cannot be used."""
        self.file.seek(0)
        text = self.file.read()
        if not text:
            return None
        try:
            found = json.loads(text)
            log, offset = str(found["log"]), int(found["offset"])
            file, line, *finished = (
                each.encode("latin-1")
                for each in (found["file"], found["line"], *found["finished"])
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError("it was not written by publish.py, or is torn") from None
        if log != self.log:
            raise ValueError(f"it belongs to {log}")
        return Position(file, offset, line, tuple(finished))

    def save(self, position: Position) -> None:
        """Put a position on the disk; raise OSError, and the one before stays."""
        file = replace(str(self.path), [self.text(position)])
        self.file.close()
        self.file = file

    def text(self, position: Position) -> bytes:
        file, offset, line, finished = position
        found = {
            "log": self.log,
            "file": file.decode("latin-1"),
            "offset": offset,
            "line": line.decode("latin-1"),
            "finished": [each.decode("latin-1") for each in finished],
        }
        return json.dumps(found).encode() + b"\n"
