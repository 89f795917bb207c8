"""Pages a second of one worker and of several, each with an engine of its own. See `--help`."""

from __future__ import annotations

import itertools
import json
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from benchmarks import options
from benchmarks.common import HERE, emit, print_table
from benchmarks.pages import write_documents
from tasks.crew import Crew, muster
from tasks.job import open_job
from tasks.plan import Shard, plan_job
from tasks.worker import Worker


@click.command()
@click.option("--workers", default="1,2", show_default=True, help="So many, one after the other.")
@click.option("--pages", default=2400, show_default=True)
@click.option("-c", "--config", default=str(HERE / "scaling.yaml"), show_default="scaling.yaml")
@options.chosen
@options.documents
@options.label
@options.append
def main(
    workers: str,
    pages: int,
    config: str,
    chosen: tuple[str, ...],
    documents: Path | None,
    label: str,
    append: bool,
) -> None:
    """Read the same pages with one worker and with several, and compare the rates.

    From PDFs in a folder to committed Parquet, by the crew of `work.runner: process` without
    Prefect. The clock starts when all engines are loaded and have read a shard each, and
    stops with the last commit: what is lost while the last worker finishes alone is counted.
    A page is one that the model has read: blank, skipped and failed ones do not count.

    \b
      python benchmarks/scaling.py --append                       1 and 2 GPUs
      python benchmarks/scaling.py --workers 1,8 --pages 9600     a host with eight
      python benchmarks/scaling.py -c benchmarks/echo.yaml --set model.options.delay=0.5 \\
          --set work.shard_documents=8 --pages 400       no GPU, no model: what the runner costs

    Takes 6 minutes on 2 GPUs, 10 without. Needs vLLM and a GPU for each worker, or the stand-in.
    """
    from pagemill.settings import load_settings, parse_overrides

    overrides = {"work.runner": "process", **parse_overrides(chosen)}
    runs = []
    with tempfile.TemporaryDirectory(prefix="pagemill-scaling-") as folder:
        source = write_documents(Path(folder) / "in", pages, documents)
        for count in map(int, workers.split(",")):
            settings = load_settings(config, {**overrides, "work.workers": count})
            runs.append(measure(source, Path(folder) / f"out-{count}", settings, pages))
            print(json.dumps(runs[-1]), flush=True)
    first, last = runs[0], runs[-1]
    scaling = last["pages_per_second"] / first["pages_per_second"]
    ideal = last["workers"] / first["workers"]
    print(f"\n{pages} pages; {Path(settings.model.id).name}, {settings.model.framework}")
    header = (
        "workers",
        "pages",
        "seconds",
        "pages/s",
        "loaded in, s",
        "idle",
        "not full",
        "of each",
    )
    print_table(header, [_row(run) for run in runs])
    print(
        f"{last['workers']} workers: {scaling:.2f} times {first['workers']}, {scaling / ideal:.1%}"
    )
    result = {
        "label": label,
        "set": list(chosen),
        "model": Path(settings.model.id).name,
        "framework": settings.model.framework,
        "scaling": round(scaling, 4),
        "of_linear": round(scaling / ideal, 4),
        "runs": runs,
    }
    emit("scaling", result, append)


def measure(source: Path, out: Path, settings: Any, pages: int) -> dict[str, Any]:
    """The rate of one crew."""
    job = open_job(str(source), str(out), settings)
    worker = Worker(job)
    plan = plan_job(job, worker.ledger)
    worker.ledger.prepare(job.recipe)
    began = time.perf_counter()
    with muster(job, worker, pages) as crew:
        while any(report.loading is not None for report in crew.reports()):
            time.sleep(0.2)
        loaded = time.perf_counter() - began
        shards = iter(plan.shards)
        process(crew, list(itertools.islice(shards, settings.work.workers)))
        before = {report.worker: pages_read(report.pages) for report in crew.reports()}
        began = time.perf_counter()
        statuses = process(crew, list(shards))
        seconds = time.perf_counter() - began
        reports = crew.reports()
    if not (read := pages_read(statuses)):
        raise click.ClickException("no shard is left to measure: more --pages, or smaller shards")
    return {
        "workers": settings.work.workers,
        "pages": read,
        "statuses": dict(statuses),
        "seconds": round(seconds, 2),
        "pages_per_second": round(read / seconds, 3),
        "loaded_seconds": round(loaded, 1),
        "pages_each": [pages_read(r.pages) - before.get(r.worker, 0) for r in reports],
        "reports": [asdict(report) for report in reports],
    }


def pages_read(statuses: Mapping[str, int]) -> int:
    """Pages that the model has read, of rows by status; a blank page costs it nothing."""
    return sum(statuses.get(status, 0) for status in ("ok", "fallback", "partial"))


def process(crew: Crew, shards: Sequence[Shard]) -> Counter[str]:
    """Rows by status."""
    statuses: Counter[str] = Counter()
    with ThreadPoolExecutor(crew.slots) as pool:
        for receipt in pool.map(crew.process, shards):
            statuses.update(receipt.pages)
    return statuses


def _row(run: dict[str, Any]) -> tuple[Any, ...]:
    shares = [
        " ".join(f"{report[name] or 0:.1%}" for report in run["reports"])
        for name in ("idle", "hungry")
    ]
    each = " ".join(map(str, run["pages_each"]))
    rate, loaded = run["pages_per_second"], run["loaded_seconds"]
    return (run["workers"], run["pages"], run["seconds"], rate, loaded, *shares, each)


if __name__ == "__main__":
    main()
