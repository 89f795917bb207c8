"""Ctrl-C tears no lock, wherever it comes."""

from __future__ import annotations

import _imp
import importlib
import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prefect.exceptions import TerminationSignal
from prefect.utilities import engine

from flows.interrupt import AGAIN_SECONDS, Sparing, heed_signals, interrupt, spare_locks

PROJECT = Path(__file__).resolve().parents[1]
TIMES = 150


class Alarm:
    """Ctrl-C, a thousand times a second, while it is armed; what it raises disarms it.

    Python swallows what is raised in a destructor: then the next one counts.
    """

    armed = False

    def __call__(self, *_: object) -> None:
        if self.armed:
            self.armed = False
            raise KeyboardInterrupt

    def interrupt_often(self, do: Callable[[], object], is_free: Callable[[], bool]) -> None:
        for _ in range(TIMES):
            try:
                while True:
                    self.armed = True
                    do()
            except KeyboardInterrupt:
                assert is_free()


@pytest.fixture
def alarm() -> Iterator[Alarm]:
    alarm = Alarm()
    before = signal.signal(signal.SIGALRM, Sparing(alarm))
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    yield alarm
    alarm.armed = False
    signal.setitimer(signal.ITIMER_REAL, 0)
    time.sleep(10 * AGAIN_SECONDS)  # those that were put off
    signal.signal(signal.SIGALRM, before)


class Nowhere(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        pass


def test_the_lock_of_imports_is_never_left_held(alarm: Alarm) -> None:
    def import_it() -> None:
        with suppress(KeyError):  # Python 3.11, where another import comes in between
            importlib.import_module("colorsys")
        sys.modules.pop("colorsys", None)

    def is_free() -> bool:
        deadline = time.monotonic() + 10
        while (held := _imp.lock_held()) and time.monotonic() < deadline:
            time.sleep(0.001)  # another thread imports something
        if held:
            _imp.release_lock()  # or the rest of the tests would hang
        return not held

    alarm.interrupt_often(import_it, is_free)


def test_nor_are_those_of_conditions_and_of_logging(alarm: Alarm) -> None:
    condition, handler = threading.Condition(threading.Lock()), Nowhere()
    record = logging.makeLogRecord({})
    lock = handler.lock
    assert lock

    def take_them() -> None:
        with condition:
            pass
        handler.handle(record)

    def try_both() -> bool:
        taken = [one.acquire(blocking=False) for one in (condition, lock)]
        for one, is_taken in zip((condition, lock), taken, strict=True):
            if is_taken:
                one.release()
        return all(taken)

    with ThreadPoolExecutor(1) as another:  # an RLock does not keep its own thread out
        alarm.interrupt_often(take_them, lambda: another.submit(try_both).result())


def test_nor_are_those_of_futures_that_are_waited_for(alarm: Alarm) -> None:
    futures: list[Future[None]] = [Future() for _ in range(20)]
    futures[0].set_result(None)

    def is_free() -> bool:
        # Not of the class that `wait` takes them in: its condition is its RLock's.
        return all(another.submit(_can_be_had, future).result() for future in futures)

    with ThreadPoolExecutor(1) as another:
        alarm.interrupt_often(lambda: wait(futures, return_when=FIRST_COMPLETED), is_free)


def test_a_signal_that_comes_while_another_is_put_off_is_put_off_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    acted, again = [], threading.Event()
    monkeypatch.setattr("flows.interrupt._again", lambda _: again.set())
    sparing = Sparing(lambda *_: acted.append("within the first one's handler"))
    sparing(signal.SIGINT, SimpleNamespace(f_code=Sparing.__call__.__code__))  # type: ignore[arg-type]
    assert again.wait(60) and not acted


def _can_be_had(future: Future[None]) -> bool:
    taken = future._condition.acquire(blocking=False)
    if taken:
        future._condition.release()
    return taken


def test_prefect_s_own_handler_tears_none_either(monkeypatch: pytest.MonkeyPatch) -> None:
    handler: Any = engine._prefect_sigterm_handler
    raised_by = getattr(handler, "act", handler)  # a run of before may have replaced it
    monkeypatch.setattr(engine, "_prefect_sigterm_handler", raised_by)  # put back at the end
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    signal.signal(signal.SIGTERM, lambda *_: None)  # Prefect hands the signal on to it
    try:
        for _ in range(2):  # runs in one process
            with pytest.raises(TerminationSignal), engine.capture_sigterm():
                spare_locks()
                installed = signal.getsignal(signal.SIGTERM)
                assert isinstance(installed, Sparing) and installed.act is raised_by
                assert engine.is_prefect_sigterm_handler_installed()
                signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGINT) is interrupt
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
            signal.signal(number, handler)


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        heed_signals()
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_STOPPED_TWICE = """
import threading
import time
from flows import cli

def hang():
    threading.Thread(target=threading.Event().wait).start()
    raise KeyboardInterrupt

cli.run_flow = lambda *_: hang()
cli.main()
"""


def test_a_run_that_is_stopped_again_leaves_its_shards_where_they_are() -> None:
    command = [sys.executable, "-c", _STOPPED_TWICE, "run", "in", "out"]
    ended = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 130, ended.stderr
    assert ended.stderr.startswith("pagemill: stopped") and "Traceback" not in ended.stderr
