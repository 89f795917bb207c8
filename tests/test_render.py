"""Rendering: every format, every limit, and every way in which a file can misbehave."""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pypdfium2
import pytest
from documents import (
    BOX,
    PDFIUM,
    RED,
    WHITE,
    children,
    drawn,
    endless_page,
    half_red,
    image_file,
    large_picture,
    near,
    one_page,
    pdf,
    raw_pdf,
    refused,
    settings,
    unlinked,
)
from PIL import Image, ImageDraw
from reportlab.lib.pdfencrypt import StandardEncryption
from reportlab.pdfgen.canvas import Canvas

from pagemill.document import Failure, Kind, PageFailure, PageImage
from pagemill.errors import ErrorKind, PagemillError, Stopped, UsageError
from pagemill.settings import Renderer, Settings
from tasks import fork_server
from tasks import render as render_module
from tasks.fork_server import server_pid
from tasks.images import target_size
from tasks.render import Opened, render, renderer_identity
from tasks.sniff import sniff

CORPUS = Path(__file__).resolve().parents[2] / "shared" / "corpus"
needs_poppler = pytest.mark.skipif(not shutil.which("pdftoppm"), reason="poppler is not installed")


@pytest.fixture(autouse=True)
def leaves_no_process() -> Iterator[None]:
    yield
    assert children() == []


@pytest.fixture
def no_poppler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(render_module.shutil, "which", lambda _: None)
    renderer_identity.cache_clear()
    yield
    renderer_identity.cache_clear()


# --- formats -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "mode"),
    [
        ("JPEG", "RGB"),
        ("PNG", "RGB"),
        ("PNG", "P"),
        ("TIFF", "RGB"),
        ("WEBP", "RGB"),
        ("GIF", "P"),
        ("BMP", "RGB"),
        ("JPEG2000", "RGB"),
        ("PPM", "RGB"),
        ("AVIF", "RGB"),
    ],
)
def test_every_image_format_is_drawn(form: str, mode: str) -> None:
    page = one_page(image_file(half_red(mode=mode), form))
    assert page.image.mode == "RGB" and page.image.size == (112, 56)
    assert near(page.image.getpixel((20, 28)), RED) and near(page.image.getpixel((90, 28)), WHITE)


def test_bigtiff_and_bare_jpeg2000_are_drawn() -> None:
    one_page(image_file(half_red(), "TIFF", big_tiff=True))
    one_page(image_file(half_red(), "JPEG2000", no_jp2=True))


def test_a_pdf_page_is_drawn_with_its_text_layer() -> None:
    opened, page = drawn(pdf("Hello layer"))
    assert opened == Opened(Kind.PDF, 1)
    assert page.layer == "Hello layer" and not page.blank and page.seconds > 0


def test_the_text_layer_is_left_out_where_not_asked_for() -> None:
    assert one_page(pdf("Hello"), settings(render={"text_layer": "never"})).layer is None


def test_content_decides_not_the_extension(tmp_path: Path) -> None:
    path = tmp_path / "really-a-pdf.png"
    path.write_bytes(pdf("x"))
    with path.open("rb") as file:
        assert next(render(file, settings(), only=())) == Opened(Kind.PDF, 1)


def test_a_pdf_may_begin_with_junk() -> None:
    assert one_page(b"junk\n" * 100 + pdf("x")).number == 1


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"PK\x03\x04 %PDF-1.4 inside a zip", ErrorKind.UNSUPPORTED),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", ErrorKind.UNSUPPORTED),
        (b"\x1f\x8b\x08", ErrorKind.UNSUPPORTED),
        (b"<!DOCTYPE html><p>%PDF-", ErrorKind.UNSUPPORTED),
        ("just some téxt\n".encode(), ErrorKind.UNSUPPORTED),
        (b"BM is how this text begins", ErrorKind.UNSUPPORTED),
        (b"PAR1\x15\x04", ErrorKind.UNSUPPORTED),
        (b"%!PS-Adobe-3.0 EPSF-3.0", ErrorKind.UNSUPPORTED),
        (b"\x00\x01\x02\x03 noise \xff\xfe\xfd", ErrorKind.NOT_A_DOCUMENT),
        (b"", ErrorKind.EMPTY),
    ],
)
def test_other_formats_are_named_or_refused(head: bytes, kind: ErrorKind) -> None:
    failure = sniff(head)
    assert isinstance(failure, Failure) and failure.kind is kind
    assert refused(head) == failure


