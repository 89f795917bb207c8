"""Drawing pages: pagemill's sandbox against the bare renderers, in CPU time. See `--help`."""

from __future__ import annotations

import io
import resource
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import click
import psutil
import pypdfium2

from benchmarks import options
from benchmarks.common import emit, make_pdf, print_table
from pagemill.config import load_settings
from pagemill.document import PageImage
from pagemill.settings import Settings
from tasks.drawers import Drawn, Job, Pdfium
from tasks.fork_server import server_pid
from tasks.images import is_blank, target_size
from tasks.render import render
from tasks.render_process import job, slot_bytes
from tasks.slots import Slots

Reader = Callable[[Path], int]


@click.command()
@click.option("--pages", default=120, show_default=True, help="Of each long document.")
@click.option("--laps", default=3, show_default=True, help="The sides take turns; the best counts.")
@options.append
def main(pages: int, laps: int, append: bool) -> None:
    """Pages per CPU second of pagemill's renderers and of the bare ones, on the same pages.

    CPU time is that of everything involved: this process, pdftoppm, the fork server and its
    children. All draw at the size that the model gets (a longest edge of about 1,288 pixels).

    \b
      pdfium, bare       pypdfium2 in this process, page after page, to RGB
      the same, unboxed  what the sandbox does with pdfium (text layer, blank test), in this process
      pdfium, sandboxed  tasks.render: a forked child for each document, limits, frames, text layer
      pdftoppm           one process for a document, -scale-to, PPM to nowhere
      poppler, sandboxed tasks.render with render.renderer=poppler

    Takes 2 minutes on 2 cores. Needs reportlab and poppler-utils.
    """
    with tempfile.TemporaryDirectory(prefix="pagemill-render-") as folder:
        result = {name: compare(files, laps) for name, files in shapes(Path(folder), pages).items()}
    rows = [
        (shape, side, f["pages_per_cpu_second"], f["ms_per_page"], f"{f['against_bare']:.2f}")
        for shape, sides in result.items()
        for side, f in sides.items()
    ]
    print_table(("pages", "drawn by", "pages / CPU s", "ms / page", "× bare pdfium"), rows)
    emit("render", result, append)


def shapes(folder: Path, pages: int) -> dict[str, list[Path]]:
    """What is drawn: long documents of text and of scans, and documents of one page."""
    text = make_pdf(folder / "text.pdf", pages, seed=1, lines=40)
    single = [
        make_pdf(folder / f"single-{n}.pdf", 1, seed=n, lines=40) for n in range(max(1, pages // 2))
    ]
    scan = scanned(text, folder / "scan.pdf", max(1, pages // 4))
    return {
        "text, one document": [text],
        "300-dpi scans, one document": [scan],
        "text, one page each": single,
    }


def scanned(source: Path, path: Path, pages: int) -> Path:
    """The first pages as grey JPEGs of 300 dpi in a PDF."""
    from reportlab.lib.utils import ImageReader
    from reportlab.pdfgen.canvas import Canvas

    canvas = Canvas(str(path), invariant=1)
    document = pypdfium2.PdfDocument(source)
    for number in range(pages):
        jpeg = io.BytesIO()
        document[number].render(scale=300 / 72, grayscale=True).to_pil().save(jpeg, "JPEG")
        canvas.drawImage(ImageReader(jpeg), 0, 0, *canvas._pagesize)
        canvas.showPage()
    canvas.save()
    return path


def compare(files: list[Path], laps: int) -> dict[str, dict[str, float]]:
    """CPU time of each side over these files."""
    overrides = {"render.max_pixels": 1_310_720, "render.max_dpi": 200}
    auto = load_settings(None, overrides | {"render.renderer": "pdfium"})
    poppler = load_settings(None, overrides | {"render.renderer": "poppler"})
    sides: dict[str, Reader] = {
        "pdfium, bare": lambda path: bare_pdfium(path, auto),
        "the same, unboxed": lambda path: unboxed(path, auto),
        "pdfium, sandboxed": lambda path: sandboxed(path, auto),
        "pdftoppm": bare_pdftoppm,
        "poppler, sandboxed": lambda path: sandboxed(path, poppler),
    }
    best: dict[str, float] = {}
    count = 0
    for lap in range(laps + 1):  # the first one warms up: files, imports, the fork server
        for side, read in sides.items():
            before = cpu_seconds()
            count = sum(map(read, files))
            if lap:
                spent = cpu_seconds() - before
                best[side] = min(best.get(side, spent), spent)
    bare = best["pdfium, bare"]
    return {
        side: {
            "pages": count,
            "pages_per_cpu_second": round(count / spent, 1),
            "ms_per_page": round(1000 * spent / count, 2),
            "against_bare": round(spent / bare, 3),
        }
        for side, spent in best.items()
    }


def cpu_seconds() -> float:
    """Of this process, of what it has waited for, and of the fork server with its children."""
    parts = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    spent = sum(u.ru_utime + u.ru_stime for u in map(resource.getrusage, parts))
    if pid := server_pid():
        spent += sum(psutil.Process(pid).cpu_times()[:4])
    return spent


def bare_pdfium(path: Path, settings: Settings) -> int:
    """What everybody writes first."""
    document = pypdfium2.PdfDocument(path)
    document.init_forms()
    for page in document:
        width, _ = target_size(page.get_width(), page.get_height(), settings.render)
        page.render(scale=width / page.get_width(), rev_byteorder=True).to_pil().convert("RGB")
        page.close()
    count = len(document)
    document.close()
    return count


def unboxed(path: Path, settings: Settings) -> int:
    """The sandbox's own drawer, without the sandbox."""
    with path.open("rb") as file:
        slots = Slots(slot_bytes(settings), 2)
        here = Slots(slots.size, 2, slots.fd)
        drawer = Pdfium(Job(fd=file.fileno(), **job("pdfium", settings)), here)
        count = drawer.open()
        for page in drawer.draw(list(range(1, count + 1))):
            assert isinstance(page, Drawn), page
            is_blank(page.picture.image, settings.render.blank_ink)
            page.picture.image.convert("RGB")
        return count


def bare_pdftoppm(path: Path) -> int:
    """The whole document by one process."""
    done = subprocess.run(["pdftoppm", "-scale-to", "1316", path], capture_output=True, check=True)
    return done.stdout.count(b"P6\n")


def sandboxed(path: Path, settings: Settings) -> int:
    """All pages through `tasks.render`."""
    return sum(1 for _ in pages_of(path, settings))


def pages_of(path: Path, settings: Settings) -> Iterator[Any]:
    """Its pages; one that was not drawn would be an unfair advantage."""
    with path.open("rb") as file, closing(render(file, settings)) as items:
        next(items)
        for page in items:
            assert isinstance(page, PageImage), page
            yield page


if __name__ == "__main__":
    main()
