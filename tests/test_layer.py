"""A PDF's own text: what is believed, what is not, and what becomes of the rows."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pikepdf
import pytest
from documents import drawn, one_page, pdf, settings
from helpers import echo_settings, run, table
from PIL import Image, ImageDraw
from reportlab.lib.utils import ImageReader
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.pdfgen.canvas import Canvas

from loaders.engine import Request
from pagemill.document import PageImage
from tasks.layer import agree, fit_of, why_garbage, why_unsound
from tasks.read import Answer
from tasks.trust import Trust

CORPUS = Path(__file__).resolve().parents[2] / "shared" / "corpus"
PREFER = settings(render={"text_layer": "prefer", "renderer": "pdfium"})
TEXT = (
    "The water turns a wheel of oak and the wheel turns a stone",
    "that grinds the grain to flour in sacks which carts take down",
    "to the market when the roads are dry before winter comes again.",
)


def written(lines: tuple[str, ...] = TEXT, pages: int = 1, hidden: bool = False) -> bytes:
    """A PDF of real text; `hidden` text is white on white."""
    out = io.BytesIO()
    canvas = Canvas(out, pagesize=(420, 300))
    for _ in range(pages):
        canvas.setFillColorRGB(*((1, 1, 1) if hidden else (0, 0, 0)))
        for number, line in enumerate(lines):
            canvas.drawString(30, 250 - 20 * number, line)
        if hidden:
            canvas.setFillColorRGB(0, 0, 0)
            canvas.rect(30, 20, 300, 60, fill=1)
        canvas.showPage()
    canvas.save()
    return out.getvalue()


def scanned(layer: str | None = None, at: int = 250) -> bytes:
    """A picture of text in a PDF, with an invisible line of a layer on it."""
    picture = Image.new("L", (840, 600), "white")
    draw = ImageDraw.Draw(picture)
    for number in range(18):
        draw.text((60, 60 + 28 * number), " ".join(TEXT)[:110], fill=0)
    out = io.BytesIO()
    canvas = Canvas(out, pagesize=(420, 300))
    canvas.drawImage(ImageReader(picture), 0, 0, 420, 300)
    if layer:
        text = canvas.beginText(30, at)
        text.setTextRenderMode(3)
        text.textLine(layer)
        canvas.drawText(text)
    canvas.showPage()
    canvas.save()
    return out.getvalue()


def encoded(change: Callable[[int], int]) -> bytes:
    """The text in an embedded font whose way back to Unicode is changed."""
    pdfmetrics.registerFont(TTFont("Vera", "Vera.ttf"))
    out = io.BytesIO()
    canvas = Canvas(out, pagesize=(420, 300))
    canvas.setFont("Vera", 10)
    for number, line in enumerate(TEXT):
        canvas.drawString(30, 250 - 20 * number, line)
    canvas.showPage()
    canvas.save()
    with pikepdf.open(io.BytesIO(out.getvalue())) as document:
        for thing in document.objects:
            if isinstance(thing, pikepdf.Dictionary) and "/ToUnicode" in thing:
                cmap = thing.ToUnicode.read_bytes()
                thing.ToUnicode.write(
                    re.sub(
                        rb"(<[0-9A-Fa-f]{2}>\s*)<([0-9A-Fa-f]{4})>",
                        lambda m: m[1] + b"<%04X>" % change(int(m[2], 16)),
                        cmap,
                    )
                )
        changed = io.BytesIO()
        document.save(changed)
    return changed.getvalue()


def judged(data: bytes) -> str | None:
    page = one_page(data, PREFER)
    return why_unsound(page.layer, page.layer_fit)


# --- the judgement -------------------------------------------------------------------------------


def test_digital_text_is_sound() -> None:
    assert judged(written()) is None


def test_text_on_a_turned_and_cropped_page_is_sound() -> None:
    with pikepdf.open(io.BytesIO(written())) as document:
        document.pages[0].Rotate = 90
        document.pages[0].CropBox = [20, 150, 420, 290]
        out = io.BytesIO()
        document.save(out)
    assert judged(out.getvalue()) is None


def test_a_scan_without_text_has_no_layer() -> None:
    assert judged(scanned()) == "no layer"


def test_a_scan_with_a_typed_header_is_not_covered() -> None:
    assert "of the ink" in str(judged(scanned("A header of this scan")))


def test_text_where_nothing_is_to_be_seen_is_not_believed() -> None:
    assert "of the ink" in str(judged(written(hidden=True)))
    layer_beside = fit_of(Image.new("RGB", (400, 400), "white"), [(10, 10, 90, 20)])
    assert layer_beside == (0.0, 0.0)


def test_a_layer_that_is_partly_misplaced_is_not_believed() -> None:
    image = Image.new("RGB", (400, 400), "white")
    ImageDraw.Draw(image).rectangle((10, 10, 90, 20), fill="black")
    covered, inked = fit_of(image, [(10, 10, 90, 20), (10, 200, 90, 210)])
    assert covered == 1 and inked == 0.5
    assert "lies where nothing is" in str(why_unsound("some words", (covered, inked)))


def test_an_encoding_that_leads_nowhere_is_garbage() -> None:
    assert judged(encoded(lambda code: code)) is None
    assert "unreadable" in str(judged(encoded(lambda code: 0xE000 + code)))


def test_an_encoding_that_is_shifted_is_garbage() -> None:
    shifted = encoded(lambda code: max(33, code - 29) if code > 32 else code)
    assert "vowels" in str(judged(shifted))


@pytest.mark.parametrize(
    "text",
    [
        "T h e   w a t e r   t u r n s   a   w h e e l",
        "Thewaterturnsawheelofoakandthewheelturnsastonethatgrindsthegrain",
        "7KH ZDWHU WXUQV D ZKHHO RI RDN",
        "(#$% &'*+ ,-./ !!?? <=>@ :;[]",
        "\ufffd\ufffd\ufffd water",
    ],
)
def test_garbage_is_recognized(text: str) -> None:
    assert why_garbage(text)


@pytest.mark.parametrize(
    "text",
    [
        *TEXT,
        "Bevor Sie Debian GNU/Linux installieren: https://www.debian.org/a1b2 (3.4)",
        "ГЛАВА 6. ИСПОЛЬЗОВАНИЕ ПРОГРАММЫ",
        "インストーラーの使用法 6.3. それぞれのコンポーネントの使用",
        "1,234.56  7.8 %  2026-11-22  A4  B12",
        "Preface . . . . . . . . . . . . 1",
    ],
)
def test_text_is_not_taken_for_garbage(text: str) -> None:
    assert why_garbage(text) is None


def test_readings_agree_by_their_words_not_by_their_order() -> None:
    assert agree("The water turns\na wheel.", "a WHEEL the water turns")
    assert not agree("The water turns a wheel", "Of oak is the table made")
    assert not agree("The water turns", "")


def test_geometry_is_only_measured_where_it_is_asked_for() -> None:
    assert one_page(written(), settings()).layer_fit is None


@pytest.mark.skipif(not CORPUS.is_dir(), reason="needs the corpus of real files, ../shared/corpus")
def test_the_corpus_is_judged_right() -> None:
    with (CORPUS / "manifest.csv").open(newline="") as manifest:
        rows = {row["path"]: row for row in csv.DictReader(manifest)}
    how = PREFER.model_copy(update={"limits": settings(limits={"max_pages": 3}).limits})
    wrong, counted = [], 0
    for path, row in rows.items():
        if path.startswith("docs/") and path.endswith(".pdf") and row["text_layer"] != "":
            for page in drawn((CORPUS / path).read_bytes(), how)[1:]:
                sound = why_unsound(page.layer, page.layer_fit) is None
                counted += 1
                if sound != (row["text_layer"] == "digital"):
                    wrong.append((path, page.number))
    assert wrong == [] and counted > 40
    garbage = drawn((CORPUS / "nasty/pypdfsamples__habibi-rotated.pdf").read_bytes(), how)[1:]
    assert all("unreadable" in str(why_unsound(p.layer, p.layer_fit)) for p in garbage)


# --- trust ---------------------------------------------------------------------------------------


def page(number: int, layer: str = " ".join(TEXT)) -> PageImage:
    return PageImage(number, Image.new("RGB", (28, 28)), False, 0.1, layer, (1.0, 1.0))


def answer(text: str | None, finish_reason: str = "stop") -> Answer:
    return Answer(text, finish_reason, [])


def test_a_layer_is_believed_after_a_sample_that_agrees() -> None:
    trust = Trust(PREFER)
    assert trust.layer(page(1)) is None and trust.is_waiting
    trust.compare(page(1), answer(" ".join(TEXT)))
    assert not trust.is_waiting and trust.layer(page(2)) == page(2).layer


def test_a_layer_is_not_believed_after_a_sample_that_says_something_else() -> None:
    trust = Trust(PREFER)
    trust.layer(page(1))
    trust.compare(page(1), answer("of something else speaks this picture"))
    assert trust.layer(page(2)) is None and not trust.is_waiting


def test_an_unfinished_sample_decides_nothing_but_not_for_ever() -> None:
    trust = Trust(PREFER)
    for number in (1, 2, 3):
        assert trust.layer(page(number)) is None and trust.is_waiting
        trust.compare(page(number), answer("cut", "length"))
    assert trust.layer(page(4)) is None and not trust.is_waiting


def test_without_a_sample_the_judgement_alone_decides() -> None:
    trust = Trust(settings(render={"text_layer": "prefer", "layer_sample": 0}))
    assert trust.layer(page(1)) == page(1).layer
    assert trust.layer(page(2, "\ufffd\ufffd")) is None


# --- rows ----------------------------------------------------------------------------------------


def prefer(tmp_path: Path, **more: Any) -> list[dict[str, Any]]:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.pdf").write_bytes(written(pages=3))
    how = echo_settings(tmp_path, render__text_layer="prefer", render__max_pixels=200_000, **more)
    run(folder, tmp_path / "out", how)
    return table(tmp_path / "out")


def test_a_believed_page_is_not_sent_to_the_model_for_text(
    tmp_path: Path, asked: list[Request]
) -> None:
    rows = prefer(tmp_path, render__layer_sample=0)
    assert [row["text_source"] for row in rows] == ["text_layer"] * 3
    assert [row["status"] for row in rows] == ["ok"] * 3
    assert all(row["text"].startswith("The water turns") for row in rows)
    assert all(row["caption"].startswith("echo-") for row in rows)
    assert {request.prompt for request in asked} == {"Describe this image."}
    assert rows[0]["finish_reason"] == {"text": None, "caption": "stop"}


def test_where_only_text_is_asked_the_model_is_not_even_loaded(
    tmp_path: Path, asked: list[Request]
) -> None:
    rows = prefer(
        tmp_path, render__layer_sample=0, outputs={"text": {"prompt": "Transcribe the text."}}
    )
    assert [(row["status"], row["framework_version"]) for row in rows] == [("ok", None)] * 3
    assert asked == []


def test_a_layer_that_the_model_contradicts_is_not_used(
    tmp_path: Path, asked: list[Request]
) -> None:
    rows = prefer(tmp_path)  # the stand-in engine says something else, whatever it sees
    assert [row["text_source"] for row in rows] == ["model"] * 3
    assert len(asked) == 6


def test_garbage_is_no_fallback_either(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "readable.pdf").write_bytes(written())
    (folder / "garbage.pdf").write_bytes(encoded(lambda code: 0xE000 + code))
    how = echo_settings(tmp_path, model__options={"loop_rate": 1}, render__max_pixels=200_000)
    run(folder, tmp_path / "out", how)
    garbage, readable = table(tmp_path / "out")
    assert (readable["status"], readable["text_source"]) == ("fallback", "text_layer")
    assert (garbage["status"], garbage["text_source"]) == ("partial", "model")


def test_its_use_is_part_of_the_recipe(tmp_path: Path) -> None:
    prefer(tmp_path, render__layer_sample=0)
    run(tmp_path / "in", tmp_path / "out", echo_settings(tmp_path))
    assert len(list((tmp_path / "out").glob("recipe=*"))) == 2


def test_pdfs_of_one_word_are_judged_as_well() -> None:
    assert judged(pdf("Hello")) is None
