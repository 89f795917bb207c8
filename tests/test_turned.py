"""Pages that lie on their side: the ladder's turns, step by step and with the real model."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from helpers import run, table
from PIL import Image

from loaders.engine import Completion, Request
from pagemill.document import PageImage
from pagemill.settings import Output, load_settings
from tasks.read import Answer, read_page

PROJECT = Path(__file__).resolve().parents[1]
PAGE = PageImage(1, Image.new("RGB", (56, 28)), False, 0.1)


def said(text: str, sure: float | None, reason: Any = "stop") -> Completion:
    return Completion(text, 10, 5, reason, 0.1, mean_logprob=sure, min_logprob=sure)


def climbed(answers: Sequence[Completion], turned: bool = True) -> tuple[Answer, list[Request]]:
    """What is kept when the model says this, one after the other, and what it was asked."""
    asked: list[Request] = []

    def submit(request: Request) -> Future[Completion]:
        asked.append(request)
        future: Future[Completion] = Future()
        future.set_result(answers[len(asked) - 1])
        return future

    output = Output(prompt="Read.")
    future = read_page(submit, PAGE, {"text": output}, "key", True, turned)["text"]
    return future.result(timeout=10), asked


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
