"""The main job over the corpus, balanced, scored, beside tesseract. See `--help`."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import click

from benchmarks import options
from benchmarks.common import ECHO, as_options, emit, print_table
from benchmarks.watching import run_and_check

DPI = 300
"""Of the pages given to tesseract."""
READ = ("ok", "blank", "fallback", "partial")
NO_DOCUMENTS = ["gt/*", "README.md", "manifest.csv", "score.py"]
GROUPS = {"all": "all", "digital": "text_layer=digital", "scanned": "text_layer=scanned"}
TRUE_TEXT = ("human", "source", "textlayer", "textlayer+source", "sibling-textlayer", "tests")

Page = dict[str, Any]


@click.command()
@options.corpus
@click.option("--out", help="OUT of the job; a temporary folder if left out. Its rows are kept.")
@options.config
@options.chosen
@click.option("--max-pages", default=20, show_default=True, help="Pages read of one document.")
@click.option("--run/--no-run", default=True, help="Run the job.")
@options.tesseract
@click.option("--csv", "per_document", type=Path, help="A folder for the scores by document.")
@options.append
def main(
    corpus: Path,
    out: str | None,
    config: str,
    chosen: tuple[str, ...],
    max_pages: int,
    run: bool,
    tesseract: bool,
    per_document: Path | None,
    append: bool,
) -> None:
    """Run the main job over the corpus, check that it balances, score what it read.

    Prints what score.py says: error rates of all documents with ground truth, of the digital
    and of the scanned ones, and the files whose outcome is not what the manifest expects; also
    wall time, pages/s and the peak memory of the run. A document counts as read when at least
    one of its pages was. Fails if the run does not balance or leaves something behind.

    \b
      python benchmarks/corpus.py --tesseract                the default model, and tesseract
      python benchmarks/corpus.py -c benchmarks/echo.yaml    outcomes only
      python benchmarks/corpus.py --no-run --tesseract       tesseract alone

    Takes 20 to 60 minutes on 2 cores with the default model, 2 with the stand-in, 3 for tesseract.
    Needs a corpus of documents with a manifest.csv and a score.py, and rapidfuzz.
    """
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="pagemill-corpus-") as folder:
        scorer = Scorer(corpus, Path(folder), per_document)
        if run:
            settings = (*chosen, f"limits.max_pages={max_pages}")
            out = out or f"{folder}/out"
            result["run"] = run_job(str(corpus), out, config, settings)
            rows = list(read_rows(out, result["run"]["recipe"]))
            result["pagemill"] = scorer.score("pagemill", texts(rows), outcomes(rows))
        if tesseract:
            began = time.perf_counter()
            result["tesseract"] = scorer.score("tesseract", list(read_all(corpus)))
            result["tesseract"]["seconds"] = round(time.perf_counter() - began, 1)
    show(result)
    emit("corpus", result, append)
    if amiss := result.get("run", {}).get("amiss"):
        raise click.ClickException("; ".join(amiss))


# -- the job ------------------------------------------------------------------------------


def run_job(source: str, out: str, config: str, chosen: Iterable[str]) -> dict[str, Any]:
    """`pagemill run`, then `pagemill check`; what it cost."""
    words = ["-c", config, *as_options({"select.exclude": NO_DOCUMENTS})]
    words += [word for pair in chosen for word in ("--set", pair)]
    done = run_and_check(source, out, words)
    if not done.balance:
        raise click.ClickException("; ".join(done.amiss))
    balance = done.balance
    return {
        "recipe": balance["recipe"],
        "documents": balance["documents"]["selected"],
        "rows": balance["pages"]["rows"],
        "by_status": balance["pages"]["by_status"],
        "errors": balance["errors"],
        "wall_seconds": round(done.seconds, 1),
        **balance["cost"],
        "peak_mb": done.peak_mb,
        "amiss": done.amiss,
    }


def read_rows(out: str, recipe: str) -> Iterator[Page]:
    """All rows of OUT, as anybody would read them."""
    import pyarrow.dataset as ds

    folder = Path(out) / f"recipe={recipe}" / "pages"
    columns = ["source_uri", "page_number", "page_count", "status", "error_kind", "text"]
    yield from ds.dataset(folder, format="parquet").to_table(columns).to_pylist()


def texts(rows: Iterable[Page]) -> list[Page]:
    """The texts as score.py wants them."""
    return [
        {"uri": row["source_uri"], "page": row["page_number"], "text": row["text"] or ""}
        for row in rows
        if row["status"] in READ
    ]


def outcomes(rows: Iterable[Page]) -> list[Page]:
    """What became of each document, as score.py wants it."""
    documents: dict[str, list[Page]] = defaultdict(list)
    for row in rows:
        documents[row["source_uri"]].append(row)
    return [
        {
            "uri": uri,
            "status": "ok" if any(row["status"] in READ for row in pages) else "error",
            "pages": pages[0]["page_count"],
            "error_kind": next((row["error_kind"] for row in pages if row["error_kind"]), None),
        }
        for uri, pages in documents.items()
    ]


# -- the score -----------------------------------------------------------------------------


class Scorer:
    """The corpus' own score.py, in a process of its own."""

    def __init__(self, corpus: Path, folder: Path, per_document: Path | None) -> None:
        self._corpus, self._folder, self._per_document = corpus, folder, per_document

    def score(self, name: str, texts: list[Page], outcomes: list[Page] | None = None) -> Any:
        """Its summary, and what it said of single documents."""
        summary = self._folder / f"{name}.json"
        command = [sys.executable, str(self._corpus / "score.py"), "--json", str(summary)]
        command += ["--manifest", str(self._corpus / "manifest.csv")]
        command += ["--texts", self._lines(f"{name}-texts", texts)]
        if outcomes is not None:
            command += ["--outcomes", self._lines(f"{name}-outcomes", outcomes)]
        if self._per_document:
            self._per_document.mkdir(parents=True, exist_ok=True)
            command += ["--csv", str(self._per_document / f"{name}.csv")]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise click.ClickException(f"score.py failed:\n{done.stderr}")
        differences = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        found = json.loads(summary.read_text())
        kept = {group: found[key] for group, key in GROUPS.items() if key in found}
        return {**kept, "outcomes": found.get("outcomes"), "differences": differences}

    def _lines(self, name: str, rows: list[Page]) -> str:
        path = self._folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(path)


