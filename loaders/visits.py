"""One visit for all that is asked of a page: its images are prepared, encoded and prefilled once.

Requests about the same images that are submitted together share a `Visit`. The first to come has
the images prepared; the others wait for that, take over what was prepared, and follow at once: so
the engine comes to them while it still holds what it saw, and begins behind the same prefix.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from loaders.engine import Completion, Request


@dataclass
class Visit:
    """The requests about the same images that an engine holds at this moment.

    Attributes
    ----------
    name : str
        For the framework's caches; no two visits share it.
    door : asyncio.Lock
        Held while a prompt is prepared.
    ids : list of int
        The first prompt, an image being one token or a few.
    prompt : dict
        The same as the engine takes it: prepared images, and a token for each of their cells.
    features : dict
        What the model saw in the images, where the engine can hand it on.
    """

    images: tuple[Any, ...]  # held, so that nobody else gets their ids meanwhile
    name: str
    guests: int = 0
    door: asyncio.Lock = field(default_factory=asyncio.Lock)
    ids: list[int] = field(default_factory=list)
    prompt: dict[str, Any] | None = None
    features: dict[Any, Any] = field(default_factory=dict)

    def keep(self, ids: list[int], prompt: dict[str, Any]) -> None:
        """Let later guests use what was prepared, where there are or may be some."""
        if self.images:
            self.ids, self.prompt = ids, prompt

    def prompt_for(self, ids: list[int]) -> dict[str, Any] | None:
        """The prompt `ids` with the images as they are prepared already, if it can be had."""
        if self.prompt is None:
            return None
        whole = self.prompt["prompt_token_ids"]
        pairs = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(self.ids, ids))  # noqa: B905
        same = sum(1 for _ in pairs)
        tail = len(self.ids) - same
        if whole[len(whole) - tail :] != self.ids[same:]:  # an image stands in what differs
            return None
        return {**self.prompt, "prompt_token_ids": whole[: len(whole) - tail] + ids[same:]}


class Visits:
    """The visits under way; `enter` and `leave` may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._visits: dict[tuple[int, ...], Visit] = {}
        self._numbers = itertools.count()

    def enter(self, request: Request) -> None:
        """Announce a request before it is submitted."""
        key = _key(request)
        with self._lock:
            visit = self._visits.get(key)
            if visit is None:
                visit = self._visits[key] = Visit(request.images, f"visit-{next(self._numbers)}")
            visit.guests += 1

    def leave(self, request: Request) -> None:
        """Let go of a request; the last one takes the images along."""
        self._leave(_key(request))

    def _leave(self, key: tuple[int, ...]) -> None:
        with self._lock:
            self._visits[key].guests -= 1
            if not self._visits[key].guests:
                del self._visits[key]

    def share(
        self, request: Request, submit: Callable[[Request], Future[Completion]]
    ) -> Future[Completion]:
        """Submit a request that enters before, and leaves when it is done."""
        self.enter(request)
        key = _key(request)  # not the request: a future keeps its callbacks, and so the page
        try:
            future = submit(request)
        except BaseException:
            self._leave(key)
            raise
        future.add_done_callback(lambda _: self._leave(key))
        return future

    def of(self, request: Request) -> Visit:
        """The visit of a request that has entered. Without images, one of its own."""
        if not request.images:
            return Visit((), "")
        return self._visits[_key(request)]


def _key(request: Request) -> tuple[int, ...]:
    return tuple(id(image) for image in request.images)
