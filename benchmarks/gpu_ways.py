"""What one would write without pagemill, on the pages of `gpu.py`. See `--help`."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchmarks import options
from benchmarks.common import emit, print_table
from benchmarks.pages import TEXT, Reader, write_documents

if TYPE_CHECKING:
    from PIL.Image import Image

WAYS = ("loop", "all", "transformers")
Generate = Callable[["list[Image]"], int]
"""Reads these pages; how many tokens it has written."""


@click.command()
@click.argument("ways", nargs=-1, required=True, type=click.Choice(WAYS))
@options.reader
@click.option("--pages", default=256, show_default=True, help="For all.")
@click.option("--few", default=48, show_default=True, help="Pages for loop and transformers.")
@click.option("--options", "vllm_options", default="{}", help="JSON, for vLLM.")
@options.append
def main(
    ways: tuple[str, ...], pages: int, few: int, vllm_options: str, append: bool, **asked: Any
) -> None:
    """Rates of the plain WAYS, on the same documents and with the same model as in gpu.py.

    \b
    loop          for every document: draw its pages, then LLM.generate
    all           draw the pages of all documents, then one LLM.generate
    transformers  draw them, then model.generate on batches of 16

    Pages are drawn by pypdfium2 in this process, to the same number of pixels; drawing counts.
    Loading the model does not. `loop` and `all` share one vllm.LLM with its own defaults but for
    the length (8192) and the number of sequences. Nothing is written, nothing is checked.

    \b
      python benchmarks/gpu_ways.py loop all transformers

    Takes 6 minutes on an H200. Needs a GPU with 24 GB, and vLLM for loop and all.
    """
    reader = Reader(**asked)
    with tempfile.TemporaryDirectory(prefix="pagemill-ways-") as name:
        folder = Path(name)
        checkpoint = reader.checkpoint(folder)
        generate: dict[str, Generate] = {}
        if set(ways) - {"transformers"}:
            generate["loop"] = generate["all"] = _llm(checkpoint, reader, json.loads(vllm_options))
        if "transformers" in ways:
            generate["transformers"] = _transformers(checkpoint, reader)
        for way in ways:
            number = pages if way == "all" else few
            source = write_documents(folder / f"{way}-{number}", number, reader.documents)
            files = sorted(source.iterdir())
            generate[way](_draw(files[0], reader.max_pixels)[:1])  # warms up
            rounds = [[file] for file in files] if way == "loop" else [files]
            _show(way, reader, _read(rounds, reader.max_pixels, generate[way]), append)


def _read(rounds: list[list[Path]], pixels: int, generate: Generate) -> dict[str, float]:
    """Draw and read the files of each round, one round after the other."""
    began, drawing, pages, tokens = time.perf_counter(), 0.0, 0, 0
    for files in rounds:
        before = time.perf_counter()
        images = [image for file in files for image in _draw(file, pixels)]
        drawing += time.perf_counter() - before
        pages += len(images)
        tokens += generate(images)
    seconds = time.perf_counter() - began
    return {
        "pages": pages,
        "seconds": round(seconds, 2),
        "drawing_seconds": round(drawing, 2),
        "pages_per_second": round(pages / seconds, 3),
        "output_tokens": tokens,
    }


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


def _prompt(path: Path) -> tuple[Any, str]:
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(path)
    content = [{"type": "image"}, {"type": "text", "text": TEXT}]
    message = [{"role": "user", "content": content}]
    return processor, processor.apply_chat_template(message, add_generation_prompt=True)


def _llm(path: Path, reader: Reader, more: dict[str, Any]) -> Generate:
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    from vllm import LLM, SamplingParams

    _, prompt = _prompt(path)
    form = "dummy" if reader.shapes else "safetensors"
    sizes = {"max_model_len": 8192, "max_num_seqs": reader.batch_size}
    llm = LLM(str(path), **{**sizes, "load_format": form, **more})
    sampling = SamplingParams(temperature=reader.temperature, max_tokens=reader.tokens)

    def generate(images: list[Image]) -> int:
        prompts = [{"prompt": prompt, "multi_modal_data": {"image": image}} for image in images]
        done = llm.generate(prompts, sampling, use_tqdm=False)
        return sum(len(answer.outputs[0].token_ids) for answer in done)

    return generate


def _transformers(path: Path, reader: Reader, batch: int = 16) -> Generate:
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    processor, prompt = _prompt(path)
    processor.tokenizer.padding_side = "left"
    with torch.device(reader.device):
        make = AutoModelForImageTextToText
        if reader.shapes:
            config = AutoConfig.from_pretrained(path)
            model = make.from_config(config, dtype=torch.bfloat16)
        else:
            model = make.from_pretrained(path, dtype=torch.bfloat16)
    model = model.to(reader.device).eval()

    def generate(images: list[Image]) -> int:
        count = 0
        for first in range(0, len(images), batch):
            some = images[first : first + batch]
            inputs = processor(
                text=[prompt] * len(some), images=some, padding=True, return_tensors="pt"
            ).to(reader.device)
            most, least = reader.tokens, reader.tokens if reader.shapes else 0
            with torch.inference_mode():
                ids = model.generate(
                    **inputs, max_new_tokens=most, min_new_tokens=least, do_sample=False
                )
            said = ids[:, inputs["input_ids"].shape[1] :]
            count += int((said != processor.tokenizer.pad_token_id).sum())
        return count

    return generate


def _show(way: str, reader: Reader, lap: dict[str, float], append: bool) -> None:
    print(f"\n{way}, {reader.model}, answers of at most {reader.tokens} tokens")
    print_table(
        ("pages", "s", "of which drawing", "pages/s", "output tokens"),
        [tuple(lap.values())],
    )
    emit(f"gpu/ways/{way}", {"model": reader.model, "tokens": reader.tokens, **lap}, append)


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
