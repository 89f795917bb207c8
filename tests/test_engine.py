"""Batching behind `submit`, loops, the echo engine and residency: without a model."""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from loaders import resident as residency
from loaders.batching import BatchingEngine, Job, next_batch
from loaders.echo import EchoEngine, EchoOptions
from loaders.engine import Completion, Request, RequestError
from loaders.loops import find_loop
from loaders.resident import engine_for, release, resident
from loaders.vlm_loader import (
    GenericVLMLoader,
    InferenceFramework,
    QuantizationType,
    VLMConfig,
)
from pagemill.config import PROJECT
from pagemill.errors import EngineError, ErrorKind, UsageError
from pagemill.settings import Model

PAGE, CAPTION = 1500, 128
SECONDS = 300


class Scripted(BatchingEngine):
    """Holds every batch until `go` is set; does what the prompts say."""

    def __init__(self, batch_size: int = 4, fits: int = 99) -> None:
        self.batches: list[list[str]] = []
        self.go = threading.Event()
        self.started = threading.Event()
        self.fits = fits
        self.freed = 0
        super().__init__(batch_size, "scripted 1")

    def _answer(self, jobs: list[Job]) -> None:
        self.batches.append([job.request.prompt for job in jobs])
        self.started.set()
        assert self.go.wait(SECONDS)
        if len(jobs) > self.fits:
            raise MemoryError("too many")
        if any("bad" in job.request.prompt for job in jobs):
            raise ValueError("no good")
        for job in jobs:
            reason = "aborted" if job.ending else "stop"
            self._finish(job, Completion(job.request.prompt, 1, 1, reason, 0.1))

    def _free(self) -> None:
        self.freed += 1


@pytest.fixture
def engine() -> Any:
    engine = Scripted()
    yield engine
    engine.go.set()
    engine.close()


def ask(prompt: str, tokens: int = PAGE, **more: Any) -> Request:
    return Request((), prompt, tokens, **more)


def hold(engine: Scripted) -> Future[Completion]:
    """Keep the engine busy with one request, so that what follows queues up."""
    first = engine.submit(ask("first"))
    assert engine.started.wait(SECONDS)
    return first


def results(futures: list[Future[Completion]]) -> list[Completion]:
    return [future.result(SECONDS) for future in futures]


def test_captions_are_not_decoded_beside_pages(engine: Scripted) -> None:
    hold(engine)
    sizes = [PAGE, CAPTION] * 4
    futures = [engine.submit(ask(f"{i}", size)) for i, size in enumerate(sizes)]
    engine.go.set()
    results(futures)
    assert engine.batches[1:] == [["0", "2", "4", "6"], ["1", "3", "5", "7"]]


def test_a_full_batch_goes_first_but_never_starves_the_oldest() -> None:
    waiting = [Job(ask("old", CAPTION))] + [Job(ask(f"{i}")) for i in range(40)]
    order = []
    while waiting and waiting[0].request.prompt == "old":
        batch = next_batch(waiting, 4)
        order.append([job.request.prompt for job in batch])
        waiting = [job for job in waiting if job not in batch]
    assert order == [["0", "1", "2", "3"], ["4", "5", "6", "7"], ["old"]]


def test_requests_of_another_temperature_wait_for_their_own_batch() -> None:
    waiting = [Job(ask("a")), Job(ask("b", temperature=0.5)), Job(ask("c"))]
    assert [job.request.prompt for job in next_batch(waiting, 4)] == ["a", "c"]


class Growing(Scripted):
    """Takes one more request whenever it has answered one."""

    def _answer(self, jobs: list[Job]) -> None:
        self.started.set()
        assert self.go.wait(SECONDS)
        line = list(jobs)
        while line:
            self.batches.append([job.request.prompt for job in line])
            job = line.pop(0)
            if job.request.prompt == "bad":
                raise ValueError("no good")
            self._finish(job, Completion(job.request.prompt, 1, 1, "stop", 0.1))
            line += self._more(jobs, 1)


def test_a_batch_takes_more_but_never_starves_the_oldest() -> None:
    engine = Growing(2)
    hold(engine)
    futures = [engine.submit(ask("hot", temperature=0.5))]
    futures += [engine.submit(ask(f"{i}")) for i in range(9)]
    engine.go.set()
    assert results(futures)[0].text == "hot"
    engine.close()
    order = [batch[0] for batch in engine.batches]
    assert order == ["first", "0", "1", "2", "3", "hot", "4", "5", "6", "7", "8"]
    assert not any("hot" in batch and len(batch) > 1 for batch in engine.batches)


