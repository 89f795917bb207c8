"""Concurrent answers behind `submit`: one thread, an event loop, a coroutine for each request.

A framework that batches continuously, or an endpoint, subclasses `StreamingEngine` and says how
one request is answered; queueing, aborting, sharing the time and breaking are done here.
"""

from __future__ import annotations

import asyncio
import atexit
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

from loaders.batching import FAILURES, Job
from loaders.engine import Completion, FinishReason, Request, RequestError, confidence
from loaders.errors import one_line
from pagemill.errors import EngineError, ErrorKind

T = TypeVar("T")


@dataclass
class Draft:
    """What has been said so far; an aborted request is answered with it."""

    text: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    logprobs: list[float] = field(default_factory=list)

    def start_again(self) -> None:
        """Forget it all: a try that broke off does not count."""
        self.text, self.prompt_tokens, self.completion_tokens = "", 0, 0
        self.logprobs.clear()

    def finish(self, reason: FinishReason, seconds: float) -> Completion:
        """The completion that says this."""
        return Completion(
            text=self.text.strip(),
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            finish_reason=reason,
            seconds=seconds,
            **confidence(self.logprobs),
        )


class SharedClock:
    """Splits time among the requests that run at once, so that their seconds add up to it.

    Attributes
    ----------
    busy_seconds : float
        Time during which at least one ran.
    """

    def __init__(self) -> None:
        self.busy_seconds = 0.0
        self._running = 0
        self._share = 0.0  # what a request that ran from the beginning would have got
        self._last = time.perf_counter()

    def enter(self) -> float:
        """A request starts; give what this returns to `leave`."""
        self._advance()
        self._running += 1
        return self._share

    def leave(self, mark: float) -> float:
        """It ends; its seconds."""
        self._advance()
        self._running -= 1
        return self._share - mark

    def _advance(self) -> None:
        now = time.perf_counter()
        if self._running:
            self.busy_seconds += now - self._last
            self._share += (now - self._last) / self._running
        self._last = now


