"""The warm engine: loaded in the background while documents are fetched and pages are drawn.

What is asked of it before it is loaded waits for it, in order; so the pages of a first window are
ready when the model is. A load that fails is the error of all that was asked and will be.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from contextvars import copy_context
from functools import partial

from loaders.engine import Completion, Engine, Request
from loaders.resident import resident
from pagemill.errors import EngineError, PagemillError
from pagemill.settings import Model
from tasks.feed import Feed


class WarmEngine:
    """This process's resident engine, from the moment that it is wanted. Thread-safe.

    Parameters
    ----------
    model : Model

    Attributes
    ----------
    pages : int or None
        About how many it will read, as far as is known when it is loaded.
    """

    pages: int | None = None

    def __init__(self, model: Model) -> None:
        self._model = model
        self._lock = threading.Lock()
        self._loading: Future[Feed] | None = None
        self._began = 0.0
        self._given_up: set[str] = set()

    @property
    def engine(self) -> Engine | None:
        """None until it is loaded."""
        feed = self.feed
        return feed.engine if feed else None

    @property
    def feed(self) -> Feed | None:
        """What is between it and those who ask; None until it is loaded."""
        loading = self._loading
        return loading.result() if loading and loading.done() and not loading.exception() else None

    @property
    def loading_seconds(self) -> float | None:
        """How long it has been loading; None while it is not."""
        loading = self._loading
        return time.monotonic() - self._began if loading and not loading.done() else None

    def begin(self) -> Future[Feed]:
        """Begin to load it, if nobody has; the future raises what `resident` does."""
        with self._lock:
            if self._loading is None:
                loading: Future[Feed] = Future()
                # A daemon: a run that is stopped does not wait for a model.
                load = partial(copy_context().run, self._load, loading)  # logs are the run's
                threading.Thread(target=load, name="load", daemon=True).start()
                self._began, self._loading = time.monotonic(), loading  # once it has begun
            return self._loading

    def submit(self, request: Request) -> Future[Completion]:
        """As `Engine.submit`, at any time."""
        loading = self.begin()
        if loading.done():
            return loading.result().submit(request)
        answer: Future[Completion] = Future()
        late = [(request, answer)]  # popped: a future keeps its callbacks, and so would the page
        loading.add_done_callback(lambda _: self._submit_late(loading, *late.pop()))
        return answer

    def abort(self, key: str) -> None:
        """As `Engine.abort`; what still waits for the engine is not submitted."""
        engine = self.engine
        if engine is not None:
            engine.abort(key)
        else:
            self._given_up.add(key)

    def being_read(self) -> set[str]:
        """The keys of what the engine is reading."""
        feed = self.feed
        return feed.being_read() if feed else set()

    def _load(self, loading: Future[Feed]) -> None:
        try:
            feed = Feed(resident(self._model, self.pages))
        except PagemillError as error:
            loading.set_exception(error)
        except BaseException as error:  # nobody else would hear of it
            loading.set_exception(EngineError(f"{type(error).__name__}: {error}"))
        else:
            loading.set_result(feed)

    def _submit_late(
        self, loading: Future[Feed], request: Request, answer: Future[Completion]
    ) -> None:
        try:
            feed = loading.result()
            if request.key in self._given_up:
                answer.set_result(Completion("", 0, 0, "aborted", 0.0))
                return
            asked = feed.submit(request)
        except BaseException as error:
            answer.set_exception(error)
        else:
            asked.add_done_callback(lambda _: _hand_on(asked, answer))


def _hand_on(asked: Future[Completion], answer: Future[Completion]) -> None:
    if (error := asked.exception()) is not None:
        answer.set_exception(error)
    else:
        answer.set_result(asked.result())
