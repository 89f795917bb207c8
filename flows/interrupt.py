"""Ctrl-C and SIGTERM: an exception in the main thread, but not where it tears a lock.

Python runs a signal's handler between any two instructions. An exception between taking a lock
and the ``try`` that lets it go leaves the lock held for ever. The lock of imports is the worst:
every thread that imports anything then waits, and a run that was to stop hangs. So does one of
logging or of a `threading.Condition`, such as each future's.
"""

from __future__ import annotations

import _thread
import logging
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import _base
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any, cast

AGAIN_SECONDS = 0.001
"""Until an interrupt that came at a bad moment is tried again."""
_FILES = {"<frozen importlib._bootstrap>", logging.Handler.handle.__code__.co_filename}


def _codes(kind: type, *names: str) -> set[CodeType]:
    found = (getattr(getattr(kind, name, None), "__code__", None) for name in names)
    return {code for code in found if code}


_CODES = {
    *_codes(threading.Condition, "__enter__", "__exit__", "_release_save", "_acquire_restore"),
    *_codes(getattr(_base, "_AcquireFutures", object), "__enter__", "__exit__"),  # of `wait`
}


@dataclass(frozen=True)
class Sparing:
    """A signal handler that acts as soon as what it raises tears nothing."""

    act: Callable[[int, FrameType | None], Any]

    def __call__(self, number: int, frame: FrameType | None) -> None:
        code = frame.f_code if frame else None
        if code not in _CODES and (code is None or code.co_filename not in _FILES):
            self.act(number, frame)
        else:
            # Not a `threading.Thread`: its start takes locks, which the main thread may just hold.
            _thread.start_new_thread(_again, (number,))


# A signal that comes while another is put off comes at the same bad moment.
_CODES |= _codes(Sparing, "__call__")

interrupt = Sparing(signal.default_int_handler)
"""Raises `KeyboardInterrupt`."""


def heed_signals() -> None:
    """Let Ctrl-C and SIGTERM interrupt the main thread; one that is ignored stays so (nohup)."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, interrupt)


def spare_locks() -> None:
    """Have what Python and Prefect do on signals spare them, too, for the rest of a flow run.

    Prefect handles SIGTERM itself while a flow runs, and looks whether its handler is the one that
    is installed: so it is replaced in both places. One that is not found is left as it is.
    """
    from prefect.utilities import engine

    if threading.current_thread() is not threading.main_thread():
        return  # signals are not for us
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
    handler: Any = getattr(engine, "_prefect_sigterm_handler", Sparing)
    if signal.getsignal(signal.SIGTERM) is handler and not isinstance(handler, Sparing):
        sparing: Any = Sparing(cast(Any, handler))
        engine._prefect_sigterm_handler = sparing
        signal.signal(signal.SIGTERM, sparing)


def _again(number: int) -> None:
    time.sleep(AGAIN_SECONDS)
    signal.pthread_kill(threading.main_thread().ident or 0, number)
