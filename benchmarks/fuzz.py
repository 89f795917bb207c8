"""Thousands of damaged files through the whole job: rows for all, and no hang. See `--help`."""

from __future__ import annotations

import io
import random
import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from benchmarks import options
from benchmarks.common import ECHO, as_options, emit, make_pdf, print_table
from benchmarks.watching import run_and_check

MAX_BYTES = 1_000_000
LIMITS: dict[str, Any] = {
    "limits.seconds_per_page": 5,
    "limits.seconds_per_document": 20,
    "limits.max_pages": 5,
    "limits.max_declared_pages": 1000,
    "select.foreign": "failed",
}


@click.command()
@click.option("--files", default=2400, show_default=True, help="Damaged files.")
@click.option("--seed", default=1, show_default=True, help="Equal seeds give equal files.")
@options.corpus
@click.option("--keep", type=Path, help="A folder that keeps the files and the output.")
@options.append
def main(files: int, seed: int, corpus: Path, keep: Path | None, append: bool) -> None:
    """Damage real PDFs and pictures, and files made here, in ten ways; run the job over them.

    Fails if the job does not end by itself with rows for every file, or leaves a process or a
    temporary file, or if a page took longer than its limits allow. The engine is the stand-in:
    only rendering is asked for.

    Takes 2 minutes on 2 cores. Needs no corpus: without one, files made here are damaged.
    """
    with tempfile.TemporaryDirectory(prefix="pagemill-fuzz-") as folder:
        base = keep or Path(folder)
        names = write_damaged(base / "in", files, seed, corpus)
        result = run_job(base, len(names))
    print_table(("outcome", "files"), result["documents"].items())
    emit("fuzz", {"files": len(names), "seed": seed, **result}, append)
    if result["amiss"]:
        raise click.ClickException("; ".join(result["amiss"]))


# -- damage --------------------------------------------------------------------------------


def write_damaged(folder: Path, files: int, seed: int, corpus: Path | None) -> list[str]:
    """A folder of damaged files; their names."""
    folder.mkdir(parents=True)
    sources = [*made_here(), *(real_files(corpus) if corpus and corpus.is_dir() else ())]
    names = []
    for number in range(files):
        choose = random.Random(f"{seed} {number}")
        name, data = choose.choice(sources)
        other = choose.choice(sources)[1]
        stem, _, suffix = name.rpartition(".")
        names.append(f"{number:05}-{stem[:40]}.{suffix}")
        (folder / names[-1]).write_bytes(damage(data, other, choose))
    return names


def real_files(corpus: Path) -> Iterator[tuple[str, bytes]]:
    """The documents of the corpus."""
    for kind in ("docs", "nasty", "images"):
        for path in sorted((corpus / kind).iterdir()):
            if path.stat().st_size <= MAX_BYTES:
                yield path.name, path.read_bytes()


def made_here() -> Iterator[tuple[str, bytes]]:
    """A PDF, an encrypted one, a form, and a picture in every format."""
    from PIL import Image, ImageDraw
    from reportlab.lib.pdfencrypt import StandardEncryption
    from reportlab.pdfgen.canvas import Canvas

    with tempfile.TemporaryDirectory() as folder:
        yield "text.pdf", make_pdf(Path(folder) / "a.pdf", 3, seed=1).read_bytes()
    for name, how in (
        ("plain.pdf", {"pageCompression": 0}),
        ("locked.pdf", {"encrypt": StandardEncryption("", "owner", strength=128)}),
    ):
        out = io.BytesIO()
        canvas = Canvas(out, invariant=1, **how)
        canvas.drawString(72, 700, "damaged on purpose")
        canvas.acroForm.textfield(value="field", x=72, y=500, name="f")
        canvas.showPage()
        canvas.save()
        yield name, out.getvalue()
    picture = Image.new("RGB", (240, 160), "white")
    ImageDraw.Draw(picture).text((20, 60), "damaged on purpose", fill="black")
    for form in ("JPEG", "PNG", "TIFF", "WEBP", "GIF", "BMP", "JPEG2000", "PPM", "AVIF"):
        out = io.BytesIO()
        several = {"save_all": True, "append_images": [picture.rotate(90)]}
        picture.save(out, form, **(several if form in ("TIFF", "GIF", "WEBP") else {}))
        yield f"picture.{form.lower()}", out.getvalue()


def damage(data: bytes, other: bytes, choose: random.Random) -> bytes:
    """One to three of the ways, one after the other."""
    for _ in range(choose.choice((1, 1, 1, 2, 3))):
        data = choose.choice(WAYS)(data, other, choose)[:MAX_BYTES]
    return data


def _span(data: bytes, choose: random.Random) -> tuple[int, int]:
    start = choose.randrange(len(data) + 1)
    return start, min(len(data), start + choose.choice((1, 4, 64, 1024, 16384)))


def flip(data: bytes, _: bytes, choose: random.Random) -> bytes:
    """Some bytes are others."""
    changed = bytearray(data)
    for _flip in range(choose.choice((1, 4, 32, 256))):
        if changed:
            changed[choose.randrange(len(changed))] = choose.randrange(256)
    return bytes(changed)


