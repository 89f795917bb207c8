"""The model alone over the corpus: error rates by kind of page, captions, loops. See `--help`."""

from __future__ import annotations

import csv
import importlib.util
import json
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import click
from PIL import Image

from benchmarks import options
from benchmarks.common import emit, print_table
from benchmarks.corpus import TRUE_TEXT, Scorer, read_all
from benchmarks.gpu_read import read_all as read_files
from benchmarks.gpu_read import report, rows_of, write
from benchmarks.order import in_order_of
from loaders.resident import engine_for
from pagemill import answers
from pagemill.config import load_settings, parse_overrides
from pagemill.document import PageImage
from pagemill.errors import ErrorKind
from pagemill.settings import Settings
from tasks.read import TURNED_BACK
from tasks.render import render

Row = dict[str, Any]

LATIN, OTHER = ("de", "es", "fr"), ("ja", "ru")
GROUPS: dict[str, Callable[[Row], bool]] = {
    "digital, English": lambda d: d["text_layer"] == "digital" and d["lang"] == "en",
    "digital, other Latin": lambda d: d["text_layer"] == "digital" and d["lang"] in LATIN,
    "digital, other scripts": lambda d: d["text_layer"] == "digital" and d["lang"] in OTHER,
    "scans": lambda d: d["text_layer"] == "scanned",
    "scans, upright": lambda d: d["text_layer"] == "scanned" and "rotated" not in d["path"],
    "scans, turned": lambda d: d["text_layer"] == "scanned" and "rotated" in d["path"],
    "all": lambda d: True,
}

CHART = "chart|plot|graph|histogram|heat ?map|matrix"
PHOTOGRAPH = "photo"
KINDS = {
    "jose_00185_fig1.png": f"{CHART}|three-dimensional|drawing|diagram",
    "jose_00185_fig4.png": f"{CHART}|three-dimensional",
    "jose_00185_fig5.png": f"{CHART}|three-dimensional",
    "jose_00205_D1Q2_D2Q9.png": "diagram|drawing",
    "jose_00240_responses.png": CHART,
    "jose_00259_Figure_1.png": f"table|{CHART}",
    "jose_00286_figure1-co-coefficient-matrix.pdf": CHART,
    "jose_00286_figure2-orbitals-co-contour.pdf": CHART,
    "jose_00286_orbitals-co-isosurface.jpg": f"drawing|diagram|three-dimensional|{CHART}",
    "jose_00292_agenda.png": "diagram|flow|table|slide",
    "pypi-scikit-image_camera.png": PHOTOGRAPH,
    "pypi-scikit-image_chelsea.png": PHOTOGRAPH,
    "pypi-scikit-image_coffee.png": PHOTOGRAPH,
    "pypi-scikit-image_coins.png": PHOTOGRAPH,
    "pypi-scikit-image_horse.png": "drawing|silhouette",
    "pypi-scikit-image_hubble_deep_field.jpg": PHOTOGRAPH,
    "pypi-scikit-image_moon.png": PHOTOGRAPH,
    "pypi-scikit-image_page.png": f"text|page|{PHOTOGRAPH}",
    "pypi-scikit-image_retina.jpg": PHOTOGRAPH,
    "pypi-scikit-image_rocket.jpg": PHOTOGRAPH,
}
"""What a caption of each picture has to say somewhere, whatever else it says: judged by eye."""


