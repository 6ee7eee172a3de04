"""Ctrl+C and SIGTERM, which may interrupt a script only where nothing is left half done."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class Stop:
    """Notes that Ctrl+C or SIGTERM came; interrupts at once only what runs in `interruptible`."""

    def __init__(self) -> None:
        self.asked = False
        self.may_interrupt = False
        for number in signal.SIGINT, signal.SIGTERM:
            if signal.getsignal(number) != signal.SIG_IGN:  # as for a script in the background
                signal.signal(number, self.ask)

    def ask(self, *_: object) -> None:
        self.asked = True
        if self.may_interrupt:
            raise KeyboardInterrupt

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Raise KeyboardInterrupt in this block when a signal comes, or if one came before it."""
        self.may_interrupt = True
        try:
            if self.asked:
                raise KeyboardInterrupt
            yield
        finally:
            self.may_interrupt = False
