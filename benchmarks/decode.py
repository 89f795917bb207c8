"""The transformers engine against a plain loop of `generate`. See `--help`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import click

from benchmarks import options
from benchmarks.common import emit, print_table
from benchmarks.pages import choose, draw

if TYPE_CHECKING:
    from PIL.Image import Image

    from pagemill.settings import Output, Settings

PER_DOCUMENT = 2
"""Pages taken of a document, so that few pages are of many kinds."""
Texts = list[tuple[str, int]]
"""What was said, and in how many tokens."""


@dataclass
class Lap:
    """One pass over the pages, one output each or all."""

    seconds: float
    cpu_seconds: float
    texts: Texts
    steps: list[float] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        return sum(count for _, count in self.texts)


@click.command()
@options.config
@options.documents
@click.option("--batch", "sizes", type=int, multiple=True, help="Pages read at once: 1, 4 and 8.")
@click.option("--pages", default=2, show_default=True, help="Batches a lap (at least 4 pages).")
@click.option("--tokens", default=1000, show_default=True, help="New tokens a page, at most.")
@click.option("--laps", default=2, show_default=True)
@click.option("--captions", is_flag=True, help="Ask for every output, not for the first alone.")
@options.append
def main(
    config: str,
    documents: Path | None,
    sizes: tuple[int, ...],
    pages: int,
    tokens: int,
    laps: int,
    captions: bool,
    append: bool,
) -> None:
    """The transformers engine beside the loop that a user would write: tokens/s, s a page.

    The reference is a loop over batches of so many pages: the processor, then `model.generate`,
    on the same checkpoint in the same precision with the same threads and pictures. Both are in
    this process, so both have its allocator settings; the sides take turns. The engine is given
    all pages at once, and keeps so many in hand. Pages: the digital English PDFs of
    ../shared/corpus, else samples/.

    A decoding step is timed from one call of the model to the next, where as many pages as the
    batch holds are being read and none is being begun. Where other work shares the machine, look
    at the CPU seconds.

    \b
      python benchmarks/decode.py
      python benchmarks/decode.py --batch 8 --captions  text and caption of each page

    Takes 6 minutes on 2 cores. Needs transformers.
    """
    from loaders.resident import resident
    from pagemill.config import load_settings

    settings = load_settings(config)
    engine: Any = resident(settings.model)
    model, processor = plain(settings)
    result: dict[str, Any] = {"threads": threads(), "tokens_at_most": tokens, "captions": captions}
    outputs = [
        output.model_copy(update={"max_new_tokens": min(output.max_new_tokens, tokens)})
        for output in list(settings.outputs.values())[: None if captions else 1]
    ]
    sizes = sizes or (1, 4, 8)
    images = list(islice(pictures(documents, settings), max(4, pages * max(sizes))))
    for size in sizes:
        some = images[: max(4, pages * size)]
        engine.capacity = size
        sides: dict[str, Callable[[], Lap]] = {
            "generate": partial(generate_lap, model, processor, some, outputs, size),
            "engine": partial(engine_lap, engine, some, outputs, size),
        }
        taken: dict[str, list[Lap]] = {name: [] for name in sides}
        for turn in range(laps):
            for name in sorted(sides, reverse=turn % 2 == 0):
                taken[name].append(sides[name]())
        result[f"batch_{size}"] = show(size, len(some), taken)
    emit("decode", result, append)


def threads() -> int:
    import torch

    return int(torch.get_num_threads())


def plain(settings: Settings) -> tuple[Any, Any]:
    """The same checkpoint, loaded as transformers' documentation says."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    where = settings.model.id
    device = settings.model.device
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    model = AutoModelForImageTextToText.from_pretrained(where, dtype=dtype, device_map=device)
    processor = AutoProcessor.from_pretrained(where)
    processor.tokenizer.padding_side = "left"
    return model.eval(), processor


def pictures(documents: Path | None, settings: Settings) -> Iterator[Image]:
    """The first pages of each document, as the pipeline shows them to the model."""
    for file in choose(documents):
        yield from draw(file, settings)[:PER_DOCUMENT]


