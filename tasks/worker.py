"""The worker: what one process keeps for all the shards it works on.

A job is plain data and may cross a process boundary; a worker holds what may not: the ledger,
the resident engine, the gauges and the wish to stop.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future

from loaders.engine import Completion, Engine, Request
from loaders.memory import reuse_images
from loaders.resident import loads
from pagemill.errors import Stopped
from pagemill.ledger import Ledger
from pagemill.settings import Settings
from tasks.feed import Fed
from tasks.gauges import Meter, Report
from tasks.gpu_memory import GpuMemory
from tasks.job import Job
from tasks.passwords import Passwords
from tasks.plan import deciders
from tasks.room import Room
from tasks.twins import Twins
from tasks.warm_engine import WarmEngine

AHEAD = 2
"""Pages asked of the engine, as a multiple of what it reads at once: so its next ones are there,
prepared, before it wants them."""
DRAINING = 7
"""Shards that may wait for their last pages, for each whose pages are still drawn: a slow page
at the end of a shard does not keep the next one from feeding the engine."""


def slots(settings: Settings) -> int:
    """Shards that a worker takes at once: those that are drawn, and those that drain."""
    return (1 + DRAINING) * settings.work.shards_in_flight


def more_drawn(settings: Settings) -> int:
    """Shards that may be drawn besides while the engine is hungry: half of the cores may draw."""
    cores = len(os.sched_getaffinity(0))
    usual = settings.work.shards_in_flight
    return max(0, min(slots(settings), cores // 2) - usual)


class Worker:
    """One process's share of a job."""

    def __init__(self, job: Job, name: str = "this process") -> None:
        reuse_images()
        self.job = job
        self.name = name
        self._loads_before = loads()
        self.ledger: Ledger = job.open_ledger()
        self.deciders = deciders(job.settings)
        self.passwords = Passwords(job.settings)
        self.meter = Meter()
        self._gpu_memory = GpuMemory(job.settings)
        self.room = Room(AHEAD * job.settings.model.batch_size)
        usual, extra = job.settings.work.shards_in_flight, more_drawn(job.settings)
        self.drawing = Room(usual, extra, need=self._is_hungry)
        self.shards = Room(slots(job.settings))
        self.stop = threading.Event()
        self._warm = WarmEngine(job.settings.model)
        self.twins = Twins()

    def warm_up(self, pages: int | None) -> None:
        """Begin to load the engine for about so many pages, beside what can be done without it."""
        self._warm.pages = pages
        self._warm.begin()

    def engine(self) -> Engine:
        """The resident engine, once it is loaded."""
        return self._warm.begin().result().engine

    def engine_is_lost(self) -> bool:
        """Whether it was loaded, and has broken since."""
        engine = self._warm.engine
        return engine is not None and not engine.alive

    def is_loading(self) -> bool:
        """Whether what is asked of the engine waits until it is loaded."""
        return self._warm.loading_seconds is not None

    def enter(self) -> None:
        """Wait until another shard may be drawn; `process_shard` gives its places back.

        Raises
        ------
        Stopped
            The worker was asked to stop.
        """
        self.shards.enter(self.check_stop)
        self.drawing.enter(self.check_stop)

    def submit(self, request: Request) -> Future[Completion]:
        """Ask the resident engine; the answer waits for it where it is not loaded yet."""
        return self._warm.submit(request)

    def report(self) -> Report:
        """What it has done so far."""
        meter, feed = self.meter, self._warm.feed
        fed = feed.so_far() if feed else None
        loaded = loads() - self._loads_before
        return Report(
            worker=self.name,
            loads=loaded,
            documents=meter.documents,
            pages=dict(meter.pages.copy()),
            prompt_tokens=meter.tokens["prompt_tokens"],
            completion_tokens=meter.tokens["completion_tokens"],
            idle=fed.idle_share if fed else None,
            hungry=fed.hungry_share if fed else None,
            queue=fed.queue if fed else None,
            longest_queue=feed.longest if feed else None,
            gpu_memory_gb=self._gpu_memory.most_gb(),
            loading=self._warm.loading_seconds,
            load_seconds=feed.engine.load_seconds if feed and loaded else 0.0,
        )

    def fed(self) -> Fed:
        """How its engine was fed until its last request."""
        feed = self._warm.feed
        return feed.so_far() if feed else Fed()

    def abort(self, key: str) -> None:
        """End the requests of a page that is given up."""
        self._warm.abort(key)

    def being_read(self) -> set[str]:
        """The keys of what the engine is reading: not of what waits for it."""
        return self._warm.being_read()

    def _is_hungry(self) -> bool:
        feed = self._warm.feed
        return feed is not None and feed.is_hungry()

    def check_stop(self) -> None:
        """Raise `Stopped` once somebody has asked this worker to stop."""
        if self.stop.is_set():
            raise Stopped("stopped")
