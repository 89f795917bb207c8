"""A page that takes too long is ended; so is what is left of a shard."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import ECHO, echo_settings, make_image, make_pdf, name, run, table

from loaders.batching import Job
from loaders.echo import EchoEngine
from loaders.engine import Completion
from pagemill.errors import EngineError, ErrorKind
from pagemill.settings import Limits
from tasks.read import HOTTER, Answer
from tasks.room import Room
from tasks.window import Answers, Window


class Clock:
    """Goes on by a step at every look."""

    def __init__(self) -> None:
        self.now = self.step = 0.0

    def __call__(self) -> float:
        self.now += self.step
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The windows' clock. It stands still until somebody sets its step."""
    clock = Clock()
    monkeypatch.setattr("tasks.window.LOOK_SECONDS", 0.01)
    monkeypatch.setattr(Window.__init__, "__defaults__", (clock,))
    return clock


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    return folder


def hang_on(
    monkeypatch: pytest.MonkeyPatch,
    clock: Clock,
    key: str,
    said: str = "",
    temperature: float = 0,
    alone: bool = False,
) -> Callable[[], int]:
    """The engine does not come to an end with these pages, and the clock runs; how often.

    It hardly goes on once the engine is told to end: that may take real time. `alone`: the engine
    goes on when it is told to end all that waits for it, too.
    """
    dawdle, complete, times = EchoEngine._dawdle, EchoEngine._complete, [0]
    abort = EchoEngine.abort

    def hang(self: EchoEngine, jobs: list[Job]) -> None:
        asked = {(job.request.key.split("/")[-1], job.request.temperature) for job in jobs}
        if (key, temperature) in asked:
            times[0] += 1
            clock.step = 100
            while not all(job.ending for job in jobs) or (alone and self._waiting):
                self._wake.acquire()
                self._wake.wait(0.01)
                self._wake.release()
            clock.step = 0
        dawdle(self, jobs)

    def tell(self: EchoEngine, key: str) -> None:
        clock.step = min(clock.step, 1)
        abort(self, key)

    def cut_off(self: EchoEngine, job: Job, seconds: float) -> Completion:
        if job.aborted:
            return Completion(said, 100, len(said.split()), "aborted", seconds)
        return complete(self, job, seconds)

    monkeypatch.setattr(EchoEngine, "_dawdle", hang)
    monkeypatch.setattr(EchoEngine, "abort", tell)
    monkeypatch.setattr(EchoEngine, "_complete", cut_off)
    return lambda: times[0]


def one_by_one(tmp_path: Path, **overrides: Any) -> Any:
    outputs = {"text": ECHO["outputs"]["text"]}
    return echo_settings(tmp_path, model__batch_size=1, outputs=outputs, **overrides)


