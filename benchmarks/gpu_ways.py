"""What one would write without pagemill, on the pages of `gpu.py`. See `--help`."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchmarks.common import emit, print_table
from benchmarks.pages import MAX_PIXELS, TRAINED, write_documents, write_shapes

if TYPE_CHECKING:
    from PIL.Image import Image

WAYS = ("loop", "all", "transformers")
TEXT = "Transcribe the text of this page."
Page = tuple[str, Any]


@click.command()
@click.argument("ways", nargs=-1, required=True, type=click.Choice(WAYS))
@click.option("--model", default="7b", show_default=True, help="7b, trained, or a folder.")
@click.option("--device", default="cuda", show_default=True)
@click.option("--pages", default=256, show_default=True, help="For all.")
@click.option("--few", default=48, show_default=True, help="Pages for loop and transformers.")
@click.option("--tokens", default=400, show_default=True, help="Of an answer, at most.")
@click.option("--batch-size", default=128, show_default=True, help="Sequences of vLLM at once.")
@click.option("--options", type=json.loads, default="{}", help="JSON, for vLLM.")
@click.option("--documents", type=Path, help="A folder of PDFs; by default the corpus's digital.")
@click.option("--small", is_flag=True, help="Tiny pictures: only to see that it works.")
@click.option("--append", is_flag=True, help="Add the JSON lines to benchmarks/results.jsonl.")
def main(
    ways: tuple[str, ...],
    model: str,
    device: str,
    pages: int,
    few: int,
    tokens: int,
    batch_size: int,
    options: dict[str, Any],
    documents: Path | None,
    small: bool,
    append: bool,
) -> None:
    """Rates of the plain WAYS, on the same documents and with the same model as in gpu.py.

    \b
    loop          for every document: draw its pages, then LLM.generate
    all           draw the pages of all documents, then one LLM.generate
    transformers  draw them, then model.generate on batches of 16

    Pages are drawn by pypdfium2 in this process, to the same number of pixels; drawing counts.
    Loading the model does not. `loop` and `all` share one vllm.LLM with its own defaults but for
    the length (8192) and the number of sequences. Nothing is written, nothing is checked.
    """
    with tempfile.TemporaryDirectory(prefix="pagemill-ways-") as name:
        folder = Path(name)
        shapes = model == "7b"
        pixels = 50_176 if small else MAX_PIXELS if shapes else 1_003_520
        path = write_shapes(folder / "7b") if shapes else TRAINED
        path = path if model in ("7b", "trained") else Path(model)
        generate: dict[str, Callable[[list[Image]], int]] = {}
        if set(ways) - {"transformers"}:
            generate["llm"] = _llm(path, shapes, tokens, batch_size, options)
        if "transformers" in ways:
            generate["transformers"] = _transformers(path, shapes, tokens, device)
        for way in ways:
            number = pages if way == "all" else few
            source = write_documents(folder / f"{way}-{number}", number, documents)
            files = sorted(source.iterdir())
            said = generate["transformers" if way == "transformers" else "llm"]
            said(_draw(files[0], pixels)[:1])
            began = time.perf_counter()
            if way == "loop":
                drawing, count = 0.0, 0
                for file in files:
                    images, seconds = _timed(partial(_draw, file, pixels))
                    drawing += seconds
                    count += said(images)
            else:
                images, drawing = _timed(partial(_draw_all, files, pixels))
                count = said(images)
            _show(way, model, number, tokens, time.perf_counter() - began, drawing, count, append)


def _timed(function: Callable[[], list[Image]]) -> tuple[list[Image], float]:
    began = time.perf_counter()
    return function(), time.perf_counter() - began


def _draw(file: Path, pixels: int) -> list[Image]:
    import pypdfium2

    images = []
    pdf = pypdfium2.PdfDocument(file)
    for page in pdf:
        width, height = page.get_size()
        scale = min((pixels / (width * height)) ** 0.5, 200 / 72)
        images.append(page.render(scale=scale).to_pil().convert("RGB"))
    pdf.close()
    return images


def _draw_all(files: list[Path], pixels: int) -> list[Image]:
    return [image for file in files for image in _draw(file, pixels)]


def _prompt(path: Path) -> tuple[Any, str]:
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(path)
    content = [{"type": "image"}, {"type": "text", "text": TEXT}]
    message = [{"role": "user", "content": content}]
    return processor, processor.apply_chat_template(message, add_generation_prompt=True)


def _llm(
    path: Path, shapes: bool, tokens: int, batch_size: int, options: dict[str, Any]
) -> Callable[[list[Image]], int]:
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    from vllm import LLM, SamplingParams

    _, prompt = _prompt(path)
    form = "dummy" if shapes else "safetensors"
    arguments = {"max_model_len": 8192, "max_num_seqs": batch_size, "load_format": form} | options
    llm = LLM(str(path), **arguments)
    # As in gpu.py, random weights almost never end an answer at temperature 1.
    sampling = SamplingParams(temperature=1.0 if shapes else 0.0, max_tokens=tokens)

    def generate(images: list[Image]) -> int:
        prompts = [{"prompt": prompt, "multi_modal_data": {"image": image}} for image in images]
        done = llm.generate(prompts, sampling, use_tqdm=False)
        return sum(len(answer.outputs[0].token_ids) for answer in done)

    return generate


def _transformers(
    path: Path, shapes: bool, tokens: int, device: str, batch: int = 16
) -> Callable[[list[Image]], int]:
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    processor, prompt = _prompt(path)
    processor.tokenizer.padding_side = "left"
    with torch.device(device):
        make = AutoModelForImageTextToText
        if shapes:
            config = AutoConfig.from_pretrained(path)
            model = make.from_config(config, dtype=torch.bfloat16)
        else:
            model = make.from_pretrained(path, dtype=torch.bfloat16)
    model = model.to(device).eval()

    def generate(images: list[Image]) -> int:
        count = 0
        for first in range(0, len(images), batch):
            some = images[first : first + batch]
            inputs = processor(
                text=[prompt] * len(some), images=some, padding=True, return_tensors="pt"
            ).to(device)
            least = tokens if shapes else 0
            with torch.inference_mode():
                ids = model.generate(
                    **inputs, max_new_tokens=tokens, min_new_tokens=least, do_sample=False
                )
            count += int((ids[:, inputs["input_ids"].shape[1] :] != 4081).sum())
        return count

    return generate


def _show(
    way: str,
    model: str,
    pages: int,
    tokens: int,
    seconds: float,
    drawing: float,
    count: int,
    append: bool,
) -> None:
    print(f"\n{way}, {model}, answers of at most {tokens} tokens")
    print_table(
        ("pages", "s", "of which drawing", "pages/s", "output tokens/s"),
        [(pages, seconds, drawing, pages / seconds, count / seconds)],
    )
    result: dict[str, Sequence[Any] | Any] = {
        "model": model,
        "pages": pages,
        "tokens": tokens,
        "seconds": round(seconds, 2),
        "drawing_seconds": round(drawing, 2),
        "pages_per_second": round(pages / seconds, 3),
        "output_tokens": count,
    }
    emit(f"gpu/ways/{way}", result, append)


def _leave(code: object) -> None:
    """End at once: vllm.LLM has been seen to wait for its engine process when Python ends."""
    sys.stdout.flush()
    sys.stderr.flush()
    for process in multiprocessing.active_children():
        process.kill()
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    try:
        main()
    except SystemExit as end:
        _leave(end.code)
    except BaseException:
        traceback.print_exc()
        _leave(1)