def test_what_joined_a_batch_that_fails_is_tried_again_alone() -> None:
    engine = Growing(2)
    first = hold(engine)
    futures = [engine.submit(ask(prompt)) for prompt in ("a", "bad", "c", "d")]
    engine.go.set()
    assert first.result(SECONDS).text == "first"
    assert [futures[i].result(SECONDS).text for i in (0, 2, 3)] == ["a", "c", "d"]
    assert "no good" in str(futures[1].exception(SECONDS))
    engine.close()


def test_a_batch_that_does_not_fit_is_halved_until_it_does(engine: Scripted) -> None:
    engine.fits = 1
    hold(engine)
    futures = [engine.submit(ask(f"{i}")) for i in range(4)]
    engine.go.set()
    assert [c.text for c in results(futures)] == ["0", "1", "2", "3"]
    assert [len(batch) for batch in engine.batches[1:]] == [4, 2, 1, 1, 2, 1, 1]


def test_one_request_that_does_not_fit_fails_alone(engine: Scripted) -> None:
    engine.fits = 0
    engine.go.set()
    error = engine.submit(ask("huge")).exception(SECONDS)
    assert isinstance(error, RequestError)
    assert error.kind is ErrorKind.OUT_OF_MEMORY


def test_a_bad_request_does_not_take_its_batch_along(engine: Scripted) -> None:
    hold(engine)
    futures = [engine.submit(ask(prompt)) for prompt in ("a", "bad", "c")]
    engine.go.set()
    assert futures[0].result(SECONDS).text == "a"
    assert futures[2].result(SECONDS).text == "c"
    error = futures[1].exception(SECONDS)
    assert isinstance(error, RequestError)
    assert error.kind is ErrorKind.MODEL_FAILED
    assert "no good" in str(error)


def test_what_is_left_without_an_answer_fails() -> None:
    class Forgetful(Scripted):
        def _answer(self, jobs: list[Job]) -> None:
            super()._answer([job for job in jobs if job.request.prompt != "forgotten"])

    forgetful = Forgetful()
    hold(forgetful)
    futures = [forgetful.submit(ask(prompt)) for prompt in ("a", "forgotten", "c")]
    forgetful.go.set()
    assert [futures[i].result(SECONDS).text for i in (0, 2)] == ["a", "c"]
    assert str(futures[1].exception(SECONDS)) == "the engine gave no answer"
    forgetful.close()


def test_five_different_failures_in_a_row_break_the_engine(engine: Scripted) -> None:
    hold(engine)
    futures = [engine.submit(ask(f"bad {i}", key=f"{i}")) for i in range(7)]
    engine.go.set()
    errors = [future.exception(SECONDS) for future in futures]
    assert [type(error) for error in errors] == [RequestError] * 4 + [EngineError] * 3
    with pytest.raises(EngineError, match="5 requests in a row, the last with: ValueError"):
        engine.submit(ask("good"))


def test_a_page_that_keeps_failing_does_not_break_the_engine(engine: Scripted) -> None:
    engine.go.set()
    for _ in range(6):
        assert engine.submit(ask("bad", key="page 1")).exception(SECONDS)
    assert engine.submit(ask("good")).result(SECONDS).text == "good"


def test_abort_ends_queued_and_running_requests_of_its_key(engine: Scripted) -> None:
    running = engine.submit(ask("running", key="a"))
    assert engine.started.wait(SECONDS)
    queued, other = engine.submit(ask("queued", key="a")), engine.submit(ask("other", key="b"))
    engine.abort("a")
    assert queued.result(0).finish_reason == "aborted"  # before the batch ends
    engine.go.set()
    assert running.result(SECONDS).finish_reason == "aborted"
    assert other.result(SECONDS).finish_reason == "stop"


def test_close_ends_everything_with_an_engine_error(engine: Scripted) -> None:
    running = hold(engine)
    queued = engine.submit(ask("queued"))
    closing = threading.Thread(target=engine.close)
    closing.start()
    assert isinstance(queued.exception(SECONDS), EngineError)
    engine.go.set()
    closing.join(SECONDS)
    assert isinstance(running.exception(SECONDS), EngineError)
    assert engine.freed == 1
    engine.close()
    with pytest.raises(EngineError, match="the engine is closed"):
        engine.submit(ask("late"))


def test_a_cancelled_request_is_not_read(engine: Scripted) -> None:
    hold(engine)
    cancelled, kept = engine.submit(ask("cancelled")), engine.submit(ask("kept"))
    assert cancelled.cancel()
    engine.go.set()
    kept.result(SECONDS)
    assert engine.batches == [["first"], ["kept"]]


def test_a_callback_may_submit_again_and_many_threads_may_submit() -> None:
    with_retry: Future[Completion] = Future()
    engine = EchoEngine()
    engine.submit(ask("once")).add_done_callback(
        lambda _: engine.submit(ask("again")).add_done_callback(
            lambda done: with_retry.set_result(done.result())
        )
    )
    with ThreadPoolExecutor(8) as pool:
        futures = list(pool.map(lambda i: engine.submit(ask(f"{i}")), range(200)))
    assert len(results(futures)) == 200
    assert with_retry.result(SECONDS).finish_reason == "stop"
    engine.close()


