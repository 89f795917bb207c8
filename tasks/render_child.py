"""The render child: one hostile document, drawn behind limits. Run by `tasks.render`.

    python -m tasks.render_child

Standard input: the job as one line of JSON, then lines with page numbers, ``[3, 4, 5]``.
Standard output: frames. A frame is a 4-byte length, a JSON header of that length and, for a page,
width * height * 3 bytes of RGB. The first frame says that the child is ready, the second how many
pages the document has or why it cannot be opened; then comes one for each page asked for.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import struct
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import groupby
from typing import Any, BinaryIO, NamedTuple, Protocol

from PIL import Image

from tasks.images import (
    DrawError,
    Fit,
    allow_truncated,
    draw_frame,
    fit_page,
    is_blank,
    on_white,
    open_image,
)

MAX_LAYER = 200_000
_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38


class Job(NamedTuple):
    """What the parent wants: plain numbers, so that the child need not import the settings."""

    drawer: str
    fd: int
    max_pixels: int
    max_dpi: int
    multiple_of: int
    blank_ink: float
    text_layer: bool
    max_image_pixels: int
    memory_mb: int
    seconds_per_page: float
    seconds_per_document: float


class Drawn(NamedTuple):
    """A page that was drawn."""

    number: int
    image: Image.Image
    seconds: float
    layer: str | None = None


class Undrawn(NamedTuple):
    """A page that was not, with an `ErrorKind` value."""

    number: int
    kind: str
    message: str
    seconds: float


class Drawer(Protocol):
    """Draws the pages of one document."""

    def open(self) -> int:
        """The number of pages. Raises `DrawError`."""
        ...

    def draw(self, numbers: list[int]) -> Iterator[Drawn | Undrawn]:
        """One answer for each page, in order."""
        ...


def main() -> None:
    """Do the job that standard input asks for."""
    _die_with_parent()
    requests, frames = _take_stdio()
    job = Job(**json.loads(requests.readline()))
    drawer = DRAWERS[job.drawer](job)
    _lock_down(job)
    _send(frames, {"ready": True})
    _serve(drawer, job, requests, frames)


def _serve(drawer: Drawer, job: Job, requests: BinaryIO, frames: BinaryIO) -> None:
    try:
        _send(frames, {"pages": drawer.open()})
    except Exception as error:
        kind, message = _reason(error, "corrupt")
        _send(frames, {"error": kind, "message": message})
        return
    for line in requests:
        for answer in drawer.draw(json.loads(line)):
            _send_page(frames, answer, job.blank_ink)


def _send_page(frames: BinaryIO, answer: Drawn | Undrawn, blank_ink: float) -> None:
    if isinstance(answer, Undrawn):
        header = {"page": answer.number, "error": answer.kind, "message": answer.message[:1000]}
        _send(frames, header | {"seconds": answer.seconds})
        return
    header = {"page": answer.number, "width": answer.image.width, "height": answer.image.height}
    header |= {"blank": is_blank(answer.image, blank_ink), "layer": answer.layer}
    _send(frames, header | {"seconds": answer.seconds}, answer.image.tobytes("raw", "RGB"))


def _send(frames: BinaryIO, header: dict[str, Any], pixels: bytes = b"") -> None:
    text = json.dumps(header).encode()
    for data in (struct.pack(">I", len(text)) + text, pixels):
        view = memoryview(data)
        while view:
            view = view[frames.write(view) :]


def _reason(error: Exception, otherwise: str) -> tuple[str, str]:
    if isinstance(error, DrawError):
        return error.kind, str(error)
    if isinstance(error, MemoryError):
        return "out_of_memory", "it takes more memory than `limits.memory_mb`"
    if isinstance(error, Image.DecompressionBombError):
        return "too_large", "the image declares far too many pixels"
    return otherwise, str(error) or type(error).__name__


# --- the sandbox ---------------------------------------------------------------------------------


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _take_stdio() -> tuple[BinaryIO, BinaryIO]:
    """Keep the pipes for ourselves: a library that prints must not write into a frame."""
    requests, frames = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    return open(requests, "rb"), open(frames, "wb", buffering=0)


def _lock_down(job: Job) -> None:
    """Give up what drawing does not need. After the imports, which need more."""
    os.nice(5)
    seconds = int(job.seconds_per_document) + 1
    _limit(resource.RLIMIT_AS, job.memory_mb << 20)
    _limit(resource.RLIMIT_CPU, seconds, seconds + 5)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_NOFILE, 64)
    _limit(resource.RLIMIT_CORE, 0)
    if job.drawer != "poppler":  # which has to start processes
        _limit(resource.RLIMIT_NPROC, 0)
    ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def _limit(what: int, soft: int, hard: int | None = None) -> None:
    _, most = resource.getrlimit(what)
    hard = soft if hard is None else hard
    if most != resource.RLIM_INFINITY:
        soft, hard = min(soft, most), min(hard, most)
    resource.setrlimit(what, (soft, hard))


# --- the drawers ---------------------------------------------------------------------------------


class Pdfium:
    """PDF pages by pdfium: one open document, one page at a time."""

    def __init__(self, job: Job) -> None:
        import pypdfium2
        import pypdfium2.raw

        self._job = job
        self._pdfium, self._raw = pypdfium2, pypdfium2.raw

    def open(self) -> int:
        """The number of pages. Raises `DrawError`."""
        # By hand: PdfDocument(path) resolves the link, and an unlinked file has no other name.
        handle = self._raw.FPDF_LoadDocument(f"/proc/self/fd/{self._job.fd}".encode(), None)
        if not handle:
            raise self._refusal(self._raw.FPDF_GetLastError())
        self._document = self._pdfium.PdfDocument(handle)
        self._document.init_forms()  # before any page, or form fields stay empty
        return len(self._document)

    def _refusal(self, code: int) -> DrawError:
        if code == self._raw.FPDF_ERR_PASSWORD:
            return DrawError("encrypted", "the document needs a password")
        if code == self._raw.FPDF_ERR_SECURITY:
            return DrawError("encrypted", "its security handler is not supported")
        return DrawError("corrupt", f"pdfium cannot open it (error {code})")

    def draw(self, numbers: list[int]) -> Iterator[Drawn | Undrawn]:
        """One answer for each page, in order."""
        return (_attempt(number, self._page) for number in numbers)

    def _page(self, number: int) -> tuple[Image.Image, str | None]:
        page = self._document[number - 1]
        try:
            width, height = page.get_size()
            fit = fit_page(width, height, self._job)
            return on_white(self._bitmap(page, fit), fit.page), self._layer(page)
        finally:
            page.close()

    def _bitmap(self, page: Any, fit: Fit) -> Image.Image:
        """Draw straight at the target size: five times cheaper than at a dpi and then smaller."""
        raw, (width, height) = self._raw, fit.picture
        kind = raw.FPDFBitmap_BGRx
        bitmap = self._pdfium.PdfBitmap.new_native(width, height, kind, rev_byteorder=True)
        bitmap.fill_rect((255, 255, 255, 255), 0, 0, width, height)
        where = (bitmap, page, 0, 0, width, height, 0, raw.FPDF_ANNOT | raw.FPDF_REVERSE_BYTE_ORDER)
        raw.FPDF_RenderPageBitmap(*where)
        if page.formenv:
            raw.FPDF_FFLDraw(page.formenv, *where)
        rows = (bitmap.buffer, "raw", "RGBX", bitmap.stride, 1)
        image = Image.frombuffer("RGBX", (width, height), *rows)
        return image if fit.picture == fit.page else image.convert("RGB")

    def _layer(self, page: Any) -> str | None:
        if not self._job.text_layer:
            return None
        try:
            words = page.get_textpage()
        except self._pdfium.PdfiumError:
            return None  # a page without readable text has still been drawn
        try:
            if words.count_chars() > MAX_LAYER:
                text = words.get_text_range(0, MAX_LAYER)
            else:
                text = words.get_text_bounded()
        finally:
            words.close()
        return text.replace("\r\n", "\n").replace("\0", "")[:MAX_LAYER].strip() or None


class Images:
    """Image files by Pillow: a page for each frame."""

    def __init__(self, job: Job) -> None:
        self._job = job
        Image.preinit()

    def open(self) -> int:
        """The number of frames that are pages. Raises `DrawError`."""
        self._file = os.fdopen(self._job.fd, "rb")  # for as long as this process lives
        self._image, frames = open_image(self._file, self._job.max_image_pixels)
        return frames

    def draw(self, numbers: list[int]) -> Iterator[Drawn | Undrawn]:
        """One answer for each page, in order."""
        return (_attempt(number, self._frame, "corrupt") for number in numbers)

    def _frame(self, number: int) -> tuple[Image.Image, None]:
        job, index = self._job, number - 1
        try:
            return draw_frame(self._image, index, job, job.max_image_pixels), None
        except (MemoryError, DrawError, Image.DecompressionBombError):
            raise
        except Exception as error:
            return self._as_far_as_it_goes(index, error), None

    def _as_far_as_it_goes(self, index: int, damage: Exception) -> Image.Image:
        """A cut-off image's beginning; its error if that shows nothing, which is not blank."""
        job = self._job
        self._image, _ = open_image(self._file, job.max_image_pixels)
        allow_truncated(True)
        try:
            image = draw_frame(self._image, index, job, job.max_image_pixels)
        except Exception:
            raise damage from None
        finally:
            allow_truncated(False)
            self._image, _ = open_image(self._file, job.max_image_pixels)
        if is_blank(image, job.blank_ink):
            raise damage
        return image


