"""What the benchmarks share: documents from a seed, the machine's name, a table, a JSON line.

result = {"pages": 400, "seconds": 12.5}
print_table(("pages", "seconds"), [(400, 12.5)])
emit("pipeline/overhead", result, append=True)
"""

from __future__ import annotations

import json
import os
import platform
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from unittest import mock

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent
CORPUS = PROJECT.parent / "shared" / "corpus"
RESULTS = HERE / "results.jsonl"
ECHO = str(HERE / "echo.yaml")

_BEGAN = time.perf_counter()
_LOAD_BEFORE = round(os.getloadavg()[0], 1)
_PACKAGES = ("pagemill", "prefect", "torch", "transformers", "vllm", "pypdfium2", "pyarrow")
_TEXT = (
    "the water turns a wheel of oak and the wheel turns a stone that grinds the grain to flour "
    "in sacks which carts take down to market when roads are dry before winter comes again"
)


# -- documents -----------------------------------------------------------------------------


def make_pdf(path: Path, pages: int, seed: int, lines: int = 12, blank: Sequence[int] = ()) -> Path:
    """A PDF of random words; equal arguments give equal bytes. `blank` pages stay empty."""
    from reportlab.lib.pagesizes import A4
    from reportlab.pdfgen.canvas import Canvas

    choose = random.Random(seed)
    canvas = Canvas(str(path), pagesize=A4, invariant=1)
    for number in range(1, pages + 1):
        if number not in blank:
            _write_page(canvas, f"Document {seed}, page {number}", lines, choose)
        canvas.showPage()
    canvas.save()
    return path


def _write_page(canvas: Any, title: str, lines: int, choose: random.Random) -> None:
    canvas.setFont("Times-Bold", 18)
    canvas.drawString(72, 750, title)
    canvas.setFont("Times-Roman", 12)
    for line in range(lines):
        canvas.drawString(72, 715 - 16 * line, " ".join(choose.choices(_TEXT.split(), k=11)))


def make_pdfs(folder: Path, count: int, pages: int, seed: int = 0, lines: int = 12) -> Path:
    """A folder of `count` different PDFs of `pages` pages each."""
    folder.mkdir(parents=True, exist_ok=True)
    for n in range(count):
        make_pdf(folder / f"doc-{n:04}.pdf", pages, seed=1000 * seed + n, lines=lines)
    return folder


# -- the job without Prefect ---------------------------------------------------------------


def run_plainly(source: str, out: str, config: str, overrides: dict[str, Any]) -> Any:
    """The flow `ingest` without Prefect: the same functions in the same order; the `Balance`."""
    from pagemill.config import load_settings
    from pagemill.errors import Unbalanced
    from tasks.crew import muster
    from tasks.job import open_job
    from tasks.reconcile import Work, reconcile
    from tasks.shift import shift
    from tasks.worker import Worker

    started = datetime.now(UTC)
    job = open_job(source, out, load_settings(config, overrides))
    worker = Worker(job)
    with shift(job, worker.ledger, print) as plan:
        worker.ledger.tidy(worker.deciders)
        if plan.shards:
            worker.ledger.prepare(job.recipe)
        with muster(job, worker, plan.about_pages()) as crew:
            with ThreadPoolExecutor(crew.slots) as pool:
                receipts = list(pool.map(crew.process, plan.shards))
            work = Work(receipts, reports=crew.reports())
        balance = reconcile(job, plan, worker.ledger, work, started)
        if not balance.balanced:
            raise Unbalanced(str(balance.missing))
        worker.ledger.write_run(balance.run_id, balance.as_dict())
    return balance


def fresh_prefect(folder: Path) -> None:
    """Let Prefect be quiet and keep its history in `folder`; call before it is first imported."""
    from flows.prefect_api import quiet

    os.environ["PREFECT_HOME"] = str(folder / "prefect")
    os.environ.pop("PREFECT_API_URL", None)
    quiet()


@contextmanager
def quick_leases(renew_seconds: float, dead_seconds: float = 60) -> Iterator[None]:
    """Let leases be renewed, and taken for dead, sooner than users need it."""
    from pagemill.lease import Lease

    quick = partial(Lease, renew_seconds=renew_seconds, dead_seconds=dead_seconds)
    with mock.patch("tasks.shift.Lease", quick):
        yield


def as_options(overrides: dict[str, Any]) -> list[str]:
    """Overrides as options of the command line."""
    return [o for key, value in overrides.items() for o in ("--set", f"{key}={json.dumps(value)}")]


def pagemill(*arguments: str) -> list[str]:
    """The command line of this Python's pagemill."""
    return [sys.executable, "-c", "from flows.cli import main; main()", *arguments]


# -- results -------------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    """What a number was measured on.

    `load_before` is the load average when this process began, so that of other work; `load` is that
    of the last minute, this process included.
    """
    cpu = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    versions = {}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return {
        "cpu": cpu.group(1) if cpu else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "python": platform.python_version(),
        "load_before": _LOAD_BEFORE,
        "load": round(os.getloadavg()[0], 1),
        **_gpu(),
        **versions,
    }


def _gpu() -> dict[str, str]:
    """The first GPU that this process may use, if there is one."""
    which = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0] or "0"
    ask = ["nvidia-smi", "-i", which, "--query-gpu=name", "--format=csv,noheader"]
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(ask, capture_output=True, text=True, check=True, timeout=20)
        return {"gpu": done.stdout.strip()}
    return {}


def end_on_sigterm() -> None:
    """Let SIGTERM, of `timeout`, raise `SystemExit`: what was measured until then is told."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def say(what: str) -> None:
    """A line of progress, with the seconds since this was imported."""
    print(f"{time.perf_counter() - _BEGAN:7.1f} s  {what}", flush=True)


def print_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A plain table: numbers to the right, as Markdown so that it can be pasted."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    print("| " + " | ".join(h.ljust(w) for h, w in zip(header, widths, strict=True)) + " |")
    print("|" + "|".join("-" * (w + 2) for w in widths) + "|")
    for row in cells:
        print("| " + " | ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) + " |")
    print(flush=True)


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) and abs(value) < 100 else f"{value}"


def emit(name: str, result: dict[str, Any], append: bool) -> None:
    """Print a result as one JSON line; also add it to `results.jsonl` if asked."""
    at = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    line = json.dumps({"benchmark": name, "at": at, **result, "machine": machine()})
    print(line, flush=True)
    if append:
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
