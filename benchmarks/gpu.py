"""pagemill on a GPU, beside the bare engine and beside what the chip allows. See `--help`."""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchmarks.common import ECHO, emit, print_table
from benchmarks.gpu_jobs import measure_memory, measure_mission
from benchmarks.limits import BF16, CHIPS, limits
from benchmarks.load import Load
from benchmarks.pages import MAX_PIXELS, TRAINED, draw_all, write_documents, write_shapes

if TYPE_CHECKING:
    from PIL.Image import Image

    from loaders.engine import Completion, Engine
    from pagemill.settings import Settings

PARTS = ("engine", "visit", "memory", "mission")
SIDES = ("engine", "files", "s3")
TEXT = "Transcribe the text of this page."
CAPTION = "Describe this image."
CAPTION_TOKENS = 60
SMALL = {"render.max_pixels": 50_176, "work.shard_documents": 2}


@click.command()
@click.argument("parts", nargs=-1, required=True, type=click.Choice(PARTS))
@click.option("--model", default="7b", show_default=True, help="7b, 7b-awq, trained, or a folder.")
@click.option("--framework", default="vllm", show_default=True, help="vllm, transformers or echo.")
@click.option("--device", default="cuda", show_default=True)
@click.option("--pages", default=512, show_default=True)
@click.option("--tokens", default=400, show_default=True, help="Of an answer, at most.")
@click.option("--batch-size", default=128, show_default=True)
@click.option(
    "--laps",
    default="engine,files,engine,s3",
    show_default=True,
    help="For engine: the order of the laps.",
)
@click.option("--many", default=5000, show_default=True, help="For memory: pages of a large job.")
@click.option("--set", "chosen", multiple=True, metavar="KEY=VALUE", help="As for `pagemill run`.")
@click.option("--documents", type=Path, help="A folder of PDFs; by default the corpus's digital.")
@click.option("--label", default="", help="A name for this line of results.")
@click.option("--small", is_flag=True, help="Tiny pictures: only to see that it works.")
@click.option("--append", is_flag=True, help="Add the JSON lines to benchmarks/results.jsonl.")
def main(
    parts: tuple[str, ...],
    model: str,
    framework: str,
    device: str,
    pages: int,
    tokens: int,
    batch_size: int,
    laps: str,
    many: int,
    chosen: tuple[str, ...],
    documents: Path | None,
    label: str,
    small: bool,
    append: bool,
) -> None:
    """Measure PARTS, one after the other, with one model; each gives a table and a JSON line.

    Pages are those of real PDFs, over and over, each round cropped a little more: no two look the
    same. The model 7b has the shapes of Qwen2.5-VL-7B and no trained weights, and is made here;
    it answers at temperature 1, so that an answer almost never ends before --tokens.

    \b
    engine    pages/s of the flow `ingest`, from PDFs to a committed table, planning and balance
              sheet included, against the bare engine that gets images of the same pages, drawn
              before, all at once. Same process, same loaded engine, the laps take turns. `files`
              reads and writes a folder, `s3` a SeaweedFS server on this machine. Who was busy
              meanwhile (cores by process and thread, the GPU), and what the chip allows.
    visit     text (--tokens) and caption (60 tokens) of a page asked together against two passes
              over all pages, first all texts, then all captions of the same images as new ones.
    memory    peak memory of a run's processes, `pagemill run` with 8 tokens a page, for 500
              pages and for --many.
    mission   SeaweedFS to `pagemill run` to SeaweedFS, three shards and more, one load of the
              model; then `pagemill check`.

    \b
      python benchmarks/gpu.py engine visit                          7B shapes: 6 minutes
      python benchmarks/gpu.py engine --model trained --tokens 1500  decoding is small: feeding
      python benchmarks/gpu.py engine --laps engine --model 7b-awq   the bare engine alone
      python benchmarks/gpu.py engine visit --framework echo --small --pages 6   no GPU, no model
    """
    from pagemill.settings import parse_overrides

    with tempfile.TemporaryDirectory(prefix="pagemill-gpu-") as folder:
        # Before prefect is imported; its history is of no interest here.
        os.environ["PREFECT_HOME"] = f"{folder}/prefect"
        from flows.prefect_api import quiet

        quiet()
        config = ECHO if framework == "echo" else "qwen25vl-7b-bf16"
        overrides = _overrides(Path(folder), model, framework, device, tokens, batch_size)
        overrides |= {**(SMALL if small else {}), **parse_overrides(chosen)}
        about = {"label": label, "model": model, "set": list(chosen), "tokens": tokens}
        bench = Bench(Path(folder), config, overrides, pages, documents, about, append)
        for part in parts:
            with isolated(part):
                if part == "engine":
                    measure_engine(bench, laps.split(","))
                elif part == "visit":
                    measure_visit(bench)
                elif part == "memory":
                    measure_memory(bench.folder, config, overrides, many, documents, bench.report)
                else:
                    measure_mission(bench.source, config, overrides, bench.report)
            if bench.broken:
                break
        if _failed:
            raise click.ClickException(f"failed: {', '.join(_failed)}")


