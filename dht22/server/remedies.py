"""What to do about a log that cannot be opened."""

from __future__ import annotations

import errno
import os

from dht22.console import how_to_write, typed

OTHER_LOG = "give another file as --log"
# These take off a byte order mark and CRLF, which editors on Windows put into a log.
SED = r"sed -i '1s/^\xef\xbb\xbf//; s/\r$//' {}"
PYTHON = (
    r"""py -c "import os; p = r'{}'; t = open(p, 'rb').read(); f = open(p + '.lf', 'wb');"""
    r""" f.write(t.replace(b'\xef\xbb\xbf', b'').replace(b'\r\n', b'\n')); f.close();"""
    r''' os.replace(p + '.lf', p)"'''
)


def remedy(error: OSError, path: str, windows: bool = os.name == "nt") -> str:
    """Return what to do about an error, on this system: a command where there is one."""
    folder = os.path.dirname(path)
    if isinstance(error, PermissionError) and os.path.exists(path):
        if windows:
            return f"close it where it is open, as in Excel; or {OTHER_LOG}"
        # A server that was killed leaves the two others beside a database.
        return f"{how_to_write(path, f'{path}-wal', f'{path}-shm')}; or {OTHER_LOG}"
    if error.errno == errno.EILSEQ:
        command = PYTHON.format(path) if windows else SED.format(typed(path))
        return f"take that off: {command}; or {OTHER_LOG}"
    if isinstance(error, FileNotFoundError) and folder:
        make = f'mkdir "{folder}"' if windows else f"mkdir -p {typed(folder)}"
        return f"make its folder: {make}; or {OTHER_LOG}"
    return OTHER_LOG
