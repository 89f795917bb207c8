"""Twins: documents of equal bytes under several names, which a worker reads once.

The first to come reads; the others wait for its rows, at the end of their shard, when they have
nothing left that anyone waits for.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future

from pagemill.parts import Row


class Twins:
    """What is being read, by a key that equal documents share. Thread-safe."""

    def __init__(self) -> None:
        self._readings: dict[str, Future[list[Row]]] = {}
        self._lock = threading.Lock()

    def claim(self, key: str) -> Future[list[Row]] | None:
        """None for the first to ask, who must `fulfil` or `drop`; the others get its future."""
        with self._lock:
            if key in self._readings:
                return self._readings[key]
            self._readings[key] = Future()
            return None

    def fulfil(self, key: str, rows: list[Row]) -> None:
        """Give the rows of a claimed document to those who wait for them."""
        with self._lock:
            reading = self._readings.get(key)
        if reading and not reading.done():
            reading.set_result(rows)

    def drop(self, key: str, error: BaseException | None = None) -> None:
        """Forget a claim: its rows are committed, or `error` has ended the work on it."""
        with self._lock:
            reading = self._readings.pop(key, None)
        if reading and error and not reading.done():
            reading.set_exception(error)
