"""Batching behind `submit`: one thread gathers requests and answers them together.

A framework that reads one batch at a time subclasses `BatchingEngine` and says how a batch is
answered; queueing, fairness, aborting, running out of memory and breaking are done here. A batch
whose places can be taken while it is under way asks for `_more`.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from loaders.engine import Completion, Request, RequestError
from loaders.errors import one_line
from pagemill.errors import EngineError, ErrorKind

log = logging.getLogger("pagemill.loaders")

GATHER_SECONDS = 0.005
"""How long a batch that is not full waits for company: callers submit in bursts."""
PATIENCE = 2
"""Batches' worth of requests of other groups that may go before the oldest one."""
FAILURES = 5
"""Different requests that may fail in a row before the engine itself is held broken."""


@dataclass(eq=False)
class Job:
    """A request on its way through an engine.

    Attributes
    ----------
    aborted : bool
        Nobody waits for the answer any more: end it at the next step.
    lost : str
        Why the engine will not answer; empty while it will.
    passed_over : int
        Requests of other groups that went first since it has been the oldest.
    """

    request: Request
    future: Future[Completion] = field(default_factory=Future)
    aborted: bool = False
    lost: str = ""
    passed_over: int = 0

    @property
    def ending(self) -> bool:
        return self.aborted or bool(self.lost)

    def finish(self, completion: Completion) -> None:
        """Answer the request, unless the engine has been closed meanwhile."""
        if self.lost:
            self.future.set_exception(EngineError(self.lost))
        else:
            self.future.set_result(completion)

    def fail(self, kind: ErrorKind, message: str) -> None:
        """Fail this request alone."""
        self.future.set_exception(RequestError(kind, message))

    def drop(self) -> None:
        """End a job that is not answered, whether it was started or not."""
        if self.future.running() or self.future.set_running_or_notify_cancel():
            self.finish(Completion("", 0, 0, "aborted", 0.0))


def group_of(request: Request) -> tuple[float, ...]:
    """Requests of one group are decoded together: equal temperature, tokens within a factor 2."""
    return request.temperature, request.max_new_tokens.bit_length()


def next_batch(
    waiting: Sequence[Job], size: int, group_of: Callable[[Request], object] = group_of
) -> list[Job]:
    """The jobs to answer next: the oldest and its group, or a group that fills a batch.

    Parameters
    ----------
    waiting : sequence of Job
        Oldest first, at least one.
    size : int
        Jobs of a batch, at most.
    group_of : callable
        What must be equal in a batch.
    """
    groups: dict[object, list[Job]] = {}
    for job in waiting:
        groups.setdefault(group_of(job.request), []).append(job)
    oldest = next(iter(groups.values()))
    full = next((group for group in groups.values() if len(group) >= size), oldest)
    if full is not oldest and oldest[0].passed_over < PATIENCE * size:
        oldest[0].passed_over += size
        return full[:size]
    return oldest[:size]


@dataclass(frozen=True)
class Failure:
    """What went wrong, without the traceback that would keep its tensors alive."""

    kind: ErrorKind
    message: str


