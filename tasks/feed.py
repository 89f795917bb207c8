"""The feed: whether the engine had enough to do while there was work.

An engine is idle while it holds no request, and hungry while it holds fewer than it could read at
once; what it holds beyond that is its queue. After the last request is submitted no work is left,
and that it drains is nobody's fault.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from loaders.engine import Completion, Engine, Request


@dataclass(frozen=True)
class Fed:
    """How an engine was fed from some moment until a last request; `-` gives the time between.

    Attributes
    ----------
    seconds, idle, hungry : float
        All of the time; that with no request; that with fewer than the engine reads at once.
    queued : float
        Requests that waited for the engine, each times its seconds.
    """

    seconds: float = 0.0
    idle: float = 0.0
    hungry: float = 0.0
    queued: float = 0.0

    def __sub__(self, before: Fed) -> Fed:
        return Fed(
            self.seconds - before.seconds,
            self.idle - before.idle,
            self.hungry - before.hungry,
            self.queued - before.queued,
        )

    @property
    def idle_share(self) -> float:
        """Share of the time; 0 of none."""
        return self.idle / self.seconds if self.seconds > 0 else 0.0

    @property
    def hungry_share(self) -> float:
        """Share of the time; 0 of none."""
        return self.hungry / self.seconds if self.seconds > 0 else 0.0

    @property
    def queue(self) -> float:
        """Requests that waited, on average."""
        return self.queued / self.seconds if self.seconds > 0 else 0.0


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
    longest : int
        Requests of the longest queue.
    """

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.monotonic) -> None:
        self.engine = engine
        self.longest = 0
        self._clock = clock
        self._lock = threading.Lock()
        self._held = 0
        self._asked: dict[Future[Completion], str] = {}
        self._then = clock()
        self._now = self._at_last_request = Fed()

    def submit(self, request: Request) -> Future[Completion]:
        """As `Engine.submit`."""
        with self._lock:
            self._advance()
            self._held += 1
            self._at_last_request = self._now
            self.longest = max(self.longest, self._held - self.engine.capacity)
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

    def is_hungry(self) -> bool:
        """Whether the engine holds fewer requests than it could read at once."""
        with self._lock:
            return self._held < self.engine.capacity

    def so_far(self) -> Fed:
        """How the engine was fed until its last request."""
        with self._lock:
            return self._at_last_request

    def _leave(self, future: Future[Completion] | None = None) -> None:
        with self._lock:
            self._advance()
            self._held -= 1
            if future is not None:
                self._asked.pop(future)

    def _advance(self) -> None:
        clock, now, held = self._clock(), self._now, self._held
        passed, self._then = clock - self._then, clock
        waiting = held - self.engine.capacity
        self._now = Fed(
            now.seconds + passed,
            now.idle + (0 if held else passed),
            now.hungry + (passed if waiting < 0 else 0),
            now.queued + max(0, waiting) * passed,
        )
