"""Any endpoint that speaks OpenAI's chat protocol: vLLM's, SGLang's or a hosted one.

    model: {framework: openai, id: Qwen/Qwen2.5-VL-7B-Instruct, batch_size: 64,
            options: {base_url: "http://gpu-fleet:8000/v1"}}

The endpoint batches; here at most `batch_size` requests are open at once. Pages travel as PNG:
lossless, so that an endpoint sees the pixels that an engine in this process would see. (Measured
on a page of 994×1288: 19 ms and 0.16 MB, with a scan's noise 111 ms and 2.5 MB; JPEG q95 takes
4 to 7 ms and 0.6 to 1 MB, and its artefacts could change what is read.)

A failing endpoint is an `EngineError`, never a row; what concerns one request alone (a page too
long, say) fails that request.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import httpx

from loaders.endpoint import Endpoint
from loaders.engine import FinishReason, Request, RequestError
from loaders.errors import LoadError, one_line
from loaders.loops import CHECK_EVERY, EXACT, EXACT_AT_CAP, find_loop_in_text
from loaders.pictures import data_url
from loaders.streaming import Draft, StreamingEngine
from pagemill.errors import EngineError, ErrorKind

FIRST_WAIT = 0.5
LONGEST_WAIT = 30.0
"""Seconds before the first and, doubled each time, at most before a later try."""
ITS_OWN_FAULT = (400, 413, 415, 422)
"""What an endpoint answers to a request that it will never take."""
TRY_AGAIN = (408, 409, 425, 429, 500, 502, 503, 504, 529)
LOOPBACK = ("127.0.0.1", "::1", "localhost")
NO_CHAT = "the endpoint's answer is no answer of a chat"
CONTEXT_WORDS = ("context length", "maximum model length", "too long", "max_model_len")


MOST_BYTES = 16 << 20
"""Of an answer, or of an event of one that is streamed; a page with log-probabilities has one."""


class _TryAgain(Exception):
    """The endpoint may answer the same request later.

    Attributes
    ----------
    may_be_the_page : bool
        If others are answered meanwhile, this request alone is at fault.
    wait : float
        Seconds that the endpoint asks for, or 0.
    """

    def __init__(
        self,
        message: str,
        wait: float = 0,
        may_be_the_page: bool = False,
        kind: ErrorKind = ErrorKind.MODEL_FAILED,
    ) -> None:
        super().__init__(message)
        self.wait = wait
        self.may_be_the_page = may_be_the_page
        self.kind = kind


class OpenAIEngine(StreamingEngine):
    """An `Engine` on an endpoint.

    Parameters
    ----------
    endpoint : Endpoint
    batch_size : int
        Requests open at once, at most.
    version : str, optional
        By default what the endpoint says of itself.

    Raises
    ------
    LoadError
        The endpoint cannot be reached, refuses the key or does not serve the model.
    """

    def __init__(self, endpoint: Endpoint, batch_size: int = 8, version: str = "") -> None:
        self._endpoint = endpoint
        self._client = _client(endpoint, batch_size)
        self._answers = 0
        super().__init__(batch_size, in_flight=batch_size)
        try:
            served = self._on_loop(self._look())
        except BaseException:
            self.close()
            raise
        self.version = version or served

    async def _look(self) -> str:
        """Is it there, does it take the key, does it serve the model? What it is."""
        endpoint, where = self._endpoint, f"{self._endpoint.base_url}/models"
        try:
            response = await self._client.get("/models", timeout=15)
        except httpx.HTTPError as error:
            raise LoadError(
                f"{endpoint.base_url} cannot be reached ({_name(error)}); check options.base_url "
                "and that the server runs"
            ) from error
        if response.status_code in (401, 403):
            raise LoadError(f"{where}: {_refused_key(endpoint)}")
        if response.status_code >= 500:
            raise LoadError(f"{where}: status {response.status_code}; is the server starting?")
        try:
            models = {each["id"]: each for each in response.json()["data"]}
        except (ValueError, KeyError, TypeError):
            return "openai"  # some endpoints list nothing
        if endpoint.model not in models:
            raise LoadError(
                f"{endpoint.base_url} does not serve {endpoint.model!r}; set options.model to "
                f"one of: {', '.join(sorted(models)[:10])}"
            )
        owner = models[endpoint.model].get("owned_by")
        return f"openai ({owner})" if owner else "openai"

    async def _free(self) -> None:
        await self._client.aclose()

    async def _answer(self, request: Request, draft: Draft) -> FinishReason:
        body = await asyncio.to_thread(_body, self._endpoint, request)
        answers, tries = self._answers, 0
        while True:
            try:
                async with asyncio.timeout(self._endpoint.timeout):
                    reason = await self._try(body, draft)
                self._answers += 1
                return reason
            except (httpx.HTTPError, TimeoutError, ValueError, _TryAgain) as error:
                # Without its traceback, which holds the page and, through this frame, itself.
                failure = _as_try_again(error, self._endpoint).with_traceback(None)
            tries += 1
            if tries > self._endpoint.retries:
                raise self._given_up(failure, others=self._answers > answers)
            draft.start_again()
            await asyncio.sleep(_wait(tries, failure.wait))

    def _given_up(self, failure: _TryAgain, others: bool) -> Exception:
        message = f"{failure} ({self._endpoint.retries + 1} tries)"
        if failure.may_be_the_page and others:
            return RequestError(failure.kind, message)
        return EngineError(message)

    async def _try(self, body: bytes, draft: Draft) -> FinishReason:
        headers = {"Content-Type": "application/json"}
        async with self._client.stream(
            "POST", "/chat/completions", content=body, headers=headers
        ) as response:
            if response.status_code != 200:
                raise _refusal(response, await _whole(response), self._endpoint)
            form = response.headers.get("Content-Type", "")
            try:
                # Some cannot stream, or do not where something has gone wrong.
                if self._endpoint.stream and not form.startswith("application/json"):
                    return await _read_stream(_events(response), draft)
                return _read_whole(_object(await _whole(response)), draft)
            except (AttributeError, KeyError, TypeError) as error:
                raise _TryAgain(NO_CHAT) from error


def _client(endpoint: Endpoint, batch_size: int) -> httpx.AsyncClient:
    key = endpoint.key()
    host = urlsplit(endpoint.base_url).hostname
    try:
        return httpx.AsyncClient(
            trust_env=host not in LOOPBACK,  # no proxy to this host, whatever the environment says
            base_url=endpoint.base_url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(endpoint.timeout, connect=15),
            limits=httpx.Limits(max_connections=batch_size + 1),
        )
    except OSError as error:
        raise LoadError(
            f"{endpoint.base_url}: the certificates to know it by cannot be read ({_name(error)}); "
            "correct SSL_CERT_FILE or SSL_CERT_DIR in the environment"
        ) from error
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        raise LoadError(
            f"{endpoint.base_url}: the environment's proxy cannot be used ({_name(error)}); "
            "correct ALL_PROXY, HTTP_PROXY or HTTPS_PROXY, or set NO_PROXY"
        ) from error


def _body(endpoint: Endpoint, request: Request) -> bytes:
    images = [
        {"type": "image_url", "image_url": {"url": data_url(image)}} for image in request.images
    ]
    body: dict[str, Any] = {
        "model": endpoint.model,
        "messages": [
            {"role": "user", "content": [*images, {"type": "text", "text": request.prompt}]}
        ],
        # Deprecated by OpenAI itself, but the one name that every endpoint takes.
        "max_tokens": request.max_new_tokens,
        "temperature": request.temperature,
        "stream": endpoint.stream,
    }
    if endpoint.stream:
        body["stream_options"] = {"include_usage": True}
    if request.logprobs:
        body["logprobs"] = True
    return json.dumps(body).encode()


async def _events(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    async for line in _lines(response):
        data = line.removeprefix(b"data:").strip()
        if line.startswith(b"data:") and data != b"[DONE]":
            yield _object(data)


async def _lines(response: httpx.Response) -> AsyncIterator[bytes]:
    """Lines of an answer. httpx's own end at U+2028 and U+0085 too, which a page may hold."""
    rest = b""
    async for some in response.aiter_bytes():
        *lines, rest = (rest + some).split(b"\n")
        for line in lines:
            yield line
        _bound(rest)
    yield rest