def _overrides(
    folder: Path, model: str, framework: str, device: str, tokens: int, batch_size: int
) -> dict[str, Any]:
    """What is different from the config."""
    shapes = model in ("7b", "7b-awq")
    temperature = 1.0 if shapes else 0.0
    asked = {"prompt": TEXT, "max_new_tokens": tokens, "temperature": temperature}
    overrides: dict[str, Any] = {
        "outputs": {"text": asked},
        "model.batch_size": batch_size,
        "work.shard_documents": 32,
    }
    if framework == "echo":
        return overrides
    path = {"trained": TRAINED}.get(model, Path(model))
    if shapes:
        path = write_shapes(folder / model, awq=model == "7b-awq")
    return overrides | {
        "model.id": str(path.resolve()),
        "model.framework": framework,
        "model.device": device,
        "model.options": {"max_model_len": 8192, **({"load_format": "dummy"} if shapes else {})},
        "render.max_pixels": MAX_PIXELS if shapes else 1_003_520,
    }


_failed: list[str] = []


@contextmanager
def isolated(what: str) -> Iterator[None]:
    """What fails here is told, and the rest goes on; the exit code says it at the end."""
    try:
        yield
    except Exception as error:
        traceback.print_exc()
        _failed.append(what)
        print(json.dumps({"failed": what, "why": f"{type(error).__name__}: {error}"}), flush=True)


@dataclass
class Bench:
    """What the parts share: one model, one engine, pages that are drawn once."""

    folder: Path
    config: str
    overrides: dict[str, Any]
    pages: int
    documents: Path | None
    about: dict[str, Any]
    append: bool
    broken: bool = False  # the model cannot be loaded: no need to try again

    @cached_property
    def settings(self) -> Settings:
        """As the flow will make them of config and overrides."""
        from pagemill.settings import load_settings

        return load_settings(self.config, self.overrides)

    @cached_property
    def source(self) -> Path:
        """The documents."""
        return write_documents(self.folder / "source", self.pages, self.documents)

    @cached_property
    def images(self) -> list[Image]:
        """All pages."""
        return draw_all(self.source, self.settings)

    @cached_property
    def engine(self) -> Engine:
        """The resident engine, warm. The pages are drawn while it is loaded."""
        from loaders.resident import resident

        drawing = threading.Thread(target=lambda: self.images, name="drawing")
        drawing.start()
        self.broken = True
        engine = resident(self.settings.model)
        self.broken = False
        drawing.join()
        print(f"loaded {engine.version} in {engine.load_seconds:.1f} s", flush=True)
        self.ask(engine, self.images[: 2 * engine.capacity], {TEXT: 8})
        return engine

    def ask(
        self, engine: Engine, images: Sequence[Image], prompts: dict[str, int]
    ) -> dict[str, Any]:
        """Every request of every page at once, then wait for all."""
        from loaders.engine import Request

        model, heat = self.settings.model, self.settings.outputs["text"].temperature
        began = time.perf_counter()
        futures = [
            engine.submit(Request((image,), prompt, tokens, heat, "", model.confidence))
            for image in images
            for prompt, tokens in prompts.items()
        ]
        done = [future.result() for future in futures]
        return {"seconds": round(time.perf_counter() - began, 3), **_said(done)}

    def report(self, part: str, result: dict[str, Any]) -> None:
        """Print a part's JSON line, and keep it if asked."""
        settings = self.settings.model
        about = {
            **self.about,
            "framework": settings.framework,
            "quantization": settings.quantization,
            "batch_size": settings.batch_size,
            "confidence": settings.confidence,
        }
        emit(f"gpu/{part}", {**about, **result}, self.append)


