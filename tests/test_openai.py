"""The engine on an OpenAI-compatible endpoint: a real server process, failures included."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import is_let_go, make_pdf, run, table, write_config
from PIL import Image

from loaders import openai_engine, resident
from loaders.endpoint import endpoint_of
from loaders.engine import Completion, Request, RequestError
from loaders.errors import LoadError
from loaders.loops import find_loop_in_text
from loaders.openai_engine import OpenAIEngine
from loaders.resident import engine_for
from loaders.server import free_port
from pagemill.config import load_settings
from pagemill.errors import EngineError, ErrorKind
from pagemill.settings import Model
from tests.seaweed import die_with_parent

SECONDS = 300
PAGE = Image.effect_noise((60, 40), 50).convert("RGB")


class Chat:
    """A running chat_server.py."""

    def __init__(self, **environment: str) -> None:
        script = str(Path(__file__).with_name("chat_server.py"))
        self.process = subprocess.Popen(
            [sys.executable, script, "reader"],
            env={**os.environ, **environment},
            preexec_fn=die_with_parent,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout
        self.url = f"http://127.0.0.1:{int(self.process.stdout.readline())}/v1"

    def seen(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.url}/seen") as response:
            return dict(json.load(response))

    @contextmanager
    def asked(self) -> Iterator[None]:
        """What is submitted in the block has come here by its end."""
        before = self.seen()["requests"]
        yield
        while self.seen()["requests"] == before:
            time.sleep(0.01)

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def chat() -> Iterator[Chat]:
    running = Chat()
    yield running
    running.stop()


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_engine, "FIRST_WAIT", 0.01)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def connect(chat: Chat) -> Iterator[Callable[..., OpenAIEngine]]:
    engines = []

    def make(batch_size: int = 4, **options: Any) -> OpenAIEngine:
        endpoint = endpoint_of("reader", {"base_url": chat.url, **options})
        engines.append(OpenAIEngine(endpoint, batch_size))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


def order(**what: Any) -> Request:
    """A request that tells chat_server.py what to do."""
    limits = {
        name: what.pop(name) for name in ("max_new_tokens", "key", "logprobs") if name in what
    }
    return Request((PAGE,), json.dumps({"say": ["ok"], **what}), **limits)


def ask(engine: OpenAIEngine, request: Request) -> Completion:
    return engine.submit(request).result(SECONDS)


def failure(engine: OpenAIEngine, request: Request) -> BaseException | None:
    return engine.submit(request).exception(SECONDS)


@pytest.mark.parametrize("stream", [True, False])
def test_it_reads_what_the_endpoint_says(
    connect: Callable[..., OpenAIEngine], stream: bool
) -> None:
    engine = connect(stream=stream)
    answer = ask(engine, order(say=["A ", "mill", "."], number=stream))
    assert (answer.text, answer.finish_reason) == ("A mill.", "stop")
    assert (answer.prompt_tokens, answer.completion_tokens) == (7, 3)
    assert 0 < answer.seconds <= engine.busy_seconds
    assert engine.version == "openai (chat_server)"
    cut = ask(engine, order(say=["A ", "mill"], finish="length", number=stream))
    assert (cut.text, cut.finish_reason) == ("A mill", "length")


def test_the_endpoint_sees_every_pixel(connect: Callable[..., OpenAIEngine]) -> None:
    from chat_server import pixels

    assert ask(connect(), Request((PAGE,), "look")).text == f"see {pixels(PAGE)}"


def test_the_request_says_what_was_asked(chat: Chat, connect: Callable[..., OpenAIEngine]) -> None:
    ask(connect(), Request((), "hello", 77, 0.3))
    body = chat.seen()["bodies"][-1]
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("reader", 77, 0.3)
    assert "logprobs" not in body


@pytest.mark.parametrize("stream", [True, False])
def test_confidence_comes_where_asked(connect: Callable[..., OpenAIEngine], stream: bool) -> None:
    request = order(say=["a", "b", "c"], logprobs=True, number=stream)
    answer = ask(connect(stream=stream), request)
    assert answer.mean_logprob == pytest.approx(-0.5)
    assert answer.min_logprob == pytest.approx(-0.75 if stream else -0.5)
    assert ask(connect(stream=stream), order(say=["a"])).mean_logprob is None


def test_a_log_probability_may_be_unknown(connect: Callable[..., OpenAIEngine]) -> None:
    tokens = [{"logprob": None}, {"logprob": -0.5}]
    choice = {
        "message": {"content": "ab"},
        "finish_reason": "stop",
        "logprobs": {"content": tokens},
    }
    answer = ask(connect(stream=False), order(raw={"choices": [choice]}))
    assert (answer.text, answer.mean_logprob) == ("ab", -0.5)


def test_open_requests_are_bounded(chat: Chat, connect: Callable[..., OpenAIEngine]) -> None:
    engine = connect(batch_size=3)
    before = chat.seen()["requests"]
    futures = [engine.submit(order(delay=0.02, number=number)) for number in range(12)]
    assert {future.result(SECONDS).text for future in futures} == {"ok"}
    seen = chat.seen()
    assert seen["requests"] - before == 12
    assert seen["most"] <= 3
    total = sum(future.result().seconds for future in futures)
    assert total == pytest.approx(engine.busy_seconds, rel=0.05)


def test_a_loop_is_cut_while_it_streams(chat: Chat, connect: Callable[..., OpenAIEngine]) -> None:
    left = chat.seen()["left"]
    words = ["Title. ", *(["again ", "and "] * 20_000)]
    answer = ask(connect(), order(say=words, delay=0.0002))
    assert answer.finish_reason == "loop"
    assert answer.text.startswith("Title. again and")
    assert len(answer.text) < 60
    assert 150 < answer.completion_tokens < 1000
    deadline = time.monotonic() + 10
    while chat.seen()["left"] == left and time.monotonic() < deadline:
        time.sleep(0.05)
    assert chat.seen()["left"] > left  # the endpoint was told to stop


def test_a_loop_at_the_cap_is_a_loop(connect: Callable[..., OpenAIEngine]) -> None:
    words = ["Title. ", *(["again "] * 80)]
    answer = ask(connect(stream=False), order(say=words, finish="length"))
    assert (answer.finish_reason, answer.completion_tokens) == ("loop", 81)


def test_loops_are_found_in_text() -> None:
    assert find_loop_in_text("The mill stands by the river, and its wheel turns. " * 3) is None
    text = "Begin. " + "la la " * 400
    keep = find_loop_in_text(text)
    assert keep is not None
    assert text[:keep].strip() in ("Begin. la", "Begin.", "Begin. la la")


@pytest.mark.parametrize("sign", [".", " .", "_", "-"])
def test_leaders_and_lines_to_write_on_are_no_loop(sign: str) -> None:
    names = ("The river", "Wheels and stones", "Grain", "A ledger of 1974", "Sacks", "Ink")
    lines = [f"{names[n % 6]} {n} {sign * (60 + n * n % 17)} {n * 7}" for n in range(60)]
    assert find_loop_in_text("\n".join(lines)) is None


def test_abort_ends_a_request_with_what_was_said(
    connect: Callable[..., OpenAIEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    listen, heard = openai_engine._listen, threading.Event()

    def note(*what: Any) -> None:
        listen(*what)
        if what[1]:
            heard.set()

    monkeypatch.setattr(openai_engine, "_listen", note)
    engine = connect(batch_size=1)
    running = engine.submit(order(say=["word "] * 99, delay=0.05, key="doomed"))
    queued = engine.submit(order(key="doomed"))
    other = engine.submit(order(key="other"))
    assert heard.wait(SECONDS)
    engine.abort("doomed")
    assert running.result(SECONDS).finish_reason == "aborted"
    assert running.result().text.startswith("word")
    assert queued.result(SECONDS).finish_reason == "aborted"
    assert other.result(SECONDS).text == "ok"


# --- failures --------------------------------------------------------------------------------


def test_a_busy_endpoint_is_asked_again(connect: Callable[..., OpenAIEngine]) -> None:
    assert ask(connect(), order(fail=[429, 503, 500, 502])).text == "ok"


def test_an_answer_that_breaks_off_is_asked_for_again(
    connect: Callable[..., OpenAIEngine], chat: Chat
) -> None:
    before = chat.seen()["requests"]
    error = failure(connect(retries=2), order(say=["a", "b"], cut=1))
    assert isinstance(error, EngineError)
    assert "broke off in the middle of an answer (3 tries)" in str(error)
    assert chat.seen()["requests"] - before == 3


def test_an_endpoint_that_stays_down_is_no_row(connect: Callable[..., OpenAIEngine]) -> None:
    engine = connect(retries=1)
    error = failure(engine, order(fail=[503, 503], words="no GPU left"))
    assert isinstance(error, EngineError)
    assert "status 503: no GPU left (2 tries)" in str(error)
    with pytest.raises(EngineError, match="status 503"):
        engine.submit(order())


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_that_is_none_is_no_row(
    connect: Callable[..., OpenAIEngine], stream: bool
) -> None:
    error = failure(connect(retries=1, stream=stream), order(raw="sign in", number=stream))
    assert isinstance(error, EngineError)
    assert "(2 tries)" in str(error)


def test_a_text_may_hold_any_separator(connect: Callable[..., OpenAIEngine]) -> None:
    said = "a\u2028b\u2029c\x85d\x0ce\x1cf\r\ng\nh"
    assert ask(connect(retries=0), order(say=[said])).text == said


def test_an_endpoint_that_does_not_stream_is_read_all_the_same(
    connect: Callable[..., OpenAIEngine],
) -> None:
    whole = {"choices": [{"message": {"content": "all at once"}, "finish_reason": "stop"}]}
    assert ask(connect(retries=0), order(raw=whole)).text == "all at once"


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_that_does_not_end_is_ended(
    connect: Callable[..., OpenAIEngine], monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    monkeypatch.setattr("loaders.openai_engine.MOST_BYTES", 1 << 20)
    error = failure(connect(retries=1, stream=stream), order(say=["x" * (2 << 20)]))
    assert str(error) == "an answer of the endpoint is longer than 1 MB (2 tries)"


def test_an_error_that_comes_as_an_answer_is_told(connect: Callable[..., OpenAIEngine]) -> None:
    said = {"error": {"code": 502, "message": "the provider is down"}}
    error = failure(connect(retries=1, stream=False), order(raw=said))
    assert str(error) == "the endpoint broke off an answer: the provider is down (2 tries)"


@pytest.mark.parametrize("said", ["hi", 5, [5], ["hi"], [{"message": "hi"}]])
def test_an_answer_of_another_form_is_no_row(
    connect: Callable[..., OpenAIEngine], said: Any
) -> None:
    error = failure(connect(retries=1, stream=False), order(raw={"choices": said}))
    assert isinstance(error, EngineError)
    assert str(error) == "the endpoint's answer is no answer of a chat (2 tries)"


def test_a_proxy_in_the_environment_is_not_asked_for_this_host(
    connect: Callable[..., OpenAIEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    assert ask(connect(), order()).text == "ok"


def test_certificates_that_cannot_be_read_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/no/such/file.pem")
    with pytest.raises(LoadError, match="correct SSL_CERT_FILE or SSL_CERT_DIR"):
        OpenAIEngine(endpoint_of("reader", {"base_url": "https://gpu-host/v1"}))


@pytest.mark.parametrize("proxy", ["ftp://127.0.0.1:9", "http://proxy:port"])
def test_a_proxy_that_cannot_be_used_is_named(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(LoadError, match=r"the environment's proxy cannot be used .*ALL_PROXY"):
        OpenAIEngine(endpoint_of("reader", {"base_url": "http://gpu-host:8000/v1"}))


def test_a_page_that_was_asked_about_again_is_let_go(connect: Callable[..., OpenAIEngine]) -> None:
    engine = connect()
    gc.collect()
    gc.disable()  # pages are too large to wait for it
    try:
        page = PAGE.copy()
        kept = weakref.ref(page)
        answer = engine.submit(Request((page,), json.dumps({"say": ["ok"], "raw": "no"}), key="a"))
        del page
        assert isinstance(answer.exception(SECONDS), EngineError)
        del answer
        assert is_let_go(kept)
    finally:
        gc.enable()


def test_a_page_that_breaks_the_endpoint_while_others_pass_fails_alone(
    chat: Chat, connect: Callable[..., OpenAIEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = connect(retries=1)

    async def until_another_is_answered(_: float) -> None:
        while not engine._answers:
            await asyncio.sleep(0.01)

    others = {**vars(asyncio), "sleep": until_another_is_answered}
    monkeypatch.setattr(openai_engine, "asyncio", SimpleNamespace(**others))
    with chat.asked():
        broken = engine.submit(order(fail=[500, 500, 500], number=1))
    fine = engine.submit(order(number=2))
    assert fine.result(SECONDS).text == "ok"
    error = broken.exception(SECONDS)
    assert isinstance(error, RequestError)
    assert error.kind is ErrorKind.MODEL_FAILED
    assert ask(engine, order(number=3)).text == "ok"


def test_an_answer_that_takes_too_long_fails_alone_or_breaks(
    chat: Chat, connect: Callable[..., OpenAIEngine]
) -> None:
    engine = connect(timeout=1.5, retries=0)
    with chat.asked():
        slow = engine.submit(order(delay=SECONDS, number=1))
    assert ask(engine, order(number=2)).text == "ok"
    error = slow.exception(SECONDS)
    assert isinstance(error, RequestError)
    assert error.kind is ErrorKind.TIME_OUT
    assert "no answer within 1.5 s (1 tries)" in str(error)
    alone = failure(engine, order(delay=SECONDS, number=3))
    assert isinstance(alone, EngineError)


def test_a_request_that_is_wrong_fails_alone(connect: Callable[..., OpenAIEngine]) -> None:
    engine = connect()
    words = "This model's maximum context length is 4096 tokens"
    error = failure(engine, order(fail=[400], words=words))
    assert isinstance(error, RequestError)
    assert str(error) == (
        f"the endpoint refused it (400): {words}: lower render.max_pixels or max_new_tokens"
    )
    streamed = failure(engine, order(say=["a"], error={"code": 400, "message": "bad image"}))
    assert isinstance(streamed, RequestError)
    assert "bad image" in str(streamed)
    filtered = failure(engine, order(finish="content_filter"))
    assert "content filter" in str(filtered)
    assert ask(engine, order()).text == "ok"


def test_an_endpoint_without_log_probabilities_names_the_setting(
    connect: Callable[..., OpenAIEngine],
) -> None:
    error = failure(connect(), order(fail=[400], words="logprobs is not supported"))
    assert isinstance(error, EngineError)
    assert str(error).endswith(
        "does not say how sure it is (400: logprobs is not supported): set model.confidence: false"
    )


def test_five_wrong_requests_in_a_row_break_the_engine(
    connect: Callable[..., OpenAIEngine],
) -> None:
    engine = connect(batch_size=1)
    errors = [failure(engine, order(fail=[400], number=n)) for n in range(5)]
    assert [type(error) for error in errors] == [*[RequestError] * 4, EngineError]
    assert "failed on 5 requests in a row" in str(errors[-1])


def test_close_ends_what_runs(connect: Callable[..., OpenAIEngine]) -> None:
    engine = connect()
    running = engine.submit(order(say=["a"] * 99, delay=0.05))
    time.sleep(0.2)
    engine.close()
    engine.close()
    assert isinstance(running.exception(SECONDS), EngineError)
    with pytest.raises(EngineError, match="the engine is closed"):
        engine.submit(order())


def test_an_endpoint_that_dies_is_an_engine_error() -> None:
    chat = Chat()
    engine = OpenAIEngine(endpoint_of("reader", {"base_url": chat.url, "retries": 1}))
    running = engine.submit(order(say=["a"] * 99, delay=0.05))
    time.sleep(0.3)
    chat.stop()
    error = running.exception(SECONDS)
    engine.close()
    assert isinstance(error, EngineError)
    assert chat.url in str(error)


# --- what is refused before the first request --------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "options.base_url: give the endpoint's URL, such as http://gpu-host:8000/v1"),
        ({"base_url": "gpu-host:8000"}, "options.base_url: give the endpoint's URL"),
        ({"base_url": "http://[::1/v1"}, "options.base_url: give the endpoint's URL"),
        ({"base_url": "http://h:port/v1"}, "options.base_url: give the endpoint's URL"),
        ({"base_url": "http://h/v1", "api_key_env": 5}, "model and api_key_env are texts"),
        ({"base_url": "http://me:secret@host/v1"}, "no user or password in a URL"),
        ({"base_url": "http://host/v1?key=secret"}, "nothing may follow ? or # in it"),
        ({"base_url": "http://host/v1#secret"}, "nothing may follow ? or # in it"),
        ({"api_key": "sk-1"}, "options.api_key: keys are read from the environment only"),
        ({"max_model_len": 1}, "options.max_model_len is unknown to openai; known: base_url"),
        ({"base_url": "http://h/v1", "retries": -1}, "retries a whole number from 0"),
        ({"base_url": "http://h/v1", "timeout": 0}, "timeout is a number of seconds above 0"),
    ],
)
def test_options_that_cannot_be_right_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(LoadError) as caught:
        endpoint_of("reader", options)
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "sk-1" not in str(caught.value)


def test_a_dead_url_and_an_unknown_model_are_named(chat: Chat) -> None:
    url = f"http://127.0.0.1:{free_port()}/v1"
    with pytest.raises(LoadError, match=r"cannot be reached .*check options.base_url"):
        OpenAIEngine(endpoint_of("reader", {"base_url": url}))
    with pytest.raises(
        LoadError, match=r"does not serve 'writer'; set options.model to one of: re"
    ):
        OpenAIEngine(endpoint_of("writer", {"base_url": chat.url}))


def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = Chat(CHAT_SERVER_KEY="sk-right")
    options = {"base_url": chat.url}
    try:
        with pytest.raises(LoadError, match="it wants a key: set OPENAI_API_KEY"):
            OpenAIEngine(endpoint_of("reader", options))
        monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong")
        with pytest.raises(LoadError, match="the key was refused: set OPENAI_API_KEY") as caught:
            OpenAIEngine(endpoint_of("reader", options))
        assert "sk-wrong" not in str(caught.value)
        monkeypatch.setenv("FLEET_KEY", "sk-right")
        engine = OpenAIEngine(endpoint_of("reader", {**options, "api_key_env": "FLEET_KEY"}))
        assert ask(engine, order()).text == "ok"
        engine.close()
        assert chat.seen()["keys"] == ["Bearer sk-right"]
        monkeypatch.setenv("FLEET_KEY", "sk-right\n")  # as secrets are often mounted
        OpenAIEngine(endpoint_of("reader", {**options, "api_key_env": "FLEET_KEY"})).close()
        for wrong in ("sk-\nright", "“sk-right”"):
            monkeypatch.setenv("OPENAI_API_KEY", wrong)
            with pytest.raises(LoadError, match="OPENAI_API_KEY holds characters") as caught:
                OpenAIEngine(endpoint_of("reader", options))
            assert "right" not in str(caught.value)
        with pytest.raises(LoadError, match=r"options\.api_key_env: NO_SUCH is not set or empty"):
            OpenAIEngine(endpoint_of("reader", {**options, "api_key_env": "NO_SUCH"}))
    finally:
        chat.stop()


def test_the_pipeline_reaches_an_endpoint_by_its_settings(chat: Chat) -> None:
    options = {"base_url": chat.url, "model": "reader"}
    model = Model(name="auto", id="org/reader", framework="openai", options=options)
    engine = engine_for(model)
    assert engine.submit(order()).result(SECONDS).text == "ok"
    engine.close()
    with pytest.raises(EngineError, match=r"options\.base_url"):
        engine_for(Model(name="auto", id="org/reader", framework="openai"))


def test_the_pipeline_reads_through_an_endpoint(chat: Chat, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    make_pdf(source / "a.pdf", 2)
    model = {
        "name": "auto",
        "id": "reader",
        "framework": "openai",
        "options": {"base_url": chat.url},
    }
    balance = run(source, tmp_path / "out", load_settings(write_config(tmp_path, model=model)))
    resident.release()
    assert balance.balanced
    rows = table(tmp_path / "out")
    assert [(r["status"], r["framework"], r["model_id"]) for r in rows] == [
        ("ok", "openai", "reader")
    ] * 2
    assert {r["mean_logprob"]["text"] for r in rows} == {(-0.25 - 0.5) / 2}
    assert {r["engine_weight_gb"] for r in rows} == {None}  # it lies elsewhere
    assert rows[0]["text"] != rows[1]["text"]