async def _whole(response: httpx.Response) -> bytes:
    said = bytearray()
    async for some in response.aiter_bytes():
        said += some
        _bound(said)
    return bytes(said)


def _bound(said: bytes | bytearray) -> None:
    if len(said) > MOST_BYTES:
        message = f"an answer of the endpoint is longer than {MOST_BYTES >> 20} MB"
        raise _TryAgain(message, may_be_the_page=True)


def _object(data: str | bytes) -> dict[str, Any]:
    said = json.loads(data)
    if not isinstance(said, dict):
        raise _TryAgain(NO_CHAT)
    return said


async def _read_stream(events: AsyncIterator[dict[str, Any]], draft: Draft) -> FinishReason:
    """Read until the end, or until a loop: leaving closes the connection, and that aborts it."""
    finish: str | None = None
    said = 0
    async for event in events:
        _refuse_error(event)
        for choice in event.get("choices") or ():
            _listen(choice, (choice.get("delta") or {}).get("content") or "", draft)
            finish = choice.get("finish_reason") or finish
            said += 1  # a delta is about a token
        draft.completion_tokens = max(draft.completion_tokens, said - 1)
        _count(event, draft)  # the endpoint's own count stands
        if finish is None and said % CHECK_EVERY == 0 and _cut_loop(draft, EXACT):
            return "loop"
    return _ended(finish, draft)


