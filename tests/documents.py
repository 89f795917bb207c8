"""Documents made for tests, and what `tasks.render` makes of them."""

from __future__ import annotations

import io
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO

import psutil
from PIL import Image, ImageDraw
from reportlab.pdfgen.canvas import Canvas

from pagemill.document import Failure, PageImage
from pagemill.settings import Settings
from tasks.fork_server import server_pid
from tasks.render import Opened, render

RED, WHITE = (255, 0, 0), (255, 255, 255)


def children() -> list[psutil.Process]:
    """Processes of this one, but for what tests share: S3, the fork server, Python's tracker."""
    shared = server_pid()
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it ends while we look
            tracker = any("resource_tracker" in word for word in process.cmdline())
            if process.name() != "weed" and process.pid != shared and not tracker:
                found.append(process)
    return found


def settings(**groups: Any) -> Settings:
    base = {"model": {"name": "x", "id": "y"}, "outputs": {"text": {"prompt": "p"}}}
    return Settings.model_validate(base | groups)


PDFIUM = settings(render={"renderer": "pdfium"})


def drawn(data: bytes, how: Settings | None = None, **options: Any) -> list[Any]:
    with unlinked(data) as file:
        return list(render(file, how or settings(), **options))


@contextmanager
def unlinked(data: bytes) -> Iterator[BinaryIO]:
    with tempfile.TemporaryFile() as file:
        file.write(data)  # not flushed, and not rewound: rendering must not mind
        yield file


def one_page(data: bytes, how: Settings | None = None) -> PageImage:
    opened, page = drawn(data, how)
    assert isinstance(opened, Opened) and isinstance(page, PageImage), (opened, page)
    return page


def refused(data: bytes, how: Settings | None = None) -> Failure:
    (failure,) = drawn(data, how)
    assert isinstance(failure, Failure)
    return failure


def pdf(*texts: str, size: tuple[float, float] = (300, 400), encrypt: Any = None) -> bytes:
    """A PDF with a page for each text; an empty text is an empty page."""
    out = io.BytesIO()
    canvas = Canvas(out, pagesize=size, encrypt=encrypt)
    for text in texts:
        canvas.drawString(30, size[1] / 2, text)
        canvas.showPage()
    canvas.save()
    return out.getvalue()


def raw_pdf(pages: list[bytes], count: int | None = None, extra: bytes = b"") -> bytes:
    """A PDF written by hand, one content stream for each page, /Count as told."""
    kids = b" ".join(b"%d 0 R" % (10 + 2 * i) for i in range(len(pages)))
    count = len(pages) if count is None else count
    parts = [b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n"]
    parts.append(b"2 0 obj<</Type/Pages/Kids[%s]/Count %d>>endobj\n" % (kids, count))
    for i, content in enumerate(pages):
        number = 10 + 2 * i
        parts.append(
            b"%d 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 200 200]/Contents %d 0 R"
            b"/Resources<</XObject<</F0 1000 0 R>>>>>>endobj\n" % (number, number + 1)
        )
        parts.append(stream(number + 1, b"", content))
    return b"".join(parts) + extra + b"trailer<</Root 1 0 R/Size 2000>>\n%%EOF\n"


def stream(number: int, entries: bytes, content: bytes) -> bytes:
    head = b"%d 0 obj<</Length %d%s>>stream\n" % (number, len(content), entries)
    return head + content + b"\nendstream endobj\n"


def endless_page() -> bytes:
    """A page that draws a large picture some thousand times, each time at another size."""
    return b"".join(b"q %d 0 0 190 0 0 cm /F0 Do Q\n" % (100 + i % 90) for i in range(20_000))


def large_picture(side: int = 5000) -> bytes:
    head = b"/Type/XObject/Subtype/Image/Width %d/Height %d" % (side, side)
    head += b"/ColorSpace/DeviceGray/BitsPerComponent 8/Filter/FlateDecode"
    return stream(1000, head, zlib.compress(bytes(side * side)))


BOX = b"50 50 100 100 re f"


def image_file(image: Image.Image, form: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def half_red(size: tuple[int, int] = (112, 56), mode: str = "RGB") -> Image.Image:
    """The left half red, the right half white."""
    image = Image.new("RGB", size, "white")
    ImageDraw.Draw(image).rectangle((0, 0, size[0] // 2 - 1, size[1]), fill="red")
    return image.convert(mode)


def near(pixel: Any, colour: tuple[int, int, int], slack: int = 60) -> bool:
    return all(abs(a - b) <= slack for a, b in zip(pixel, colour, strict=True))
