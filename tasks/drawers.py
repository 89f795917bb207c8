"""What draws: pdfium and Pillow (and `tasks.poppler`), each over one open document.

Only a render child calls this (`tasks.render_child`); nothing here trusts the file.
"""

from __future__ import annotations

import ctypes
import os
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import pypdfium2
import pypdfium2.raw as raw
from PIL import Image

from tasks.images import (
    DrawError,
    allow_truncated,
    count_frames,
    deskew,
    draw_frame,
    fit_page,
    is_blank,
    on_white,
    open_image,
)
from tasks.layer import Box, fit_of
from tasks.slots import Slots

MAX_LAYER = 200_000
MAX_BOXES = 4000
_LOOKED_AT = 1 << 20


class Job(NamedTuple):
    """What the parent wants: plain data, so that the child need not import the settings."""

    drawer: str
    fd: int
    slot_bytes: int
    max_pixels: int
    max_dpi: int
    multiple_of: int
    blank_ink: float
    deskew: bool
    text_layer: str
    animation: str
    passwords: list[str]
    max_image_pixels: int
    max_decoded_mb: int
    memory_mb: int
    stack_mb: int
    seconds_per_page: float
    seconds_per_document: float


class Picture(NamedTuple):
    """What a page looks like.

    Attributes
    ----------
    image : PIL.Image.Image
    in_slot : bool
        It was drawn where the parent looks for it, in bytes of RGBX.
    layer : str or None
        The PDF's own text.
    layer_fit : (float, float) or None
        How that text lies on the ink, see `tasks.layer.fit_of`.
    damage : str or None
        Why this is not all of it.
    """

    image: Image.Image
    in_slot: bool = False
    layer: str | None = None
    layer_fit: tuple[float, float] | None = None
    damage: str | None = None

    def level(self) -> Picture:
        """The same with its lines level."""
        image = deskew(self.image)
        return self if image is self.image else self._replace(image=image, in_slot=False)


class Drawn(NamedTuple):
    """A page that was drawn."""

    number: int
    picture: Picture
    seconds: float


class Undrawn(NamedTuple):
    """A page that was not."""

    number: int
    error: dict[str, Any]
    seconds: float


class Drawer(Protocol):
    """Draws the pages of one document."""

    locked: bool
    """Whether it took a password to open."""

    def open(self) -> int:
        """The number of pages. Raises `DrawError`."""
        ...

    def draw(self, numbers: list[int]) -> Iterator[Drawn | Undrawn]:
        """One answer for each page, in order."""
        ...


def attempt(
    job: Job, number: int, page: Callable[[int], Picture], otherwise: str = "render_failed"
) -> Drawn | Undrawn:
    """Draw one page, whatever happens."""
    started = time.perf_counter()
    try:
        picture = page(number)
        if job.deskew:
            picture = picture.level()
    except Exception as error:
        return Undrawn(number, reason(error, otherwise, job), time.perf_counter() - started)
    return Drawn(number, picture, time.perf_counter() - started)


def reason(error: Exception, otherwise: str, job: Job) -> dict[str, Any]:
    """What the parent is told of an error: its kind, in words, and the limit that decided it."""
    kind, message, limit = otherwise, str(error) or type(error).__name__, None
    if isinstance(error, DrawError):
        kind, limit = error.kind, error.limit
    elif isinstance(error, MemoryError):
        kind, limit = "out_of_memory", "memory_mb"
        message = f"it takes more memory than limits.memory_mb={job.memory_mb}"
    elif isinstance(error, Image.DecompressionBombError):
        kind, limit = "too_large", "max_image_pixels"
        message = "the image declares far too many pixels"
    return {"error": kind, "message": message[:1000], "limit": limit}


