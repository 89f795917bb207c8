"""Speed and memory of the whole pipeline. See `--help`."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchmarks import options
from benchmarks.common import ECHO, emit, fresh_prefect, make_pdf, make_pdfs, pagemill, print_table
from benchmarks.pages import choose, draw
from benchmarks.watching import Watch

if TYPE_CHECKING:
    from PIL.Image import Image

    from loaders.engine import Engine
    from pagemill.settings import Settings

PARTS = ("ratio", "memory")


@click.command()
@click.argument("parts", nargs=-1, type=click.Choice(PARTS))
@options.config
@options.documents
@click.option("--pages", default=36, show_default=True, help="For ratio: pages, at most.")
@click.option("--repeats", default=2, show_default=True, help="For ratio: laps of each side.")
@click.option("--many", default=5000, show_default=True, help="For memory: pages of a large job.")
@options.append
def main(
    parts: tuple[str, ...],
    config: str,
    documents: Path | None,
    pages: int,
    repeats: int,
    many: int,
    append: bool,
) -> None:
    """Measure the pipeline; all PARTS if none is named. Each prints a table and one JSON line.

    \b
    ratio     pages/s of the whole flow over real PDFs, with the model of --config, against the
              bare engine that gets images of the same pages, drawn before, all at once. One
              process, one loaded engine, one run; the sides take turns, after a warm-up.
    memory    peak of the process and of its largest render child, for 500 pages and for many:
              as documents of 10 pages and as one long PDF. It must not grow.

    \b
      python benchmarks/pipeline.py ratio --pages 12     a first impression
      python benchmarks/pipeline.py memory

    Takes 20 minutes on 2 cores for ratio (5 with 12 pages), 6 for memory. Needs transformers and
    reportlab.
    """
    with tempfile.TemporaryDirectory(prefix="pagemill-bench-") as folder:
        fresh_prefect(Path(folder))
        if not parts or "ratio" in parts:
            measure_ratio(Path(folder), config, documents, pages, repeats, append)
        if not parts or "memory" in parts:
            measure_memory(Path(folder), many, append)


# -- ratio: the pipeline against the bare engine --------------------------------------------


@dataclass(frozen=True)
class Lap:
    """One pass over all pages."""

    seconds: float
    tokens: int
    idle: float | None = None


def measure_ratio(
    folder: Path, config: str, documents: Path | None, pages: int, repeats: int, append: bool
) -> None:
    """Pages/s of both sides, interleaved."""
    from flows.prefect_api import prefect_api
    from loaders.resident import resident
    from pagemill.config import load_settings

    settings = load_settings(config)
    source = folder / "ratio"
    copy_documents(documents, source, pages)
    engine = resident(settings.model)
    images = [image for file in sorted(source.iterdir()) for image in draw(file, settings)]
    sides: dict[str, Callable[[], Lap]] = {
        "bare engine": lambda: bare_lap(engine, images, settings),
        "pipeline": lambda: flow_lap(source, folder, config),
    }
    laps: dict[str, list[Lap]] = {name: [] for name in sides}
    with prefect_api():
        bare_lap(engine, images[:2], settings)
        for turn in range(repeats):
            for name in sorted(sides, reverse=turn % 2 == 1):  # neither side is always second
                laps[name].append(sides[name]())
    _show_ratio(laps, len(images), len(list(source.iterdir())), append)


def bare_lap(engine: Engine, images: list[Image], settings: Settings) -> Lap:
    """Every request of every page at once, as the pipeline asks it, then wait for all."""
    from loaders.engine import Request

    sure = settings.model.confidence
    began = time.perf_counter()
    futures = [
        engine.submit(Request((image,), o.prompt, o.max_new_tokens, o.temperature, "", sure))
        for image in images
        for o in settings.outputs.values()
    ]
    tokens = sum(future.result().completion_tokens for future in futures)
    return Lap(time.perf_counter() - began, tokens)


def flow_lap(source: Path, folder: Path, config: str) -> Lap:
    """The flow as the command line runs it, planning and balance included, to a fresh OUT."""
    from flows.ingest import ingest

    out = tempfile.mkdtemp(prefix="out-", dir=folder)
    began = time.perf_counter()
    balance: Any = ingest(str(source), out, config)
    seconds = time.perf_counter() - began
    return Lap(seconds, balance["cost"]["completion_tokens"], balance["cost"]["engine_idle_share"])


def copy_documents(documents: Path | None, to: Path, pages: int) -> None:
    """Copy documents until there are about so many pages."""
    import pypdfium2

    to.mkdir()
    for file in choose(documents):
        count = len(pypdfium2.PdfDocument(file))
        if count <= pages:
            pages -= count
            shutil.copy(file, to)


def _show_ratio(laps: dict[str, list[Lap]], pages: int, documents: int, append: bool) -> None:
    rate = {
        name: pages * len(each) / sum(lap.seconds for lap in each) for name, each in laps.items()
    }
    print(f"\n{pages} pages of {documents} documents, the model reads text and caption of each")
    print_table(
        ("side", "laps, s", "pages/s", "tokens a lap", "engine idle"),
        [
            (
                name,
                " ".join(f"{lap.seconds:.1f}" for lap in each),
                rate[name],
                each[0].tokens,
                each[-1].idle if each[-1].idle is not None else "",
            )
            for name, each in laps.items()
        ],
    )
    ratio = rate["pipeline"] / rate["bare engine"]
    print(f"the pipeline reaches {ratio:.1%} of the bare engine's speed")
    result = {
        "pages": pages,
        "documents": documents,
        "ratio": round(ratio, 4),
        **{name.replace(" ", "_"): [vars(lap) for lap in each] for name, each in laps.items()},
    }
    emit("pipeline/ratio", result, append)


# -- memory -----------------------------------------------------------------------------------


def measure_memory(folder: Path, many: int, append: bool) -> None:
    """Peak memory of four commands."""
    rows, result = [], {}
    for pages in (500, many):
        for shape in ("documents", "long"):
            source = folder / f"{shape}-{pages}"
            if shape == "documents":
                make_pdfs(source, pages // 10, 10, seed=pages)
            else:
                source.mkdir()
                make_pdf(source / "long.pdf", pages, seed=pages)
            seconds, peaks = watch_command(str(source), tempfile.mkdtemp(dir=folder))
            rows.append((shape, pages, peaks["run"], peaks["render"], peaks["prefect"], seconds))
            result[f"{shape}_{pages}"] = {**peaks, "seconds": seconds}
    print("\nan engine without delay; peak resident memory in MB")
    header = ("shape", "pages", "the run", "largest render child", "Prefect API", "seconds")
    print_table(header, sorted(rows))
    emit("pipeline/memory", result, append)


def watch_command(source: str, out: str) -> tuple[float, dict[str, float]]:
    """Run the command on the echo engine; its seconds and peaks."""
    began = time.perf_counter()
    command = pagemill("run", source, out, "-c", ECHO)
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=quiet, stderr=quiet) as run, Watch(run.pid) as watch:
        code = run.wait()
    if code:
        raise click.ClickException(f"{' '.join(command)} ended with exit code {code}")
    return round(time.perf_counter() - began, 1), watch.peaks


if __name__ == "__main__":
    main()
