"""Ctrl-C or SIGTERM between two steps instead of in the middle of one, where half of the weights would have moved."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType


@dataclass
class Interrupt:
    """Whether the run was asked to stop, and by which signal; the loop asks between steps."""

    signal: int = 0

    @property
    def asked(self) -> bool:
        """Whether there was one."""
        return self.signal != 0

    def raise_for(self) -> None:
        """Go on as the signal would have: `KeyboardInterrupt`, or the exit code of a terminated program."""
        if self.signal == signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM)
        raise KeyboardInterrupt


@contextlib.contextmanager
def deferred_interrupt(*, patient: bool = False) -> Iterator[Interrupt]:
    """Note the first Ctrl-C or SIGTERM instead of obeying it; a second Ctrl-C raises at once, for those who mean it.

    With `patient` it does not: ``torchrun`` passes on a signal that the terminal has sent to every process already.
    Outside the main thread Python delivers no signals, and nothing changes.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return

    def note(number: int, frame: FrameType | None) -> None:
        if interrupt.asked and number == signal.SIGINT and not patient:
            raise KeyboardInterrupt
        interrupt.signal = interrupt.signal or number

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
