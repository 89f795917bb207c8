"""The window: a shard's pages that are with the engine, finished in whatever order it answers.

A slow page holds nobody up: what is answered becomes a row at once, and its place goes to the next
page. A page that takes longer than `limits.read_seconds` is ended, and so is all that is left of a
shard after `limits.shard_seconds`.
"""

from __future__ import annotations

import itertools
import queue
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial

from pagemill.document import Failure
from pagemill.errors import EngineError, ErrorKind
from pagemill.settings import Limits
from tasks.read import Answer
from tasks.render_process import decided
from tasks.room import LOOK_SECONDS
from tasks.worker import Worker

Answers = dict[str, Answer]


@dataclass
class _Reading:
    """A page that is being read.

    It holds no picture, and no future whose callbacks do: only the engine's requests do.

    Attributes
    ----------
    answers : dict
        What has come, by output.
    began : float or None
        When the engine was first seen to read it.
    late : Failure or None
        Why it was ended, if it was; when is `ended`.
    """

    answers: dict[str, Answer | BaseException | None]
    finish: Callable[[Answers], None]
    arrivals: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    began: float | None = None
    late: Failure | None = None
    ended: float = 0.0


class Window:
    """The pages of one shard that are being read. Used by one thread.

    Parameters
    ----------
    worker : Worker
    clock : callable, optional
        Seconds; for tests.

    Attributes
    ----------
    over : Failure or None
        Why what is left of the shard is not read, once its time is up.
    """

    def __init__(self, worker: Worker, clock: Callable[[], float] = time.monotonic) -> None:
        self._worker, self._limits = worker, worker.job.settings.limits
        self._clock = clock
        self._began = self._looked = clock()
        self._open: dict[str, _Reading] = {}
        self._answered: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.over: Failure | None = None

    def read(
        self,
        key: str,
        ask: Callable[[], dict[str, Future[Answer]]],
        finish: Callable[[Answers], None],
    ) -> bool:
        """Ask about a page as soon as there is room; `finish` gets its answers.

        `finish` is called by this thread in a later call of this window, and never holds it up.
        Gives whether the page was asked about: not if the shard's time was up before.

        Raises
        ------
        Stopped
            The worker was asked to stop.
        EngineError
            The engine failed, or has not ended a page long after it was told to.
        """
        self._worker.room.enter(self.settle)
        if self.over:
            self._worker.room.leave()
            return False
        try:
            asked = ask()
        except BaseException:
            self._worker.room.leave()
            raise
        reading = self._open[key] = _Reading(dict.fromkeys(asked), finish)
        for name, answer in asked.items():
            answer.add_done_callback(partial(self._arrived, key, reading, name))
        return True

    def settle(self, seconds: float = 0) -> None:
        """Finish the pages that are answered; waits so long for the first of them."""
        self._worker.check_stop()
        if self._clock() - self._looked >= LOOK_SECONDS:
            self._look()
        try:
            self._finish(self._answered.get(seconds > 0, seconds))
            while True:
                self._worker.check_stop()
                self._finish(self._answered.get_nowait())
        except queue.Empty:
            return

    def wait_until(self, done: Callable[[], object]) -> None:
        """Finish pages as they are answered, until it is `done`."""
        while not done():
            self.settle(LOOK_SECONDS)

    def is_empty(self) -> bool:
        """Whether every page is finished."""
        return not self._open

    def abort(self) -> None:
        """Let go of the pages that are being read."""
        for key in self._open:
            self._worker.abort(key)

    def _arrived(self, key: str, reading: _Reading, name: str, answer: Future[Answer]) -> None:
        reading.answers[name] = answer.exception() or answer.result()
        if next(reading.arrivals) == len(reading.answers):
            self._worker.room.leave()
            self._answered.put(key)

    def _finish(self, key: str) -> None:
        reading = self._open.pop(key)
        answers: Answers = {}
        for name, answer in reading.answers.items():
            if isinstance(answer, BaseException):
                raise answer
            assert answer is not None
            answers[name] = _blamed(answer, reading.late) if reading.late else answer
        reading.finish(answers)

    # -- deadlines -------------------------------------------------------------------------

    def _look(self) -> None:
        """End what has taken too long."""
        now = self._looked = self._clock()
        if self._worker.is_loading():
            self._began = now  # nobody's time runs while nothing can be read
            return
        limit = self._limits.shard_seconds
        if limit is not None and now - self._began > limit:
            self.over = self.over or _late(self._limits, "shard_seconds", "the shard")
        being_read = self._worker.being_read()
        for key, reading in self._open.items():
            if reading.began is None and key in being_read:
                reading.began = now
            late = self.over or self._too_long(reading, now)
            if late is not None:
                self._end(key, reading, late, now)

    def _too_long(self, reading: _Reading, now: float) -> Failure | None:
        if reading.began is None or now - reading.began <= self._limits.read_seconds:
            return None
        return _late(self._limits, "read_seconds", "reading the page")

    def _end(self, key: str, reading: _Reading, late: Failure, now: float) -> None:
        if reading.late is None:
            reading.late, reading.ended = late, now
        elif now - reading.ended > self._limits.read_seconds:
            raise EngineError(
                f"the engine was told to end a page, and has not after {now - reading.ended:.0f} "
                f"s: {key}"
            )
        self._worker.abort(key)  # again and again: it may just have been asked once more


def _late(limits: Limits, name: str, what: str) -> Failure:
    seconds = getattr(limits, name)
    message = f"{what} took longer than limits.{name} ({seconds:g} s): raise it"
    return Failure(ErrorKind.TIME_OUT, message, decided(limits, name))


def _blamed(answer: Answer, late: Failure) -> Answer:
    """An answer that was cut off by a deadline: what was said until then, and why not more."""
    if answer.finish_reason != "aborted":
        return answer
    error = None if answer.text else late.kind
    text = answer.text or None
    return replace(answer, text=text, error=error, message=late.message, decided_by=late.decided_by)