def _said(completions: Sequence[Completion]) -> dict[str, Any]:
    return {
        "prompt_tokens": sum(c.prompt_tokens for c in completions),
        "output_tokens": sum(c.completion_tokens for c in completions),
        "finish": dict(Counter(c.finish_reason for c in completions)),
    }


# -- engine: the pipeline against the bare engine ------------------------------------------------


def measure_engine(bench: Bench, laps: Sequence[str]) -> None:
    """Laps of the sides, in the order asked for."""
    done: list[dict[str, Any]] = []
    with ExitStack() as stack:
        sides = _sides(bench, stack, laps)
        engine = bench.engine
        for name in dict.fromkeys(laps):
            if name != "engine":
                with isolated(f"{name}, warming up"):
                    sides[name]("few")
        for name in laps:
            with isolated(f"a lap of {name}"):
                with Load() as load:
                    lap = sides[name]("source")
                rate = round(len(bench.images) / lap["seconds"], 3)
                done.append({"side": name, "pages_per_second": rate, **lap, **load.report()})
                print(json.dumps(done[-1]), flush=True)
        _show_engine(bench, engine, done)


Side = Callable[[str], dict[str, Any]]


def _sides(bench: Bench, stack: ExitStack, laps: Sequence[str]) -> dict[str, Side]:
    """What a lap of each side is, over the documents of ``few`` or ``source``."""
    tokens = bench.settings.outputs["text"].max_new_tokens
    sides: dict[str, Side] = {
        "engine": lambda _: bench.ask(bench.engine, bench.images, {TEXT: tokens})
    }
    if not set(laps) - {"engine"}:
        return sides
    from flows.prefect_api import prefect_api

    stack.enter_context(prefect_api())
    write_documents(bench.folder / "few", min(8, bench.pages), bench.documents)
    assert bench.source.name == "source"
    sides["files"] = lambda name: _flow(
        bench, str(bench.folder / name), tempfile.mkdtemp(prefix="out-", dir=bench.folder), {}
    )
    if "s3" in laps:
        with isolated("SeaweedFS"):
            sides["s3"] = _s3_side(bench, stack)
    return sides


def _s3_side(bench: Bench, stack: ExitStack) -> Side:
    from tests.seaweed import serving

    server = stack.enter_context(serving())
    storage = {"storage": {"endpoint_url": server.endpoint_url}}
    bucket = server.bucket()
    for name in ("few", "source"):
        for file in (bench.folder / name).iterdir():
            server.put(bucket, f"{name}/{file.name}", file.read_bytes())
    return lambda name: _flow(
        bench, f"s3://{bucket}/{name}", f"s3://{server.bucket()}/out", storage
    )


def _flow(bench: Bench, source: str, out: str, storage: dict[str, Any]) -> dict[str, Any]:
    """The flow as the command line runs it: planning, drawing, writing, balance sheet."""
    from flows.ingest import ingest

    overrides = {**bench.overrides, **storage}
    if source.endswith("few"):
        overrides["outputs"] = {"text": {"prompt": TEXT, "max_new_tokens": 8}}
    began = time.perf_counter()
    balance: Any = ingest(source, out, bench.config, overrides=overrides)
    seconds, cost = round(time.perf_counter() - began, 3), balance["cost"]
    return {
        "seconds": seconds,
        "prompt_tokens": cost["prompt_tokens"],
        "output_tokens": cost["completion_tokens"],
        "rows": balance["pages"]["by_status"],
        "balanced": balance["balanced"],
        "shards": balance["documents"]["shards"],
        "render_seconds": cost["render_seconds"],
        "idle": cost["engine_idle_share"],
        "hungry": cost["engine_hungry_share"],
    }