def test_heic_says_what_to_install() -> None:
    failure = refused(b"\0\0\0\x18ftypheic\0\0\0\0heicmif1" + bytes(100))
    assert failure.kind in (ErrorKind.UNSUPPORTED, ErrorKind.CORRUPT)


# --- what images need ----------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(form: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise to be upright: left becomes top
    page = one_page(image_file(half_red(), form, exif=exif))
    assert page.image.size == (56, 112)
    assert near(page.image.getpixel((28, 20)), RED) and near(page.image.getpixel((28, 90)), WHITE)


def test_sixteen_bit_grey_is_rescaled_not_cut_off() -> None:
    left, right = struct.pack("<28H", *[32768] * 28), struct.pack("<28H", *[65535] * 28)
    rows = (bytes(56) + right) * 28 + (left + right) * 28
    image = Image.frombytes("I;16", (56, 56), rows)
    page = one_page(image_file(image, "PNG")).image
    assert page.getpixel((14, 14)) == (0, 0, 0)
    assert near(page.getpixel((14, 42)), (128,) * 3, 4)
    assert page.getpixel((42, 42)) == WHITE


def test_float_grey_between_0_and_1_is_rescaled() -> None:
    image = Image.new("F", (56, 56), 1.0)
    image.paste(0.0, (0, 0, 28, 56))
    page = one_page(image_file(image, "TIFF")).image
    assert page.getpixel((10, 28)) == (0, 0, 0) and page.getpixel((50, 28)) == WHITE


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_becomes_white_not_black(mode: str) -> None:
    image = Image.new("RGBA", (56, 56), (0, 0, 0, 0))
    ImageDraw.Draw(image).rectangle((0, 0, 27, 55), fill=(0, 0, 0, 255))
    page = one_page(image_file(image.convert(mode), "PNG"))
    assert page.image.getpixel((10, 28)) == (0, 0, 0)
    assert page.image.getpixel((50, 28)) == WHITE and not page.blank


def test_cmyk_and_bilevel_images_are_drawn_in_rgb() -> None:
    assert near(one_page(image_file(half_red(mode="CMYK"), "JPEG")).image.getpixel((20, 28)), RED)
    page = one_page(image_file(half_red().convert("1"), "TIFF", compression="group4"))
    assert page.image.getpixel((90, 28)) == WHITE


def test_every_page_of_a_tiff_is_a_page() -> None:
    frames = [half_red((56 * n, 56)) for n in (1, 2, 3)]
    data = image_file(frames[0], "TIFF", save_all=True, append_images=frames[1:])
    opened, *pages = drawn(data)
    assert opened == Opened(Kind.IMAGE, 3)
    assert [(page.number, page.image.width) for page in pages] == [(1, 56), (2, 112), (3, 168)]


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_an_animation_is_one_page(form: str) -> None:
    data = image_file(half_red(), form, save_all=True, append_images=[Image.new("RGB", (112, 56))])
    assert near(one_page(data).image.getpixel((20, 28)), RED)


def test_a_fax_gets_square_pixels() -> None:
    data = image_file(half_red((816, 392)), "TIFF", dpi=(204, 98))
    width, height = one_page(data).image.size
    assert abs(width / height - 1) < 0.06


def test_a_scan_is_made_smaller_and_never_larger() -> None:
    small = one_page(image_file(half_red((112, 56)), "PNG")).image
    large = one_page(image_file(half_red((4000, 2000)), "JPEG")).image
    assert small.size == (112, 56)
    assert 0.9e6 < large.width * large.height <= 1_310_720 and near(large.getpixel((99, 99)), RED)


