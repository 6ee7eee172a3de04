"""The shell of an editor, as of Thonny, IDLE and Jupyter: it runs a script in its own process.

    $ python3 -m support.editor server.py --count 5

Its stdout and stderr can only be written to; what else they tell is not to be believed. After the
script it waits for Ctrl+C.
"""

import io
import os
import runpy
import sys
import threading
import time


class Shell(io.TextIOBase):
    one_at_a_time = threading.Lock()

    def __init__(self, descriptor):
        self.descriptor = descriptor

    def fileno(self):
        return os.open(os.devnull, os.O_WRONLY)

    def isatty(self):
        return True

    def write(self, text):
        if not isinstance(text, str):
            raise TypeError(text)
        rest = text.encode()
        with self.one_at_a_time:
            while rest:
                rest = rest[os.write(self.descriptor, rest) :]
        return len(text)


if __name__ == "__main__":
    sys.argv = sys.argv[1:]
    sys.path[0] = os.path.dirname(sys.argv[0])
    sys.stdout, sys.stderr = Shell(1), Shell(2)
    runpy.run_path(sys.argv[0], run_name="__main__")
    try:
        print("ready", flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
