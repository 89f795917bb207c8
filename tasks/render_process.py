"""One render process, as its parent sees it: started, asked, believed in nothing, killed.

Every length is checked before it is read, and every wait ends. See `tasks.render_child` for what
runs inside.
"""

from __future__ import annotations

import json
import math
import os
import select
import signal
import struct
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any

from pagemill.document import Failure, PageFailure, PageImage
from pagemill.errors import ErrorKind, PagemillError, Stopped
from pagemill.printable import printable
from pagemill.settings import Limits, Settings
from tasks.fork_server import fork_child
from tasks.slots import Slots

if TYPE_CHECKING:
    from PIL.Image import Image

_MAX_HEADER = 2 << 20
_MAX_MESSAGE = 300
_START_SECONDS = 120.0  # a fork on an overloaded machine; no document is read yet
_TICK = 0.2

CHUNKS = {"pdfium": 1, "image": 1, "poppler": 8}
"""Pages asked for at once: poppler starts three processes for each chunk."""


class ChildError(Exception):
    """The child hung, died or talked nonsense."""

    def __init__(
        self, kind: ErrorKind, message: str, limit: str | None = None, final: bool = False
    ) -> None:
        super().__init__(message)
        self.failure = Failure(kind, message, limit)
        self.final = final


class Clock:
    """Time spent waiting for children of one document. The caller's own time does not count."""

    def __init__(self, limits: Limits, stop: threading.Event | None) -> None:
        self.waited = 0.0
        self._limits, self._stop = limits, stop

    def wait(self, fd: int, until: float, late: ChildError) -> None:
        """Wait until `fd` can be read, at most until `waited` is `until`."""
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        while True:
            if self._stop and self._stop.is_set():
                raise Stopped("rendering was stopped")
            self._check(until, late)
            started = time.monotonic()
            ready = poll.poll(1000 * _TICK)
            self.waited += time.monotonic() - started
            if ready:
                return

    def _check(self, until: float, late: ChildError) -> None:
        if self.waited > until:
            raise late
        seconds = self._limits.seconds_per_document
        if self.waited > seconds:
            limit = decided(self._limits, "seconds_per_document")
            message = f"the document took longer than {seconds:g} s"
            raise ChildError(ErrorKind.TIME_OUT, message, limit, final=True)


class Child:
    """One process, and the frames that it sends. See `tasks.render_child`."""

    def __init__(
        self,
        drawer: str,
        file: IO[bytes],
        settings: Settings,
        clock: Clock,
        passwords: Sequence[str] = (),
    ) -> None:
        self._drawer, self._clock, self._limits = drawer, clock, settings.limits
        self.locked = False
        seconds = settings.limits.seconds_per_page
        # Poppler keeps the time itself, process by process; this is for when it does not.
        self._patience = seconds if drawer != "poppler" else 2 * seconds + 5
        self.chunk = CHUNKS[drawer]
        self._slots = Slots(slot_bytes(settings), 2 * self.chunk)
        reads, self._requests = os.pipe()
        self._frames, writes = os.pipe()
        # Opened anew: read-only, and with a position of its own.
        document = os.open(f"/proc/self/fd/{file.fileno()}", os.O_RDONLY)
        try:
            self._process = fork_child((reads, writes, document, self._slots.fd))
        except BaseException:
            self._hang_up()
            raise
        finally:
            for descriptor in (reads, writes, document):
                os.close(descriptor)
        try:
            self._begin(job(drawer, settings, passwords))
        except BaseException:
            self.close()
            raise

    def _begin(self, job: dict[str, Any]) -> None:
        self._write(job)
        try:
            self._header(_START_SECONDS)
        except ChildError as error:
            raise PagemillError(f"a render process cannot start: {error}") from error

    def opened(self) -> int:
        """The number of pages. Raises `ChildError` with the reason if there are none."""
        header = self._header(self._patience)
        if "error" in header:
            failure = self._failure(header)
            raise ChildError(failure.kind, failure.message, failure.decided_by)
        count = header.get("pages")
        if type(count) is not int or count < 1:
            raise ChildError(ErrorKind.CORRUPT, "the document has no pages")
        self.locked = header.get("locked") is True
        return count

    def ask(self, numbers: list[int]) -> None:
        """Request at most `chunk` pages, while no more than that are unanswered.

        So a child never has more than two chunks to draw, and as many slots to draw them in; and
        at most two short lines wait in the pipe, so this never blocks.
        """
        self._write(numbers)

    def answer(self, number: int) -> PageImage | PageFailure:
        """The answer for the page that was asked for first and not answered yet."""
        header = self._header(self._patience)
        start = self._slots.take()
        if header.get("page") != number:
            raise _nonsense()
        if "error" in header:
            return PageFailure(number, self._failure(header), _seconds(header))
        size = self._size(header)
        mode = "RGBX" if header.get("mode") == "RGBX" else "RGB"
        return _page_image(number, self._slots.picture(start, size, mode), header)

    def close(self) -> None:
        """Kill the process and all that it started; leave nothing behind."""
        self._process.end()
        self._hang_up()

    def _hang_up(self) -> None:
        os.close(self._requests)
        os.close(self._frames)
        self._slots.close()

    def _write(self, message: Any) -> None:
        with suppress(BrokenPipeError):  # its death is noticed, with the reason, on reading
            os.write(self._requests, json.dumps(message).encode() + b"\n")

    def _header(self, patience: float) -> dict[str, Any]:
        until = self._clock.waited + patience
        (length,) = struct.unpack(">I", self._read(4, until))
        if length > _MAX_HEADER:
            raise _nonsense()
        try:
            header = json.loads(self._read(length, until))
        except (ValueError, RecursionError):
            raise _nonsense() from None
        if not isinstance(header, dict):
            raise _nonsense()
        return header

    def _read(self, size: int, until: float) -> bytearray:
        data = bytearray(size)
        view = memoryview(data)
        while view:
            self._clock.wait(self._frames, until, self._late())
            count = os.readv(self._frames, [view])
            if not count:
                raise self._death()
            view = view[count:]
        return data

    def _size(self, header: dict[str, Any]) -> tuple[int, int]:
        width, height = header.get("width"), header.get("height")
        if type(width) is not int or type(height) is not int or min(width, height) < 1:
            raise _nonsense()
        if 4 * width * height > self._slots.size:
            raise _nonsense()
        return width, height

    def _late(self) -> ChildError:
        message = f"{self._drawer} took longer than {self._patience:g} s"
        return ChildError(ErrorKind.TIME_OUT, message, decided(self._limits, "seconds_per_page"))

    def _failure(self, header: dict[str, Any]) -> Failure:
        try:
            kind = ErrorKind(header["error"])
            limit = header.get("limit")
            decided_by = decided(self._limits, limit) if limit is not None else None
        except (ValueError, AttributeError, TypeError):
            raise _nonsense() from None
        return Failure(kind, _line(header.get("message", "")), decided_by)

    def _death(self) -> ChildError:
        """What it died of; asked before it is killed, or the answer would be our own signal."""
        if end := self._process.cause(1.0):
            return _cause(self._drawer, self._limits, *end)
        return ChildError(ErrorKind.RENDER_FAILED, f"{self._drawer} stopped talking")


