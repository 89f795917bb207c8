"""Ctrl-C and SIGTERM: a `KeyboardInterrupt` in the main thread, but not where it tears a lock.

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
from types import FrameType

AGAIN_SECONDS = 0.001
"""Until an interrupt that came at a bad moment is tried again."""
_CONDITION = {threading.Condition.__enter__.__code__, threading.Condition.__exit__.__code__}
_FILES = {"<frozen importlib._bootstrap>", logging.Handler.handle.__code__.co_filename}


def heed_signals() -> None:
    """Let Ctrl-C and SIGTERM interrupt the main thread; one that is ignored stays so (nohup)."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, interrupt)


def interrupt(number: int, frame: FrameType | None) -> None:
    """A signal handler: raises `KeyboardInterrupt` as soon as that tears nothing."""
    code = frame.f_code if frame else None
    if code not in _CONDITION and (code is None or code.co_filename not in _FILES):
        raise KeyboardInterrupt
    # Not a `threading.Thread`: its start takes locks, which the main thread may just hold.
    _thread.start_new_thread(_again, (number,))


def _again(number: int) -> None:
    time.sleep(AGAIN_SECONDS)
    signal.pthread_kill(threading.main_thread().ident or 0, number)
