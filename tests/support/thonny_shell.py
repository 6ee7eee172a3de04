"""The back end of the real Thonny, which runs a script; its shell's text goes to stdout.

    $ python3 -m support.thonny_shell server.py --port 0

SIGINT is passed on, as Thonny's Stop does. What ends it is told: `the shell is alive`, or not.
"""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time

import thonny
from thonny import common

LAUNCHER = os.path.join(os.path.dirname(thonny.__file__), "plugins/cpython_backend/cp_launcher.py")


def show(back_end):
    """Print what Thonny would show in its shell; return when the script has ended."""
    while True:
        text = common.read_one_incoming_message_str(back_end.stdout.readline)
        if not text:
            return
        if text.startswith(common.MESSAGE_MARKER):
            message = common.parse_message(text)
            if message.get("event_type") == "ProgramOutput":
                print(message["data"], end="", flush=True)
            elif message.get("command_name") == "Run":
                return


def main(script, *arguments):
    environment = {
        **os.environ,
        "THONNY_USER_DIR": tempfile.mkdtemp(),
        "THONNY_FRONTEND_SYS_PATH": "[]",
        "PYTHONIOENCODING": "utf-8",
    }
    back_end = subprocess.Popen(
        [sys.executable, "-u", LAUNCHER, os.getcwd(), "{'run.warn_module_shadowing': False}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
        start_new_session=True,
    )
    signal.signal(signal.SIGINT, lambda *_: back_end.send_signal(signal.SIGINT))
    shown = threading.Thread(target=show, args=[back_end])
    shown.start()
    command = common.ToplevelCommand(
        "Run", args=[script, *arguments], source=None, full_filename=script, tty_mode=True, id=1
    )
    back_end.stdin.write(common.serialize_message(command) + "\n")
    back_end.stdin.flush()
    while shown.is_alive():
        time.sleep(0.05)
    time.sleep(0.5)
    print("the shell", "is alive" if back_end.poll() is None else "has ended", flush=True)
    back_end.kill()


if __name__ == "__main__":
    main(*sys.argv[1:])
