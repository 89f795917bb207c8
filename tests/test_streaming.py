"""Concurrent answers behind `submit`, without a model: no future is left behind, nor any page."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest
from helpers import is_let_go
from PIL import Image

from loaders.echo import EchoEngine
from loaders.engine import Completion, FinishReason, Request, RequestError
from loaders.streaming import Draft, StreamingEngine
from pagemill.errors import EngineError, ErrorKind

SECONDS = 30


class Panic(BaseException):
    """As Rust's panics arrive in Python: tokenizers' are no Exceptions."""


class Nameless(Exception):
    """It cannot even say what it is."""

    def __str__(self) -> str:
        raise MemoryError


class Scripted(StreamingEngine):
    """Does what the prompt says."""

    def __init__(self) -> None:
        super().__init__(capacity=2, in_flight=2)

    async def _answer(self, request: Request, draft: Draft) -> FinishReason:
        draft.text = request.prompt
        match request.prompt:
            case "panic":
                raise Panic("called `Option::unwrap()` on a `None` value")
            case "refuse":
                raise RequestError(ErrorKind.MODEL_FAILED, "too long")
            case "lose count":
                draft.logprobs.append(None)  # type: ignore[arg-type]
            case "nameless":
                raise Nameless
            case "wait":
                await asyncio.sleep(SECONDS)
        return "stop"


@pytest.fixture
def engine() -> Iterator[Scripted]:
    engine = Scripted()
    yield engine
    engine.close()


def ask(prompt: str, **more: Any) -> Request:
    return Request((), prompt, **more)


def test_a_panic_fails_its_request_alone(engine: Scripted) -> None:
    error = engine.submit(ask("panic")).exception(SECONDS)
    assert isinstance(error, RequestError)
    assert str(error) == "Panic: called `Option::unwrap()` on a `None` value"
    assert engine.submit(ask("good")).result(SECONDS).text == "good"
    busy = engine.busy_seconds
    assert engine.submit(ask("good")).result(SECONDS).seconds <= engine.busy_seconds - busy


def test_a_draft_that_cannot_be_finished_fails_its_request_alone(engine: Scripted) -> None:
    error = engine.submit(ask("lose count")).exception(SECONDS)
    assert isinstance(error, RequestError)
    assert str(error).startswith("TypeError: must be real number")
    assert engine.submit(ask("good")).result(SECONDS).text == "good"


def test_five_panics_in_a_row_break_the_engine(engine: Scripted) -> None:
    errors = [engine.submit(ask("panic", key=f"{n}")).exception(SECONDS) for n in range(5)]
    assert [type(error) for error in errors] == [*[RequestError] * 4, EngineError]


def test_an_abort_while_the_engine_closes_is_no_error(engine: Scripted) -> None:
    running = engine.submit(ask("wait", key="page"))
    in_between, closed = threading.Event(), threading.Event()
    call = engine._loop.call_soon_threadsafe

    def call_late(function: Callable[..., object], *arguments: Any) -> Any:
        if threading.current_thread() is aborting:
            in_between.set()
            closed.wait(0.5)  # the other thread closes the loop now, if it may
        return call(function, *arguments)

    failures: list[BaseException] = []

    def abort() -> None:
        try:
            engine.abort("page")
        except RuntimeError as error:
            failures.append(error)

    aborting = threading.Thread(target=abort)
    engine._loop.call_soon_threadsafe = call_late  # type: ignore[method-assign]
    aborting.start()
    assert in_between.wait(SECONDS)
    engine.close()
    closed.set()
    aborting.join(SECONDS)
    assert failures == []
    assert running.done()


def test_what_cannot_be_told_is_told_all_the_same(engine: Scripted) -> None:
    assert isinstance(engine.submit(ask("nameless")).exception(SECONDS), RequestError)
    assert engine.submit(ask("good")).result(SECONDS).text == "good"


def test_an_engine_whose_thread_ends_tells_whoever_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, go = EchoEngine(batch_size=1), threading.Event()

    def fail(_: Any) -> None:
        assert go.wait(SECONDS)
        raise Nameless

    monkeypatch.setattr(engine, "_answer", fail)
    futures = [engine.submit(ask(f"{number}")) for number in range(3)]
    go.set()
    errors = [future.exception(SECONDS) for future in futures]
    assert [type(error) for error in errors] == [EngineError] * 3
    assert str(errors[0]) == "the engine's thread has ended: MemoryError"
    assert not engine.alive
    engine.close()


@pytest.mark.parametrize("make", [Scripted, EchoEngine])
@pytest.mark.parametrize("prompt", ["good", "refuse"])
def test_an_idle_engine_holds_no_page(make: Callable[[], Any], prompt: str) -> None:
    engine = make()
    gc.collect()
    gc.disable()  # pages are too large to wait for it
    try:
        kept = _submit(engine, prompt)
        assert is_let_go(kept)
    finally:
        gc.enable()
        engine.close()


def _submit(engine: Any, prompt: str) -> weakref.ref[Image.Image]:
    page = Image.new("L", (8, 8))
    future: Future[Completion] = engine.submit(Request((page,), prompt, key="page"))
    future.exception(SECONDS)
    return weakref.ref(page)
