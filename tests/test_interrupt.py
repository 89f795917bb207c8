"""Ctrl-C tears no lock, wherever it comes."""

from __future__ import annotations

import _imp
import importlib
import logging
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from flows.interrupt import heed_signals, interrupt

TIMES = 150


@pytest.fixture
def alarmed() -> Iterator[None]:
    """An alarm is Ctrl-C."""
    before = signal.signal(signal.SIGALRM, interrupt)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


class Nowhere(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        pass


def interrupt_often(do: Callable[[], object], is_free: Callable[[], bool]) -> None:
    chance = random.Random(0)
    for _ in range(TIMES):
        try:
            signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-4, 1e-3))  # once
            while True:
                do()
        except KeyboardInterrupt:
            assert is_free()


def test_the_lock_of_imports_is_never_left_held(alarmed: None) -> None:
    def import_it() -> None:
        importlib.import_module("colorsys")
        sys.modules.pop("colorsys", None)

    def is_free() -> bool:
        if held := _imp.lock_held():
            _imp.release_lock()  # or the rest of the tests would hang
        return not held

    interrupt_often(import_it, is_free)


def test_nor_are_those_of_conditions_and_of_logging(alarmed: None) -> None:
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
        interrupt_often(take_them, lambda: another.submit(try_both).result())


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