def job(drawer: str, settings: Settings, passwords: Sequence[str] = ()) -> dict[str, Any]:
    """What the child is told; the rest of `tasks.drawers.Job` is the document."""
    render, limits = settings.render, settings.limits
    return {
        "drawer": drawer,
        "slot_bytes": slot_bytes(settings),
        "max_pixels": render.max_pixels,
        "max_dpi": render.max_dpi,
        "multiple_of": render.multiple_of,
        "blank_ink": render.blank_ink,
        "deskew": render.deskew,
        "text_layer": render.text_layer,
        "animation": render.animation,
        "passwords": list(passwords),
        "max_image_pixels": limits.max_image_pixels,
        "max_decoded_mb": limits.max_decoded_mb,
        "memory_mb": limits.memory_mb,
        "stack_mb": limits.stack_mb,
        "seconds_per_page": limits.seconds_per_page,
        "seconds_per_document": limits.seconds_per_document,
    }


def slot_bytes(settings: Settings) -> int:
    """Bytes of the largest page that there can be."""
    return 4 * max(settings.render.max_pixels, settings.render.multiple_of**2)


def decided(limits: Limits, name: str) -> str:
    """``name=value`` of a limit, for `Failure.decided_by`. `AttributeError` where it is none."""
    if name not in Limits.model_fields:
        raise AttributeError(name)
    return f"{name}={getattr(limits, name)}"


def _cause(drawer: str, limits: Limits, code: int, status: int) -> ChildError:
    if code == os.CLD_EXITED:
        return ChildError(ErrorKind.RENDER_FAILED, f"{drawer} ended early (exit code {status})")
    cpu, memory = decided(limits, "seconds_per_document"), decided(limits, "memory_mb")
    if status == signal.SIGXCPU:
        message = f"{drawer}: it used up limits.{cpu} of CPU time"
        return ChildError(ErrorKind.TIME_OUT, message, cpu)
    if status == signal.SIGABRT:
        message = f"{drawer}: it gave up, as it does when limits.{memory} is used up"
        return ChildError(ErrorKind.OUT_OF_MEMORY, message, memory)
    if status == signal.SIGKILL:
        # Not ours: we look before we kill. That leaves the kernel, short of memory.
        message = f"{drawer}: it was killed from outside (out of memory?)"
        return ChildError(ErrorKind.OUT_OF_MEMORY, message)
    name = signal.Signals(status).name if status in signal.valid_signals() else str(status)
    deep = f", perhaps nested beyond limits.{decided(limits, 'stack_mb')}"
    return ChildError(
        ErrorKind.RENDER_FAILED,
        f"{drawer}: it died of {name}{deep if status == signal.SIGSEGV else ''}",
    )


def _nonsense() -> ChildError:
    return ChildError(
        ErrorKind.RENDER_FAILED, "the render process sent a frame that makes no sense"
    )


def _line(text: Any) -> str:
    return printable(text)[:_MAX_MESSAGE]


def _seconds(header: dict[str, Any]) -> float:
    seconds = header.get("seconds")
    if isinstance(seconds, (int, float)) and math.isfinite(seconds):
        return max(0.0, float(seconds))
    return 0.0


def _page_image(number: int, image: Image, header: dict[str, Any]) -> PageImage:
    layer, damage = header.get("layer"), header.get("damage")
    return PageImage(
        number,
        image,
        header.get("blank") is True,
        _seconds(header),
        (layer.encode("utf-8", "ignore").decode() or None) if isinstance(layer, str) else None,
        _fit(header.get("layer_fit")),
        _line(damage) if isinstance(damage, str) else None,
    )


def _fit(pair: Any) -> tuple[float, float] | None:
    match pair:
        case [float() | int() as covered, float() | int() as inked]:
            return float(covered), float(inked)
    return None
