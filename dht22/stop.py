"""What stops a script; it may interrupt one only where nothing is left half done."""

from __future__ import annotations

import signal

# SIGHUP is sent when a terminal is closed or an SSH line lost, SIGBREAK by Ctrl+Break on Windows.
SIGNALS = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
    if hasattr(signal, name)
]


class Stop:
    """Notes that one of SIGNALS came; interrupts at once only what runs in `interruptible`."""

    def __init__(self) -> None:
        self.asked = False
        self.may_interrupt = False
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:  # as in the background, or by nohup
                signal.signal(number, self.ask)

    def ask(self, *_: object) -> None:
        self.asked = True
        self.interrupt()

    def interruptible(self) -> Stop:
        """Raise KeyboardInterrupt in this block when a signal comes, or if one came before it."""
        return self

    def __enter__(self) -> None:
        self.may_interrupt = True
        if self.asked:
            self.interrupt()

    def __exit__(self, *_: object) -> None:
        self.may_interrupt = False

    def interrupt(self) -> None:
        if self.may_interrupt:
            self.may_interrupt = False
            raise KeyboardInterrupt
