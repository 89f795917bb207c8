"""The loaders alone on a folder of page images: pages/s, tokens/s, weights. See `--help`."""

from __future__ import annotations

import json
import re
import sys
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import click
from PIL import Image

from benchmarks import options
from benchmarks.common import emit
from loaders.engine import Completion, Engine, Request
from loaders.vlm_loader import (
    InferenceFramework,
    QuantizationType,
    VLMConfig,
    create_vlm_loader,
)

SUFFIXES = (".png", ".jpg", ".jpeg")
PROMPT = "Transcribe the text of this page."
FRAMEWORKS = ("vllm", "transformers", "sglang")


@click.command()
@click.argument("pages", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("model")
@click.option("--name", default="auto", show_default=True, help="The loader.")
@click.option("--framework", default="vllm", show_default=True, type=click.Choice(FRAMEWORKS))
@click.option(
    "--quantization",
    default="none",
    show_default=True,
    type=click.Choice(["none", "4bit", "8bit", "awq"]),
)
@click.option("--device", default="cuda", show_default=True)
@click.option("--batch-size", default=64, show_default=True)
@click.option("--max-new-tokens", default=1024, show_default=True)
@click.option("--repeat", default=1, show_default=True, help="Times that every page is read.")
@click.option("--options", "framework_options", default="{}", help="JSON, for the framework.")
@click.option("--out", type=Path, help="A file for the texts, as the corpus' score.py reads it.")
@options.append
def main(
    pages: Path,
    model: str,
    name: str,
    framework: InferenceFramework,
    quantization: QuantizationType,
    device: str,
    batch_size: int,
    max_new_tokens: int,
    repeat: int,
    framework_options: str,
    out: Path | None,
    append: bool,
) -> None:
    """Read a folder of page images, PAGES, with one framework, and say how fast.

    Uses nothing of the pipeline but the loaders. After a warm-up of two pages, about twice as many
    requests as the engine reads at once are under way. One line of JSON for each page goes to
    --out: `report.pdf-p3.png` is page 3 of report.pdf.

    \b
      python benchmarks/gpu_read.py PAGES MODEL --framework vllm --quantization none

    Takes 2 minutes on a GPU, most of it loading. Needs the framework and its GPU; or
    --framework transformers --device cpu.
    """
    files = sorted(f for f in pages.iterdir() if f.suffix.lower() in SUFFIXES) * repeat
    if not files:
        sys.exit(f"{pages}: no page images ({', '.join(SUFFIXES)})")
    config = VLMConfig(
        model,
        quantization,
        framework,
        device=device,
        trust_remote_code=False,
        batch_size=batch_size,
        options=json.loads(framework_options),
    )
    began = time.perf_counter()
    with create_vlm_loader(name, config) as loader:
        loaded = time.perf_counter()
        engine: Any = loader.engine
        read_all(engine, files[:2], PROMPT, 8)  # the first requests compile and allocate
        started = time.perf_counter()
        answers = read_all(engine, files, PROMPT, max_new_tokens)
        seconds = time.perf_counter() - started
        result = {
            "model": Path(model).name,
            "framework": engine.version,
            "quantization": quantization,
            "batch_size": batch_size,
            "load_seconds": round(loaded - began, 1),
            "weight_gb": round(engine.weight_bytes / 1e9, 3),
            **report(answers, seconds),
        }
    if out:
        write(out, answers)
    for key, value in result.items():
        print(f"{key:26} {value}")
    emit("gpu_read", result, append)


def read_all(
    engine: Engine, files: list[Path], prompt: str, tokens: int
) -> list[tuple[Path, Completion]]:
    """Every page's answer; about twice the engine's capacity is under way at a time."""
    waiting: list[tuple[Path, Future[Completion]]] = []
    done = []
    for file in files:
        with Image.open(file) as image:
            request = Request((image.convert("RGB"),), prompt, tokens, logprobs=True)
        waiting.append((file, engine.submit(request)))
        if len(waiting) >= 2 * engine.capacity:
            name, future = waiting.pop(0)
            done.append((name, future.result()))
    return done + [(name, future.result()) for name, future in waiting]


def report(answers: list[tuple[Path, Completion]], seconds: float) -> dict[str, Any]:
    completions = [answer for _, answer in answers]
    sure = [c.mean_logprob for c in completions if c.mean_logprob is not None]
    said = sum(c.completion_tokens for c in completions)
    return {
        "pages": len(completions),
        "seconds": round(seconds, 2),
        "pages_per_second": round(len(completions) / seconds, 3),
        "output_tokens": said,
        "output_tokens_per_second": round(said / seconds, 1),
        "prompt_tokens": sum(c.prompt_tokens for c in completions),
        "loops": sum(c.finish_reason == "loop" for c in completions),
        "cut_off": sum(c.finish_reason == "length" for c in completions),
        "mean_logprob": round(sum(sure) / len(sure), 4) if sure else None,
    }


def rows_of(answers: list[tuple[Path, Completion]]) -> list[dict[str, Any]]:
    """What score.py reads: `report.pdf-p3.png` is page 3 of report.pdf."""
    rows = []
    for file, answer in answers:
        document = re.fullmatch(r"(.+)-p(\d+)", file.stem)
        rows.append(
            {
                "uri": document[1] if document else file.name,
                "page": int(document[2]) if document else 1,
                "text": answer.text,
                "finish_reason": answer.finish_reason,
                "completion_tokens": answer.completion_tokens,
                "mean_logprob": answer.mean_logprob,
            }
        )
    return rows


def write(out: Path, answers: list[tuple[Path, Completion]]) -> None:
    with out.open("w", encoding="utf-8") as stream:
        for row in rows_of(answers):
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
