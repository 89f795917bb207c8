"""Documents made for tests, and jobs run on them without Prefect."""

from __future__ import annotations

import io
import time
import weakref
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from PIL import Image, ImageDraw
from reportlab.lib.pagesizes import A6
from reportlab.pdfgen.canvas import Canvas

from pagemill.config import load_settings
from pagemill.settings import Settings
from tasks.job import open_job
from tasks.plan import Plan, plan_job
from tasks.process import process_shard
from tasks.receipt import Receipt
from tasks.reconcile import Balance, Work, reconcile
from tasks.shard import Shard
from tasks.worker import Worker

ECHO: dict[str, Any] = {
    "model": {"name": "echo", "id": "echo", "framework": "echo", "batch_size": 4},
    "outputs": {
        "text": {"prompt": "Transcribe the text of this page.", "max_new_tokens": 1000},
        "caption": {"prompt": "Describe this image.", "max_new_tokens": 100},
    },
    "render": {"max_pixels": 20_000},
    "work": {"shard_documents": 4, "part_pages": 6},
}


def write_config(folder: Path, **changes: Any) -> Path:
    """`ECHO` as a config file, with whole groups changed."""
    path = folder / "echo.yaml"
    path.write_text(yaml.safe_dump({**ECHO, **changes}))
    return path


def echo_settings(folder: Path, **overrides: Any) -> Settings:
    """`ECHO`, with dotted keys (``limits__max_pages``) laid over it."""
    dotted = {key.replace("__", "."): value for key, value in overrides.items()}
    return load_settings(write_config(folder), dotted)


def make_pdf(path: Path, pages: int = 1, words: str = "") -> Path:
    """A PDF; every page says which one it is."""
    canvas = Canvas(str(path), pagesize=A6, invariant=True)
    for number in range(1, pages + 1):
        for line in range(6):
            canvas.drawString(
                30, 380 - 20 * line, f"{words or path.stem} page {number} line {line}"
            )
        canvas.showPage()
    canvas.save()
    return path


def make_pdfs(folder: Path, count: int, pages: int) -> Path:
    """A new folder of PDFs: 0.pdf, 1.pdf, …"""
    folder.mkdir()
    for number in range(count):
        make_pdf(folder / f"{number}.pdf", pages)
    return folder


def make_image(path: Path, words: str = "picture") -> Path:
    """A picture with a few words on it."""
    image = Image.new("RGB", (300, 200), "white")
    ImageDraw.Draw(image).text((20, 80), words, fill="black")
    sink = io.BytesIO()
    image.save(sink, "PNG")
    path.write_bytes(sink.getvalue())
    return path


def look(source: Path | str | None, out: Path | str, settings: Settings) -> tuple[Worker, Plan]:
    """A worker for this job, and its plan."""
    worker = Worker(open_job(source and str(source), str(out), settings))
    return worker, plan_job(worker.job, worker.ledger)


def process(worker: Worker, shard: Shard) -> Receipt:
    """A shard, as soon as the worker has room for it."""
    worker.enter()
    return process_shard(worker, shard)


def run(source: Path | str | None, out: Path | str, settings: Settings) -> Balance:
    """What the flow does, without Prefect: the first error is raised."""
    started = datetime.now(UTC)
    worker, plan = look(source, out, settings)
    if plan.shards:
        worker.ledger.prepare(worker.job.recipe)
    receipts = [process(worker, shard) for shard in plan.shards]
    return reconcile(
        worker.job, plan, worker.ledger, Work(receipts, [], [worker.report()]), started
    )


def table(out: Path) -> list[dict[str, Any]]:
    """All rows below a local OUT, by a raw read, sorted by file name and page."""
    import pyarrow.parquet as pq

    parts = sorted(out.glob("recipe=*/pages/*.parquet"))
    rows = [row for part in parts for row in pq.ParquetFile(part).read().to_pylist()]
    return sorted(rows, key=lambda r: (r["source_uri"], r["page_number"] or 0))


def name(row: dict[str, Any]) -> str:
    """The file name of a row."""
    return str(row["source_uri"]).rsplit("/", 1)[-1]


def is_let_go(kept: weakref.ReferenceType[Any]) -> bool:
    """Whether nobody holds it any more, at once or after a moment."""
    deadline = time.monotonic() + 10
    while kept() is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    return kept() is None
