"""One real file for each kind of error, each format and each trap that is known."""

from __future__ import annotations

import io
import os
import re
import shutil
import socket
import stat
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pikepdf
import pillow_heif
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
    stream,
)
from helpers import echo_settings, make_pdf, name, run, table
from PIL import Image, ImageCms, ImageDraw
from reportlab.lib.pdfencrypt import StandardEncryption
from reportlab.pdfgen.canvas import Canvas

from pagemill.document import Failure, Kind, PageFailure, PageImage
from pagemill.errors import ERRORS, ErrorKind, Stopped
from tasks import fork_server
from tasks.render import Opened
from tasks.sniff import sniff

POPPLER = settings(render={"renderer": "poppler"})
BOTH = [
    pytest.param(PDFIUM, id="pdfium"),
    pytest.param(
        POPPLER,
        id="poppler",
        marks=pytest.mark.skipif(not shutil.which("pdftoppm"), reason="poppler is not installed"),
    ),
]
PNG = image_file(half_red(), "PNG")


@pytest.fixture(autouse=True)
def leaves_no_process() -> Iterator[None]:
    yield
    assert children() == []


def changed(data: bytes, change: Callable[[pikepdf.Pdf], None]) -> bytes:
    """A PDF after a change by pikepdf."""
    out = io.BytesIO()
    with pikepdf.open(io.BytesIO(data)) as document:
        change(document)
        document.save(out)
    return out.getvalue()


# --- kinds of error ------------------------------------------------------------------------------

HOSTILE: dict[ErrorKind, tuple[str, bytes]] = {
    ErrorKind.EMPTY: ("empty.pdf", b""),
    ErrorKind.NOT_A_DOCUMENT: ("noise.pdf", bytes(range(256)) * 4),
    ErrorKind.UNSUPPORTED: ("office.pdf", b"PK\x03\x04" + bytes(26) + b"[Content_Types].xml"),
    ErrorKind.CORRUPT: ("corrupt.pdf", b"%PDF-1.7\nnothing\n%%EOF\n"),
    ErrorKind.ENCRYPTED: ("locked.pdf", pdf("x", encrypt=StandardEncryption("user", "owner"))),
    ErrorKind.TOO_LARGE: ("many-pages.pdf", raw_pdf([BOX], count=200_000)),
    ErrorKind.RENDER_FAILED: ("missing-page.pdf", raw_pdf([BOX], count=2)),
    ErrorKind.TIME_OUT: ("endless.pdf", raw_pdf([endless_page()], extra=large_picture())),
    ErrorKind.OUT_OF_MEMORY: (
        "frames.tif",
        image_file(
            half_red(), "TIFF", save_all=True, append_images=[Image.new("1", (18_000, 18_000))]
        ),
    ),
}


