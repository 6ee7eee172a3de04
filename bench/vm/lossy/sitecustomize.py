"""Take some fsyncs out of a program, from outside: a fault that a trial has to notice.

Python imports this by itself when its folder is on PYTHONPATH. With WITHOUT_SYNC="*.csv *.spool",
an fsync of a file or folder whose path fits one of these does nothing; with the word `sqlite` in
it, SQLite runs with synchronous = NORMAL.
"""

import fnmatch
import os
import re
import sqlite3

patterns = os.environ.get("WITHOUT_SYNC", "").split()
true_fsync = os.fsync
true_connect = sqlite3.connect


def lossy_fsync(file):
    number = file if isinstance(file, int) else file.fileno()
    path = os.readlink(f"/proc/self/fd/{number}")
    if not any(fnmatch.fnmatch(path, pattern) for pattern in patterns):
        true_fsync(number)


class LossyConnection(sqlite3.Connection):
    def execute(self, sql, *values):
        return super().execute(re.sub(r"(synchronous) *= *\w+", r"\1 = NORMAL", sql), *values)


def lossy_connect(*words, **options):
    return true_connect(*words, **{"factory": LossyConnection, **options})


os.fsync = lossy_fsync
if "sqlite" in patterns:
    sqlite3.connect = lossy_connect
