"""The feed: whether the engine had enough to do while there was work.

An engine is hungry while it holds fewer requests than it could read at once. After the last
request is submitted no work is left, and that it drains is nobody's fault.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from loaders.engine import Completion, Engine, Request


class Feed:
    """Submits to an engine and keeps the time that it was hungry. Thread-safe.

    Parameters
    ----------
    engine : Engine
    clock : callable, optional
        Seconds; for tests.
    """

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._clock = clock
        self._lock = threading.Lock()
        self._held = 0
        self._first = self._now = clock()
        self._hungry = 0.0
        self._hungry_while_work = self._last = 0.0

    def submit(self, request: Request) -> Future[Completion]:
        """As `Engine.submit`."""
        with self._lock:
            self._advance()
            self._held += 1
            self._hungry_while_work, self._last = self._hungry, self._now
        try:
            future = self._engine.submit(request)
        except BaseException:
            self._leave()
            raise
        future.add_done_callback(lambda _: self._leave())
        return future

    @property
    def hungry_share(self) -> float:
        """Share of the time, from the beginning to the last request, that the engine was hungry."""
        with self._lock:
            there = self._last - self._first
            return self._hungry_while_work / there if there > 0 else 0.0

    def _leave(self) -> None:
        with self._lock:
            self._advance()
            self._held -= 1

    def _advance(self) -> None:
        now = self._clock()
        if self._held < self._engine.capacity:
            self._hungry += now - self._now
        self._now = now
