"""What Prefect costs: the start of a run on a configured API, and a shard among a thousand.

    python benchmarks/orchestration.py [--shards 1000] [--append]

The documents are empty files, a shard each, so that nothing but the orchestration and the commits
is left; the reference is the same job without Prefect, in the same process layout.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import ECHO, PROJECT, emit, print_table

PAGES_PER_SHARD = 200
"""Of a shard as they are meant to be cut: a minute or more of model time."""

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


def main() -> None:
    """Measure, print a table and a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=1000)
    parser.add_argument("--append", action="store_true", help="add to results.jsonl")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["PREFECT_HOME"] = str(folder / "prefect")
        os.environ.pop("PREFECT_API_URL", None)
        from flows.prefect_api import prefect_api

        few, many = make_empty(folder / "few", 1), make_empty(folder / "many", arguments.shards)
        with prefect_api():
            (server,) = psutil.Process().children()
            timed("flow", few, folder / "warm")  # byte-compiles, fills the page cache
            start = {kind: timed(kind, few, folder / f"few-{kind}") for kind in _RUN}
            before = cpu(server)
            seconds = {kind: timed(kind, many, folder / f"many-{kind}") for kind in _RUN}
            time.sleep(5)  # what it records later
            server_cpu = cpu(server) - before
    added = [flow - plain for flow, plain in zip(start["flow"], start["plain"], strict=True)]
    more = [flow - plain for flow, plain in zip(seconds["flow"], seconds["plain"], strict=True)]
    shard, shard_cpu = (1000 * (m - a) / arguments.shards for m, a in zip(more, added, strict=True))
    server_ms = 1000 * server_cpu / arguments.shards
    result = {
        "shards": arguments.shards,
        "start_added_seconds": round(added[0], 2),
        "start_added_cpu_seconds": round(added[1], 2),
        "flow_seconds": round(seconds["flow"][0], 2),
        "plain_seconds": round(seconds["plain"][0], 2),
        "ms_per_shard": round(shard, 1),
        "cpu_ms_per_shard": round(shard_cpu, 1),
        "server_cpu_ms_per_shard": round(server_ms, 1),
        "cpu_ms_per_page": round((shard_cpu + server_ms) / PAGES_PER_SHARD, 3),
    }
    print_table(("what", "value"), result.items())
    emit("orchestration", result, arguments.append)


if __name__ == "__main__":
    main()
