"""Workers on a Ray cluster that exists already: an actor for each GPU, or `work.workers`.

An actor keeps its engine and has several shards in flight. (A Ray task cannot: it is one shard at
a time, and Ray ends the process of a GPU task after each.) Every node needs pagemill installed
and its own keys to the storage; nothing secret travels through Ray.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from loaders.families import needs_gpu
from pagemill.errors import OrchestratorError, PagemillError, UsageError, WorkerLost
from tasks.gauges import Report
from tasks.hand import STOP_SECONDS
from tasks.job import Job
from tasks.process import process_shard
from tasks.receipt import Receipt
from tasks.shard import Shard
from tasks.worker import Worker, slots

PLACE_SECONDS = 120
"""How long to wait until the cluster has room for a worker, and its process has started."""


@contextlib.contextmanager
def actor_makers(job: Job) -> Iterator[Sequence[Callable[[int | None], Actor]]]:
    """A function for each worker, which starts it for so many pages.

    The connection is closed at the end.

    Raises
    ------
    UsageError
        Ray is not installed.
    OrchestratorError
        No cluster answers at this address, or it has no GPU.
    """
    ray = _import_ray()
    work = job.settings.work
    ours = not ray.is_initialized()
    if ours:
        _connect(ray, work.ray_address or os.environ.get("RAY_ADDRESS") or "auto")
    try:
        gpus = job.settings.gpus_per_worker if needs_gpu(job.settings.model) else 0
        room = _room(ray, gpus)
        if not room:
            raise OrchestratorError(
                f"work.runner: ray: the cluster has no node with {gpus} GPUs: add one, or use "
                "another model"
            )
        count = work.workers or room
        yield [partial(Actor, ray, job, f"ray-{n}", gpus) for n in range(1, count + 1)]
    finally:
        if ours:
            ray.shutdown()


def _connect(ray: Any, address: str) -> None:
    try:
        if ":" in address:  # Ray itself would try for minutes
            host, _, port = address.removeprefix("ray://").rpartition(":")
            socket.create_connection((host, int(port)), timeout=10).close()
        with _signals_as_they_were():
            ray.init(address=address, logging_level=logging.WARNING)
    except (OSError, RuntimeError, ValueError) as error:
        raise OrchestratorError(
            f"work.ray_address: no Ray cluster at {address} ({str(error).splitlines()[0]}): "
            "start one with `ray start --head`, or use work.runner: process"
        ) from None


@contextlib.contextmanager
def _signals_as_they_were() -> Iterator[None]:
    """Ray takes SIGTERM for itself, and a run would no longer stop in order."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)


def _import_ray() -> Any:
    try:
        import ray
    except ImportError:
        raise UsageError(
            "work.runner: ray: Ray is not installed: pip install 'pagemill[ray]', here and on "
            "every node"
        ) from None
    return ray


def _room(ray: Any, gpus: int) -> int:
    """Workers for which the cluster has GPUs; one a node where they need none."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    if not gpus:
        return len(alive)
    return sum(int(node["Resources"].get("GPU", 0)) // gpus for node in alive)


class Actor:
    """A worker on the cluster; see `tasks.hand.Hand`."""

    def __init__(self, ray: Any, job: Job, name: str, gpus: int, pages: int | None) -> None:
        self._ray, self.name = ray, name
        # To load, to say when there is room, to be asked and to be stopped meanwhile.
        threads = slots(job.settings) + 4
        options = {
            "num_gpus": gpus,
            "num_cpus": 0 if gpus else 1,
            "max_concurrency": threads,
            "scheduling_strategy": "SPREAD",
        }
        self._actor = ray.remote(_Served).options(**options).remote(job, name)
        try:
            self.name = self._call("settle", timeout=PLACE_SECONDS)
            self._call("warm_up", pages)
        except ray.exceptions.GetTimeoutError:
            self.close()
            raise WorkerLost(
                f"worker {name}: the Ray cluster had no room for it within {PLACE_SECONDS} s"
            ) from None
        except BaseException:
            self.close()
            raise
        self.loaded = False
        threading.Thread(target=self._await_engine, daemon=True).start()

    def _await_engine(self) -> None:
        with contextlib.suppress(PagemillError):  # its shards are told
            self._call("load")
            self.loaded = True

    @property
    def renews(self) -> bool:
        return self.loaded

    def enter(self) -> None:
        self._call("enter")

    def process(self, shard: Shard) -> Receipt:
        receipt: Receipt = self._call("process", shard)
        return receipt

    def report(self) -> Report:
        report: Report = self._call("report")
        return report

    def stop(self) -> None:
        try:
            with contextlib.suppress(WorkerLost):
                self._call("stop", timeout=STOP_SECONDS)
        except self._ray.exceptions.GetTimeoutError:
            self.close()

    def close(self) -> None:
        self._ray.kill(self._actor)

    def _call(self, method: str, *values: Any, timeout: float | None = None) -> Any:
        try:
            return self._ray.get(getattr(self._actor, method).remote(*values), timeout=timeout)
        except self._ray.exceptions.RayActorError as error:
            raise WorkerLost(f"worker {self.name} is gone: {str(error).splitlines()[0]}") from None
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from None


class _Served:
    """What runs on a node."""

    def __init__(self, job: Job, name: str) -> None:
        import ray

        where = ray.util.get_node_ip_address()
        self._worker = Worker(job, f"{name}@{where}/{os.getpid()}")

    def settle(self) -> str:
        return self._worker.name

    def warm_up(self, pages: int | None) -> None:
        self._worker.warm_up(pages)
        self._worker.ledger.refresh()

    def load(self) -> None:
        self._worker.engine()

    def enter(self) -> None:
        self._worker.enter()

    def process(self, shard: Shard) -> Receipt:
        return process_shard(self._worker, shard)

    def report(self) -> Report:
        return self._worker.report()

    def stop(self) -> None:
        self._worker.stop.set()
