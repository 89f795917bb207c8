"""The second renderer: poppler, by way of pdf2image. See `tasks.drawers`.

It is never given a password, which would stand in the list of processes.
"""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Iterator
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

import pdf2image
from pdf2image import pdf2image as inside
from PIL import Image

from tasks.drawers import Drawn, Job, Picture, Undrawn, attempt
from tasks.images import DrawError, Fit, fit_page, on_white
from tasks.sandbox import die_with_parent, limit
from tasks.slots import Slots


class Poppler:
    """PDF pages by poppler, which starts three processes for each run of pages."""

    locked = False

    def __init__(self, job: Job, _: Slots) -> None:
        self._job = job
        # By number, since poppler's processes have a /proc/self of their own.
        self._path = f"/proc/{os.getpid()}/fd/{job.fd}"
        inside.Popen = partial(
            inside.Popen, preexec_fn=partial(_tame, os.getpid(), job.seconds_per_page)
        )

    def open(self) -> int:
        """The number of pages. Raises `DrawError`."""
        try:
            self._count = int(self._info()["Pages"])
        except pdf2image.exceptions.PDFPageCountError as error:
            raise _poppler_refusal(str(error)) from error
        except pdf2image.exceptions.PDFPopplerTimeoutError as error:
            raise self._late("to open it") from error
        return self._count

    def _info(self, **pages: int) -> dict[str, Any]:
        found: dict[str, Any] = pdf2image.pdfinfo_from_path(
            self._path, timeout=self._job.seconds_per_page, **pages
        )
        return found

    def draw(self, numbers: list[int]) -> Iterator[Drawn | Undrawn]:
        """One answer for each page, in order. All at once first, one by one where that fails."""
        started = time.perf_counter()
        images = self._together(numbers) if len(numbers) > 1 else None
        if images is None:
            yield from (attempt(self._job, number, self._page) for number in numbers)
            return
        seconds = (time.perf_counter() - started) / len(numbers)
        for number, image in zip(numbers, images, strict=True):
            picture = Picture(image)
            yield Drawn(number, picture.level() if self._job.deskew else picture, seconds)

    def _together(self, numbers: list[int]) -> list[Image.Image] | None:
        try:
            return self._pages(numbers)
        except Exception:  # of whichever page; asked alone, each says its own
            return None

    def _page(self, number: int) -> Picture:
        try:
            return Picture(self._pages([number])[0])
        except pdf2image.exceptions.PDFPopplerTimeoutError as error:
            raise self._late("to draw it") from error

    def _late(self, to_do: str) -> DrawError:
        seconds = f"limits.seconds_per_page={self._job.seconds_per_page:g}"
        return DrawError(
            "time_out", f"poppler took longer than {seconds} {to_do}", "seconds_per_page"
        )

    def _pages(self, numbers: list[int]) -> list[Image.Image]:
        if max(numbers) > self._count:
            raise DrawError("render_failed", f"poppler finds only {self._count} pages")
        info = self._info(first_page=min(numbers), last_page=max(numbers))
        images = []
        for shape, run in groupby(enumerate(numbers), partial(_shape, info)):
            images += self._run([number for _, number in run], shape)
        return images

    def _run(self, run: list[int], shape: _Shape) -> list[Image.Image]:
        """Consecutive pages of one shape: poppler draws them at one size."""
        fit = fit_page(shape.width, shape.height, self._job)
        images = pdf2image.convert_from_path(
            self._path,
            first_page=run[0],
            last_page=run[-1],
            size=fit.picture[::-1] if shape.turned else fit.picture,  # poppler scales, then turns
            use_cropbox=True,
            timeout=self._job.seconds_per_page,
        )
        if len(images) != len(run):  # nobody checks pdftoppm's exit code
            raise DrawError("render_failed", f"poppler drew {len(images)} of {len(run)} pages")
        return [on_white(_sound(image, fit), fit.page) for image in images]


class _Shape(NamedTuple):
    """Equal for consecutive pages that poppler can draw at one size."""

    width: float
    height: float
    turned: bool
    place: int


def _shape(info: dict[str, Any], at: tuple[int, int]) -> _Shape:
    index, number = at
    width, _, height, *_ = info[f"Page {number:4} size"].split()
    if info.get(f"Page {number:4} rot") in ("90", "270"):
        return _Shape(float(height), float(width), True, number - index)
    return _Shape(float(width), float(height), False, number - index)


def _sound(image: Image.Image, fit: Fit) -> Image.Image:
    """Poppler gives 1 x 1 pixels, silently, for some broken pages."""
    image.load()  # here, where a cut-off one still is an error of its page
    if image.size == fit.picture:
        return image
    if min(image.size) < min(8, *fit.picture):
        raise DrawError("render_failed", f"poppler drew only {image.width} x {image.height} pixels")
    return image.resize(fit.picture, Image.Resampling.LANCZOS)


def _poppler_refusal(message: str) -> DrawError:
    if "Incorrect password" in message:
        return DrawError("encrypted", "the document needs a password")
    if "nsupported security handler" in message or "Unsupported version/revision" in message:
        return DrawError("encrypted", "poppler does not support its security handler")
    lines = [line for line in message.splitlines()[1:] if line] or [message]
    return DrawError("corrupt", f"poppler cannot open it ({lines[-1]})")


def _tame(child: int, seconds: float) -> None:
    """In poppler's processes, before they start: they would outlive a child that is killed."""
    die_with_parent(child)
    limit(resource.RLIMIT_CPU, int(2 * seconds) + 1)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # fontconfig tries to write a cache
