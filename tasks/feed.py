"""The feed: whether the engine had enough to do while there was work.

An engine is idle while it holds no request, and hungry while it holds fewer than it could read at
once. After the last request is submitted no work is left, and that it drains is nobody's fault.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from loaders.engine import Completion, Engine, Request


class Feed:
    """Submits to an engine and keeps the time that it was idle or hungry. Thread-safe.

    Parameters
    ----------
    engine : Engine
    clock : callable, optional
        Seconds; for tests.

    Attributes
    ----------
    engine : Engine
    """

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.monotonic) -> None:
        self.engine = engine
        self._clock = clock
        self._lock = threading.Lock()
        self._held = 0
        self._asked: dict[Future[Completion], str] = {}
        self._first = self._now = clock()
        self._idle = self._hungry = 0.0
        self._at_last_request = (self._first, 0.0, 0.0)

    def submit(self, request: Request) -> Future[Completion]:
        """As `Engine.submit`."""
        with self._lock:
            self._advance()
            self._held += 1
            self._at_last_request = (self._now, self._idle, self._hungry)
        try:
            future = self.engine.submit(request)
        except BaseException:
            self._leave()
            raise
        with self._lock:
            self._asked[future] = request.key
        future.add_done_callback(self._leave)
        return future

    def being_read(self) -> set[str]:
        """The keys of the requests that the engine has begun with."""
        with self._lock:
            return {key for future, key in self._asked.items() if future.running()}

    def shares(self) -> tuple[float, float]:
        """Shares of the time, up to the last request, that the engine was idle and hungry."""
        with self._lock:
            last, idle, hungry = self._at_last_request
        there = last - self._first
        return (idle / there, hungry / there) if there > 0 else (0.0, 0.0)

    def _leave(self, future: Future[Completion] | None = None) -> None:
        with self._lock:
            self._advance()
            self._held -= 1
            if future is not None:
                self._asked.pop(future)

    def _advance(self) -> None:
        now = self._clock()
        if not self._held:
            self._idle += now - self._now
        if self._held < self.engine.capacity:
            self._hungry += now - self._now
        self._now = now
