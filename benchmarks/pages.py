"""What the GPU benchmarks read, and the models that read it: pages in any number, 7B shapes.

folder = write_documents(Path("/tmp/pages"), pages=512)
model = write_shapes(Path("/tmp/7b"))
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.common import CORPUS, PROJECT

if TYPE_CHECKING:
    from PIL.Image import Image

    from pagemill.settings import Settings

TRAINED = PROJECT / "models" / "pagereader-19m"
TEXT = "Transcribe the text of this page."
MAX_PIXELS = 1_310_720
STEP, MOST = 1.5, 200.0
"""Points (1/72 inch) that each further copy of a document loses at its left; all copies at most."""
VOCABULARY = 152_064
SHAPES: dict[str, dict[str, Any]] = {
    # Qwen/Qwen2.5-VL-7B-Instruct
    "text_config": {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "layer_types": ["full_attention"] * 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "max_position_embeddings": 128_000,
        "rope_parameters": {
            "mrope_section": [16, 24, 24],
            "rope_theta": 1_000_000.0,
            "rope_type": "default",
        },
        "tie_word_embeddings": False,
        "vocab_size": VOCABULARY,
    },
    "vision_config": {
        "depth": 32,
        "hidden_size": 1280,
        "num_heads": 16,
        "intermediate_size": 3420,
        "out_hidden_size": 3584,
        "fullatt_block_indexes": [7, 15, 23, 31],
    },
}
AWQ = {
    "quant_method": "awq",
    "bits": 4,
    "group_size": 128,
    "version": "gemm",
    "zero_point": True,
    "modules_to_not_convert": ["visual"],
}


# -- models --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reader:
    """A model and how it reads: what `gpu.py` and `gpu_ways.py` are both asked for, alike.

    Attributes
    ----------
    model : str
        ``7b`` or ``7b-awq`` (shapes without trained weights), ``trained``, or a folder.
    tokens : int
        Of an answer, at most.
    documents : Path, optional
        Where the pages come from, see `choose`.
    small : bool
        Draw tiny pictures.
    """

    model: str
    device: str
    tokens: int
    batch_size: int
    documents: Path | None
    small: bool

    @property
    def shapes(self) -> bool:
        """Whether it has no trained weights."""
        return self.model in ("7b", "7b-awq")

    @property
    def temperature(self) -> float:
        """At 1 random weights almost never end an answer."""
        return 1.0 if self.shapes else 0.0

    @property
    def max_pixels(self) -> int:
        """Of a page."""
        return 50_176 if self.small else MAX_PIXELS if self.shapes else 1_003_520

    def checkpoint(self, folder: Path) -> Path:
        """Where it lies; shapes are written below `folder`."""
        if self.shapes:
            return write_shapes(folder / self.model, awq=self.model == "7b-awq")
        return (TRAINED if self.model == "trained" else Path(self.model)).resolve()


def write_shapes(folder: Path, awq: bool = False) -> Path:
    """A checkpoint of Qwen2.5-VL-7B's shapes without weights, for ``load_format: dummy``.

    Tokenizer and processor are the trained model's, the tokenizer with a word for every id.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file in TRAINED.iterdir():
        if "safetensors" not in file.name and file.suffix in (".json", ".jinja"):
            shutil.copy(file, folder)
    config = json.loads((folder / "config.json").read_text())
    for part, values in SHAPES.items():
        config[part] |= values
    config["tie_word_embeddings"] = False
    if awq:
        config["quantization_config"] = AWQ
    _write(folder / "config.json", config)
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    words = tokenizer["model"]["vocab"]
    # A special token that is no word as well would get a new id, behind all words.
    words |= {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    taken = set(words.values())
    words |= {f"<unused{i}>": i for i in range(VOCABULARY) if i not in taken}
    _write(folder / "tokenizer.json", tokenizer)
    for name in ("preprocessor_config.json", "video_preprocessor_config.json"):
        values = json.loads((folder / name).read_text())
        values["max_pixels"] = values["size"]["longest_edge"] = MAX_PIXELS
        _write(folder / name, values)
    return folder


def _write(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")


# -- documents -----------------------------------------------------------------------------------


def choose(documents: Path | None) -> list[Path]:
    """The PDFs of a folder; without one the digital English ones of the corpus, else samples/.

    Broken and locked ones, which the samples have, are left out.
    """
    manifest = CORPUS / "manifest.csv"
    if documents is None and manifest.exists():
        with manifest.open(encoding="utf-8", newline="") as file:
            return [
                CORPUS / row["path"]
                for row in csv.DictReader(file)
                if (row["kind"], row["text_layer"], row["lang"]) == ("doc-pdf", "digital", "en")
            ]
    return sorted(filter(_opens, (documents or PROJECT / "samples").glob("*.pdf")))


def write_documents(folder: Path, pages: int, documents: Path | None = None) -> Path:
    """Copies of real PDFs with exactly so many pages, no two of which look the same.

    Each round crops the pages of all documents a little more, so no cache of pages, pictures or
    prefixes is of any use.
    """
    import pypdfium2

    folder.mkdir(parents=True, exist_ok=True)
    files = choose(documents)
    step = min(STEP, MOST * len(files) / pages)
    for turn, file in _rounds(files):
        pdf = pypdfium2.PdfDocument(file)
        for number in range(len(pdf) - 1, min(len(pdf), pages) - 1, -1):
            del pdf[number]
        for page in pdf:
            left, bottom, right, top = page.get_mediabox()
            left, bottom = left + turn * step, bottom + turn * step / 2
            page.set_mediabox(left, bottom, right, top)
            page.set_cropbox(left, bottom, right, top)
        pages -= len(pdf)
        pdf.save(folder / f"{turn:03}-{file.name}")
        pdf.close()
        if not pages:
            return folder
    raise AssertionError("rounds do not end")


def _opens(file: Path) -> bool:
    import pypdfium2

    try:
        pypdfium2.PdfDocument(file).close()
    except pypdfium2.PdfiumError:
        return False
    return True


def _rounds(files: list[Path]) -> Iterator[tuple[int, Path]]:
    """Every document again and again, and the number of the round."""
    if not files:
        raise FileNotFoundError("no PDFs to make pages of: name a folder with --documents")
    for turn in count(1):
        for file in files:
            yield turn, file


def draw(file: Path, settings: Settings) -> list[Image]:
    """A document's pages as the pipeline would show them to the model; not the blank ones."""
    from pagemill.document import PageImage
    from tasks.render import render

    with file.open("rb") as opened, closing(render(opened, settings)) as items:
        return [i.image for i in items if isinstance(i, PageImage) and not i.blank]


def draw_all(folder: Path, settings: Settings, threads: int = 8) -> list[Image]:
    """The pages of all documents of a folder, in the order of their names."""
    with ThreadPoolExecutor(threads) as pool:
        drawn = pool.map(lambda file: draw(file, settings), sorted(folder.iterdir()))
        return [image for images in drawn for image in images]