class Poppler:
    """PDF pages by poppler, which starts three processes for each run of pages."""

    def __init__(self, job: Job) -> None:
        import pdf2image
        from pdf2image import pdf2image as inside

        self._job, self._poppler = job, pdf2image
        # By number, since poppler's processes have a /proc/self of their own.
        self._path = f"/proc/{os.getpid()}/fd/{job.fd}"
        inside.Popen = partial(inside.Popen, preexec_fn=partial(_tame, job.seconds_per_page))

    def open(self) -> int:
        """The number of pages. Raises `DrawError`."""
        try:
            self._count = int(self._info()["Pages"])
        except self._poppler.exceptions.PDFPageCountError as error:
            raise _poppler_refusal(str(error)) from error
        except self._poppler.exceptions.PDFPopplerTimeoutError as error:
            raise DrawError("time_out", "poppler took too long to open it") from error
        return self._count

    def _info(self, **pages: int) -> dict[str, Any]:
        found: dict[str, Any] = self._poppler.pdfinfo_from_path(
            self._path, timeout=self._job.seconds_per_page, **pages
        )
        return found

    def draw(self, numbers: list[int]) -> Iterator[Drawn | Undrawn]:
        """One answer for each page, in order. All at once first, one by one where that fails."""
        started = time.perf_counter()
        images = self._together(numbers) if len(numbers) > 1 else None
        if images is None:
            yield from (_attempt(number, self._page) for number in numbers)
            return
        seconds = (time.perf_counter() - started) / len(numbers)
        yield from (Drawn(*pair, seconds) for pair in zip(numbers, images, strict=True))

    def _together(self, numbers: list[int]) -> list[Image.Image] | None:
        try:
            return self._pages(numbers)
        except Exception:  # of whichever page; asked alone, each says its own
            return None

    def _page(self, number: int) -> tuple[Image.Image, None]:
        try:
            return self._pages([number])[0], None
        except self._poppler.exceptions.PDFPopplerTimeoutError as error:
            raise DrawError("time_out", "poppler took too long") from error

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
        images = self._poppler.convert_from_path(
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
    lines = [line for line in message.splitlines()[1:] if line] or [message]
    return DrawError("corrupt", f"poppler cannot open it ({lines[-1]})")


def _tame(seconds: float) -> None:
    """In poppler's processes, before they start: they would outlive a child that is killed."""
    _die_with_parent()
    _limit(resource.RLIMIT_CPU, int(2 * seconds) + 1)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # fontconfig tries to write a cache


def _attempt(
    number: int,
    page: Callable[[int], tuple[Image.Image, str | None]],
    otherwise: str = "render_failed",
) -> Drawn | Undrawn:
    started = time.perf_counter()
    try:
        image, layer = page(number)
    except Exception as error:
        return Undrawn(number, *_reason(error, otherwise), time.perf_counter() - started)
    return Drawn(number, image, time.perf_counter() - started, layer)


DRAWERS: dict[str, Callable[[Job], Drawer]] = {
    "pdfium": Pdfium,
    "image": Images,
    "poppler": Poppler,
}

if __name__ == "__main__":
    main()