def generate_lap(
    model: Any, processor: Any, images: list[Image], outputs: list[Output], size: int
) -> Lap:
    """Batch after batch, output after output."""
    texts: Texts = []
    began, spent = time.perf_counter(), time.process_time()
    with steps_of(model, size) as steps:
        for output in outputs:
            for first in range(0, len(images), size):
                texts += generate(model, processor, images[first : first + size], output)
    return Lap(time.perf_counter() - began, time.process_time() - spent, texts, steps)


def generate(model: Any, processor: Any, images: list[Image], output: Output) -> Texts:
    """One batch, as the documentation of transformers does it."""
    import torch

    prompt = {"type": "text", "text": output.prompt}
    turns = [
        [{"role": "user", "content": [{"type": "image", "image": image}, prompt]}]
        for image in images
    ]
    inputs = processor.apply_chat_template(
        turns,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True},
    ).to(model.device, dtype=model.dtype)
    with torch.inference_mode():
        ids = model.generate(**inputs, do_sample=False, max_new_tokens=output.max_new_tokens)
    said = ids[:, inputs["input_ids"].shape[1] :]
    whole = processor.batch_decode(said, skip_special_tokens=True)
    idle = set(processor.tokenizer.all_special_ids)
    counts = [sum(token not in idle for token in row) for row in said.tolist()]
    return list(zip(map(str.strip, whole), counts, strict=True))


def engine_lap(engine: Any, images: list[Image], outputs: list[Output], size: int) -> Lap:
    """All requests at once."""
    from loaders.engine import Request

    began, spent = time.perf_counter(), time.process_time()
    with steps_of(engine._model, size) as steps:
        futures = [
            [engine.submit(Request((image,), o.prompt, o.max_new_tokens)) for o in outputs]
            for image in images
        ]
        answers = [[future.result() for future in page] for page in futures]
    seconds, spent = time.perf_counter() - began, time.process_time() - spent
    by_output = [page[i] for i in range(len(outputs)) for page in answers]
    return Lap(seconds, spent, [(a.text, a.completion_tokens) for a in by_output], steps)


@contextmanager
def steps_of(model: Any, size: int) -> Iterator[list[float]]:
    """Seconds between two consecutive calls of the model with a token for each of `size` rows."""
    steps: list[float] = []
    last: list[float] = []

    def note(_: Any, __: Any, inputs: dict[str, Any], ___: Any) -> None:
        ids, now = inputs.get("input_ids"), time.perf_counter()
        full = ids is not None and tuple(ids.shape) == (size, 1)
        if full and last:
            steps.append(now - last[0])
        last[:] = [now] if full else []

    hook = model.register_forward_hook(note, with_kwargs=True)
    try:
        yield steps
    finally:
        hook.remove()


def show(size: int, pages: int, taken: dict[str, list[Lap]]) -> dict[str, Any]:
    rows: list[tuple[Any, ...]] = []
    result: dict[str, Any] = {"pages": pages}
    for name, laps in taken.items():
        seconds = median(lap.seconds for lap in laps)
        steps = [step for lap in laps for step in lap.steps]
        figures = {
            "seconds": round(seconds, 1),
            "cpu_seconds": round(median(lap.cpu_seconds for lap in laps), 1),
            "tokens": laps[0].tokens,
            "tokens_per_second": round(laps[0].tokens / seconds, 1),
            "seconds_per_page": round(seconds / pages, 2),
            "step_ms": round(1000 * median(steps), 2) if steps else None,
        }
        result[name] = figures
        rows.append((name, *figures.values()))
    first = {name: laps[0].texts for name, laps in taken.items()}
    same = sum(a[0] == b[0] for a, b in zip(*first.values(), strict=True))
    ratio = result["engine"]["tokens_per_second"] / result["generate"]["tokens_per_second"]
    print(f"\n{pages} pages, {size} at once; {same} of {len(first['engine'])} texts are equal")
    print_table(("side", "s", "CPU s", "tokens", "tokens/s", "s/page", "ms a step"), rows)
    cpu = result["generate"]["cpu_seconds"] / result["engine"]["cpu_seconds"]
    print(
        f"the engine does {ratio:.2f} times the tokens a second of the plain loop, "
        f"and {cpu:.2f} times those of a CPU second",
        flush=True,
    )
    ratios = {"engine_over_generate": round(ratio, 2), "for_each_cpu_second": round(cpu, 2)}
    return {**result, "equal_texts": same, **ratios}


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # for both; the loader sets it too
    main()
