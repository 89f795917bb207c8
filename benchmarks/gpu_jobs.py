"""Whole commands on a GPU: a run's memory, and the mission from S3 to S3. Parts of `gpu.py`."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import time
from typing import TYPE_CHECKING, Any

import click

from benchmarks.common import as_options, pagemill, print_table
from benchmarks.pages import write_documents
from benchmarks.watching import Watch

if TYPE_CHECKING:
    from benchmarks.gpu_bench import Bench

FEW = 500
TOKENS = 8
LOADED = re.compile(r"loaded .+ in [\d.]+ s")


def measure_memory(bench: Bench, many: int) -> None:
    """Peaks of a run's processes, for few pages and for many."""
    folder, overrides = bench.folder, copy.deepcopy(bench.overrides)
    overrides["outputs"]["text"]["max_new_tokens"] = TOKENS
    runs: list[dict[str, Any]] = []
    for pages in (min(FEW, many // 2), many):
        source = write_documents(folder / f"memory-{pages}", pages, bench.documents)
        command = pagemill("run", str(source), str(folder / f"out-{pages}"), "-c", bench.config)
        began = time.perf_counter()
        log = folder / f"memory-{pages}.log"
        with (
            log.open("wb") as stream,
            subprocess.Popen(
                [*command, *as_options(overrides)], stdout=stream, stderr=stream
            ) as run,
            Watch(run.pid) as watch,
        ):
            code = run.wait()
        if code not in (0, 3):
            raise click.ClickException(f"exit code {code}\n{log.read_text()[-3000:]}")
        seconds = round(time.perf_counter() - began, 1)
        peak = {"together": round(sum(watch.peaks.values()), 1), **watch.peaks}
        runs.append({"pages": pages, "seconds": seconds, "peak_mb": peak})
        print(json.dumps(runs[-1]), flush=True)
    growth = runs[1]["peak_mb"]["together"] / runs[0]["peak_mb"]["together"]
    print(f"\npeak resident memory in MB, {TOKENS} tokens a page")
    roles = list(runs[0]["peak_mb"])
    rows = [(r["pages"], r["seconds"], *(r["peak_mb"].get(k, "") for k in roles)) for r in runs]
    print_table(("pages", "seconds", *roles), rows)
    bench.report("memory", {"growth": round(growth, 4), "runs": runs})


def measure_mission(bench: Bench) -> None:
    """Bucket to bucket by the command line, then the proof of it."""
    from tests.seaweed import serving

    with serving() as server:
        bucket = server.bucket()
        files = sorted(bench.source.iterdir())
        for file in files:
            server.put(bucket, f"scans/{file.name}", file.read_bytes())
        shard = min(16, max(1, len(files) // 4))
        here = {"work.shard_documents": shard, "storage.endpoint_url": server.endpoint_url}
        scans, out = f"s3://{bucket}/scans", f"s3://{server.bucket()}/pages"
        began = time.perf_counter()
        options = ["-c", bench.config, *as_options({**bench.overrides, **here})]
        run = _command("run", scans, out, *options)
        seconds = round(time.perf_counter() - began, 1)
        again = _command("run", scans, out, *options)
        check = _command("check", out, "--source", scans, *options)
    loads = LOADED.findall(run.stdout + run.stderr)
    result = {
        "documents": len(files),
        "shards": -(-len(files) // shard),
        "seconds": seconds,
        "exit_codes": {"run": run.returncode, "again": again.returncode, "check": check.returncode},
        "loads": loads,
        "run": _tail(run),
        "again": _tail(again),
        "check": _tail(check),
    }
    good = run.returncode in (0, 3) and check.returncode == 0 and len(loads) == 1
    print(run.stdout[-3000:], run.stderr[-6000:], check.stdout[-1000:], sep="\n")
    print("mission:", "OK" if good else "NOT OK", flush=True)
    bench.report("mission", {"ok": good, **result})


def _command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(pagemill(*arguments), capture_output=True, text=True, check=False)


def _tail(done: subprocess.CompletedProcess[str], lines: int = 12) -> list[str]:
    return [line for line in (done.stdout or done.stderr).splitlines() if line.strip()][-lines:]