class StreamingEngine(ABC):
    """An `Engine` whose requests are answered side by side, each as soon as it is done.

    Parameters
    ----------
    capacity : int
        See `Engine`.
    in_flight : int
        Requests that are worked on at once; the others wait.
    """

    version = ""
    weight_bytes = 0
    load_seconds = 0.0

    def __init__(self, capacity: int, in_flight: int) -> None:
        self.capacity = capacity
        self._clock = SharedClock()
        self._lock = threading.Lock()
        self._jobs: dict[Job, asyncio.Task[None] | None] = {}
        self._failing: set[object] = set()
        self._over = ""
        self._places = asyncio.Semaphore(in_flight)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="pagemill-engine", daemon=True)
        self._thread.start()
        # A daemon thread that still works while the interpreter goes down can crash it.
        atexit.register(self.close)

    @property
    def busy_seconds(self) -> float:
        """See `Engine`."""
        return self._clock.busy_seconds

    @property
    def alive(self) -> bool:
        """See `Engine`."""
        return not self._over

    @abstractmethod
    async def _answer(self, request: Request, draft: Draft) -> FinishReason:
        """Fill `draft` as the answer comes in; why it ended.

        Raises
        ------
        RequestError
            This request alone cannot be answered.
        EngineError
            None can be; the engine stops.
        """

    def _refusal(self, request: Request) -> str | None:
        """Why a request can never be answered, if so; checked when it is submitted."""
        return None

    async def _free(self) -> None:  # noqa: B027 (an engine without a model has nothing to free)
        """Let go of the model, on the loop. Called once."""

    def submit(self, request: Request) -> Future[Completion]:
        """Queue a request. Raises `EngineError` once the engine is closed or broken."""
        job = Job(request)
        refusal = self._refusal(request)
        with self._lock:
            if self._over:
                raise EngineError(self._over)
            if refusal is None:
                self._jobs[job] = None
                self._loop.call_soon_threadsafe(self._start, job)
        if refusal is not None:
            job.fail(ErrorKind.MODEL_FAILED, refusal)
        return job.future

    def abort(self, key: str) -> None:
        """End the requests of this key, queued or running, with finish_reason ``aborted``."""
        with self._lock:
            doomed = [job for job in self._jobs if job.request.key == key]
            for job in doomed:
                job.aborted = True
        self._cancel(doomed)

    def close(self) -> None:
        """Stop, end what is queued or running with `EngineError`, free the memory."""
        self._stop("the engine is closed")
        atexit.unregister(self.close)
        with self._lock:
            if self._loop_is_open:
                self._loop_is_open = False
                self._loop.call_soon_threadsafe(self._shut)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    _loop_is_open = True

    def _on_loop(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the engine's loop and wait for it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.close()

    def _shut(self) -> None:
        self._ending = self._loop.create_task(self._end())

    async def _end(self) -> None:
        try:
            tasks = [task for task in self._jobs.values() if task is not None]
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._free()
            left = asyncio.all_tasks() - {self._ending}  # the framework's own
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
        finally:
            self._loop.stop()

    def _stop(self, reason: str) -> None:
        with self._lock:
            self._over = self._over or reason
            doomed = list(self._jobs)
            for job in doomed:
                job.lost = self._over
        self._cancel(doomed)

    def _cancel(self, jobs: list[Job]) -> None:
        """Interrupt the work on `jobs`; what ends them is written on them."""

        def cancel() -> None:
            for job in jobs:
                task = self._jobs.get(job)
                if task is not None:
                    task.cancel()

        with self._lock:  # or the loop might be closed between the two
            if self._loop_is_open and jobs:
                self._loop.call_soon_threadsafe(cancel)

    def _start(self, job: Job) -> None:
        task = self._loop.create_task(self._work(job))
        self._jobs[job] = task
        task.add_done_callback(lambda _: self._forget(job, task))

    def _forget(self, job: Job, task: asyncio.Task[None]) -> None:
        with self._lock:
            self._jobs.pop(job, None)
        if job.future.running():  # an error of ours, in `_fail`; whoever waits must hear of it
            job.fail(ErrorKind.MODEL_FAILED, type(task.exception()).__name__)
        elif not job.future.done():  # it was cancelled before its first step
            job.drop()

    async def _work(self, job: Job) -> None:
        async with self._places:
            if job.ending or not job.future.set_running_or_notify_cancel():
                return
            try:
                completion = await self._complete(job.request)
            except BaseException as error:  # a panic in tokenizers is no Exception
                return self._fail(job, error)
            self._failing.clear()
            job.finish(completion)

    async def _complete(self, request: Request) -> Completion:
        """The answer, or what was said of it before it was cancelled."""
        draft, mark = Draft(), self._clock.enter()
        try:
            reason = await self._answer(request, draft)
        except asyncio.CancelledError:
            reason = "aborted"
        finally:
            seconds = self._clock.leave(mark)
        return draft.finish(reason, seconds)

    def _fail(self, job: Job, error: BaseException) -> None:
        """Fail one job; an `EngineError`, or the fifth failure in a row, breaks the engine."""
        # Tries of one page share its key: a page that keeps failing does not condemn the engine.
        self._failing.add(job.request.key or job)
        message = one_line(error)
        if not isinstance(error, (EngineError, RequestError)):
            error = RequestError(ErrorKind.MODEL_FAILED, f"{type(error).__name__}: {message}")
            message = str(error)
        if isinstance(error, EngineError):
            self._stop(message)
        elif len(self._failing) >= FAILURES:
            self._stop(
                f"the engine failed on {FAILURES} requests in a row, the last with: {message}"
            )
        # Without its traceback, which holds the job and so the page until a garbage collection.
        job.future.set_exception(EngineError(job.lost) if job.lost else error.with_traceback(None))