def test_every_kind_of_error_has_a_row_that_says_why(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for file, data in HOSTILE.values():
        (folder / file).write_bytes(data)
    (folder / "gone.pdf").symlink_to(tmp_path / "nowhere")
    make_pdf(folder / "good.pdf", 3)
    how = {
        "select__pages": "1-2",
        "limits__seconds_per_page": 2,
        "limits__memory_mb": 256,
        "limits__max_image_pixels": 400_000_000,
        "model__options": {"fail_rate": 1},
    }
    run(folder, out, echo_settings(tmp_path, **how))
    rows = table(out)
    found = {ErrorKind(row["error_kind"]) for row in rows if row["error_kind"]}
    said_by_models = {ErrorKind.OTHER_SCRIPT}  # not by the stand-in: tests/test_turned.py
    assert found | said_by_models == set(ErrorKind) == set(ERRORS)
    kinds = {(name(row), row["error_kind"]) for row in rows if row["error_kind"]}
    expected = {(file, kind.value) for kind, (file, _) in HOSTILE.items()}
    assert expected <= kinds
    others = {
        ("gone.pdf", "unreadable"),
        ("good.pdf", "model_failed"),
        ("good.pdf", "not_selected"),
    }
    assert others <= kinds
    assert all(row["error_message"] for row in rows if row["error_kind"])


@pytest.mark.parametrize("kind", [ErrorKind.TOO_LARGE, ErrorKind.TIME_OUT, ErrorKind.OUT_OF_MEMORY])
def test_what_exceeds_a_limit_names_it_and_its_value(kind: ErrorKind) -> None:
    limits = {"seconds_per_page": 1, "memory_mb": 256, "max_image_pixels": 400_000_000}
    items = drawn(HOSTILE[kind][1], settings(limits=limits, render={"renderer": "pdfium"}))
    (failure,) = [
        item if isinstance(item, Failure) else item.failure
        for item in items
        if isinstance(item, Failure | PageFailure)
    ]
    assert failure.kind is kind
    assert failure.decided_by in (
        "max_declared_pages=100000",
        "seconds_per_page=1.0",
        "memory_mb=256",
    )


def test_a_raised_limit_is_reason_to_try_again_also_after_three_runs(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    (folder / "frames.tif").write_bytes(HOSTILE[ErrorKind.OUT_OF_MEMORY][1])
    limits = {"limits__memory_mb": 256, "limits__max_image_pixels": 400_000_000}
    for _ in range(4):
        run(folder, out, echo_settings(tmp_path, **limits))
    assert [(row["status"], row["tries"]) for row in table(out)] == [("ok", 1), ("failed", 3)]
    run(folder, out, echo_settings(tmp_path, **limits | {"limits__memory_mb": 4096}))
    assert [row["status"] for row in table(out)] == ["ok", "blank"]


# --- formats -------------------------------------------------------------------------------------


def heic(image: Image.Image, **options: Any) -> bytes:
    out = io.BytesIO()
    pillow_heif.from_pillow(image).save(out, format="HEIF", **options)
    return out.getvalue()


def test_heic_is_drawn() -> None:
    page = one_page(heic(half_red((224, 112)), quality=95))
    assert page.image.size == (224, 112)
    assert near(page.image.getpixel((40, 56)), RED) and near(page.image.getpixel((180, 56)), WHITE)


def test_a_damaged_heic_is_corrupt() -> None:
    items = drawn(heic(half_red((224, 112)))[:300])
    failure = items[0] if isinstance(items[0], Failure) else items[1].failure
    assert failure.kind is ErrorKind.CORRUPT


@pytest.mark.parametrize(
    ("head", "called"),
    [
        (b"PK\x03\x04" + bytes(26) + b"[Content_Types].xml", "Office document (docx"),
        (b"PK\x03\x04" + bytes(26) + b"mimetypeapplication/vnd.oasis.opendocument", "OpenDocument"),
        (b"PK\x03\x04" + bytes(26) + b"mimetypeapplication/epub+zip", "EPUB"),
        (b"PK\x03\x04" + bytes(26) + b"scans/1.pdf", "ZIP archive"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "old Office document"),
        (b"{\\rtf1", "RTF"),
        (bytes(257) + b"ustar", "tar archive"),
        (b"7z\xbc\xaf\x27\x1c", "7z"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "PostScript"),
        (b"\xc5\xd0\xd3\xc6" + bytes(28), "PostScript"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'>", "SVG"),
    ],
)
def test_what_is_not_read_is_called_by_its_name(head: bytes, called: str) -> None:
    failure = sniff(head)
    assert isinstance(failure, Failure) and failure.kind is ErrorKind.UNSUPPORTED
    assert called in failure.message


@pytest.mark.parametrize(
    ("policy", "statuses"),
    [
        ("by_name", {"notes.txt": "skipped", "lie.pdf": "failed"}),
        ("skipped", {"notes.txt": "skipped", "lie.pdf": "skipped"}),
        ("failed", {"notes.txt": "failed", "lie.pdf": "failed"}),
    ],
)
def test_the_config_says_what_becomes_of_what_is_no_document(
    policy: str, statuses: dict[str, str], tmp_path: Path
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for file in statuses:
        (folder / file).write_text(f"just text in {file}")
    run(folder, out, echo_settings(tmp_path, select__foreign=policy))
    assert {name(row): row["status"] for row in table(out)} == statuses
    assert all("plain text" in row["error_message"] for row in table(out))


def test_equal_bytes_that_are_no_document_are_judged_by_each_name(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for file in ("lie.pdf", "notes.txt"):
        (folder / file).write_text("just text")
    run(folder, out, echo_settings(tmp_path))
    assert {name(row): row["status"] for row in table(out)} == {
        "lie.pdf": "failed",
        "notes.txt": "skipped",
    }


def test_a_wrong_extension_is_no_error(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    (folder / "a.tif").write_bytes(pdf("a"))
    (folder / "b.pdf").write_bytes(PNG)
    (folder / "c").write_bytes(image_file(half_red(), "JPEG"))
    run(folder, out, echo_settings(tmp_path))
    assert [row["status"] for row in table(out)] == ["ok"] * 3


@pytest.mark.parametrize(
    "junk", [b"\n" * 900, b"\xef\xbb\xbf", b"HTTP/1.1 200 OK\r\n\r\n", b"\0" * 500]
)
def test_junk_before_a_pdf_is_no_error(junk: bytes) -> None:
    assert one_page(junk + pdf("x")).layer == "x"


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "AVIF"])
def test_the_frames_of_an_animation_are_pages_if_the_config_says_so(form: str) -> None:
    frames = [half_red(), Image.new("RGB", (112, 56), "blue"), half_red().rotate(180)]
    data = image_file(frames[0], form, save_all=True, append_images=frames[1:])
    assert drawn(data)[0] == Opened(Kind.IMAGE, 1)
    opened, *pages = drawn(data, settings(render={"animation": "all"}, limits={"max_pages": 2}))
    assert opened == Opened(Kind.IMAGE, 3) and [page.number for page in pages] == [1, 2]
    assert near(pages[0].image.getpixel((20, 28)), RED)
    assert near(pages[1].image.getpixel((20, 28)), (0, 0, 255))


# --- limits --------------------------------------------------------------------------------------


def test_frames_beyond_the_decoded_size_fail_and_those_before_are_drawn() -> None:
    frame = Image.new("L", (1024, 1024), "gray")
    ImageDraw.Draw(frame).line((0, 0, 1024, 1024))
    data = image_file(frame, "TIFF", save_all=True, append_images=[frame] * 4)
    _, *pages = drawn(data, settings(limits={"max_decoded_mb": 2}))
    assert [type(page) for page in pages] == [PageImage] * 3 + [PageFailure] * 2
    assert {page.failure.decided_by for page in pages[3:]} == {"max_decoded_mb=2"}


def test_a_document_that_claims_two_billion_pages_is_one_row() -> None:
    items = drawn(raw_pdf([BOX], count=2_000_000_000))
    assert len([item for item in items if not isinstance(item, Opened)]) == 1


def nested_arrays(depth: int) -> bytes:
    """A page whose resources are arrays in arrays in arrays."""
    extra = b"1000 0 obj" + b"[" * depth + b"]" * depth + b"endobj\n"
    return raw_pdf([BOX], extra=extra)


def nested_forms(depth: int, twice: bool) -> bytes:
    """Each form draws the next one: once, or twice, which makes 2 ** depth."""
    draw = b"/F Do " * (1 + twice)
    parts = []
    for level in range(depth):
        entries = b"/Type/XObject/Subtype/Form/BBox[0 0 200 200]"
        if level < depth - 1:
            entries += b"/Resources<</XObject<</F %d 0 R>>>>" % (1001 + level)
        parts.append(stream(1000 + level, entries, draw if level < depth - 1 else BOX))
    return raw_pdf([b"/F0 Do"], extra=b"".join(parts))


def nested_pages(depth: int) -> bytes:
    """A page tree of one branch."""
    parts = [b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n"]
    node = b"%d 0 obj<</Type/Pages/Kids[%d 0 R]/Count 1>>endobj\n"
    parts += [node % (level + 2, level + 3) for level in range(depth)]
    parts.append(b"%d 0 obj<</Type/Page/MediaBox[0 0 99 99]>>endobj\n" % (depth + 2))
    return b"".join(parts) + b"trailer<</Root 1 0 R>>\n%%EOF\n"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(nested_arrays(100_000), id="arrays"),
        pytest.param(nested_forms(900, twice=False), id="forms"),
        pytest.param(nested_forms(40, twice=True), id="exponential forms"),
        pytest.param(nested_pages(5_000), id="page tree"),
    ],
)
@pytest.mark.parametrize("how", BOTH)
def test_what_is_nested_without_end_comes_to_an_end(data: bytes, how: Any) -> None:
    how = how.model_copy(update={"limits": settings(limits={"seconds_per_page": 3}).limits})
    items = drawn(data, how)
    assert items and all(isinstance(i, Opened | Failure | PageImage | PageFailure) for i in items)
    assert len(items) == (1 if isinstance(items[0], Failure) else 2)


@pytest.mark.parametrize("how", BOTH)
def test_a_bomb_in_a_content_stream_stays_within_the_memory_limit(how: Any) -> None:
    bomb = zlib.compress(b"0 0 m " * 50_000_000, 9)
    content = b"4 0 obj<</Length %d/Filter/FlateDecode>>stream\n" % len(bomb)
    data = (
        b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n"
        b"2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n"
        b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 99 99]/Contents 4 0 R>>endobj\n"
        + content + bomb + b"\nendstream endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n"
    )  # fmt: skip
    limits = {"memory_mb": 256, "seconds_per_page": 3}
    items = drawn(data, how.model_copy(update={"limits": settings(limits=limits).limits}))
    assert 1 <= len(items) <= 2


# --- right pixels --------------------------------------------------------------------------------


def canvas_pdf(draw: Callable[[Canvas], None]) -> bytes:
    out = io.BytesIO()
    canvas = Canvas(out, pagesize=(200, 200))
    draw(canvas)
    canvas.showPage()
    canvas.save()
    return out.getvalue()


def red_half(canvas: Canvas) -> None:
    """The left half is red."""
    canvas.setFillColorRGB(1, 0, 0)
    canvas.rect(0, 0, 100, 200, fill=1, stroke=0)


@pytest.mark.parametrize("how", BOTH)
def test_a_turned_page_is_drawn_as_it_is_shown(how: Any) -> None:
    def turn(document: pikepdf.Pdf) -> None:
        document.pages[0].Rotate = 90

    image = one_page(changed(canvas_pdf(red_half), turn), how).image
    middle, height = image.width // 2, image.height
    assert near(image.getpixel((middle, height // 4)), RED)
    assert near(image.getpixel((middle, 3 * height // 4)), WHITE)


@pytest.mark.parametrize("how", BOTH)
def test_the_crop_box_is_what_is_drawn(how: Any) -> None:
    def crop(document: pikepdf.Pdf) -> None:
        document.pages[0].CropBox = [100, 0, 200, 200]

    page = one_page(changed(canvas_pdf(red_half), crop), how)
    assert page.blank and page.image.height > 1.8 * page.image.width


@pytest.mark.parametrize("how", BOTH)
def test_annotations_and_form_fields_are_drawn(how: Any) -> None:
    def stamp(document: pikepdf.Pdf) -> None:
        look = document.make_stream(b"1 0 0 rg 0 0 100 200 re f")
        look.Type, look.Subtype = pikepdf.Name.XObject, pikepdf.Name.Form
        look.BBox = [0, 0, 100, 200]
        document.pages[0].Annots = document.make_indirect(
            [
                pikepdf.Dictionary(
                    Type=pikepdf.Name.Annot,
                    Subtype=pikepdf.Name.Stamp,
                    Rect=[0, 0, 100, 200],
                    F=4,
                    AP=pikepdf.Dictionary(N=look),
                )
            ]
        )

    page = one_page(changed(pdf("", size=(200, 200)), stamp), how)
    assert not page.blank and near(page.image.getpixel((page.image.width // 4, 99)), RED)

    def field(canvas: Canvas) -> None:
        canvas.acroForm.textfield(value="FILLED IN", x=20, y=80, width=160, height=40, name="f")

    filled = one_page(canvas_pdf(field), how).image
    inside = filled.crop((60, filled.height * 42 // 100, 300, filled.height * 58 // 100))
    assert min(inside.convert("L").tobytes()) < 60


@pytest.mark.parametrize("how", BOTH)
def test_a_page_without_size_is_a_page_or_a_failure(how: Any) -> None:
    def flatten(document: pikepdf.Pdf) -> None:
        document.pages[0].MediaBox = [0, 0, 0, 0]

    items = drawn(changed(pdf("x"), flatten), how)
    assert len(items) == (1 if isinstance(items[0], Failure) else 2)


def swapped_profile() -> bytes:
    """A profile in which what is called red is meant to be blue."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swap = {b"rXYZ": b"bXYZ", b"bXYZ": b"rXYZ"}
    return re.sub(b"rXYZ|bXYZ", lambda found: swap[found[0]], profile)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_an_embedded_profile_decides_the_colours(form: str) -> None:
    page = one_page(image_file(half_red(), form, icc_profile=swapped_profile()))
    assert near(page.image.getpixel((20, 28)), (0, 0, 255))
    assert near(page.image.getpixel((90, 28)), WHITE)


def test_a_broken_profile_counts_as_none() -> None:
    data = image_file(half_red(), "PNG", icc_profile=b"no profile at all")
    assert near(one_page(data).image.getpixel((20, 28)), RED, 5)


def test_lab_and_cmyk_pictures_have_their_colours() -> None:
    lab = ImageCms.profileToProfile(
        half_red(), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert lab and near(one_page(image_file(lab, "TIFF")).image.getpixel((20, 28)), RED)
    cmyk = one_page(image_file(half_red(mode="CMYK"), "TIFF")).image
    assert near(cmyk.getpixel((20, 28)), RED) and near(cmyk.getpixel((90, 28)), WHITE)


def test_a_fax_is_as_high_as_it_is_wide_on_paper() -> None:
    fax = Image.new("1", (1728, 1078), 1)
    ImageDraw.Draw(fax).ellipse((100, 100, 100 + 1020, 100 + 490), fill=0)  # a circle at 204 x 98
    data = image_file(fax, "TIFF", compression="group3", dpi=(204, 98))
    image = one_page(data).image
    box = image.convert("L").point(lambda level: 255 * (level < 128)).getbbox()
    assert box and 0.95 < (box[2] - box[0]) / (box[3] - box[1]) < 1.05


def test_a_very_long_strip_stays_within_the_models_bounds_and_keeps_its_shape() -> None:
    strip = Image.new("L", (40_000, 60), "white")
    ImageDraw.Draw(strip).rectangle((0, 20, 40_000, 40), fill="black")
    image = one_page(image_file(strip, "PNG")).image
    assert image.width * image.height <= 1_310_720 and image.width <= 100 * image.height
    assert image.getpixel((image.width // 2, 0)) == WHITE


def test_a_phones_picture_in_several_pictures_is_the_first_one() -> None:
    data = image_file(half_red(), "MPO", save_all=True, append_images=[Image.new("RGB", (112, 56))])
    assert near(one_page(data).image.getpixel((20, 28)), RED)


def test_a_picture_that_was_cut_off_says_so_in_its_row(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    photo = image_file(half_red((400, 400)), "JPEG")
    (folder / "cut.jpg").write_bytes(photo[: len(photo) // 2])
    run(folder, out, echo_settings(tmp_path))
    (row,) = table(out)
    assert row["status"] == "partial" and "as far as it goes" in row["error_message"]


def written_scan(angle: float) -> Image.Image:
    """A page of lines of text, turned clockwise by that."""
    page = Image.new("L", (900, 1200), "white")
    draw = ImageDraw.Draw(page)
    for line in range(30):
        draw.text((80, 80 + 34 * line), "the water turns a wheel of oak " * 4, fill=0, font_size=20)
    return page.rotate(-angle, Image.Resampling.BICUBIC, fillcolor="white")


def level_of(image: Image.Image) -> int:
    """White rows between the lines: many where lines are level."""
    rows = image.convert("L").resize((1, image.height), Image.Resampling.BOX).tobytes()
    return sum(row > 250 for row in rows)


@pytest.mark.parametrize("angle", [-4.0, -1.3, 2.5])
def test_a_skewed_scan_is_levelled_where_the_config_says_so(angle: float) -> None:
    data = image_file(written_scan(angle), "PNG")
    straight = level_of(one_page(image_file(written_scan(0), "PNG")).image)
    as_it_is, levelled = (
        level_of(one_page(data, settings(render={"deskew": on})).image) for on in (False, True)
    )
    assert as_it_is < 0.7 * straight and levelled > 0.9 * straight


@pytest.mark.parametrize("how", BOTH)
def test_what_is_level_stays_as_it_is(how: Any) -> None:
    data = pdf("level", "lines")
    on = how.model_copy(update={"render": how.render.model_copy(update={"deskew": True})})
    for plain, same in zip(drawn(data, how)[1:], drawn(data, on)[1:], strict=True):
        assert plain.image.tobytes() == same.image.tobytes()


# --- nothing is executed, fetched or followed ----------------------------------------------------


@pytest.mark.parametrize("how", BOTH)
def test_nothing_in_a_document_is_run_or_fetched(how: Any, tmp_path: Path) -> None:
    victim = tmp_path / "written-by-a-document"
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.5)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/x"

        def arm(document: pikepdf.Pdf) -> None:
            dictionary, text = pikepdf.Dictionary, pikepdf.Name
            script = f"this.submitForm('{url}'); app.launchURL('{url}');"
            document.Root.OpenAction = dictionary(S=text.JavaScript, JS=script)
            launch = dictionary(S=text.Launch, F=f"touch {victim}")
            page = document.pages[0]
            page.AA = dictionary(O=launch, C=dictionary(S=text.URI, URI=url))
            outside = document.make_stream(b"")
            outside.Type, outside.Subtype = text.XObject, text.Image
            outside.Width = outside.Height = 1
            outside.F = dictionary(FS=text.URL, F=url)
            page.Resources = dictionary(XObject=dictionary(X=outside))
            page.Contents = document.make_stream(b"/X Do 0 0 50 50 re f")

        _, page = drawn(changed(pdf("armed"), arm), how)
        assert isinstance(page, PageImage)
        with pytest.raises(TimeoutError):
            server.accept()
    assert not victim.exists()


def test_postscript_never_reaches_ghostscript(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    eps = image_file(half_red(), "EPS")
    assert refused(eps).kind is ErrorKind.UNSUPPORTED
    hidden = b"\xff\xd8\xff" + eps  # called a JPEG by its first bytes
    assert isinstance(refused(hidden), Failure)


# --- poppler's silences --------------------------------------------------------------------------


@pytest.fixture
def fake_pdftoppm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], None]]:
    """Puts a script in pdftoppm's place, for a fork server of this test's own."""
    monkeypatch.setattr(fork_server, "_current", None)
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    real = shutil.which("pdftoppm")

    def write(code: str) -> None:
        script = folder / "pdftoppm"
        script.write_text(f"#!{sys.executable}\nimport subprocess, sys\nreal = {real!r}\n{code}")
        script.chmod(script.stat().st_mode | stat.S_IXUSR)

    yield write
    if fork_server._current:
        fork_server._current.close()


@pytest.mark.skipif(not shutil.which("pdftoppm"), reason="poppler is not installed")
def test_pages_that_poppler_leaves_out_without_a_word_are_missed(
    fake_pdftoppm: Callable[[str], None],
) -> None:
    fake_pdftoppm(  # draws the first page only, and says that all is well
        "if '-v' in sys.argv: raise SystemExit(subprocess.call([real, '-v']))\n"
        "first = sys.argv[sys.argv.index('-f') + 1]\n"
        "sys.argv[sys.argv.index('-l') + 1] = first\n"
        "raise SystemExit(subprocess.call([real, *sys.argv[1:]]) if first == '1' else 0)\n"
    )
    _, *pages = drawn(pdf("a", "b", "c"), POPPLER)
    assert isinstance(pages[0], PageImage)
    assert [page.failure.kind for page in pages[1:]] == [ErrorKind.RENDER_FAILED] * 2
    assert "0 of 1" in pages[1].failure.message


@pytest.mark.skipif(not shutil.which("pdftoppm"), reason="poppler is not installed")
def test_a_picture_of_one_pixel_is_no_page(fake_pdftoppm: Callable[[str], None]) -> None:
    fake_pdftoppm(
        "if '-v' in sys.argv: raise SystemExit(subprocess.call([real, '-v']))\n"
        "sys.stdout.buffer.write(b'P6\\n1 1\\n255\\n\\0\\0\\0')\n"
    )
    _, page = drawn(pdf("a"), POPPLER)
    assert page.failure.kind is ErrorKind.RENDER_FAILED and "1 x 1" in page.failure.message


# --- many at once --------------------------------------------------------------------------------


def test_documents_are_drawn_side_by_side_while_one_hangs() -> None:
    how = settings(render={"renderer": "pdfium"}, limits={"seconds_per_page": 600})
    hangs, stop = raw_pdf([endless_page()], extra=large_picture()), threading.Event()

    def hang() -> None:
        with suppress(Stopped):
            drawn(hangs, how, stop=stop)

    slow = threading.Thread(target=hang)
    slow.start()
    assert [one_page(pdf("x"), how).layer for _ in range(3)] == ["x"] * 3
    assert slow.is_alive()
    stop.set()
    slow.join()
