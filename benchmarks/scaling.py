"""Pages a second of one worker and of several, each with an engine of its own. See `--help`."""

from __future__ import annotations

import itertools
import json
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from benchmarks import options
from benchmarks.common import HERE, emit, end_on_sigterm, print_table, say
from benchmarks.load import Load
from benchmarks.pages import write_documents
from tasks.crew import Crew, muster
from tasks.job import open_job
from tasks.plan import plan_job
from tasks.shard import Shard
from tasks.worker import Worker

TELL_SECONDS = 10.0


@click.command()
@click.option("--workers", default="1,2", show_default=True, help="So many, one after the other.")
@click.option("--pages", default=1000, show_default=True)
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
    Prefect. The clock starts when all engines are loaded and have read a shard or more, and
    stops with the last commit: what is lost while the last worker finishes alone is counted.
    A page is one that the model has read: blank, skipped and failed ones do not count.

    \b
      python benchmarks/scaling.py --append                       1 and 2 GPUs
      python benchmarks/scaling.py --workers 1,8 --pages 4000     a host with eight
      python benchmarks/scaling.py --workers 1 --set work.runner=thread   an engine in this process
      python benchmarks/scaling.py -c benchmarks/echo.yaml --set model.options.delay=0.5 \\
          --set work.shard_documents=8 --pages 400       no GPU, no model: what the runner costs

    Takes 5 minutes on 2 GPUs, 10 without. Needs vLLM and a GPU for each worker, or the stand-in.
    """
    from pagemill.config import load_settings, parse_overrides

    end_on_sigterm()
    overrides = {"work.runner": "process", **parse_overrides(chosen)}
    counts = [int(count) for count in workers.split(",")]
    about = {"label": label, "set": list(chosen)}
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="pagemill-scaling-") as folder:
        source = write_documents(Path(folder) / "in", pages, documents)
        say(f"written: {pages} pages of PDF")
        try:
            for count in counts:
                settings = load_settings(config, {**overrides, "work.workers": count})
                about |= {"model": Path(settings.model.id).name}
                about |= {"framework": settings.model.framework}
                runs.append(measure(source, Path(folder) / f"out-{count}", settings, pages))
                print(json.dumps(runs[-1]), flush=True)
        finally:  # of what was done, also where time is up
            if runs:
                cut = {"cut_off": True} if len(runs) < len(counts) else {}
                emit("scaling", {**about, **compare(runs), **cut, "runs": runs}, append)


def compare(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Print the runs and how the last one's rate compares with the first one's."""
    header = ("workers", "pages", "seconds", "pages/s", "loaded in, s", "idle", "not full")
    print_table((*header, "of each", "cores in use"), [_row(run) for run in runs])
    first, last = runs[0], runs[-1]
    if first is last:
        return {}
    scaling = last["pages_per_second"] / first["pages_per_second"]
    of_linear = scaling * first["workers"] / last["workers"]
    print(f"{last['workers']} workers: {scaling:.2f} times {first['workers']}, {of_linear:.1%}")
    return {"scaling": round(scaling, 4), "of_linear": round(of_linear, 4)}


def measure(source: Path, out: Path, settings: Any, pages: int) -> dict[str, Any]:
    """The rate of one crew."""
    count = settings.work.workers
    job = open_job(str(source), str(out), settings)
    worker = Worker(job)
    plan = plan_job(job, worker.ledger)
    worker.ledger.prepare(job.recipe)
    say(f"workers: {count}; loading")
    began = time.perf_counter()
    with muster(job, worker, pages) as crew:
        while any(report.loading is not None for report in crew.reports()):
            time.sleep(0.2)
        loaded = time.perf_counter() - began
        say(f"loaded in {loaded:.1f} s; warming up, until each has read")
        shards = iter(plan.shards)
        before: dict[str, int] = {}
        while len(before) < count and (some := list(itertools.islice(shards, count))):
            process(crew, some)  # whoever has asked first may take all of them
            before = {r.worker: pages_read(r.pages) for r in crew.reports() if r.pages}
        if len(before) < count:
            raise click.ClickException(f"of {count} workers only these read: {[*before]}")
        say(f"read {sum(before.values())} pages; now for the clock")
        with Load() as load:
            began = time.perf_counter()
            statuses = process(crew, list(shards))
            seconds = time.perf_counter() - began
        reports = crew.reports()
    if not (read := pages_read(statuses)):
        raise click.ClickException("no shard is left to measure: more --pages, or smaller shards")
    say(f"read {read} pages in {seconds:.1f} s")
    return {
        "workers": count,
        "pages": read,
        "statuses": dict(statuses),
        "seconds": round(seconds, 2),
        "pages_per_second": round(read / seconds, 3),
        "loaded_seconds": round(loaded, 1),
        "pages_each": [pages_read(r.pages) - before.get(r.worker, 0) for r in reports],
        **load.report(),
        "reports": [asdict(report) for report in reports],
    }


def pages_read(statuses: Mapping[str, int]) -> int:
    """Pages that the model has read, of rows by status; a blank page costs it nothing."""
    return sum(statuses.get(status, 0) for status in ("ok", "fallback", "partial"))


def process(crew: Crew, shards: Sequence[Shard]) -> Counter[str]:
    """Rows by status."""
    statuses: Counter[str] = Counter()
    began = told = time.perf_counter()
    with ThreadPoolExecutor(crew.slots) as pool:
        try:
            for done in as_completed([pool.submit(crew.process, shard) for shard in shards]):
                statuses.update(done.result().pages)
                if (now := time.perf_counter()) > told + TELL_SECONDS:
                    told = now
                    say(f"{pages_read(statuses)} pages committed in {now - began:.1f} s")
        except BaseException:
            crew.stop()  # leaving the pool waits for its threads
            raise
    return statuses


def _row(run: dict[str, Any]) -> tuple[Any, ...]:
    shares = [
        " ".join(f"{report[name] or 0:.1%}" for report in run["reports"])
        for name in ("idle", "hungry")
    ]
    each = " ".join(map(str, run["pages_each"]))
    cores = " ".join(f"{role} {used:g}" for role, used in run["cores"].items())
    rate, loaded = run["pages_per_second"], run["loaded_seconds"]
    return (run["workers"], run["pages"], run["seconds"], rate, loaded, *shares, each, cores)


if __name__ == "__main__":
    main()
