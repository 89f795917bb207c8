"""Draw a document's pages, whatever the document does.

    with closing(render(file, settings)) as items:
        opened = next(items)                      # Opened(kind, page_count), or a Failure
        for page in items:                        # a PageImage or a PageFailure for each page
            ...

The libraries that draw run in a killable child behind limits (`tasks.render_child`). This side
believes nothing that the child says: it checks every length before it reads, waits no longer than
the limits allow, and turns a hang or a crash into the failure of one page.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
from collections import deque
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.metadata import version
from typing import IO

from pagemill.document import Failure, Kind, PageFailure, PageImage
from pagemill.errors import ErrorKind, UsageError
from pagemill.settings import Limits, Renderer, Settings
from tasks.passwords import password_mark
from tasks.render_process import CHUNKS, Child, ChildError, Clock, decided
from tasks.sniff import HEAD_BYTES, sniff

CHUNK = CHUNKS["poppler"]
"""Doubtful pages that the second renderer is asked about at once."""
MAX_RESTARTS = 3
"""Children that may be replaced after a crash or a hang, for each renderer of a document."""
MAX_VAIN = 64
"""Doubtful pages in a row that the second renderer may leave as they are before it is let be."""


@dataclass(frozen=True)
class Opened:
    """A document that can be drawn.

    Attributes
    ----------
    kind : Kind
    page_count : int
        As declared; `render` gives no more than ``limits.max_pages`` of them.
    """

    kind: Kind
    page_count: int


def render(
    file: IO[bytes],
    settings: Settings,
    *,
    only: Collection[int] | None = None,
    skip: Collection[int] = (),
    passwords: Sequence[str] = (),
    stop: threading.Event | None = None,
) -> Generator[Opened | Failure | PageImage | PageFailure, None, None]:
    """Draw the pages of one document.

    Parameters
    ----------
    file : IO[bytes]
        A real, seekable file with a file descriptor; it may be unlinked. Not read from here on.
    settings : Settings
    only, skip : collection of int
        Page numbers, from 1.
    passwords : sequence of str
        To be tried where the document needs one; user's or owner's.
    stop : threading.Event, optional
        Ends the drawing within a fraction of a second when it is set.

    Yields
    ------
    Opened or Failure
        First, once. After a `Failure` nothing follows.
    PageImage or PageFailure
        Once for every page wanted, about in order: a page that the second renderer is asked about
        comes later. Closing the generator ends its processes.

    Raises
    ------
    Stopped
        `stop` was set.
    PagemillError
        The child cannot be started at all.
    UsageError
        The renderer that was asked for is not installed.
    """
    file.flush()
    kind = _judge(file, settings.limits)
    if isinstance(kind, Failure):
        yield kind
        return
    first, second = _renderers(kind, file, settings, passwords, stop)
    try:
        yield from _draw(kind, first, second, settings, only, set(skip))
    finally:
        first.close()
        if second:
            second.close()


@cache
def renderer_identity(renderer: Renderer = Renderer.AUTO) -> str:
    """What draws PDF pages here, such as ``pdfium-5.15.2+poppler-22.12``.

    A failure that an identity decided is worth another try once the identity has changed.
    """
    parts = []
    if renderer is not Renderer.POPPLER:
        parts.append(f"pdfium-{version('pypdfium2')}")
    if renderer is not Renderer.PDFIUM and _has_poppler():
        parts.append(f"poppler-{_poppler_version()}")
    return "+".join(parts)


def _has_poppler() -> bool:
    return all(shutil.which(tool) for tool in ("pdftoppm", "pdfinfo"))


def _poppler_version() -> str:
    asked = subprocess.run(["pdftoppm", "-v"], capture_output=True, text=True, timeout=60)
    found = re.search(r"version (\d+\.\d+)", asked.stderr + asked.stdout)
    return found.group(1) if found else "unknown"


def _judge(file: IO[bytes], limits: Limits) -> Kind | Failure:
    size = os.fstat(file.fileno()).st_size
    if size > limits.max_file_mb << 20:
        message, limit = f"the file has {size} bytes", decided(limits, "max_file_mb")
        return Failure(ErrorKind.TOO_LARGE, message, limit)
    return sniff(os.pread(file.fileno(), HEAD_BYTES, 0))


def _renderers(
    kind: Kind,
    file: IO[bytes],
    settings: Settings,
    passwords: Sequence[str],
    stop: threading.Event | None,
) -> tuple[_Renderer, _Renderer | None]:
    """The renderer to ask, and the one to ask about what the first cannot do."""
    clock, choice = Clock(settings.limits, stop), settings.render.renderer
    if kind is Kind.IMAGE:
        return _Renderer("image", file, settings, clock), None
    if choice is Renderer.PDFIUM:
        return _Renderer("pdfium", file, settings, clock, passwords), None
    poppler = _Renderer("poppler", file, settings, clock) if _has_poppler() else None
    if choice is Renderer.AUTO:
        return _Renderer("pdfium", file, settings, clock, passwords), poppler
    if not poppler:
        raise UsageError("render.renderer is poppler, which is not installed: get poppler-utils")
    return poppler, None


def _draw(
    kind: Kind,
    first: _Renderer,
    second: _Renderer | None,
    settings: Settings,
    only: Collection[int] | None,
    skip: Collection[int],
) -> Iterator[Opened | Failure | PageImage | PageFailure]:
    explain = partial(_explain, settings=settings, untried=_untried(kind, second, settings))
    count = first.open()
    if isinstance(count, Failure) and second and not _needs_password(count):
        count, first, second = _open_second(count, second), second, None
    if first.locked:
        second = None  # poppler would show the password in the list of processes
    if not isinstance(count, Failure) and count > settings.limits.max_declared_pages:
        limit = decided(settings.limits, "max_declared_pages")
        count = Failure(ErrorKind.TOO_LARGE, f"the document declares {count} pages", limit)
    if isinstance(count, Failure):
        yield explain(_of_document(count))
        return
    yield Opened(kind, count)
    wanted = _wanted(min(count, settings.limits.max_pages), only, skip)
    pages = first.pages(wanted)
    for page in _second_look(pages, second) if second else pages:
        if isinstance(page, PageFailure):
            page = replace(page, failure=explain(page.failure))
        yield page


def _wanted(count: int, only: Collection[int] | None, skip: Collection[int]) -> list[int]:
    pages: Iterable[int] = range(1, count + 1)
    if only is not None:
        pages = sorted(number for number in set(only) if 1 <= number <= count)
    return [number for number in pages if number not in skip]


def _needs_password(failure: Failure) -> bool:
    return failure.kind is ErrorKind.ENCRYPTED and "password" in failure.message


def _open_second(refusal: Failure, second: _Renderer) -> int | Failure:
    count = second.open()
    if not isinstance(count, Failure):
        return count
    encrypted = ErrorKind.ENCRYPTED in (refusal.kind, count.kind)
    kind = ErrorKind.ENCRYPTED if encrypted else refusal.kind
    return Failure(kind, _both(refusal.message, count.message))


def _both(first: str, second: str) -> str:
    return first if first == second else f"{first}; second renderer: {second}"


def _second_look(
    pages: Iterable[PageImage | PageFailure], second: _Renderer
) -> Iterator[PageImage | PageFailure]:
    """Ask the second renderer about pages that failed or came blank, a chunk at a time."""
    doubtful: list[PageImage | PageFailure] = []
    vain = since = 0
    for page in pages:
        if vain >= MAX_VAIN or (isinstance(page, PageImage) and not page.blank):
            yield page
            since += bool(doubtful)
        else:
            doubtful.append(page)
        # Not held back for long: pages are staged in ranges, and a range waits for its last page.
        if len(doubtful) == CHUNK or since == 4 * CHUNK:
            since = 0
            for before, after in _ask_again(doubtful, second):
                vain = 0 if isinstance(after, PageImage) and after is not before else vain + 1
                yield after
            doubtful = []
    yield from (after for _, after in _ask_again(doubtful, second))


def _ask_again(
    doubtful: Sequence[PageImage | PageFailure], second: _Renderer
) -> Iterator[tuple[PageImage | PageFailure, PageImage | PageFailure]]:
    answers = second.pages([page.number for page in doubtful])
    for before, answer in zip(doubtful, answers, strict=True):
        yield before, _better(before, answer)


def _better(
    before: PageImage | PageFailure, answer: PageImage | PageFailure
) -> PageImage | PageFailure:
    """The second answer if it is a picture with something on it, else the first one."""
    if isinstance(answer, PageImage) and not answer.blank:
        layer = before.layer if isinstance(before, PageImage) else None
        return replace(answer, layer=layer, seconds=before.seconds + answer.seconds)
    if isinstance(before, PageFailure) and isinstance(answer, PageFailure):
        message = _both(before.failure.message, answer.failure.message)
        failure = replace(before.failure, message=message)
        return replace(before, failure=failure, seconds=before.seconds + answer.seconds)
    return before


def _of_document(failure: Failure) -> Failure:
    """A document that no renderer can open is corrupt, however they said so."""
    render_failed = failure.kind is ErrorKind.RENDER_FAILED
    return replace(failure, kind=ErrorKind.CORRUPT) if render_failed else failure


def _untried(kind: Kind, second: _Renderer | None, settings: Settings) -> str:
    alone = kind is Kind.PDF and settings.render.renderer is Renderer.AUTO and not second
    return " (poppler is not installed, so no second renderer tried)" if alone else ""


def _explain(failure: Failure, settings: Settings, untried: str) -> Failure:
    """Complete a failure with what decided it and with what was not tried."""
    if failure.decided_by:
        return failure
    if failure.kind is ErrorKind.ENCRYPTED:
        return replace(failure, decided_by=f"password={password_mark(settings)}")
    if failure.kind in (ErrorKind.CORRUPT, ErrorKind.RENDER_FAILED):
        identity = renderer_identity(settings.render.renderer)
        return Failure(failure.kind, failure.message + untried, f"renderer={identity}")
    return failure


class _Renderer:
    """One renderer over one document: a child, and another one after a crash or a hang."""

    def __init__(
        self,
        drawer: str,
        file: IO[bytes],
        settings: Settings,
        clock: Clock,
        passwords: Sequence[str] = (),
    ) -> None:
        self.locked = False
        self._new_child = partial(Child, drawer, file, settings, clock, passwords)
        self._clock = clock
        self._child: Child | None = None
        self._strikes = 0
        self._given_up: Failure | None = None

    def open(self) -> int | Failure:
        """The number of pages, or why there are none."""
        try:
            return self._start()[1]
        except ChildError as error:
            self.close()
            self._given_up = error.failure
            return error.failure

    def pages(self, numbers: Sequence[int]) -> Iterator[PageImage | PageFailure]:
        """An answer for each of these pages, in order."""
        todo = deque(numbers)
        while todo:
            if self._given_up:
                yield PageFailure(todo.popleft(), self._given_up)
                continue
            waited = self._clock.waited
            try:
                yield from self._session(todo)
            except ChildError as error:
                self.close()
                self._strike(error.failure, error.final)
                yield PageFailure(todo.popleft(), error.failure, self._clock.waited - waited)

    def close(self) -> None:
        """End the child and all that it started."""
        if self._child:
            self._child.close()
            self._child = None

    def _start(self) -> tuple[Child, int]:
        self._child = self._new_child()
        count = self._child.opened()
        self.locked = self._child.locked
        return self._child, count

    def _session(self, todo: deque[int]) -> Iterator[PageImage | PageFailure]:
        """Answers from one child for as long as it lives; answered pages leave `todo`."""
        child = self._child or self._start()[0]
        unasked, unanswered = deque(todo), 0
        while todo and not self._given_up:
            while unasked and unanswered <= child.chunk:  # one chunk ahead: it never idles
                chunk = [unasked.popleft() for _ in range(min(child.chunk, len(unasked)))]
                child.ask(chunk)
                unanswered += len(chunk)
            answer = child.answer(todo[0])
            unanswered -= 1
            todo.popleft()
            if isinstance(answer, PageFailure) and answer.failure.kind is ErrorKind.TIME_OUT:
                self._strike(answer.failure)
            yield answer

    def _strike(self, failure: Failure, final: bool = False) -> None:
        self._strikes += 1
        if final or self._strikes > MAX_RESTARTS:
            self.close()
            message = f"given up after {self._strikes} like this: {failure.message}"
            self._given_up = failure if final else replace(failure, message=message)
