"""Progress out of nested phases, and cancelling."""

import os
import signal
import threading
from types import SimpleNamespace

import pytest

from exporters.tensorrt.monitor import BuildControl


@pytest.fixture
def trt():
    return SimpleNamespace(IProgressMonitor=type("IProgressMonitor", (), {}))


def test_nested_phases_become_one_number_that_never_falls(trt):
    seen = []
    control = BuildControl(lambda task, done, total: seen.append((task, done, total)))
    monitor = control.monitor(trt)
    monitor.phase_start("build", None, 2)
    monitor.phase_start("inner", "build", 4)
    assert all(monitor.step_complete("inner", step) for step in range(4))
    monitor.phase_finish("inner")
    assert monitor.step_complete("build", 0)
    monitor.phase_start("late", "build", 10)
    assert monitor.step_complete("late", 0)
    assert monitor.step_complete("unknown", 3)
    monitor.phase_finish("late")
    assert monitor.step_complete("build", 1)
    control.finish(built=True)
    assert [done for _, done, _ in seen] == pytest.approx([12.5, 25, 37.5, 50, 50, 55, 55, 99, 100])
    assert {(task, total) for task, _, total in seen} == {("build", 100)}


def test_an_exception_of_the_callback_cancels_and_is_raised_afterwards(trt):
    def progress(task, done, total):
        raise RuntimeError("no more")

    control = BuildControl(progress)
    monitor = control.monitor(trt)
    monitor.phase_start("build", None, 2)
    assert monitor.step_complete("build", 0) is False
    with pytest.raises(RuntimeError, match="no more"):
        control.finish(built=False)


def test_ctrl_c_waits_for_the_next_step(trt):
    control = BuildControl(lambda task, done, total: None)
    monitor = control.monitor(trt)
    with control.interruptible():
        os.kill(os.getpid(), signal.SIGINT)
        assert monitor.step_complete("build", 0) is False
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with pytest.raises(KeyboardInterrupt):
        control.finish(built=False)


def test_only_pythons_own_handler_is_replaced(trt):
    calls = []
    before = signal.signal(signal.SIGINT, lambda number, frame: calls.append(number))
    try:
        with BuildControl(lambda *_: None).interruptible():
            os.kill(os.getpid(), signal.SIGINT)
        assert calls == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_leave_signals_alone():
    done = []

    def work():
        with BuildControl(lambda *_: None).interruptible():
            done.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [signal.default_int_handler]