class BatchingEngine(ABC):
    """An `Engine` that answers one batch at a time, in a thread of its own.

    A subclass loads its model first and calls `__init__` last. Attributes: see `Engine`.
    """

    weight_bytes = 0
    load_seconds = 0.0

    def __init__(self, batch_size: int, version: str) -> None:
        self.capacity = batch_size
        self.version = version
        self.busy_seconds = 0.0
        self._busy_since = 0.0
        self._waiting: list[Job] = []
        self._running: list[Job] = []
        self._failing: set[object] = set()
        self._over = ""
        self._wake = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="pagemill-engine", daemon=True)
        self._thread.start()
        # A daemon thread that still computes while the interpreter goes down can crash it.
        atexit.register(self.close)

    @property
    def alive(self) -> bool:
        """See `Engine`."""
        return not self._over

    @abstractmethod
    def _answer(self, jobs: list[Job]) -> None:
        """`_finish` each job as soon as it is done. What is raised concerns those not done.

        Jobs that `_more` gives are added to `jobs`.
        """

    def _group(self, request: Request) -> tuple[float, ...]:
        """What must be equal in a batch."""
        return group_of(request)

    def _refusal(self, request: Request) -> str | None:
        """Why a request can never be answered, if so; checked when it is submitted."""
        return None

    def _is_out_of_memory(self, error: BaseException) -> bool:
        return isinstance(error, MemoryError)

    def _free(self) -> None:  # noqa: B027 (an engine without a model has nothing to free)
        """Let go of the model. Called once or more, after the last answer."""

    def submit(self, request: Request) -> Future[Completion]:
        """Queue a request. Raises `EngineError` once the engine is closed or broken."""
        job = Job(request)
        refusal = self._refusal(request)
        with self._wake:
            if self._over:
                raise EngineError(self._over)
            if refusal is None:
                self._waiting.append(job)
                self._wake.notify_all()
        if refusal is not None:
            job.fail(ErrorKind.MODEL_FAILED, refusal)
        return job.future

    def abort(self, key: str) -> None:
        """End the requests of this key, queued or running, with finish_reason ``aborted``."""
        with self._wake:
            for job in self._running:
                job.aborted |= job.request.key == key
            queued = [job for job in self._waiting if job.request.key == key]
            self._waiting = [job for job in self._waiting if job.request.key != key]
        for job in queued:
            job.drop()

    def close(self) -> None:
        """Stop, end what is queued or running with `EngineError`, free the memory."""
        self._stop("the engine is closed")
        if threading.current_thread() is not self._thread:
            self._thread.join()
        self._free()
        atexit.unregister(self.close)

    def _stop(self, reason: str) -> None:
        with self._wake:
            self._over = self._over or reason
            queued, self._waiting = self._waiting, []
            for job in (*queued, *self._running):
                job.lost = self._over
            self._wake.notify_all()
        for job in queued:
            job.drop()

    def _work(self) -> None:
        try:
            while (jobs := self._gather()) is not None:
                self._busy_since = time.perf_counter()
                self._run(jobs)
                self._tick()
                del jobs  # an idle engine holds no pages
        except BaseException as error:  # whoever waits must hear of it
            self._stop(f"the engine's thread has ended: {type(error).__name__}")
            for job in self._running:
                if not job.future.done():
                    job.drop()

    def _tick(self) -> None:
        now = time.perf_counter()
        self.busy_seconds += now - self._busy_since
        self._busy_since = now

    def _finish(self, job: Job, completion: Completion) -> None:
        """Deliver one answer; whoever gets it finds its seconds in `busy_seconds`."""
        self._tick()
        self._failing.clear()
        job.finish(completion)

    def _more(self, jobs: list[Job], room: int) -> list[Job]:
        """Up to `room` more jobs for the batch `jobs`, which is being answered, if it may grow.

        It may not when it is a part of one that failed, or others have waited long enough.
        """
        with self._wake:
            if self._over or jobs is not self._running or not self._waiting:
                return []
            group, oldest = self._group(jobs[0].request), self._waiting[0]
            found = [job for job in self._waiting if self._group(job.request) == group][:room]
            if found and found[0] is not oldest:
                if oldest.passed_over >= PATIENCE * self.capacity:
                    return []
                oldest.passed_over += len(found)
            self._waiting = [job for job in self._waiting if job not in found]
            found = [job for job in found if job.future.set_running_or_notify_cancel()]
            jobs[1:] = [job for job in jobs[1:] if not job.future.done()] + found
            return found

    def _gather(self) -> list[Job] | None:
        """Wait for requests; the next batch of them, or None when the engine is over."""
        with self._wake:
            self._running = []
            self._wake.wait_for(lambda: self._over or self._waiting)
            self._wake.wait_for(lambda: self._over or self._is_full(), GATHER_SECONDS)
            if self._over:
                return None
            waiting, size = self._waiting, self.capacity
            batch = next_batch(waiting, size, self._group) if waiting else []
            self._waiting = [job for job in self._waiting if job not in batch]
            self._running = [job for job in batch if job.future.set_running_or_notify_cancel()]
            return self._running

    def _is_full(self) -> bool:
        return len(self._waiting) >= self.capacity

    def _run(self, jobs: list[Job]) -> None:
        """Answer `jobs`; after a failure those left in halves (memory) or one by one."""
        failure = self._attempt(jobs)
        left = [job for job in jobs if not job.future.done()]
        if not left:
            return
        failure = failure or Failure(ErrorKind.MODEL_FAILED, "the engine gave no answer")
        if len(left) == 1:
            return self._fail(left[0], failure)
        memory = failure.kind is ErrorKind.OUT_OF_MEMORY
        log.warning("a batch of %d failed, trying it in parts: %s", len(left), failure.message)
        size = (len(left) + 1) // 2 if memory else 1
        for start in range(0, len(left), size):
            self._run(left[start : start + size])

    def _attempt(self, jobs: list[Job]) -> Failure | None:
        for job in jobs:
            if job.ending:
                job.drop()
        jobs[:] = [job for job in jobs if not job.future.done()]
        try:
            if jobs:
                self._answer(jobs)
            return None
        except BaseException as error:  # a panic in tokenizers is no Exception
            return self._failure(error)

    def _failure(self, error: BaseException) -> Failure:
        memory = self._is_out_of_memory(error)
        kind = ErrorKind.OUT_OF_MEMORY if memory else ErrorKind.MODEL_FAILED
        return Failure(kind, f"{type(error).__name__}: {one_line(error)}")

    def _fail(self, job: Job, failure: Failure) -> None:
        """Fail one job; with the fifth in a row the engine is broken."""
        # Tries of one page share its key: a page that keeps failing does not condemn the engine.
        self._failing.add(job.request.key or job)
        if len(self._failing) >= FAILURES and not job.lost:
            self._stop(
                f"the engine failed on {FAILURES} requests in a row, the last with: "
                f"{failure.message}"
            )
        if job.lost:
            job.future.set_exception(EngineError(job.lost))
        else:
            job.fail(failure.kind, failure.message)