def test_an_answer_that_is_interrupted_is_ended() -> None:
    engine = EchoEngine(EchoOptions(delay=SECONDS))
    loader = GenericVLMLoader(VLMConfig("echo", QuantizationType.NONE, InferenceFramework.VLLM))
    loader._engine = engine

    def interrupt() -> None:
        while not engine._running:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        loader.generate([], "read")
    assert all(job.aborted for job in engine._running)
    loader.unload()


def table(rows: int) -> list[int]:
    """Token ids of a table: its frame repeats, its numbers hardly."""
    bar, line = 1, 2
    ids: list[int] = []
    for row in range(rows):
        for cell in range(5):
            ids += [bar, 100 + (row * 37 + cell * 11) % 900, 3, 100 + (row * row + cell) % 700]
        ids += [bar, line]
    return ids


@pytest.mark.parametrize("period", [1, 2, 7, 24, 60, 100])
def test_an_exact_loop_is_found_and_cut_after_its_first_round(period: int) -> None:
    before, phrase = list(range(1000, 1200)), list(range(period))
    said = before + phrase * (400 // period + 1)
    assert find_loop(said) == len(before) + period
    rounds = max(4, -(-64 // period))
    assert find_loop(before + phrase * rounds) == (None if period * rounds < 300 else 200 + period)
    assert find_loop(before + phrase * rounds, 64) == len(before) + period
    assert find_loop(before + phrase * (rounds - 1), 64) is None


def test_a_loop_with_a_counter_is_found() -> None:
    before = list(range(5000, 5300))
    counted = [token for i in range(250) for token in (2000 + i, 11, 12)]
    keep = find_loop(before + counted)
    assert keep is not None
    assert len(before) <= keep <= len(before) + 40


def test_what_came_before_a_loop_seen_late_is_kept() -> None:
    before = list(range(1000, 2000))
    assert find_loop(before + [1, 2, 3, 4, 5] * 700, 64) == len(before) + 5


@pytest.mark.parametrize(
    "said",
    [
        list(range(2000)),
        table(80),
        list(range(500)) + [7] * 120,  # a dot leader
        list(range(500)) + [1, 2] * 60 + [9],  # a row of empty cells
        (list(range(300, 460))) * 5,  # filler text, a paragraph again and again
        [t for row in range(40) for t in (*range(10 * row, 10 * row + 9), *[7] * (60 + row % 7))],
        [],
    ],
)
def test_real_repetition_is_not_a_loop(said: list[int]) -> None:
    assert all(find_loop(said[:end]) is None for end in range(0, len(said) + 1, 32))
    assert find_loop(said) is None


def picture(grey: int) -> Image.Image:
    return Image.new("L", (8, 8), grey)


def test_echo_answers_alike_for_alike_images() -> None:
    first, second = EchoEngine(), EchoEngine(batch_size=2)
    texts = [
        [e.submit(Request((picture(g),), "read")).result(SECONDS).text for g in (0, 0, 9)]
        for e in (first, second)
    ]
    assert texts[0] == texts[1]
    assert texts[0][0] == texts[0][1] != texts[0][2]
    first.close()
    second.close()


def test_echo_fails_and_loops_at_its_rates_and_a_hotter_try_may_succeed() -> None:
    engine = EchoEngine(EchoOptions(fail_rate=0.3, loop_rate=0.3))
    futures = [engine.submit(Request((picture(g),), "read")) for g in range(200)]
    failed = [g for g, future in enumerate(futures) if future.exception(SECONDS)]
    looped = sum(f.result().finish_reason == "loop" for f in futures if not f.exception())
    assert 30 < len(failed) < 90
    assert 20 < looped < 80
    hotter = [engine.submit(Request((picture(g),), "read", 512, 0.4)) for g in failed]
    assert any(future.exception(SECONDS) is None for future in hotter)
    engine.close()


def test_echo_stops_at_the_token_cap() -> None:
    engine = EchoEngine(EchoOptions(tokens=50))
    answer = engine.submit(ask("read", 10)).result(SECONDS)
    assert (answer.finish_reason, answer.completion_tokens) == ("length", 10)
    engine.close()


@pytest.fixture
def echo() -> Any:
    yield Model(name="auto", id="echo", framework="echo", options={"tokens": 5})
    release()


def test_eight_threads_load_one_engine(echo: Model, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "pagemill.loaders"), ThreadPoolExecutor(8) as pool:
        engines = set(pool.map(lambda _: resident(echo), range(8)))
    assert len(engines) == 1
    assert sum("loaded echo" in message for message in caplog.messages) == 1


def test_another_config_closes_the_resident_engine_before_it_loads(
    echo: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = resident(echo)
    opened: list[str] = []

    def open_after_closing(model: Model) -> Any:
        with pytest.raises(EngineError):
            first.submit(ask("anyone there?"))
        opened.append(model.name)
        return EchoEngine()

    monkeypatch.setattr(residency, "engine_for", open_after_closing)
    second = resident(echo.model_copy(update={"batch_size": 2}))
    assert second is not first
    assert opened == ["auto"]


def test_an_engine_that_has_broken_is_loaded_anew(
    echo: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    first: Any = resident(echo)

    def fail(_: Any) -> None:
        raise ValueError("no good")

    monkeypatch.setattr(first, "_answer", fail)
    errors = [first.submit(ask("read", key=f"{n}")).exception(SECONDS) for n in range(5)]
    assert isinstance(errors[-1], EngineError)
    assert resident(echo).submit(ask("read")).result(SECONDS).finish_reason == "stop"


def test_one_that_shares_its_gpu_loads_when_nobody_else_does(
    echo: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, ours = ((tmp_path / "0.lock").open("w") for _ in range(2))
    monkeypatch.setenv(residency.TURN, str(ours.fileno()))
    over = threading.Event()

    def load(model: Model) -> EchoEngine:
        assert over.is_set()
        with pytest.raises(BlockingIOError):  # nor does anybody now
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return EchoEngine(EchoOptions(), model.batch_size)

    monkeypatch.setattr(residency, "engine_for", load)
    fcntl.flock(other, fcntl.LOCK_EX)
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(resident, echo)
        time.sleep(0.2)
        over.set()
        fcntl.flock(other, fcntl.LOCK_UN)
        assert loading.result(SECONDS).alive
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    for file in (other, ours):
        file.close()


def test_after_a_failed_load_nothing_is_resident(echo: Model) -> None:
    first = resident(echo)
    gone = Model(name="auto", id="/nowhere/model", device="cpu")
    with pytest.raises(UsageError, match="/nowhere/model: no such folder"):
        resident(gone)
    no_gpu = Model(name="auto", id=str(PROJECT / "models" / "pagereader-19m"), device="abacus")
    with pytest.raises(EngineError, match="device 'abacus' is unknown"):
        resident(no_gpu)
    assert resident(echo) is not first


def test_engine_for_names_what_is_wrong() -> None:
    with pytest.raises(UsageError, match="colour"):
        engine_for(Model(name="auto", id="x", framework="echo", options={"colour": 1}))
    with pytest.raises(UsageError, match="qwen25vl"):
        engine_for(Model(name="gpt", id="x"))
    with pytest.raises(EngineError, match="no such folder"):
        engine_for(Model(name="auto", id="/gone", framework="vllm"))


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """Options of the models that are loaded; stand-ins take the place of vLLM's engines."""
    options: list[dict[str, Any]] = []

    def stand_in(model: Model) -> Any:
        options.append(model.options)
        return EchoEngine()

    monkeypatch.setattr(residency, "quantization_name", lambda _: "none")
    monkeypatch.setattr(residency, "engine_for", stand_in)
    release()
    yield options
    release()


def test_for_a_few_pages_vllm_does_not_compile(
    loaded: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    model = Model(name="auto", id="x", framework="vllm", options={"max_model_len": 8192})
    with caplog.at_level(logging.INFO, "pagemill.loaders"):
        quick = resident(model, pages=10)
        assert loaded == [{"max_model_len": 8192, "enforce_eager": True}]
        assert "about 10 pages: vLLM loads without compiling" in caplog.messages
        assert resident(model, pages=499) is quick
        assert resident(model, pages=4999) is quick  # loading again would take longer
        compiled = resident(model, pages=5000)
        assert "it was loaded for a few pages" in caplog.text
    assert loaded[1:] == [{"max_model_len": 8192}]
    assert compiled is not quick
    assert resident(model, pages=10) is compiled
    assert resident(model) is compiled


@pytest.mark.parametrize("eager", [True, False])
def test_what_the_options_say_of_compiling_stands(
    loaded: list[dict[str, Any]], eager: bool
) -> None:
    model = Model(name="auto", id="x", framework="vllm", options={"enforce_eager": eager})
    for pages in (1, 10**6, None):
        resident(model, pages)
    assert loaded == [{"enforce_eager": eager}]


def test_other_frameworks_load_the_same_for_any_number(loaded: list[dict[str, Any]]) -> None:
    model = Model(name="auto", id="x", framework="transformers")
    for pages in (1, 10**6, None):
        resident(model, pages)
    assert loaded == [{}]
