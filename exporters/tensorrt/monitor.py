"""How far a build is, and how to stop one: what TensorRT asks between its steps."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

# progress(task, done, total), as often as TensorRT reports a step.
Progress = Callable[[str, float, float | None], None]
TASK = "build"
_WHOLE = 100.0


def no_progress(task: str, done: float, total: float | None) -> None:
    """The `Progress` that says nothing."""


@dataclass
class _Phase:
    steps: int
    done: int = 0


class BuildControl:
    """Turns TensorRT's nested phases into one number, and a Ctrl-C or an exception into a cancelled build.

    An exception must not travel through TensorRT's own code: it is kept here, the build is cancelled, and `finish`
    raises it again.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._phases: dict[str, _Phase] = {}  # outermost first
        self._reported = 0.0
        self._stop: BaseException | None = None

    def monitor(self, trt: Any) -> Any:
        """An `IProgressMonitor` of this TensorRT module that reports here."""
        control = self

        class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.IProgressMonitor.__init__(self)

            def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
                control._phases[phase_name] = _Phase(max(num_steps, 1))

            def step_complete(self, phase_name: str, step: int) -> bool:
                if phase_name in control._phases:
                    control._phases[phase_name].done = step + 1
                return control._report()

            def phase_finish(self, phase_name: str) -> None:
                control._phases.pop(phase_name, None)

        return Monitor()

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Turn Ctrl-C into a request that the next step of the build obeys, while the block runs."""
        ours = threading.current_thread() is threading.main_thread()
        if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            yield
            return

        def remember(number: int, frame: FrameType | None) -> None:
            self._stop = self._stop or KeyboardInterrupt()

        signal.signal(signal.SIGINT, remember)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def finish(self, *, built: bool) -> None:
        """Raise what stopped the build; report its end otherwise."""
        if self._stop is not None:
            raise self._stop
        if built:
            self._progress(TASK, _WHOLE, _WHOLE)

    def _report(self) -> bool:
        if self._stop is None:
            fraction = 0.0
            for phase in reversed(self._phases.values()):
                fraction = min(1.0, (phase.done + fraction) / phase.steps)
            # Phases run in parallel and are announced late: never go back, and leave the end to `finish`.
            self._reported = max(self._reported, min(fraction * _WHOLE, _WHOLE - 1))
            try:
                self._progress(TASK, self._reported, _WHOLE)
            except BaseException as error:  # raised again by `finish`
                self._stop = error
        return self._stop is None