@pytest.mark.parametrize("size", [(1, 1), (3000, 2), (2, 3000)])
def test_tiny_and_narrow_images_are_padded_with_white(size: tuple[int, int]) -> None:
    page = one_page(image_file(Image.new("RGB", size, "black"), "PNG")).image
    assert min(page.size) >= 28 and max(page.size) <= 100 * min(page.size)
    assert page.getpixel((0, 0)) == WHITE and min(page.convert("L").tobytes()) < 200


def test_a_cut_off_photo_is_drawn_as_far_as_it_goes() -> None:
    data = image_file(half_red((400, 400)), "JPEG")
    page = one_page(data[: len(data) // 2])
    assert near(page.image.getpixel((20, 10)), RED)


def test_damage_that_leaves_nothing_to_see_is_a_failure_not_a_blank_page() -> None:
    data = image_file(half_red((400, 400)), "PNG")
    opened, page = drawn(data[:60])
    assert opened == Opened(Kind.IMAGE, 1)
    assert page.failure.kind is ErrorKind.CORRUPT and page.failure.decided_by


# --- sizes and limits ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "points", [(612, 792), (14400, 14400), (0, 0), (1, 1), (1, 9000), (9000, 3), (float("nan"), 50)]
)
def test_the_target_size_keeps_its_promises(points: tuple[float, float]) -> None:
    width, height = target_size(*points, settings().render)
    assert width % 28 == height % 28 == 0 and min(width, height) >= 28
    assert width * height <= 1_310_720 and max(width, height) <= 100 * min(width, height)


def test_a_small_page_is_not_enlarged_beyond_max_dpi() -> None:
    assert target_size(72, 144, settings().render) == (196, 392)


@pytest.mark.parametrize("renderer", ["pdfium", pytest.param("poppler", marks=needs_poppler)])
def test_pages_come_at_the_target_size_also_when_turned(renderer: str) -> None:
    document = pypdfium2.PdfDocument(pdf("a", "b"))
    document[1].set_rotation(90)
    out = io.BytesIO()
    document.save(out)
    how = settings(render={"renderer": renderer})
    sizes = [page.image.size for page in drawn(out.getvalue(), how)[1:]]
    assert sizes == [target_size(300, 400, how.render), target_size(400, 300, how.render)]


def test_a_giant_page_costs_no_more_than_any_other() -> None:
    page = one_page(pdf("giant", size=(14000, 14000)), settings(limits={"memory_mb": 512}))
    assert page.image.width * page.image.height <= 1_310_720


def test_a_file_over_the_size_limit_is_too_large(tmp_path: Path) -> None:
    with (tmp_path / "huge.pdf").open("w+b") as file:
        file.truncate(2 << 20)
        items = list(render(file, settings(limits={"max_file_mb": 1})))
    assert items[0].kind is ErrorKind.TOO_LARGE and items[0].decided_by == "max_file_mb=1"


def test_a_pixel_bomb_is_too_large_and_is_not_decoded() -> None:
    how = settings(limits={"max_image_pixels": 10_000})
    failure = refused(image_file(Image.new("1", (400, 400)), "PNG"), how)
    assert failure.kind is ErrorKind.TOO_LARGE and failure.decided_by == "max_image_pixels=10000"


def test_a_document_that_declares_too_many_pages_is_one_failure() -> None:
    failure = refused(raw_pdf([BOX], count=200_000))
    assert failure.kind is ErrorKind.TOO_LARGE
    assert failure.decided_by == "max_declared_pages=100000"


def test_pages_that_were_declared_but_are_not_there_fail_one_by_one() -> None:
    opened, *pages = drawn(raw_pdf([BOX], count=200))
    assert opened.page_count == 200 and sorted(p.number for p in pages) == list(range(1, 201))
    assert isinstance(pages[0], PageImage)
    assert {page.failure.kind for page in pages[1:]} == {ErrorKind.RENDER_FAILED}


def test_pages_beyond_max_pages_are_not_drawn() -> None:
    opened, *pages = drawn(pdf(*"abcde"), settings(limits={"max_pages": 2}))
    assert opened.page_count == 5 and [page.number for page in pages] == [1, 2]


def test_only_the_pages_wanted_are_drawn() -> None:
    opened, *pages = drawn(pdf(*"abcdef"), only=[6, 2, 4, 99, 0], skip=[4])
    assert opened.page_count == 6 and [page.number for page in pages] == [2, 6]
    assert drawn(pdf("a"), only=[]) == [Opened(Kind.PDF, 1)]


def test_memory_over_the_limit_fails_the_page_alone() -> None:
    small, large = half_red(), Image.new("1", (20_000, 20_000))
    data = image_file(small, "TIFF", save_all=True, append_images=[large, small])
    how = settings(limits={"memory_mb": 256, "max_image_pixels": 500_000_000})
    _, first, second, third = drawn(data, how)
    assert isinstance(first, PageImage) and isinstance(third, PageImage)
    assert second.failure.kind is ErrorKind.OUT_OF_MEMORY


# --- broken and locked documents -----------------------------------------------------------------


def test_a_document_with_a_password_is_encrypted() -> None:
    failure = refused(pdf("secret", encrypt=StandardEncryption("user", "owner")))
    assert failure.kind is ErrorKind.ENCRYPTED and failure.decided_by == "password=none"


def test_an_empty_user_password_opens() -> None:
    assert one_page(pdf("open", encrypt=StandardEncryption("", "owner"))).layer == "open"


def test_a_corrupt_document_names_the_renderers_that_refused_it() -> None:
    failure = refused(b"%PDF-1.4\nthis is not a PDF at all\n%%EOF\n")
    assert failure.kind is ErrorKind.CORRUPT
    assert failure.decided_by == f"renderer={renderer_identity()}"


def test_a_document_without_pages_is_corrupt() -> None:
    out = io.BytesIO()
    pypdfium2.PdfDocument.new().save(out)
    failure = refused(out.getvalue(), PDFIUM)
    assert failure.kind is ErrorKind.CORRUPT and failure.message == "the document has no pages"


def test_an_undecodable_image_is_corrupt() -> None:
    assert refused(b"\x89PNG\r\n\x1a\n" + bytes(50)).kind is ErrorKind.CORRUPT


# --- blank pages and forms -----------------------------------------------------------------------


def test_an_empty_page_is_blank_and_a_full_stop_is_not() -> None:
    pages = drawn(pdf("", "."))[1:]
    assert {page.number: page.blank for page in pages} == {1: True, 2: False}


def test_form_fields_are_drawn() -> None:
    out = io.BytesIO()
    canvas = Canvas(out, pagesize=(300, 400))
    canvas.acroForm.textfield(value="FILLED IN", x=20, y=200, width=250, height=40, name="f")
    canvas.showPage()
    canvas.save()
    page = one_page(out.getvalue(), PDFIUM)
    field = page.image.crop((60, int(page.image.height * 0.41), 300, page.image.height // 2))
    assert min(field.convert("L").tobytes()) < 60 and not page.blank


@needs_poppler
def test_the_second_renderer_is_believed_where_the_first_sees_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = render_module.Child.answer

    def blind(self: Any, number: int) -> PageImage | PageFailure:
        page = original(self, number)
        if self._drawer == "pdfium":
            page = PageImage(number, Image.new("RGB", (28, 28), "white"), True, 0.1, "layer")
        return page

    monkeypatch.setattr(render_module.Child, "answer", blind)
    opened, first, second = drawn(raw_pdf([BOX, b""]))
    assert opened.page_count == 2
    assert not first.blank and first.image.size != (28, 28) and first.layer == "layer"
    assert second.blank and second.image.size == (28, 28)


# --- children that hang, die or lie --------------------------------------------------------------

ONE_HANGS = raw_pdf([BOX, endless_page(), BOX], extra=large_picture())


@pytest.mark.parametrize("renderer", ["pdfium", pytest.param("poppler", marks=needs_poppler)])
def test_a_page_that_hangs_times_out_and_the_others_are_drawn(renderer: str) -> None:
    how = settings(render={"renderer": renderer}, limits={"seconds_per_page": 2})
    _, first, second, third = drawn(ONE_HANGS, how)
    assert isinstance(first, PageImage) and isinstance(third, PageImage)
    assert second.number == 2 and second.failure.kind is ErrorKind.TIME_OUT
    assert second.failure.decided_by == "seconds_per_page=2.0"


def test_after_three_restarts_the_rest_of_the_document_fails() -> None:
    data = raw_pdf([endless_page()] * 6 + [BOX], extra=large_picture())
    how = settings(render={"renderer": "pdfium"}, limits={"seconds_per_page": 0.2})
    opened, *pages = drawn(data, how)
    assert opened.page_count == 7 and [page.number for page in pages] == list(range(1, 8))
    assert {page.failure.kind for page in pages} == {ErrorKind.TIME_OUT}
    assert "given up" in pages[-1].failure.message


def test_the_time_of_a_whole_document_is_limited() -> None:
    limits = {"seconds_per_page": 60, "seconds_per_document": 1.5}
    how = settings(render={"renderer": "pdfium"}, limits=limits)
    _, *pages = drawn(raw_pdf([endless_page()] * 3, extra=large_picture()), how)
    assert [page.failure.kind for page in pages] == [ErrorKind.TIME_OUT] * 3


def test_a_slow_reader_costs_the_document_no_time() -> None:
    with unlinked(pdf(*"abc")) as file:
        limits = {"seconds_per_page": 2, "seconds_per_document": 2}
        items = render(file, settings(limits=limits))
        next(items)
        time.sleep(2.5)
        assert [type(page) for page in items] == [PageImage] * 3


def test_a_killed_child_costs_one_page() -> None:
    with unlinked(pdf(*"abc")) as file:
        items = render(file, PDFIUM)
        next(items)
        children()[0].send_signal(signal.SIGKILL)
        first, *others = items
    assert first.failure.kind is ErrorKind.OUT_OF_MEMORY  # who else but the kernel
    assert [type(page) for page in others] == [PageImage, PageImage]


def test_a_crashed_child_costs_one_page() -> None:
    with unlinked(pdf(*"abc")) as file:
        items = render(file, PDFIUM)
        next(items)
        children()[0].send_signal(signal.SIGSEGV)
        first, *others = items
    assert first.failure.kind is ErrorKind.RENDER_FAILED and "SIGSEGV" in first.failure.message
    assert first.failure.decided_by == f"renderer={renderer_identity(Renderer.PDFIUM)}"
    assert len(others) == 2


@needs_poppler
def test_a_page_that_crashes_one_renderer_is_drawn_by_the_other() -> None:
    with unlinked(pdf(*"abc")) as file:
        items = render(file, settings())
        next(items)
        children()[0].send_signal(signal.SIGSEGV)
        pages = list(items)
    assert sorted(page.number for page in pages) == [1, 2, 3]
    assert all(isinstance(page, PageImage) and not page.blank for page in pages)


LIES = {
    "a length beyond all bounds": b"\xff\xff\xff\xff",
    "no JSON": b"\0\0\0\x04nope",
    "nested without end": (500_000).to_bytes(4, "big") + b"[" * 500_000,
    "another page": b"\0\0\0\x0b" + b'{"page": 7}',
    "a picture beyond max_pixels": (
        b"\0\0\0\x33" + b'{"page": 1, "width": 1000000, "height": 1000000   }'
    ),
    "a negative picture": b"\0\0\0\x27" + b'{"page": 1, "width": -1, "height": -1  }'[:39],
    "an unknown error": b"\0\0\0\x1b" + b'{"page": 1, "error": "hm"} ',
    "half a frame": b"\0\0\0\xff{",
}


@pytest.fixture
def other_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Makes the next children come from a fork server that runs this code."""
    monkeypatch.setattr(fork_server, "_current", None)

    def start(code: str) -> None:
        monkeypatch.setattr(fork_server, "COMMAND", [sys.executable, "-c", code])

    yield start
    if fork_server._current:
        fork_server._current.close()


LIAR = """
import json, os, struct
from tasks import render_child

def send(frames, header):
    data = json.dumps(header).encode()
    os.write(frames, struct.pack('>I', len(data)) + data)

def draw(requests, frames, document, memory):
    os.read(requests, 9999); send(frames, {'ready': True}); send(frames, {'pages': 1})
    os.read(requests, 9999); open(frames, 'wb').write(%r + b'[' * %d)

render_child.draw = draw
render_child.main()
"""


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_a_child_that_sends_nonsense_fails_the_page(
    lie: bytes, other_server: Callable[[str], None]
) -> None:
    other_server(LIAR % (lie[:64], max(0, len(lie) - 64)))
    _, page = drawn(pdf("a"), PDFIUM)
    assert page.failure.kind is ErrorKind.RENDER_FAILED


def test_a_server_that_cannot_start_is_an_error_of_the_run_not_of_the_document(
    other_server: Callable[[str], None],
) -> None:
    other_server("raise ImportError('no pdfium here')")
    with pytest.raises(PagemillError, match="no pdfium here"):
        drawn(pdf("a"))


def test_a_server_that_is_killed_is_replaced() -> None:
    one_page(pdf("a"))
    before = server_pid()
    assert before
    server = psutil.Process(before)  # before it is gone: then there is none to wait for
    server.kill()
    psutil.wait_procs([server], timeout=30)
    assert one_page(pdf("b")).layer == "b" and server_pid() != before


def test_a_server_that_is_killed_costs_a_page_and_its_children_die_with_it() -> None:
    with unlinked(pdf(*"abc")) as file:
        items = render(file, PDFIUM)
        next(items)
        (child,), server = children(), server_pid()
        assert server
        os.kill(server, signal.SIGKILL)
        wait_until_gone(child)  # or it might draw the page before it hears of that
        first, *others = items
    # Not the page's fault: the next run tries it again.
    assert first.failure.kind is ErrorKind.OUT_OF_MEMORY
    assert "killed from outside" in first.failure.message
    assert [type(page) for page in others] == [PageImage, PageImage]


def wait_until_gone(process: psutil.Process) -> None:
    deadline = time.monotonic() + 30
    with suppress(psutil.NoSuchProcess):
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_children_of_one_server_share_nothing() -> None:
    """Pillow and pdfium keep state in the process: each document has a fresh one."""
    cut_off = image_file(half_red((400, 400)), "JPEG")
    with unlinked(cut_off[: len(cut_off) // 2]) as one, unlinked(pdf("b")) as two:
        first, second = render(one, settings()), render(two, PDFIUM)
        assert next(first) == Opened(Kind.IMAGE, 1) and next(second) == Opened(Kind.PDF, 1)
        pids = {child.pid for child in children()}
        assert len(pids) == 2 and server_pid() not in pids
        assert {child.ppid() for child in children()} == {server_pid()}
        assert len({os.getsid(pid) for pid in pids}) == 2
        assert isinstance(next(first), PageImage) and isinstance(next(second), PageImage)
        first.close()
        second.close()


def test_closing_the_generator_ends_its_processes() -> None:
    with unlinked(pdf(*"abcdefghijklmnopqrstuvwxyz")) as file:
        before = len(os.listdir("/proc/self/fd"))
        items = render(file, settings())
        next(items)
        next(items)
        assert children()
        items.close()
        assert children() == [] and len(os.listdir("/proc/self/fd")) == before


@needs_poppler
def test_closing_the_generator_ends_poppler_too() -> None:
    how = settings(render={"renderer": "poppler"}, limits={"seconds_per_page": 60})
    stop = threading.Event()
    with unlinked(raw_pdf([endless_page()], extra=large_picture())) as file:
        items = render(file, how, stop=stop)
        next(items)
        seen: list[str] = []

        def stop_when_drawing() -> None:
            while "pdftoppm" not in seen:
                with suppress(psutil.NoSuchProcess):  # it ends while we look
                    seen.extend(child.name() for child in children())
            stop.set()

        watcher = threading.Thread(target=stop_when_drawing)
        watcher.start()
        with pytest.raises(Stopped):
            next(items)
        watcher.join()
    assert children() == []


def test_nothing_of_it_survives_a_killed_parent(tmp_path: Path) -> None:
    path = tmp_path / "hangs.pdf"
    path.write_bytes(raw_pdf([endless_page()], extra=large_picture()))
    script = (
        "import sys; sys.path.insert(0, 'tests'); from documents import *\n"
        f"items = render(open({str(path)!r}, 'rb'), PDFIUM)\n"
        "next(items); print(children()[0].pid, flush=True); next(items)\n"
    )
    command = [sys.executable, "-c", script]
    root = Path(__file__).resolve().parents[1]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as parent:
        assert parent.stdout
        orphan = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    wait_until_gone(orphan)


# --- poppler: alone, and absent ------------------------------------------------------------------


@needs_poppler
def test_poppler_alone_draws_every_page() -> None:
    opened, *pages = drawn(pdf(*"abcdefghijk", ""), settings(render={"renderer": "poppler"}))
    assert opened.page_count == 12 and [page.number for page in pages] == list(range(1, 13))
    assert [page.blank for page in pages] == [False] * 11 + [True]


@needs_poppler
def test_poppler_sees_the_password_too() -> None:
    data = pdf("secret", encrypt=StandardEncryption("user", "owner"))
    failure = refused(data, settings(render={"renderer": "poppler"}))
    assert failure.kind is ErrorKind.ENCRYPTED and failure.decided_by == "password=none"


def test_without_poppler_failures_say_so(no_poppler: None) -> None:
    assert one_page(pdf("x")).layer == "x"
    failure = refused(b"%PDF-1.4\nnothing\n%%EOF\n")
    assert "poppler is not installed" in failure.message
    assert failure.decided_by == f"renderer={renderer_identity()}"
    assert "poppler" not in renderer_identity()


def test_poppler_asked_for_but_absent_is_a_usage_error(no_poppler: None) -> None:
    with pytest.raises(UsageError, match="poppler-utils"):
        drawn(pdf("x"), settings(render={"renderer": "poppler"}))


@needs_poppler
def test_the_identity_names_the_renderers_and_their_versions() -> None:
    assert re.fullmatch(r"pdfium-[\d.]+\+poppler-\d+\.\d+", renderer_identity())
    assert re.fullmatch(r"pdfium-[\d.]+", renderer_identity(Renderer.PDFIUM))
    assert re.fullmatch(r"poppler-\d+\.\d+", renderer_identity(Renderer.POPPLER))


# --- the real world ------------------------------------------------------------------------------


@pytest.mark.skipif(not CORPUS.is_dir(), reason="needs the corpus of real files, ../shared/corpus")
def test_the_corpus_comes_out_as_its_manifest_says() -> None:
    how = settings(limits={"max_pages": 3, "seconds_per_page": 10})
    with (CORPUS / "manifest.csv").open(newline="") as manifest:
        rows = list(csv.DictReader(manifest))
    with ThreadPoolExecutor(2) as pool:
        right = list(pool.map(partial(as_expected, how=how), rows))
    wrong = [row["path"] for row, is_right in zip(rows, right, strict=True) if not is_right]
    assert wrong == [] and len(rows) >= 151


def as_expected(row: dict[str, str], how: Settings) -> bool:
    with (CORPUS / row["path"]).open("rb") as file:
        opened, *pages = render(file, how)
    if isinstance(opened, Failure):
        return row["expected"] in ("error", "either") and not pages
    complete = sorted(p.number for p in pages) == list(range(1, min(opened.page_count, 3) + 1))
    if not any(isinstance(page, PageImage) for page in pages):
        return complete and row["expected"] in ("error", "either")
    counted = row["pages"] in ("", str(opened.page_count))
    return complete and (row["expected"] == "either" or (row["expected"] == "ok" and counted))
