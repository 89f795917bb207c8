"""What draws: pdfium and Pillow (and `tasks.poppler`), each over one open document.

Only a render child calls this (`tasks.render_child`); nothing here trusts the file.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import pypdfium2
import pypdfium2.raw as raw
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


class Job(NamedTuple):
    """What the parent wants: plain data, so that the child need not import the settings."""

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


def attempt(
    number: int,
    page: Callable[[int], tuple[Image.Image, str | None]],
    otherwise: str = "render_failed",
) -> Drawn | Undrawn:
    started = time.perf_counter()
    try:
        image, layer = page(number)
    except Exception as error:
        return Undrawn(number, *reason(error, otherwise), time.perf_counter() - started)
    return Drawn(number, image, time.perf_counter() - started, layer)


def reason(error: Exception, otherwise: str) -> tuple[str, str]:
    if isinstance(error, DrawError):
        return error.kind, str(error)
    if isinstance(error, MemoryError):
        return "out_of_memory", "it takes more memory than `limits.memory_mb`"
    if isinstance(error, Image.DecompressionBombError):
        return "too_large", "the image declares far too many pixels"
    return otherwise, str(error) or type(error).__name__


class Pdfium:
    """PDF pages by pdfium: one open document, one page at a time."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def open(self) -> int:
        """The number of pages. Raises `DrawError`."""
        # By hand: PdfDocument(path) resolves the link, and an unlinked file has no other name.
        handle = raw.FPDF_LoadDocument(f"/proc/self/fd/{self._job.fd}".encode(), None)
        if not handle:
            raise self._refusal(raw.FPDF_GetLastError())
        self._document = pypdfium2.PdfDocument(handle)
        self._document.init_forms()  # before any page, or form fields stay empty
        return len(self._document)

    def _refusal(self, code: int) -> DrawError:
        if code == raw.FPDF_ERR_PASSWORD:
            return DrawError("encrypted", "the document needs a password")
        if code == raw.FPDF_ERR_SECURITY:
            return DrawError("encrypted", "its security handler is not supported")
        return DrawError("corrupt", f"pdfium cannot open it (error {code})")

    def draw(self, numbers: list[int]) -> Iterator[Drawn | Undrawn]:
        """One answer for each page, in order."""
        return (attempt(number, self._page) for number in numbers)

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
        width, height = fit.picture
        kind = raw.FPDFBitmap_BGRx
        bitmap = pypdfium2.PdfBitmap.new_native(width, height, kind, rev_byteorder=True)
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
        except pypdfium2.PdfiumError:
            return None  # a page without readable text has still been drawn
        try:
            if words.count_chars() > MAX_LAYER:
                text = words.get_text_range(0, MAX_LAYER)
            else:
                text = words.get_text_bounded()
        finally:
            words.close()
        return text.replace("\r\n", "\n").replace("\0", "")[:MAX_LAYER].strip() or None


_OURS = b"""%PDF-1.4
1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj
2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj
3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 99 99]/Contents 4 0 R
/Resources<</Font<</A 5 0 R/B 6 0 R>>>>>>endobj
4 0 obj<</Length 41>>stream
BT /A 9 Tf 9 50 Td(a)Tj /B 9 Tf(b)Tj ET
endstream endobj
5 0 obj<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>endobj
6 0 obj<</Type/Font/Subtype/Type1/BaseFont/Times-Roman>>endobj
trailer<</Root 1 0 R/Size 7>>
%%EOF
"""


def warm_up() -> None:
    """Draw a page of our own: what pdfium loads for it, such as fonts, is there after a fork."""
    document = pypdfium2.PdfDocument(_OURS)
    document.init_forms()
    page = document[0]
    page.render(scale=1).to_pil().convert("L").resize((9, 9))
    words = page.get_textpage()
    words.get_text_bounded()
    for part in (words, page, document):
        part.close()


class Images:
    """Image files by Pillow: a page for each frame."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def open(self) -> int:
        """The number of frames that are pages. Raises `DrawError`."""
        self._file = os.fdopen(self._job.fd, "rb")  # for as long as this process lives
        self._image, frames = open_image(self._file, self._job.max_image_pixels)
        return frames

    def draw(self, numbers: list[int]) -> Iterator[Drawn | Undrawn]:
        """One answer for each page, in order."""
        return (attempt(number, self._frame, "corrupt") for number in numbers)

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
