"""What Prefect costs: the start of its API and of a run, a shard, a page. See `--help`."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import psutil

from benchmarks import options
from benchmarks.common import ECHO, PROJECT, emit, fresh_prefect, print_table

PAGES_PER_SHARD = 200
"""Of a shard as they are meant to be cut: a minute or more of model time."""

Laps = dict[str, tuple[float, float]]
"""Seconds by the clock and of CPU, with Prefect and without."""

_FLOW = "from flows.prefect_api import quiet; quiet(); from flows.ingest import ingest; "
_RUN = {
    "flow": _FLOW + "ingest({0!r}, {1!r}, {2!r}, overrides={3!r})",
    "plain": "from benchmarks.common import run_plainly; run_plainly({0!r}, {1!r}, {2!r}, {3!r})",
}


def timed(kind: str, source: Path, out: Path) -> tuple[float, float]:
    """Seconds of a fresh process that does the job, by the clock and of CPU."""
    code = _RUN[kind].format(str(source), str(out), ECHO, {"work.shard_documents": 1})
    env = {**os.environ, "PYTHONPATH": str(PROJECT)}
    began, used = time.monotonic(), _children_cpu()
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return time.monotonic() - began, _children_cpu() - used


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def cpu(process: psutil.Process) -> float:
    """Seconds of CPU of the server."""
    times = process.cpu_times()
    return float(times.user + times.system)


def make_empty(folder: Path, count: int) -> Path:
    """A folder of documents without bytes."""
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:05}.pdf").touch()
    return folder


@click.command()
@click.option("--shards", default=1000, show_default=True, help="Documents, a shard each.")
@options.append
def main(shards: int, append: bool) -> None:
    """The flow `ingest` against the same job without Prefect, in the same process layout.

    The documents are empty files, a shard each, so that nothing but the orchestration and the
    commits is left. The API is one on this host, with SQLite, in a fresh folder: how long it takes
    to start the first time and again; what it adds to the start of a run, and to each shard, by
    the clock and in seconds of CPU of the run and of the server. A page is taken to be one of 200
    of a shard.

    \b
      python benchmarks/orchestration.py

    Takes 2 minutes on 2 cores. Needs nothing but Prefect.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fresh_prefect(folder)
        from flows.prefect_api import prefect_api

        starts = [_start_api() for _ in range(2)]
        few, many = make_empty(folder / "few", 1), make_empty(folder / "many", shards)
        with prefect_api():
            (server,) = psutil.Process().children()
            timed("flow", few, folder / "warm")  # byte-compiles, fills the page cache
            start = {kind: timed(kind, few, folder / f"few-{kind}") for kind in _RUN}
            before = cpu(server)
            seconds = {kind: timed(kind, many, folder / f"many-{kind}") for kind in _RUN}
            time.sleep(5)  # what it records later
            server_cpu = cpu(server) - before
    result: dict[str, Any] = {
        "shards": shards,
        "api_start_seconds": starts,
        **costs(start, seconds, shards),
        "flow_seconds": round(seconds["flow"][0], 2),
        "plain_seconds": round(seconds["plain"][0], 2),
        "server_cpu_ms_per_shard": round(1000 * server_cpu / shards, 1),
    }
    shard_cpu = result["cpu_ms_per_shard"] + result["server_cpu_ms_per_shard"]
    result["cpu_ms_per_page"] = round(shard_cpu / PAGES_PER_SHARD, 3)
    print_table(("what", "value"), result.items())
    emit("orchestration", result, append)


def costs(start: Laps, many: Laps, shards: int) -> dict[str, float]:
    """What the flow adds to a run of one shard, and to each further shard of a run of many."""
    added = [flow - plain for flow, plain in zip(start["flow"], start["plain"], strict=True)]
    more = [flow - plain for flow, plain in zip(many["flow"], many["plain"], strict=True)]
    each = [1000 * (m - a) / (shards - 1) for m, a in zip(more, added, strict=True)]
    return {
        "start_added_seconds": round(added[0], 2),
        "start_added_cpu_seconds": round(added[1], 2),
        "ms_per_shard": round(each[0], 1),
        "cpu_ms_per_shard": round(each[1], 1),
    }


def _start_api() -> float:
    from flows.prefect_api import prefect_api

    began = time.perf_counter()
    with prefect_api():
        return round(time.perf_counter() - began, 2)


if __name__ == "__main__":
    main()