def _read_whole(answer: dict[str, Any], draft: Draft) -> FinishReason:
    _refuse_error(answer)
    (choice, *_) = answer.get("choices") or [{}]
    _count(answer, draft)
    _listen(choice, (choice.get("message") or {}).get("content") or "", draft)
    return _ended(choice.get("finish_reason"), draft)


def _listen(choice: dict[str, Any], text: str, draft: Draft) -> None:
    draft.text += text
    for token in (choice.get("logprobs") or {}).get("content") or ():
        known = token["logprob"] is not None
        draft.logprobs.append(float(token["logprob"]) if known else math.nan)


def _count(event: dict[str, Any], draft: Draft) -> None:
    usage = event.get("usage") or {}
    draft.prompt_tokens = usage.get("prompt_tokens") or draft.prompt_tokens
    draft.completion_tokens = usage.get("completion_tokens") or draft.completion_tokens


def _ended(finish: str | None, draft: Draft) -> FinishReason:
    if finish is None or finish.startswith("abort"):
        raise _TryAgain("the endpoint broke off in the middle of an answer")
    if finish == "content_filter":
        raise RequestError(ErrorKind.MODEL_FAILED, "the endpoint's content filter stopped it")
    if finish != "length":
        return "stop"
    return "loop" if _cut_loop(draft, EXACT_AT_CAP) else "length"


def _cut_loop(draft: Draft, exact: int) -> bool:
    keep = find_loop_in_text(draft.text, exact)
    if keep is not None:
        draft.text = draft.text[:keep]
    return keep is not None


def _refusal(response: httpx.Response, content: bytes, endpoint: Endpoint) -> Exception:
    """What a status other than 200 means."""
    status, said = response.status_code, _message(content)
    if status in ITS_OWN_FAULT:
        if "logprobs" in said:
            return EngineError(
                f"{endpoint.base_url} does not say how sure it is ({status}: {said}): set "
                "model.confidence: false"
            )
        if any(words in said for words in CONTEXT_WORDS):
            said += ": lower render.max_pixels or max_new_tokens"
        return RequestError(ErrorKind.MODEL_FAILED, f"the endpoint refused it ({status}): {said}")
    if status in (401, 403):
        return EngineError(f"{endpoint.base_url}: {_refused_key(endpoint)}")
    if status in TRY_AGAIN:
        wait = _seconds(response.headers.get("Retry-After", ""))
        # An endpoint that is up says 500 to what its own code stumbles over.
        return _TryAgain(
            f"{endpoint.base_url}: status {status}: {said}", wait, may_be_the_page=status == 500
        )
    return EngineError(f"{endpoint.base_url}: status {status}: {said}; check options.base_url")


def _refuse_error(answer: dict[str, Any]) -> None:
    """Raise what an answer with status 200 says has gone wrong; some say null where nothing has."""
    error = answer.get("error")
    if not error:
        return
    said = one_line(ValueError(error.get("message", error) if isinstance(error, dict) else error))
    if isinstance(error, dict) and error.get("code") in ITS_OWN_FAULT:
        raise RequestError(ErrorKind.MODEL_FAILED, f"the endpoint refused it: {said}")
    raise _TryAgain(f"the endpoint broke off an answer: {said}", may_be_the_page=True)


def _message(content: bytes) -> str:
    """The reason in an error's body, on one line."""
    try:
        body = json.loads(content)
        error = body.get("error", body)
        said = error.get("message", error) if isinstance(error, dict) else error
    except (ValueError, AttributeError):
        said = content[:300].decode(errors="replace")
    return one_line(ValueError(said))


def _as_try_again(error: Exception, endpoint: Endpoint) -> _TryAgain:
    if isinstance(error, _TryAgain):
        return error
    if isinstance(error, (TimeoutError, httpx.TimeoutException)):
        return _TryAgain(
            f"{endpoint.base_url}: no answer within {endpoint.timeout:g} s",
            may_be_the_page=True,
            kind=ErrorKind.TIME_OUT,
        )
    return _TryAgain(f"{endpoint.base_url}: {_name(error)}")


def _refused_key(endpoint: Endpoint) -> str:
    state = "the key was refused" if os.environ.get(endpoint.api_key_env) else "it wants a key"
    return f"{state}: set {endpoint.api_key_env} in the environment"


def _name(error: BaseException) -> str:
    return f"{type(error).__name__}: {one_line(error, 160)}"


def _seconds(header: str) -> float:
    """Retry-After in seconds; its other form, a date, is rare and ignored."""
    return min(float(header), LONGEST_WAIT) if header.isdigit() else 0.0


def _wait(tries: int, asked: float) -> float:
    """Twice as long each time, and by chance, so that many clients do not come back together."""
    return max(asked, min(FIRST_WAIT * 2.0**tries / 2, LONGEST_WAIT) * random.uniform(0.5, 1.0))