def cut_off(data: bytes, _: bytes, choose: random.Random) -> bytes:
    """The end is missing."""
    return data[: choose.randrange(len(data) + 1)]


def cut_out(data: bytes, _: bytes, choose: random.Random) -> bytes:
    """Something in the midst is missing."""
    start, end = _span(data, choose)
    return data[:start] + data[end:]


def repeat(data: bytes, _: bytes, choose: random.Random) -> bytes:
    """Something is there many times."""
    start, end = _span(data, choose)
    return data[:start] + data[start:end] * choose.choice((2, 10, 100)) + data[end:]


def erase(data: bytes, _: bytes, choose: random.Random) -> bytes:
    """Something is all zeros or all ones."""
    start, end = _span(data, choose)
    return data[:start] + choose.choice((b"\0", b"\xff")) * (end - start) + data[end:]


def splice(data: bytes, other: bytes, choose: random.Random) -> bytes:
    """The beginning of one file, the end of another."""
    return data[: choose.randrange(len(data) + 1)] + other[choose.randrange(len(other) + 1) :]


def junk_before(data: bytes, _: bytes, choose: random.Random) -> bytes:
    """Something else comes first."""
    return choose.randbytes(choose.choice((1, 16, 900, 5000))) + data


def numbers(data: bytes, _: bytes, choose: random.Random) -> bytes:
    """Numbers in text are extreme ones: lengths, counts, offsets, sizes, references."""
    extreme = (b"0", b"-1", b"1", b"7", b"65536", b"2147483647", b"4294967296", b"9" * 30)
    rate = choose.choice((0.005, 0.05, 0.3))
    return re.sub(
        rb"\d+", lambda m: choose.choice(extreme) if choose.random() < rate else m[0], data
    )


def words(data: bytes, _: bytes, choose: random.Random) -> bytes:
    """A PDF's names change places."""
    names = list(set(re.findall(rb"/[A-Z][A-Za-z]{2,12}", data)))[:200]
    if not names:
        return flip(data, b"", choose)
    names.sort()
    return re.sub(
        rb"/[A-Z][A-Za-z]{2,12}",
        lambda m: choose.choice(names) if choose.random() < 0.05 else m[0],
        data,
    )


def big_endian(data: bytes, _: bytes, choose: random.Random) -> bytes:
    """Four bytes near the beginning, where pictures have their sizes, are extreme."""
    at = choose.randrange(min(len(data), 512) + 1)
    extreme = choose.choice((b"\0\0\0\0", b"\xff" * 4, b"\x7f\xff\xff\xff", b"\0\1\0\0"))
    return data[:at] + extreme + data[at + 4 :]


WAYS: tuple[Callable[[bytes, bytes, random.Random], bytes], ...] = (
    flip,
    cut_off,
    cut_out,
    repeat,
    erase,
    splice,
    junk_before,
    numbers,
    words,
    big_endian,
)


# -- the job -------------------------------------------------------------------------------


def run_job(base: Path, files: int) -> dict[str, Any]:
    """`pagemill run` and `pagemill check` over `base`/in; what became of it, and what is amiss."""
    out = str(base / "out")
    done = run_and_check(str(base / "in"), out, ["-c", ECHO, *as_options(LIMITS)])
    if not done.balance:
        raise click.ClickException("; ".join(done.amiss))
    found = look(read_rows(out, done.balance["recipe"]), files, done.amiss)
    seconds = round(done.seconds, 1)
    return {"wall_seconds": seconds, **found, "peak_mb": done.peak_mb, "amiss": done.amiss}


def read_rows(out: str, recipe: str) -> list[dict[str, Any]]:
    """What is needed of all rows."""
    import pyarrow.dataset as ds

    columns = ["source_uri", "status", "error_kind", "error_message", "render_seconds"]
    folder = Path(out) / f"recipe={recipe}" / "pages"
    found: list[dict[str, Any]] = ds.dataset(folder, format="parquet").to_table(columns).to_pylist()
    return found


def look(rows: list[dict[str, Any]], files: int, amiss: list[str]) -> dict[str, Any]:
    """Outcomes by document: read, or the first error."""
    documents: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        documents[row["source_uri"]].append(row)
    if len(documents) != files:
        amiss.append(f"{len(documents)} documents have rows, of {files}")
    if silent := [r for r in rows if r["status"] == "failed" and not r["error_message"]]:
        amiss.append(f"{len(silent)} failures do not say why")
    slowest = max(row["render_seconds"] for row in rows)
    if slowest > 2 * LIMITS["limits.seconds_per_page"] + 20:  # both renderers, and a busy machine
        amiss.append(f"a page took {slowest:.0f} s")
    outcomes = Counter(
        "read" if any(r["status"] in ("ok", "blank", "partial") for r in pages) else kind
        for pages in documents.values()
        for kind in [next((r["error_kind"] for r in pages if r["error_kind"]), "none")]
    )
    return {
        "rows": len(rows),
        "documents": dict(outcomes.most_common()),
        "slowest_page_seconds": round(slowest, 1),
    }


if __name__ == "__main__":
    main()
