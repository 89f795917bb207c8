"""Whether the engine is kept full while pages take random times. See `--help`."""

from __future__ import annotations

import asyncio
import hashlib
import math
import random
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import click

from benchmarks import options
from benchmarks.common import ECHO, emit, make_pdf, make_pdfs, print_table, run_plainly
from loaders.engine import FinishReason, Request
from loaders.streaming import Draft, StreamingEngine

TOKENS, SPREAD, MOST = 350, 0.6, 3500
"""Median of a page's tokens, standard deviation of their logarithm, tokens of one page in 50."""


class Reader(StreamingEngine):
    """Says nothing, but takes its time for it.

    Parameters
    ----------
    capacity : int
    tokens_per_second : float
        Of each request.
    """

    version = "random times"

    def __init__(self, capacity: int, tokens_per_second: float) -> None:
        self._rate = tokens_per_second
        self._running = asyncio.Semaphore(capacity)
        super().__init__(capacity, in_flight=2 * capacity)

    async def _answer(self, request: Request, draft: Draft) -> FinishReason:
        async with self._running:
            tokens = tokens_of(request)
            await asyncio.sleep(tokens / self._rate)
        draft.text, draft.prompt_tokens, draft.completion_tokens = "nothing", 1300, tokens
        return "stop"


def tokens_of(request: Request) -> int:
    """Of the answer, always the same for the same picture."""
    digest = hashlib.sha256(request.prompt.encode())
    for image in request.images:
        digest.update(image.tobytes())
    choose = random.Random(digest.digest())
    long = choose.random() < 1 / 50
    return MOST if long else min(MOST, round(choose.lognormvariate(math.log(TOKENS), SPREAD)))


@click.command()
@click.option("--pages", default=600, show_default=True, help="Of each lap.")
@click.option("--capacity", default=32, show_default=True, help="Requests side by side.")
@click.option("--rate", default=300.0, show_default=True, help="Tokens/s of each request.")
@click.option(
    "--shards", default=2, show_default=True, help="Drawn at once: work.shards_in_flight."
)
@options.append
def main(pages: int, capacity: int, rate: float, shards: int, append: bool) -> None:
    """How much of the time the engine was not full while there was work.

    The engine is a stand-in that reads --capacity requests side by side, as vLLM does, and takes
    for each a time drawn from its picture's hash: most pages have some hundred tokens, one in
    fifty has 3,500. Everything else is the real pipeline without Prefect, over one long document
    and over many of one page.

    \b
      python benchmarks/feeding.py

    Takes 2 minutes on 2 cores. Needs reportlab.
    """
    with tempfile.TemporaryDirectory(prefix="feeding-") as name:
        folder = Path(name)
        (folder / "long").mkdir()
        make_pdf(folder / "long" / "long.pdf", pages, seed=1)
        make_pdfs(folder / "short", pages, 1, seed=2)
        laps = {shape: lap(folder, shape, capacity, rate, shards) for shape in ("long", "short")}
    print(f"\n{pages} pages; the engine reads {capacity} at once")
    header = ("documents", "s", "pages/s", "output tokens/s", "of the most", "idle", "not full")
    print_table(header, [(shape, *facts.values()) for shape, facts in laps.items()])
    emit("feeding", {"pages": pages, "capacity": capacity, "rate": rate, **laps}, append)


def lap(folder: Path, shape: str, capacity: int, rate: float, shards: int) -> dict[str, Any]:
    """One run over a folder, and what its balance sheet says."""
    overrides = {
        "model.batch_size": capacity,
        "outputs": {"text": {"prompt": "Read.", "max_new_tokens": 4000}},
        "render.max_pixels": 100_352,
        "render.text_layer": "never",
        "work.shards_in_flight": shards,
    }
    engine = Reader(capacity, rate)
    with mock.patch("tasks.warm_engine.resident", lambda *_: engine):
        balance = run_plainly(str(folder / shape), str(folder / f"out-{shape}"), ECHO, overrides)
    engine.close()
    cost = balance.cost
    per_second = cost["completion_tokens"] / balance.seconds
    return {
        "seconds": round(balance.seconds, 1),
        "pages_per_second": cost["pages_per_second"],
        "tokens_per_second": round(per_second),
        "of_the_most": round(per_second / (capacity * rate), 3),
        "idle_share": cost["engine_idle_share"],
        "hungry_share": cost["engine_hungry_share"],
    }


if __name__ == "__main__":
    main()