@click.command()
@click.argument("model", default="models/pagereader-19m")
@options.corpus
@options.config
@options.chosen
@options.tesseract
@click.option("--only", default="", metavar="TEXT", help="Files whose name has TEXT in it.")
@click.option("--out", type=Path, help="A folder for pages, texts and scores.")
@options.append
def main(
    model: str,
    corpus: Path,
    config: str,
    chosen: tuple[str, ...],
    tesseract: bool,
    only: str,
    out: Path | None,
    append: bool,
) -> None:
    """Read the corpus' pages with MODEL, a folder or a name on the hub, without the pipeline.

    The documents with a true text are transcribed and the pictures described, drawn and asked
    as the config says; no text layer stands in. A page that the model says is turned is turned
    back and read again, as the pipeline does it. Error rates are score.py's, medians and means
    over documents; one of which nothing was read counts as all wrong. One that is known in part
    has no CER. What of the mean is order is the rate that would remain were every letter right
    (order.py). A picture's kind is right where its caption has a word of a table in this file.

    \b
      python benchmarks/reading.py --tesseract
      python benchmarks/reading.py --set model.quantization=4bit
      python benchmarks/reading.py RUN/exported --set model.device=cuda --set model.batch_size=64

    Takes 5 to 15 minutes on 2 cores. Needs a corpus of documents with a manifest.csv and a
    score.py, and rapidfuzz.
    """
    settings = load_settings(config, {"model.id": model, **parse_overrides(chosen)})
    with tempfile.TemporaryDirectory(prefix="pagemill-reading-") as temporary:
        folder = out or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        scorer = Scorer(corpus, folder, folder)
        result = read(settings, corpus, only, scorer, folder)
        if tesseract:
            scorer.score("tesseract", list(read_all(corpus)))
            result["tesseract"] = scores(corpus, folder, "tesseract", only)
    show(result)
    emit("reading", result, append)


