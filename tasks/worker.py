"""The worker: what one process keeps for all the shards it works on.

A job is plain data and may cross a process boundary; a worker holds what may not: the ledger,
the resident engine, the gauges and the wish to stop.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field

from loaders.engine import Completion, Engine, Request
from loaders.resident import loads
from pagemill.errors import Stopped
from pagemill.ledger import Ledger
from pagemill.parts import Row
from tasks.job import Job
from tasks.passwords import Passwords
from tasks.plan import deciders
from tasks.room import Room
from tasks.warm_engine import WarmEngine

AHEAD = 2
"""Pages asked of the engine, as a multiple of what it reads at once: so its next ones are there,
prepared, before it wants them."""


@dataclass
class Meter:
    """Counts what is done, for progress lines; thread-safe."""

    documents: int = 0
    copied: int = 0
    pages: Counter[str] = field(default_factory=Counter)
    started: float = field(default_factory=time.monotonic)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def count(self, status: str, pages: int = 1) -> None:
        """Count pages that have become rows."""
        with self._lock:
            self.pages[status] += pages

    def count_document(self, copied: bool = False) -> None:
        """Count a document whose rows are complete."""
        with self._lock:
            self.documents += 1
            self.copied += copied


@dataclass(frozen=True)
class Report:
    """What a worker has done so far, as plain data.

    Attributes
    ----------
    worker : str
        Its name: where it is.
    loads : int
        Models loaded since it began: 1, or 0 where the model was resident already.
    documents : int
        Documents whose rows are complete.
    pages : dict
        Rows by status.
    idle, hungry : float or None
        Shares of the time that the engine held no request, and fewer than it could read at once,
        while there was work; see `tasks.feed`.
    loading : float or None
        Seconds since its model began to load, while it does.
    load_seconds : float
        That its models took to load, since it began.
    """

    worker: str
    loads: int = 0
    documents: int = 0
    pages: dict[str, int] = field(default_factory=dict)
    idle: float | None = None
    hungry: float | None = None
    loading: float | None = None
    load_seconds: float = 0.0


def mean(values: Iterable[float | None]) -> float | None:
    """Of those that are known."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


class Worker:
    """One process's share of a job."""

    def __init__(self, job: Job, name: str = "this process") -> None:
        self.job = job
        self.name = name
        self._loads_before = loads()
        self.ledger: Ledger = job.open_ledger()
        self.deciders = deciders(job.settings)
        self.passwords = Passwords(job.settings)
        self.meter = Meter()
        self.room = Room(AHEAD * job.settings.model.batch_size)
        self.stop = threading.Event()
        self._warm = WarmEngine(job.settings.model)
        self._readings: dict[str, Future[list[Row]]] = {}
        self._lock = threading.Lock()

    def warm_up(self, pages: int | None) -> None:
        """Begin to load the engine for about so many pages, beside what can be done without it."""
        self._warm.pages = pages
        self._warm.begin()

    def engine(self) -> Engine:
        """The resident engine, once it is loaded."""
        return self._warm.begin().result().engine

    def submit(self, request: Request) -> Future[Completion]:
        """Ask the resident engine; the answer waits for it where it is not loaded yet."""
        return self._warm.submit(request)

    def report(self) -> Report:
        """What it has done so far."""
        meter, feed = self.meter, self._warm.feed
        idle, hungry = feed.shares() if feed else (None, None)
        loaded = loads() - self._loads_before
        return Report(
            worker=self.name,
            loads=loaded,
            documents=meter.documents,
            pages={str(status): number for status, number in meter.pages.copy().items()},
            idle=idle,
            hungry=hungry,
            loading=self._warm.loading_seconds,
            load_seconds=feed.engine.load_seconds if feed and loaded else 0.0,
        )

    def abort(self, key: str) -> None:
        """End the requests of a page that is given up."""
        self._warm.abort(key)

    def being_read(self) -> set[str]:
        """The keys of what the engine is reading: not of what waits for it."""
        return self._warm.being_read()

    def check_stop(self) -> None:
        """Raise `Stopped` once somebody has asked this worker to stop."""
        if self.stop.is_set():
            raise Stopped("stopped")

    # Equal bytes under two names are read once. The first to come reads; the others wait for
    # its rows, at the end of their shard, when they have nothing left that anyone waits for.

    def claim(self, sha256: str) -> Future[list[Row]] | None:
        """None for the first to ask, who must `fulfil` or `drop`; the others get its future."""
        with self._lock:
            if sha256 in self._readings:
                return self._readings[sha256]
            self._readings[sha256] = Future()
            return None

    def fulfil(self, sha256: str, rows: list[Row]) -> None:
        """Give the rows of a claimed document to those who wait for them."""
        with self._lock:
            reading = self._readings.get(sha256)
        if reading and not reading.done():
            reading.set_result(rows)

    def drop(self, sha256: str, error: BaseException | None = None) -> None:
        """Forget a claim: its rows are committed, or `error` has ended the work on it."""
        with self._lock:
            reading = self._readings.pop(sha256, None)
        if reading and error and not reading.done():
            reading.set_exception(error)
