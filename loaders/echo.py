"""A stand-in engine for tests and benchmarks: no model, the same answer for the same image."""

from __future__ import annotations

import hashlib
import random
import time
from dataclasses import dataclass

from loaders.batching import BatchingEngine, Job
from loaders.engine import Completion, FinishReason, Request, confidence
from pagemill.errors import ErrorKind

WORDS = ("page", "mill", "grain", "stone", "water", "wheel", "flour", "sack", "ledger", "ink")


@dataclass(frozen=True)
class EchoOptions:
    """How it behaves.

    Attributes
    ----------
    delay : float
        Seconds that a batch takes, 0 by default.
    tokens : int
        Words of an answer, 40 by default.
    fail_rate, loop_rate : float
        Shares of requests that fail (``model_failed``) or end in a loop. Which ones is decided
        by a hash of image, prompt and temperature, so that a hotter try may succeed.
    """

    delay: float = 0.0
    tokens: int = 40
    fail_rate: float = 0.0
    loop_rate: float = 0.0


class EchoEngine(BatchingEngine):
    """An `Engine` that answers with words drawn from the images' hash."""

    def __init__(self, options: EchoOptions | None = None, batch_size: int = 8) -> None:
        self.options = options or EchoOptions()
        super().__init__(batch_size, "echo 1")

    def _answer(self, jobs: list[Job]) -> None:
        began = time.perf_counter()
        self._dawdle(jobs)
        share = (time.perf_counter() - began) / len(jobs)
        for job in jobs:
            if _chance(job.request, "fail") < self.options.fail_rate:
                job.fail(ErrorKind.MODEL_FAILED, "the echo engine was told to fail")
            else:
                self._finish(job, self._complete(job, share))

    def _dawdle(self, jobs: list[Job]) -> None:
        """Take `delay` seconds, or less when nobody waits any more."""
        until = time.monotonic() + self.options.delay
        while (left := until - time.monotonic()) > 0 and not all(job.ending for job in jobs):
            time.sleep(min(left, 0.005))

    def _complete(self, job: Job, seconds: float) -> Completion:
        digest = _digest(job.request)
        words = [f"echo-{digest.hex()[:12]}"]
        words += random.Random(digest).choices(WORDS, k=max(0, self.options.tokens - 1))
        said = words[: job.request.max_new_tokens]
        reason: FinishReason = "stop" if len(said) == len(words) else "length"
        if _chance(job.request, "loop") < self.options.loop_rate:
            said, reason = said[: max(1, len(said) // 2)], "loop"
        if job.aborted:
            said, reason = [], "aborted"
        sure = confidence([-0.125] * len(said) if job.request.logprobs else [])
        return Completion(" ".join(said), 100, len(said), reason, seconds, **sure)


def _digest(request: Request) -> bytes:
    digest = hashlib.sha256()
    for image in request.images:
        digest.update(f"{image.mode}{image.size}".encode())
        digest.update(image.tobytes())
    return digest.digest()


def _chance(request: Request, of: str) -> float:
    """A number in [0, 1) that depends on the request alone."""
    what = f"{of}|{request.prompt}|{request.temperature}".encode()
    return int.from_bytes(hashlib.sha256(_digest(request) + what).digest()[:6]) / 2**48