def _show_engine(bench: Bench, engine: Engine, done: list[dict[str, Any]]) -> None:
    pages = len(bench.images)
    print(f"\n{pages} pages, {engine.version}, {engine.weight_bytes / 1e9:.2f} GB of weights")
    print_table(
        ("side", "s", "pages/s", "output tokens/s", "idle", "hungry", "GPU busy", "cores in use"),
        [
            (
                lap["side"],
                lap["seconds"],
                lap["pages_per_second"],
                round(lap["output_tokens"] / lap["seconds"]),
                *(lap.get(name, "") for name in ("idle", "hungry", "gpu_busy")),
                " ".join(f"{role} {cores:g}" for role, cores in lap["cores"].items()),
            )
            for lap in done
        ],
    )
    rate = {name: _mean_rate(done, name) for name in SIDES}
    result: dict[str, Any] = {
        "pages": pages,
        "load_seconds": round(engine.load_seconds, 1),
        "weight_gb": round(engine.weight_bytes / 1e9, 3),
        "pages_per_second": {name: r and round(r, 3) for name, r in rate.items() if r},
    }
    for name, key in (("files", "pipeline_over_engine"), ("s3", "pipeline_over_engine_s3")):
        if rate["engine"] and rate[name]:
            result[key] = round(rate[name] / rate["engine"], 4)
            print(f"{name}: {result[key]:.1%} of the bare engine's speed")
    result["limits"] = _limits(bench, done)
    bench.report("engine", {**result, "laps": done})


def _mean_rate(done: list[dict[str, Any]], side: str) -> float:
    """Pages/s over all laps of a side; 0 without any."""
    rates = [lap["pages_per_second"] for lap in done if lap["side"] == side]
    return len(rates) / sum(1 / rate for rate in rates) if rates else 0.0


def _limits(bench: Bench, done: list[dict[str, Any]]) -> dict[str, Any]:
    """What each chip allows for these pages, by arithmetic and bytes; the share that was got."""
    model, pages = Path(bench.settings.model.id), len(bench.images)
    if not done or not (model / "config.json").exists():
        return {}
    one = {name: done[0][name] / pages for name in ("prompt_tokens", "output_tokens")}
    pixels = sum(image.width * image.height for image in bench.images) / pages
    width = {"none": BF16, "8bit": 1.0}.get(bench.settings.model.quantization, 0.5)
    batch = min(bench.settings.model.batch_size, pages)
    limit = limits(model, pixels, batch=batch, weight_bytes=width, **one)
    result: dict[str, Any] = {
        "page": {name: round(value, 1) for name, value in {**one, "pixels": pixels}.items()},
        "vision_tflop": round(limit.vision / 1e12, 4),
        "prefill_tflop": round(limit.prefill / 1e12, 4),
        "decode_tflop": round(limit.decode / 1e12, 4),
        "decode_gb": round(limit.decode_bytes / 1e9, 4),
    }
    rows = []
    for chip, figures in CHIPS.items():
        read, write = limit.seconds(figures)
        most = limit.pages_per_second(figures)
        shares = {s: _mean_rate(done, s) / most for s in SIDES if _mean_rate(done, s)}
        rows.append((chip, 1000 * read, 1000 * write, most, *(shares.get(s, "") for s in SIDES)))
        result[chip] = {
            "read_ms": round(1000 * read, 3),
            "write_ms": round(1000 * write, 3),
            "pages_per_second": round(most, 2),
            "share": {side: round(share, 4) for side, share in shares.items()},
        }
    print("at most, by the work and the bytes of these pages (bf16 arithmetic):")
    print_table(("chip", "read, ms", "write, ms", "pages/s", *(f"{s} got" for s in SIDES)), rows)
    return result


# -- visit: text and caption -----------------------------------------------------------------------


def measure_visit(bench: Bench, pages: int = 128) -> None:
    """Both outputs in one visit against one pass for each."""
    engine, images = bench.engine, bench.images[:pages]
    text = {TEXT: bench.settings.outputs["text"].max_new_tokens}
    caption = {CAPTION: CAPTION_TOKENS}
    laps = {}
    for name, passes in {"one visit": [text | caption], "two passes": [text, caption]}.items():
        told = [bench.ask(engine, [image.copy() for image in images], asked) for asked in passes]
        seconds = sum(lap["seconds"] for lap in told)
        laps[name] = {"seconds": round(seconds, 3), "passes": told}
    print(f"\ntext and caption of {len(images)} pages, {engine.version}")
    rows = [(name, lap["seconds"], len(images) / lap["seconds"]) for name, lap in laps.items()]
    print_table(("", "s", "pages/s"), rows)
    ratio = round(laps["two passes"]["seconds"] / laps["one visit"]["seconds"], 3)
    print(f"one visit is {ratio} times as fast as two passes")
    named = {name.replace(" ", "_"): lap for name, lap in laps.items()}
    bench.report("visit", {"pages": len(images), "visit_over_passes": ratio, **named})


if __name__ == "__main__":
    main()