class Pdfium:
    """PDF pages by pdfium: one open document, one page at a time."""

    def __init__(self, job: Job, slots: Slots) -> None:
        self._job, self._slots = job, slots
        self.locked = False

    def open(self) -> int:
        """The number of pages. Raises `DrawError`."""
        handle = self._load(None)
        for password in self._job.passwords:
            if not handle and raw.FPDF_GetLastError() == raw.FPDF_ERR_PASSWORD:
                handle, self.locked = self._load(password), True
        if not handle:
            raise self._refusal(raw.FPDF_GetLastError())
        self._document = pypdfium2.PdfDocument(handle)
        self._document.init_forms()  # before any page, or form fields stay empty
        return len(self._document)

    def _load(self, password: str | None) -> Any:
        # By hand: PdfDocument(path) resolves the link, and an unlinked file has no other name.
        path = f"/proc/self/fd/{self._job.fd}".encode()
        return raw.FPDF_LoadDocument(path, None if password is None else password.encode() + b"\0")

    def _refusal(self, code: int) -> DrawError:
        if code == raw.FPDF_ERR_PASSWORD:
            tried = len(self._job.passwords)
            wrong = f"; none of the {tried} given for it is right" if tried else ""
            return DrawError("encrypted", f"the document needs a password{wrong}")
        if code == raw.FPDF_ERR_SECURITY:
            handler = security_handler(self._job.fd)
            return DrawError("encrypted", f"its security handler ({handler}) is not supported")
        return DrawError("corrupt", f"pdfium cannot open it (error {code})")

    def draw(self, numbers: list[int]) -> Iterator[Drawn | Undrawn]:
        """One answer for each page, in order."""
        return (attempt(self._job, number, self._page) for number in numbers)

    def _page(self, number: int) -> Picture:
        page = self._document[number - 1]
        try:
            width, height = page.get_size()
            fit = fit_page(width, height, self._job)
            image = self._draw(page, fit.picture)
            if fit.picture == fit.page:
                return Picture(image, True, *self._layer(page, image))
            return Picture(on_white(image, fit.page), False, *self._layer(page, None))
        finally:
            page.close()

    def _draw(self, page: Any, size: tuple[int, int]) -> Image.Image:
        """Draw straight at the target size, and straight into the slot.

        Five times cheaper than at a dpi and then smaller, and a millisecond than through a pipe.
        """
        bytes_of_page = 4 * size[0] * size[1]
        memory: Any = (ctypes.c_ubyte * bytes_of_page).from_buffer(self._slots.next())  # or raises
        bitmap = raw.FPDFBitmap_CreateEx(*size, raw.FPDFBitmap_BGRx, memory, 4 * size[0])
        if not bitmap:
            raise MemoryError
        try:
            raw.FPDFBitmap_FillRect(bitmap, 0, 0, *size, 0xFFFFFFFF)
            how = raw.FPDF_ANNOT | raw.FPDF_REVERSE_BYTE_ORDER
            raw.FPDF_RenderPageBitmap(bitmap, page, 0, 0, *size, 0, how)
            if page.formenv:
                raw.FPDF_FFLDraw(page.formenv, bitmap, page, 0, 0, *size, 0, how)
        finally:
            raw.FPDFBitmap_Destroy(bitmap)
        return Image.frombuffer("RGBX", size, memory, "raw", "RGBX", 0, 1)

    def _layer(
        self, page: Any, image: Image.Image | None
    ) -> tuple[str | None, tuple[float, float] | None]:
        """The page's own text; where it is to be judged, also how it lies on the picture."""
        if self._job.text_layer == "never":
            return None, None
        try:
            words = page.get_textpage()
        except pypdfium2.PdfiumError:
            return None, None  # a page without readable text has still been drawn
        try:
            if words.count_chars() > MAX_LAYER:
                text = words.get_text_range(0, MAX_LAYER)
            else:
                text = words.get_text_bounded()
            text = text.replace("\r\n", "\n").replace("\0", "")[:MAX_LAYER].strip()
            fit = None
            if self._job.text_layer == "prefer" and text and image:
                fit = fit_of(image, self._boxes(page, words, image))
            return text or None, fit
        finally:
            words.close()

    def _boxes(self, page: Any, words: Any, image: Image.Image) -> list[Box]:
        """Where on the picture the text lies: a box for each run on a line."""
        x, y = ctypes.c_int(), ctypes.c_int()
        boxes = []
        for index in range(min(words.count_rects(), MAX_BOXES)):
            left, bottom, right, top = words.get_rect(index)
            corners = []
            for across, up in ((left, bottom), (right, top)):
                raw.FPDF_PageToDevice(page, 0, 0, *image.size, 0, across, up, x, y)
                corners.append((x.value, y.value))
            (x0, y0), (x1, y1) = corners
            boxes.append((min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)))
        return boxes


def security_handler(fd: int) -> str:
    """The name of what a PDF is encrypted with, for the reader of its row."""
    size = os.fstat(fd).st_size
    text = os.pread(fd, _LOOKED_AT, 0) + os.pread(fd, _LOOKED_AT, max(0, size - _LOOKED_AT))
    names = re.findall(rb"/Filter\s*/([A-Za-z0-9_.#-]{1,60})", text)
    others = [name.decode() for name in names if not name.endswith((b"Decode", b"Crypt"))]
    return others[0] if others else "unknown"


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

    locked = False

    def __init__(self, job: Job, _: Slots) -> None:
        self._job = job
        self._decoded = 0

    def open(self) -> int:
        """The number of frames that are pages. Raises `DrawError`."""
        self._file = os.fdopen(self._job.fd, "rb")  # for as long as this process lives
        self._image = self._open()
        return count_frames(self._image, self._job.animation == "all")

    def _open(self) -> Image.Image:
        return open_image(self._file, self._job.max_image_pixels)

    def draw(self, numbers: list[int]) -> Iterator[Drawn | Undrawn]:
        """One answer for each page, in order."""
        return (attempt(self._job, number, self._frame, "corrupt") for number in numbers)

    def _frame(self, number: int) -> Picture:
        job, index = self._job, number - 1
        if self._decoded > job.max_decoded_mb << 20:
            message = f"the frames before it have {self._decoded >> 20} MB"
            raise DrawError("too_large", message, "max_decoded_mb")
        try:
            image = draw_frame(self._image, index, job, job.max_image_pixels)
        except (MemoryError, DrawError, Image.DecompressionBombError):
            raise
        except Exception as error:
            return self._as_far_as_it_goes(index, error)
        finally:
            width, height = self._image.size
            self._decoded += width * height * max(1, len(self._image.getbands()))
        return Picture(image)

    def _as_far_as_it_goes(self, index: int, damage: Exception) -> Picture:
        """A cut-off image's beginning; its error if that shows nothing, which is not blank."""
        job = self._job
        self._image = self._open()
        allow_truncated(True)
        try:
            image = draw_frame(self._image, index, job, job.max_image_pixels)
        except Exception:
            raise damage from None
        finally:
            allow_truncated(False)
            self._image = self._open()
        if is_blank(image, job.blank_ink):
            raise damage
        return Picture(image, damage=f"damaged, drawn as far as it goes: {damage}"[:300])