# -- tesseract -----------------------------------------------------------------------------


def read_all(corpus: Path) -> Iterator[Page]:
    """Tesseract's text of every page of the documents with a true text.

    It gets what pagemill's own renderer draws: PDF pages at 300 dpi, pictures as they are. One
    process a core, one thread each, English only.
    """
    with (corpus / "manifest.csv").open(encoding="utf-8", newline="") as file:
        paths = [row["path"] for row in csv.DictReader(file) if row["gt_kind"] in TRUE_TEXT]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for pages in pool.map(lambda path: read_document(corpus / path), paths):
            yield from pages


def read_document(file: Path) -> list[Page]:
    """Tesseract's text of a document, page by page."""
    from pagemill.config import load_settings
    from pagemill.document import PageImage
    from tasks.render import render

    large = {"render.max_dpi": DPI, "render.max_pixels": 100_000_000, "render.multiple_of": 1}
    settings = load_settings(ECHO, large)
    with file.open("rb") as opened, closing(render(opened, settings)) as items:
        return [
            {"uri": file.name, "page": item.number, "text": tesseract_text(item.image)}
            for item in items
            if isinstance(item, PageImage)
        ]


def tesseract_text(image: Any) -> str:
    """What tesseract reads in an image, with its default page segmentation."""
    with tempfile.NamedTemporaryFile(suffix=".png") as file:
        image.save(file, "PNG", compress_level=1)
        file.flush()
        command = ["tesseract", file.name, "stdout", "-l", "eng", "--dpi", str(DPI)]
        single = {**os.environ, "OMP_THREAD_LIMIT": "1"}
        return subprocess.run(
            command, env=single, capture_output=True, text=True, check=True
        ).stdout


# -- the table -----------------------------------------------------------------------------


def show(result: dict[str, Any]) -> None:
    """Scores side by side, then the outcomes."""
    scored = [(name, result[name]) for name in ("pagemill", "tesseract") if name in result]
    header = ("reader", "documents", "n", "CER median", "CER mean", "WER mean", "word F1")
    names = ("docs", "cer_median", "cer_mean", "wer_mean", "bow_f1_mean")
    rows = [
        (reader, group, *(score[group].get(name, "") for name in names))
        for reader, score in scored
        for group in GROUPS
        if group in score
    ]
    print()
    print_table(header, rows)
    if "run" in result:
        run, outcome = result["run"], result["pagemill"]["outcomes"]
        facts = ("documents", "rows", "wall_seconds", "pages_per_second", "engine_idle_share")
        print_table(
            (*facts, "peak MB", "as expected"),
            [(*(run[f] for f in facts), run["peak_mb"]["run"], outcome.get("as_expected", 0))],
        )
        for line in result["pagemill"]["differences"]:
            print("  not as expected:", unquote(line))
        print()


if __name__ == "__main__":
    main()
