"""Rooms: how many pages a worker asks of its engine at a time, and how many shards it draws.

All shards of a worker share them, so that the pictures in memory depend on the engine alone: not on
the document, the job or the number of shards in flight.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable

LOOK_SECONDS = 0.2
"""Between two looks, while waiting, at what else may have happened."""
NEED_SECONDS = 0.02
"""That a further place is waited for, where there are any."""


class Room:
    """Places, given in the order in which they are asked for. Thread-safe.

    Parameters
    ----------
    places : int
    extra : int, optional
        Further places, each given only after `NEED_SECONDS` of waiting, while there is `need`.
    need : callable, optional
    """

    def __init__(
        self, places: int, extra: int = 0, need: Callable[[], bool] = lambda: False
    ) -> None:
        self._free, self._extra, self._need = places, extra, need
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
            needed = self._is_needed()
            taken = self._changed.wait_for(
                lambda: self._free > 0 and turn == min(self._waiting),
                NEED_SECONDS if needed else LOOK_SECONDS,
            )
            if needed and not taken and turn == min(self._waiting):
                taken = self._is_needed()
            self._waiting.discard(turn)
            self._free -= taken
            self._changed.notify_all()
            return taken

    def _is_needed(self) -> bool:
        """Whether a further place may be given, and is wanted."""
        return self._free > -self._extra and self._need()