def test_a_page_that_takes_too_long_is_a_row_and_the_others_are_read(
    tmp_path: Path, source: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        make_image(source / f"{number}.png", f"picture {number}")
    hung = hang_on(monkeypatch, clock, "1.png 1")
    settings = one_by_one(tmp_path, limits__read_seconds=600)
    balance = run(source, tmp_path / "out", settings)
    rows = {name(row): row for row in table(tmp_path / "out")}
    late = rows.pop("1.png")
    assert (late["status"], late["error_kind"], late["text"]) == ("failed", "time_out", None)
    assert late["decided_by"] == "read_seconds=600.0"
    assert "limits.read_seconds (600 s)" in late["error_message"]
    assert late["finish_reason"] == {"text": "aborted"}
    assert {row["status"] for row in rows.values()} == {"ok"}
    assert hung() == 1
    assert balance.balanced and balance.errors == {"time_out": 1}

    monkeypatch.undo()
    again = run(source, tmp_path / "out", settings)
    assert (again.documents["retry"], again.failed) == (1, 0)


def test_the_text_layer_stands_in_for_a_page_that_takes_too_long(
    tmp_path: Path, source: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_pdf(source / "a.pdf", 3)
    hang_on(monkeypatch, clock, "a.pdf 2")
    run(source, tmp_path / "out", one_by_one(tmp_path))
    rows = table(tmp_path / "out")
    assert [row["status"] for row in rows] == ["ok", "fallback", "ok"]
    assert "a page 2" in rows[1]["text"]


def test_what_was_said_until_then_is_kept(
    tmp_path: Path, source: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_image(source / "a.png")
    hang_on(monkeypatch, clock, "a.png 1", said="the beginning of")
    run(source, tmp_path / "out", one_by_one(tmp_path))
    (row,) = table(tmp_path / "out")
    assert (row["status"], row["text"]) == ("partial", "the beginning of")
    assert row["error_kind"] is None and "limits.read_seconds" in row["error_message"]


def test_a_page_that_hangs_when_it_is_tried_again_is_tried_no_more(
    tmp_path: Path, source: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_image(source / "a.png")
    settings = one_by_one(tmp_path, model__options={"loop_rate": 1.0}, render__turned=True)
    hung = hang_on(monkeypatch, clock, "a.png 1", temperature=HOTTER)
    run(source, tmp_path / "out", settings)
    (row,) = table(tmp_path / "out")
    assert (row["status"], row["finish_reason"]) == ("partial", {"text": "loop"})
    assert row["attempts"] == {"text": ["t=0: loop", "t=0.4: aborted"]}
    assert hung() == 1


def test_what_a_shard_has_no_time_for_fails_until_the_next_run(
    tmp_path: Path, source: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_pdf(source / "a.pdf", 2)
    make_pdf(source / "b.pdf", 30)
    for letter in "cdef":
        make_pdf(source / f"{letter}.pdf", 1)
    hang_on(monkeypatch, clock, "b.pdf 3", alone=True)
    settings = one_by_one(
        tmp_path, limits__shard_seconds=300, render__text_layer="never", work__shard_documents=9
    )
    balance = run(source, tmp_path / "out", settings)
    rows = table(tmp_path / "out")
    read = [(name(row), row["page_number"]) for row in rows if row["status"] == "ok"]
    assert read == [("a.pdf", 1), ("a.pdf", 2), ("b.pdf", 1), ("b.pdf", 2)]
    late = [row for row in rows if row["status"] != "ok"]
    assert {row["error_kind"] for row in late} == {"time_out"}
    assert {row["decided_by"] for row in late} == {"shard_seconds=300.0"}
    assert [(name(row), row["page_number"]) for row in late] == [
        *(("b.pdf", number) for number in range(3, 31)),
        *((f"{letter}.pdf", None) for letter in "cdef"),
    ]
    assert balance.balanced

    monkeypatch.undo()
    again = run(source, tmp_path / "out", settings)
    assert again.balanced and again.failed == 0
    assert [row["status"] for row in table(tmp_path / "out")] == ["ok"] * 36


# -- the window alone ------------------------------------------------------------------------


class Engine:
    """What a window sees of a worker."""

    def __init__(self, **limits: float) -> None:
        self.room, self.job = Room(9), SimpleNamespace(settings=None)
        self.job.settings = SimpleNamespace(limits=Limits(**limits))  # type: ignore[arg-type]
        self.reading: set[str] = set()
        self.loading = False
        self.aborted: list[str] = []
        self.check_stop = lambda: None

    def being_read(self) -> set[str]:
        return self.reading

    def is_loading(self) -> bool:
        return self.loading

    def abort(self, key: str) -> None:
        self.aborted.append(key)


def ask(window: Window, key: str) -> tuple[Future[Answer], list[Answers]]:
    future: Future[Answer] = Future()
    finished: list[Answers] = []
    window.read(key, lambda: {"text": future}, finished.append)
    return future, finished


def test_waiting_for_the_engine_is_not_being_read(clock: Clock) -> None:
    engine = Engine(read_seconds=100)
    window = Window(engine)  # type: ignore[arg-type]
    ask(window, "first"), ask(window, "second")
    engine.reading = {"first"}
    clock.now = 1000
    window.settle()
    clock.now = 1050
    window.settle()
    engine.reading = {"second"}  # what is asked once more goes on counting
    window.settle()
    assert engine.aborted == []
    clock.now = 1101
    window.settle()
    assert engine.aborted == ["first"]


def test_an_answer_that_was_whole_in_time_is_not_blamed(clock: Clock) -> None:
    engine = Engine(read_seconds=100)
    window = Window(engine)  # type: ignore[arg-type]
    future, finished = ask(window, "key")
    engine.reading = {"key"}
    for clock.now in (10, 200):
        window.settle()
    future.set_result(Answer("all of it", "stop", []))
    window.settle()
    assert engine.aborted == ["key"]
    assert finished == [{"text": Answer("all of it", "stop", [])}]
    assert window.is_empty()


def test_an_engine_that_does_not_end_a_page_is_broken(clock: Clock) -> None:
    engine = Engine(read_seconds=100)
    window = Window(engine)  # type: ignore[arg-type]
    ask(window, "key")
    engine.reading = {"key"}
    for clock.now in (10, 120, 210):
        window.settle()
    assert engine.aborted == ["key", "key"]
    clock.now = 230
    with pytest.raises(EngineError, match="has not after 110 s: key"):
        window.settle()


def test_nothing_more_is_asked_about_once_the_time_of_a_shard_is_up(clock: Clock) -> None:
    engine = Engine(shard_seconds=100)
    window = Window(engine)  # type: ignore[arg-type]
    clock.now = 101
    window.settle()
    for _ in range(10):  # of nine places
        assert not window.read("key", lambda: pytest.fail("it was asked about"), lambda _: None)
    assert window.is_empty()


def test_no_time_runs_while_the_model_is_loaded(clock: Clock) -> None:
    engine = Engine(read_seconds=10, shard_seconds=100)
    engine.loading = True
    window = Window(engine)  # type: ignore[arg-type]
    ask(window, "key")
    for clock.now in (50, 500, 1000):
        window.settle()
    engine.loading = False
    clock.now = 1090
    window.settle()
    assert window.over is None and engine.aborted == []
    clock.now = 1110
    window.settle()
    assert window.over and engine.aborted == ["key"]


def test_a_deadline_that_passed_is_worth_another_try() -> None:
    from pagemill.errors import ERRORS

    assert ERRORS[ErrorKind.TIME_OUT].transient
