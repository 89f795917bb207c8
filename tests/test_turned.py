"""Pages that lie on their side: the ladder's turns, step by step and with the real model."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any

import pytest
from helpers import echo_settings, make_image, make_pdf, run, table
from PIL import Image

from loaders.batching import Job
from loaders.echo import EchoEngine
from loaders.engine import Completion, Request
from pagemill.answers import OTHER_SCRIPT, TURNED, turned
from pagemill.config import load_settings
from pagemill.document import PageImage
from pagemill.errors import ErrorKind
from pagemill.settings import Output
from tasks.read import Answer, read_page

PROJECT = Path(__file__).resolve().parents[1]
PICTURE = Image.new("RGB", (56, 28))
PICTURE.paste("white", (3, 3, 20, 9))
PAGE = PageImage(1, PICTURE, False, 0.1)


def said(text: str, sure: float | None, reason: Any = "stop") -> Completion:
    return Completion(text, 10, 5, reason, 0.1, mean_logprob=sure, min_logprob=sure)


def climbed(answers: Sequence[Completion], turned: bool = True) -> tuple[Answer, list[Request]]:
    """What is kept when the model says this, one after the other, and what it was asked."""
    kept, asked = outputs({"text": answers}, turned)
    return kept["text"], asked


def outputs(
    says: dict[str, Sequence[Completion]], turned: bool = False
) -> tuple[dict[str, Answer], list[Request]]:
    """The same for several outputs; the engine answers when all are asked, the last one first."""
    asked: list[Request] = []
    waiting: list[tuple[Future[Completion], Completion]] = []
    left = {name: list(answers) for name, answers in says.items()}

    def submit(request: Request) -> Future[Completion]:
        asked.append(request)
        future: Future[Completion] = Future()
        waiting.append((future, left[request.prompt].pop(0)))
        return future

    prompts = {name: Output(prompt=name) for name in says}
    kept = read_page(submit, PAGE, prompts, "key", True, turned)
    while waiting:
        future, completion = waiting.pop()
        future.set_result(completion)
    assert left == {name: [] for name in says} and list(kept) == list(says)
    return {name: answer.result(timeout=0) for name, answer in kept.items()}, asked


@pytest.mark.parametrize("which", [0, 1])
def test_a_page_ends_whatever_becomes_of_its_requests(which: int) -> None:
    requests: list[Future[Completion]] = [Future(), Future()]
    left = iter(requests)
    prompts = {name: Output(prompt=name) for name in ("text", "caption")}
    kept = read_page(lambda _: next(left), PAGE, prompts, "key", True)
    requests[which].cancel()
    requests[1 - which].set_result(said("words", -0.1))
    assert all(answer.done() for answer in kept.values())
    lost, whole = (
        kept[name] for name in (("text", "caption") if which == 0 else ("caption", "text"))
    )
    assert isinstance(lost.exception(), CancelledError)
    assert whole.result().text == "words"


def turned_by(degrees: int, caption: str = "") -> Completion:
    return said(TURNED.format(degrees) + caption, -0.01)


def test_a_sure_answer_is_kept_at_once() -> None:
    answer, asked = climbed([said("upright", -0.1)])
    assert (answer.text, answer.rotation, answer.attempts, len(asked)) == ("upright", 0, [], 1)


def test_an_unsure_page_is_turned_until_the_model_is_sure() -> None:
    answer, asked = climbed([said("noise", -1.4), said("?", -0.9), said("upright", -0.05)])
    assert (answer.text, answer.rotation, answer.mean_logprob) == ("upright", 180, -0.05)
    assert answer.attempts == ["t=0: unsure (-1.40)", "t=0 turned 90: unsure (-0.90)"]
    assert [request.images[0].size for request in asked] == [(56, 28), (28, 56), (56, 28)]
    assert answer.prompt_tokens == 30 and answer.completion_tokens == 15


def test_where_the_model_is_never_sure_the_surest_answer_is_kept() -> None:
    sure = (-1.4, -0.9, -0.5, -1.1)
    answer, _ = climbed([said(f"{number}", how) for number, how in enumerate(sure)])
    assert (answer.text, answer.rotation, len(answer.attempts)) == ("2", 180, 3)


def test_a_loop_is_tried_hotter_before_it_is_turned() -> None:
    loop = said("la la", -0.1, "loop")
    answer, asked = climbed([loop, loop, said("upright", -0.1)])
    assert (answer.text, answer.rotation) == ("upright", 90)
    assert [request.temperature for request in asked] == [0, 0.4, 0]


def test_where_nothing_helps_the_first_answer_is_kept() -> None:
    loops = [said(f"{number}", -0.1, "loop") for number in range(5)]
    answer, asked = climbed(loops)
    assert (answer.text, answer.rotation, answer.finish_reason) == ("0", 0, "loop")
    assert len(asked) == len(answer.attempts) == 5


def test_nothing_is_turned_unless_the_settings_say_so() -> None:
    answer, asked = climbed([said("noise", -1.4)], turned=False)
    assert (answer.text, len(asked)) == ("noise", 1)


def test_an_engine_that_does_not_say_how_sure_it_is_is_believed() -> None:
    answer, asked = climbed([said("as it is", None)])
    assert (answer.text, len(asked)) == ("as it is", 1)


def test_a_page_that_is_said_to_be_turned_is_turned_back_and_read() -> None:
    answer, asked = climbed([turned_by(90), said("upright", -0.1)], turned=False)
    assert (answer.text, answer.rotation, answer.error) == ("upright", 270, None)
    assert answer.attempts == ["t=0: says turned by 90"]
    assert answer.prompt_tokens == 20
    shown = PAGE.image.rotate(90, expand=True)  # PIL's angles are anticlockwise
    assert list(asked[1].images[0].getdata()) == list(shown.getdata())


def test_what_the_turned_page_then_needs_is_asked_of_it_as_it_is_shown() -> None:
    loop = said("la la", -0.1, "loop")
    answer, asked = climbed([turned_by(180), loop, said("upright", -0.1)], turned=False)
    assert (answer.text, answer.rotation) == ("upright", 180)
    assert answer.attempts == ["t=0: says turned by 180", "t=0 turned 180: loop"]
    assert [request.temperature for request in asked] == [0, 0, 0.4]
    cut = said("half", -0.1, "length")
    answer, _ = climbed([turned_by(180), cut], turned=False)
    assert (answer.text, answer.rotation, answer.finish_reason) == ("half", 180, "length")


@pytest.mark.parametrize("says", [(90, 270), (90, 90, 180), (90, 90, 90)])
def test_a_model_that_contradicts_itself_is_soon_left_alone(says: tuple[int, ...]) -> None:
    answer, asked = climbed([turned_by(degrees) for degrees in says], turned=False)
    assert len(asked) == len(answer.attempts) == len(says)
    assert (answer.text, answer.error, answer.whole) == (None, ErrorKind.MODEL_FAILED, False)
    read = [turned_by(90), turned_by(90), said("it", -0.1)]
    assert climbed(read, turned=False)[0].text == "it"


def test_the_sides_that_are_left_are_tried_where_the_settings_say_so() -> None:
    answer, asked = climbed([turned_by(90), turned_by(90), turned_by(180), said("it", -0.1)])
    assert (answer.text, answer.rotation, len(asked)) == ("it", 90, 4)


def test_a_page_in_another_script_is_an_error_that_says_so() -> None:
    answer, asked = climbed([said(OTHER_SCRIPT, -0.01)], turned=False)
    assert (answer.text, answer.error, answer.finish_reason) == (None, "other_script", "error")
    assert "script" in str(answer.message) and len(asked) == 1
    answer, _ = climbed([said(OTHER_SCRIPT, -0.01), said("on its side", -0.1)])
    assert (answer.text, answer.rotation, answer.error) == ("on its side", 90, None)


def test_a_caption_follows_the_text() -> None:
    text = [turned_by(90), said("upright", -0.1)]
    for first in (said("A plot.", -0.1), turned_by(180, " A letter.")):
        kept, _ = outputs({"caption": [first, said("A letter.", -0.1)], "text": text})
        assert (kept["caption"].text, kept["caption"].rotation) == ("A letter.", 270)
        assert kept["caption"].attempts == ["t=0: its text was read turned 270"]
        assert (kept["text"].text, kept["text"].rotation) == ("upright", 270)


def test_a_caption_does_not_turn_a_page_whose_text_is_read() -> None:
    caption = turned_by(90, " A plot.")
    kept, asked = outputs({"text": [said("upright", -0.1)], "caption": [caption]})
    assert (kept["caption"].text, kept["caption"].rotation) == (caption.text, 0)
    assert len(asked) == 2


def test_a_caption_alone_turns_the_page() -> None:
    kept, _ = outputs({"caption": [turned_by(270, " A letter."), said("A letter.", -0.1)]})
    assert (kept["caption"].text, kept["caption"].rotation) == ("A letter.", 90)


@pytest.mark.parametrize(
    ("answer", "degrees"),
    [
        ("This page is turned by 90 degrees clockwise.", 90),
        (" this page is turned by 180 degrees clockwise ", 180),
        ("This page is turned by 270 degrees clockwise. A form with a table.", 270),
        ("This page is turned by 90 degrees clockwise.\n\n# How to file it\nTurn it.", 0),
        ("This page is turned by 45 degrees clockwise.", 0),
        ("Note: this page is turned by 90 degrees clockwise.", 0),
        ("", 0),
    ],
)
def test_only_the_sentence_turns_a_page(answer: str, degrees: int) -> None:
    assert turned(answer) == degrees


def test_rows_of_turned_pages_are_read_upright(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that sees which side the dark bar is on, and says so."""

    def look(self: EchoEngine, job: Job, seconds: float) -> Completion:
        seen = job.request.images[0].convert("L").resize((3, 3), Image.Resampling.BOX)
        dark = seen.tobytes()
        side = min(range(4), key=lambda n: dark[(1, 5, 7, 3)[n]])  # top, right, bottom, left
        text = TURNED.format(90 * side) if side else f"upright {job.request.prompt}"
        return Completion(text, 100, 5, "stop", seconds)

    monkeypatch.setattr(EchoEngine, "_complete", look)
    page = Image.new("RGB", (420, 560), "white")
    page.paste("black", (30, 20, 390, 150))
    folder = tmp_path / "in"
    folder.mkdir()
    for degrees in (0, 90, 180, 270):
        page.rotate(-degrees, expand=True).save(folder / f"{degrees:03d}.png")
    run(folder, tmp_path / "out", echo_settings(tmp_path))
    rows = table(tmp_path / "out")
    assert [row["rotation"] for row in rows] == [0, 270, 180, 90]
    for row, degrees in zip(rows, (0, 90, 180, 270), strict=True):
        assert row["status"] == "ok" and row["text"].startswith("upright")
        assert row["caption"].startswith("upright")
        said_so = [f"t=0: says turned by {degrees}"] if degrees else []
        followed = [f"t=0: its text was read turned {row['rotation']}"] if degrees else []
        assert row["attempts"] == {"text": said_so, "caption": followed}
        assert row["prompt_tokens"] == (400 if degrees else 200)


def test_a_page_in_another_script_falls_back_to_the_text_layer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        EchoEngine, "_complete", lambda *_: Completion(OTHER_SCRIPT, 100, 12, "stop", 0.1)
    )
    folder = tmp_path / "in"
    folder.mkdir()
    make_pdf(folder / "a.pdf", 1)
    make_image(folder / "b.png")
    only_text = {"text": {"prompt": "Read."}}
    run(folder, tmp_path / "out", echo_settings(tmp_path, outputs=only_text))
    first, second = table(tmp_path / "out")
    assert (first["status"], first["text_source"]) == ("fallback", "text_layer")
    assert (second["status"], second["error_kind"], second["text"]) == (
        "failed",
        "other_script",
        None,
    )


def test_the_default_model_reads_a_page_that_stands_on_its_head(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    with Image.open(PROJECT / "samples" / "clean-print.tif") as page:
        page.convert("L").rotate(180).save(folder / "turned.png")
    how = load_settings(None, {"render.turned": True})
    only_text = how.model_copy(update={"outputs": {"text": how.outputs["text"]}})
    run(folder, tmp_path / "out", only_text)
    (row,) = table(tmp_path / "out")
    assert row["rotation"] == 180 and "quick brown dog" in row["text"]
