"""A hand: one worker of a crew, as the run holds it, wherever it works."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from loaders.families import takes_time_to_load
from tasks.gauges import Report
from tasks.process import process_shard
from tasks.receipt import Receipt
from tasks.shard import Shard
from tasks.worker import Worker

STOP_SECONDS = 10.0
"""For a worker to hear that it is to stop; one that hangs is killed, or the run would hang."""


class Hand(Protocol):
    """A worker, wherever it is. `process` is called by several threads at once, `enter` by one.

    Its engine is loaded while it works already.
    """

    @property
    def loaded(self) -> bool:
        """Whether its engine ever was."""
        ...

    @property
    def renews(self) -> bool:
        """Whether a worker in its place would have another engine than the one that has broken."""
        ...

    def enter(self) -> None:
        """Wait until it may take another shard, as `Worker.enter`. Raises `WorkerLost`."""
        ...

    def process(self, shard: Shard) -> Receipt:
        """As `tasks.process.process_shard`; raises `WorkerLost` when the worker has died."""
        ...

    def report(self) -> Report:
        """What it has done so far. Raises `WorkerLost`."""
        ...

    def stop(self) -> None:
        """Ask it to stop what it is doing; one that does not hear is killed."""
        ...

    def close(self) -> None:
        """Let it go, and its engine with it where that is not this process's."""
        ...


MakeHand = Callable[[int | None], Hand]
"""Starts a worker that will read about so many pages."""


class LocalHand:
    """The worker in this process. Its engine stays resident when the run is over."""

    loaded = True  # it does not die before the run does

    def __init__(self, worker: Worker, pages: int | None) -> None:
        self.worker = worker
        if takes_time_to_load(worker.job.settings.model):
            self.worker.warm_up(pages)

    @property
    def renews(self) -> bool:
        return self.worker.engine_is_lost()

    def enter(self) -> None:
        self.worker.enter()

    def process(self, shard: Shard) -> Receipt:
        return process_shard(self.worker, shard)

    def report(self) -> Report:
        return self.worker.report()

    def stop(self) -> None:
        self.worker.stop.set()

    def close(self) -> None:
        self.stop()
