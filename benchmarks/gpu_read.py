"""Read a folder of page images with one framework, and say how fast: for a machine with a GPU.

    python benchmarks/gpu_read.py PAGES MODEL --framework vllm --quantization none --out texts.jsonl

Uses nothing of the pipeline but the loaders, so it needs the framework, Pillow and no more. One
line of JSON for each page goes to --out (uri, page, text, finish_reason, completion_tokens), as
the corpus's score.py reads it: `report.pdf-p3.png` is page 3 of report.pdf. A table goes to the
terminal, and the same numbers as one line of JSON last.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))

from PIL import Image  # noqa: E402

from loaders.engine import Completion, Engine, Request  # noqa: E402
from loaders.vlm_loader import VLMConfig, create_vlm_loader  # noqa: E402

SUFFIXES = (".png", ".jpg", ".jpeg")
PROMPT = "Transcribe the text of this page."


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pages", type=Path)
    parser.add_argument("model")
    parser.add_argument("--name", default="auto", help="the loader")
    parser.add_argument("--framework", default="vllm", choices=["vllm", "transformers", "sglang"])
    parser.add_argument("--quantization", default="none", choices=["none", "4bit", "8bit", "awq"])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--max-memory-gb", type=int)
    parser.add_argument("--max-new-tokens", type=int, default=1024)
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--repeat", type=int, default=1, help="read every page so many times")
    parser.add_argument("--options", type=json.loads, default={}, help="JSON, for the framework")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


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


def device_name() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


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


def main() -> None:
    args = arguments()
    files = sorted(f for f in args.pages.iterdir() if f.suffix.lower() in SUFFIXES) * args.repeat
    if not files:
        sys.exit(f"{args.pages}: no page images ({', '.join(SUFFIXES)})")
    config = VLMConfig(
        args.model,
        args.quantization,
        args.framework,
        max_memory_gb=args.max_memory_gb,
        device=args.device,
        trust_remote_code=False,
        batch_size=args.batch_size,
        dtype=args.dtype,
        options=args.options,
    )
    began = time.perf_counter()
    with create_vlm_loader(args.name, config) as loader:
        loaded = time.perf_counter()
        engine: Any = loader.engine
        read_all(engine, files[:2], args.prompt, 8)  # the first requests compile and allocate
        started = time.perf_counter()
        answers = read_all(engine, files, args.prompt, args.max_new_tokens)
        seconds = time.perf_counter() - started
        result = {
            "model": Path(args.model).name,
            "framework": engine.version,
            "quantization": args.quantization,
            "batch_size": args.batch_size,
            "load_seconds": round(loaded - began, 1),
            "weight_gb": round(engine.weight_bytes / 1e9, 3),
            **report(answers, seconds),
        }
    result["device"] = device_name()  # asked last: it starts CUDA in this process
    if args.out:
        write(args.out, answers)
    for name, value in result.items():
        print(f"{name:26} {value}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