def read(settings: Settings, corpus: Path, only: str, scorer: Scorer, folder: Path) -> Row:
    """Transcribe and describe; scores by group, and which kinds are wrong."""
    with (corpus / "manifest.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if only in row["path"]]
    documents = [corpus / row["path"] for row in rows if row["gt_kind"] in (*TRUE_TEXT, "caption")]
    pages = [path for path in documents if path.name not in KINDS]
    pictures = [path for path in documents if path.name in KINDS]
    with closing(engine_for(settings.model)) as engine:

        def ask(name: str, paths: list[Path]) -> tuple[list[Row], Row]:
            asked = settings.outputs[name]
            files = draw(paths, folder / name, settings)
            began = time.perf_counter()
            said = read_files(engine, files, asked.prompt, asked.max_new_tokens)
            turned: set[Path] = set()
            for _ in range(TURNED_BACK):
                lying = [file for file, answer in said if turn_upright(file, answer.text)]
                again = dict(read_files(engine, lying, asked.prompt, asked.max_new_tokens))
                said = [(file, again.get(file, answer)) for file, answer in said]
                turned.update(lying)
            write(folder / f"{name}.jsonl", said)
            spent = time.perf_counter() - began
            other = sum(named(answer.text) is ErrorKind.OTHER_SCRIPT for _, answer in said)
            return rows_of(said), {
                **report(said, spent),
                "turned_upright": len(turned),
                "other_script": other,
            }

        texts, speed = ask("text", pages)
        captions, _ = ask("caption", pictures)
    scorer.score("model", texts)
    wrong = {
        row["uri"]: row["text"] for row in captions if not says(row["text"], KINDS[row["uri"]])
    }
    return {
        "model": settings.model.id,
        "quantization": settings.model.quantization,
        "framework": engine.version,
        "groups": scores(corpus, folder, "model", only),
        "reading": speed,
        "pictures": len(captions),
        "kind_right": len(captions) - len(wrong),
        "photographs_called_charts": sum(
            KINDS[uri] == PHOTOGRAPH and says(said, CHART) for uri, said in wrong.items()
        ),
        "kind_wrong": wrong,
    }


def named(answer: str) -> ErrorKind | None:
    """Why the model does not read a page, where it says so instead."""
    reason = answers.says_only(answer)
    return reason[0] if reason else None


def says(caption: str, kinds: str) -> bool:
    """Whether a word of the caption begins with one of the kinds; "paragraph" is no graph."""
    return bool(re.search(rf"\b(?:{kinds})", caption, re.IGNORECASE))


def draw(documents: Iterable[Path], folder: Path, settings: Settings) -> list[Path]:
    """Every page as the pipeline draws it, as a file that `gpu_read` knows the page of."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for path in documents:
        with path.open("rb") as opened, closing(render(opened, settings)) as items:
            for item in items:
                if isinstance(item, PageImage):
                    files.append(folder / f"{path.name}-p{item.number}.png")
                    item.image.save(files[-1], compress_level=1)
    return files


def turn_upright(file: Path, answer: str) -> bool:
    """Turn the picture back where the model says that it is turned, to be read again."""
    degrees = answers.turned(answer)
    if degrees:
        with Image.open(file) as image:
            image.rotate(degrees, expand=True).save(file)
    return bool(degrees)


def scores(corpus: Path, folder: Path, reader: str, only: str) -> dict[str, Row]:
    """Error rates by group of what `Scorer` has scored under this name."""
    order = order_costs(corpus, folder / f"{reader}-texts.jsonl")
    return by_group(folder / f"{reader}.csv", order, only)


def by_group(table: Path, order: dict[str, float], only: str = "") -> dict[str, Row]:
    """Documents, median and mean CER, what of the mean is order, and mean F1, of each group.

    `table` is score.py's, `order` by path what `order_costs` says. One without any text is
    there with an error rate of 1; so what was not asked for (`only`) has to be left out here.
    """
    with table.open(encoding="utf-8", newline="") as file:
        documents = [row for row in csv.DictReader(file) if only in row["path"]]
    found = {}
    for name, belongs in GROUPS.items():
        group = [row for row in documents if belongs(row)]
        rated = [(float(row["cer"]), order[row["path"]]) for row in group if row["cer"]]
        words = [float(row["bow_f1"]) for row in group if row["bow_f1"]]
        if rated:
            found[name] = {
                "documents": len(group),
                "cer_median": round(statistics.median(rate for rate, _ in rated), 4),
                "cer_mean": round(statistics.mean(min(rate, 1.0) for rate, _ in rated), 4),
                "cer_order": round(statistics.mean(min(cost, 1.0) for _, cost in rated), 4),
                "word_f1": round(statistics.mean(words), 4),
            }
    return found


def order_costs(corpus: Path, texts: Path) -> dict[str, float]:
    """By path: the error rate of the true words in the order in which they were read."""
    spec = importlib.util.spec_from_file_location("score", corpus / "score.py")
    assert spec and spec.loader  # it has just been run
    score = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(score)
    read: dict[str, list[str]] = {}
    pages_read = map(json.loads, texts.read_text(encoding="utf-8").splitlines())
    for page in sorted(pages_read, key=lambda page: int(page["page"])):
        read.setdefault(page["uri"], []).append(page["text"])
    costs = {}
    with (corpus / "manifest.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in (row for row in rows if row["gt_kind"] in TRUE_TEXT and row["gt_kind"] != "tests"):
        true = score.norm((corpus / row["gt"]).read_text(encoding="utf-8").replace("\f", "\n"))
        pages = read.get(Path(row["path"]).name, [])
        if row["ignore"]:
            pages = [re.sub(row["ignore"], " ", page) for page in pages]
        ordered = in_order_of(true, score.norm("\n".join(pages)))
        costs[row["path"]] = score.measure(true, ordered)["cer"]
    return costs


def show(result: Row) -> None:
    """The table of benchmarks/README.md."""
    print()
    for reader in ("groups", "tesseract"):
        if reader in result:
            print("tesseract" if reader == "tesseract" else result["model"])
            header = ("documents", "n", "CER median", "CER mean", "of it order", "word F1")
            print_table(header, [(name, *row.values()) for name, row in result[reader].items()])
    speed = result["reading"]
    print(f"{speed['pages']} pages in {speed['seconds']} s: {speed['loops']} loop,", end=" ")
    print(f"{speed['cut_off']} run to the cap, {speed['turned_upright']} turned upright,", end=" ")
    print(f"{speed['other_script']} in another script")
    print(f"kind right: {result['kind_right']} of {result['pictures']} pictures;", end=" ")
    print(f"photographs called charts: {result['photographs_called_charts']}")
    for uri, said in result["kind_wrong"].items():
        print(f"  {uri}: {said}")
    print()


if __name__ == "__main__":
    main()
