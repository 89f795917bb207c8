"""The engine seam: what the pipeline uses of a loaded model, and nothing else.

    future = engine.submit(Request((image,), "Transcribe the text of this page."))
    future.result().text

An engine is thread-safe, batches what is submitted to it as it sees fit, and is made by a
`VLMLoader`. Frameworks implement this Protocol, each in one file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from pagemill.errors import ErrorKind

if TYPE_CHECKING:
    from PIL.Image import Image

FinishReason = Literal["stop", "length", "loop", "aborted"]


@dataclass(frozen=True)
class Request:
    """One question about zero or more images.

    Attributes
    ----------
    images : tuple of PIL.Image.Image
    prompt : str
        Plain text; the engine lays the model's chat template around it.
    max_new_tokens : int
    temperature : float
        0 is greedy decoding.
    key : str
        A name to abort by; several requests may share one.
    logprobs : bool
        Ask how sure the model was: fills `mean_logprob` and `min_logprob` of the completion.
    """

    images: tuple[Image, ...]
    prompt: str
    max_new_tokens: int = 512
    temperature: float = 0.0
    key: str = ""
    logprobs: bool = False


@dataclass(frozen=True)
class Completion:
    """An engine's answer.

    Attributes
    ----------
    text : str
    prompt_tokens, completion_tokens : int
        Image tokens count as prompt tokens.
    finish_reason : str
        ``stop`` (the model ended it), ``length`` (the token cap did), ``loop`` (stopped because
        it repeated itself; `text` ends where the repeating began) or ``aborted``.
    seconds : float
        This request's share of the engine's working time.
    mean_logprob, min_logprob : float, optional
        Mean and least natural logarithm of the probabilities that the model gave to what it said
        (before temperature), where the request asked for them.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: FinishReason
    seconds: float
    mean_logprob: float | None = None
    min_logprob: float | None = None


def confidence(logprobs: Sequence[float]) -> dict[str, float | None]:
    """The completion's fields about how sure the model was, from each token's log-probability."""
    known = [value for value in logprobs if math.isfinite(value)]
    return {
        "mean_logprob": sum(known) / len(known) if known else None,
        "min_logprob": min(known, default=None),
    }


class RequestError(Exception):
    """This request alone failed; the engine goes on. Set on the request's future.

    A failure of the engine itself is `pagemill.errors.EngineError`, set on every future.
    """

    def __init__(self, kind: ErrorKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Engine(Protocol):
    """A loaded model that answers requests.

    Attributes
    ----------
    capacity : int
        Requests that it reads at once. Keep about twice as many submitted, and it never waits.
    version : str
        Of the framework, such as ``transformers 5.23.0``.
    busy_seconds : float
        Time spent working since it was loaded.
    weight_bytes : int
        Bytes that the loaded weights take; 0 where they are elsewhere.
    load_seconds : float
        Time that loading took; written by whoever loads it.
    """

    capacity: int
    version: str
    weight_bytes: int
    load_seconds: float

    @property
    def busy_seconds(self) -> float: ...

    @property
    def alive(self) -> bool:
        """Whether it takes requests: not once it is closed or broken."""
        ...

    def submit(self, request: Request) -> Future[Completion]:
        """Queue a request. Raises `EngineError` once the engine is closed or broken."""
        ...

    def abort(self, key: str) -> None:
        """End the requests of this key, queued or running, with finish_reason ``aborted``."""
        ...

    def close(self) -> None:
        """Stop, end what is queued with `EngineError`, free the memory. Twice is fine."""
        ...
