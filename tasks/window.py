"""The window: pages that are with the engine, finished in whatever order it answers.

A slow page holds nobody up: what is answered becomes a row at once, and its place goes to the next
page. All shards of a worker share the places, so that the pictures in memory depend on the engine
alone: not on the document, the job or the number of shards in flight.
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field

from tasks.read import Answer

LOOK_SECONDS = 0.2
"""Between two looks, while waiting, at what else may have happened."""

Answers = dict[str, Answer]


class Room:
    """A worker's places for pages, given in the order in which they are asked for. Thread-safe.

    Parameters
    ----------
    places : int
        Pages that the engine should hold: those that it reads, and those that it reads next.
    """

    def __init__(self, places: int) -> None:
        self._free = places
        self._turns = itertools.count()
        self._waiting: set[int] = set()
        self._changed = threading.Condition()

    def enter(self, meanwhile: Callable[[], None]) -> None:
        """Take a place as soon as one is free; what `meanwhile` raises ends the wait."""
        turn = next(self._turns)
        while not self._take(turn):
            meanwhile()  # may take its time: others go ahead, but this turn stays the older one

    def leave(self) -> None:
        """Give a place back."""
        with self._changed:
            self._free += 1
            self._changed.notify_all()

    def _take(self, turn: int) -> bool:
        with self._changed:
            self._waiting.add(turn)
            taken = self._changed.wait_for(
                lambda: self._free and turn == min(self._waiting), LOOK_SECONDS
            )
            self._waiting.discard(turn)
            self._free -= bool(taken)
            self._changed.notify_all()
            return bool(taken)


@dataclass
class _Reading:
    """A page that is being read. It holds no picture: only the engine's requests do."""

    answers: dict[str, Future[Answer]]
    finish: Callable[[Answers], None]
    arrivals: Iterator[int] = field(default_factory=lambda: itertools.count(1))


class Window:
    """The pages of one shard that are being read.

    Parameters
    ----------
    room : Room
    check : callable
        Called while waiting; may raise.
    """

    def __init__(self, room: Room, check: Callable[[], None]) -> None:
        self._room, self._check = room, check
        self._open: dict[str, _Reading] = {}
        self._answered: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read(
        self,
        key: str,
        ask: Callable[[], dict[str, Future[Answer]]],
        finish: Callable[[Answers], None],
    ) -> None:
        """Ask about a page as soon as there is room; `finish` gets its answers.

        `finish` is called by this thread in a later call of this window, and never holds it up.
        """
        self._room.enter(self._look)
        reading = self._open[key] = _Reading(ask(), finish)
        for answer in reading.answers.values():
            answer.add_done_callback(lambda _: self._arrived(key, reading))

    def settle(self, seconds: float = 0) -> None:
        """Finish the pages that are answered; waits so long for the first of them."""
        try:
            self._finish(self._answered.get(seconds > 0, seconds))
            while True:
                self._finish(self._answered.get_nowait())
        except queue.Empty:
            return

    def wait_until(self, done: Callable[[], bool]) -> None:
        """Finish pages as they are answered, until it is `done`."""
        while not done():
            self._check()
            self.settle(LOOK_SECONDS)

    def is_empty(self) -> bool:
        """Whether every page is finished."""
        return not self._open

    def unfinished(self) -> list[str]:
        """The keys of the pages that are being read."""
        return list(self._open)

    def _look(self) -> None:
        self._check()
        self.settle()

    def _arrived(self, key: str, reading: _Reading) -> None:
        if next(reading.arrivals) == len(reading.answers):
            self._room.leave()
            self._answered.put(key)

    def _finish(self, key: str) -> None:
        reading = self._open.pop(key)
        reading.finish({name: answer.result() for name, answer in reading.answers.items()})
