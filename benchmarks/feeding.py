"""Whether the engine is kept full while pages take random times. See `--help`."""

from __future__ import annotations

import asyncio
import hashlib
import math
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import click

from benchmarks import options
from benchmarks.common import ECHO, emit, make_pdf, make_pdfs, print_table, run_plainly
from loaders.engine import FinishReason, Request
from loaders.streaming import Draft, StreamingEngine
from tasks.hand import LocalHand, MakeHand
from tasks.job import Job
from tasks.render import render
from tasks.worker import Worker

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
@click.option("--workers", default=1, show_default=True, help="With an engine each.")
@click.option("--draw", default=0.0, show_default=True, help="Seconds more to draw a page.")
@click.option("--cores", default=2, show_default=True, help="As if the machine had so many.")
@options.append
def main(append: bool, **asked: Any) -> None:
    """How much of the time the engine was not full while there was work.

    The engine is a stand-in that reads --capacity requests side by side, as vLLM does, and takes
    for each a time drawn from its picture's hash: most pages have some hundred tokens, one in
    fifty has 3,500. Everything else is the real pipeline without Prefect, over one long document
    and over many of one page. With --draw every page takes so much longer to draw without taking
    a core for it: pages that are hard to draw, on a machine with --cores.

    \b
      python benchmarks/feeding.py
      python benchmarks/feeding.py --workers 2 --capacity 16      two engines, both kept full
      python benchmarks/feeding.py --draw 0.2 --cores 16          pages that are slow to draw

    Takes 2 minutes on 2 cores. Needs reportlab.
    """
    with tempfile.TemporaryDirectory(prefix="feeding-") as name:
        folder, pages = Path(name), asked["pages"]
        (folder / "long").mkdir()
        make_pdf(folder / "long" / "long.pdf", pages, seed=1)
        make_pdfs(folder / "short", pages, 1, seed=2)
        laps = {shape: lap(folder, shape, **asked) for shape in ("long", "short")}
    print(f"\n{pages} pages; {asked['workers']} engines read {asked['capacity']} at once each")
    header = ("documents", "s", "pages/s", "output tokens/s", "of the most", "idle", "not full")
    print_table(header, [(shape, *facts.values()) for shape, facts in laps.items()])
    emit("feeding", {**asked, **laps}, append)


def lap(
    folder: Path,
    shape: str,
    pages: int,
    capacity: int,
    rate: float,
    shards: int,
    workers: int,
    draw: float,
    cores: int,
) -> dict[str, Any]:
    """One run over a folder, and what its balance sheet says."""
    overrides = {
        "model.batch_size": capacity,
        "outputs": {"text": {"prompt": "Read.", "max_new_tokens": 4000}},
        "render.max_pixels": 100_352,
        "render.text_layer": "never",
        "work.shards_in_flight": shards,
        # With several workers, some ten shards for each: the last of one page of many is not long.
        "work.shard_documents": 64 if workers == 1 else max(1, pages // (10 * workers)),
    }

    def slowly(*how: Any, **asked: Any) -> Iterator[Any]:
        for page in render(*how, **asked):
            time.sleep(draw)
            yield page

    def hands(job: Job, *_: object) -> Sequence[MakeHand]:
        return [partial(LocalHand, Worker(job, f"worker {n + 1}")) for n in range(workers)]

    engines: list[Reader] = []

    def engine(*_: object) -> Reader:
        engines.append(Reader(capacity, rate))
        return engines[-1]

    with ExitStack() as stack:
        stack.enter_context(mock.patch("tasks.warm_engine.resident", engine))
        stack.enter_context(mock.patch("tasks.process.render", slowly))
        stack.enter_context(mock.patch("tasks.crew._makers", hands))
        stack.enter_context(mock.patch("os.sched_getaffinity", lambda _: range(cores)))
        balance = run_plainly(str(folder / shape), str(folder / f"out-{shape}"), ECHO, overrides)
    for each in engines:
        each.close()
    cost = balance.cost
    per_second = cost["completion_tokens"] / balance.seconds
    return {
        "seconds": round(balance.seconds, 1),
        "pages_per_second": cost["pages_per_second"],
        "tokens_per_second": round(per_second),
        "of_the_most": round(per_second / (workers * capacity * rate), 3),
        "idle_share": cost["engine_idle_share"],
        "hungry_share": cost["engine_hungry_share"],
    }


if __name__ == "__main__":
    main()
