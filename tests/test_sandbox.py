"""The sandbox: every limit that a render child is said to have, asked of a real one."""

from __future__ import annotations

import io
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pillow_heif
import psutil
import pytest
from documents import RED, WHITE, children, half_red, image_file, pdf, settings, unlinked

from pagemill.document import PageImage
from tasks import fork_server
from tasks.fork_server import server_pid
from tasks.render import Opened, render
from tasks.slots import Slots


@pytest.fixture(scope="module")
def status() -> Iterator[dict[str, str]]:
    """What /proc says of a child that has a document open."""
    with unlinked(pdf("a")) as file, closing(render(file, settings())) as items:
        next(items)
        (child,) = children()
        yield facts_of(child.pid)


def facts_of(pid: int) -> dict[str, str]:
    proc = Path(f"/proc/{pid}")
    lines = (proc / "status").read_text().splitlines()
    facts = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    for line in (proc / "limits").read_text().splitlines()[1:]:
        name, soft, hard = re.match(r"Max (.+?)\s{2,}(\S+)\s+(\S+)", line).groups()  # type: ignore[union-attr]
        facts[name] = f"{soft} {hard}"
    facts["environment"] = (proc / "environ").read_text()
    facts["descriptors"] = f"{len(list((proc / 'fd').iterdir()))}"
    facts["oom"] = (proc / "oom_score_adj").read_text().strip()
    facts["sid"] = f"{(proc / 'stat').read_text().rsplit(')', 1)[1].split()[3]}"
    return facts


@pytest.mark.parametrize(
    ("limit", "value"),
    [
        ("address space", f"{1536 << 20} {1536 << 20}"),
        ("cpu time", "1801 1806"),
        ("file size", "0 0"),
        ("open files", "64 64"),
        ("core file size", "0 0"),
        ("stack size", f"{8 << 20} {8 << 20}"),
    ],
)
def test_a_child_has_its_limits(status: dict[str, str], limit: str, value: str) -> None:
    assert status[limit] == value


def test_a_child_gains_no_privileges(status: dict[str, str]) -> None:
    assert status["NoNewPrivs"] == "1"


@pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="no filter for it")
def test_a_childs_system_calls_are_filtered(status: dict[str, str]) -> None:
    assert status["Seccomp"] == "2"


def test_a_child_is_the_first_to_go_when_memory_runs_out(status: dict[str, str]) -> None:
    assert status["oom"] == "1000"


def test_a_child_has_a_session_of_its_own(status: dict[str, str]) -> None:
    assert status["sid"] == status["Pid"] and int(status["Pid"]) != server_pid()


def test_a_child_knows_no_secret_of_its_parents(status: dict[str, str]) -> None:
    names = {pair.split("=")[0] for pair in status["environment"].split("\0") if pair}
    assert names <= {"PATH", "LD_LIBRARY_PATH", "LC_ALL"}


def test_a_child_holds_only_its_own_descriptors(status: dict[str, str]) -> None:
    # null twice, stderr, requests, frames, the document, pdfium's of the same one, the slots twice
    assert int(status["descriptors"]) <= 9


def test_the_memory_for_pages_cannot_be_shrunk_under_its_reader() -> None:
    slots = Slots(4096, 2)
    with pytest.raises(PermissionError):
        os.ftruncate(slots.fd, 0)
    slots.close()


def test_pages_lie_in_the_slots_one_after_the_other() -> None:
    ours = Slots(4 * 56 * 28, 2)
    theirs = Slots(ours.size, 2, ours.fd)
    for colour in (RED, WHITE, (0, 0, 255)):
        theirs.next()[: 3 * 56 * 28] = bytes(colour) * (56 * 28)
        theirs.take()
        picture = ours.picture(ours.take(), (56, 28), "RGB")
        assert picture.getpixel((20, 20)) == colour
    ours.close()


def test_the_server_has_seen_no_document() -> None:
    with unlinked(pdf("a")) as file, closing(render(file, settings())) as items:
        next(items)
        server = psutil.Process(server_pid())
        assert server.open_files() == []
        assert server.num_threads() == 1  # or a fork could inherit a lock that nobody releases


NOBODY = """
import ctypes, os
from tasks import render_child

def warm_up(original=render_child.warm_up):
    original()
    os.setgid(65534)
    os.setuid(65534)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # else /proc/self is still root's

render_child.warm_up = warm_up
render_child.main()
"""


@pytest.fixture
def unprivileged(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Children without root's rights, for whom the kernel counts processes and threads."""
    monkeypatch.setattr(fork_server, "_current", None)
    if os.getuid() == 0:
        monkeypatch.setattr(fork_server, "COMMAND", [sys.executable, "-c", NOBODY])
    yield
    if fork_server._current:
        fork_server._current.close()


def everything() -> dict[str, bytes]:
    large = half_red((1200, 800))
    forms = ("JPEG", "PNG", "TIFF", "WEBP", "GIF", "BMP", "JPEG2000", "PPM", "AVIF")
    heic = io.BytesIO()
    pillow_heif.from_pillow(large).save(heic, format="HEIF")
    several = {"save_all": True, "append_images": [large.rotate(180)]}
    return {
        **{form: image_file(large, form) for form in forms},
        "animated WEBP": image_file(large, "WEBP", **several),
        "HEIC": heic.getvalue(),
        "PDF": pdf("x"),
    }


@pytest.mark.parametrize("form", everything())
def test_every_format_is_drawn_without_a_thread_and_without_root(
    form: str, unprivileged: None
) -> None:
    """Decoders like to start threads, which a child may not."""
    how = settings(render={"animation": "all", "renderer": "pdfium"})
    with unlinked(everything()[form]) as file:
        os.fchmod(file.fileno(), 0o644)
        opened, *pages = render(file, how)
    assert isinstance(opened, Opened) and len(pages) == opened.page_count
    assert all(isinstance(page, PageImage) for page in pages), pages


@pytest.mark.skipif(not shutil.which("pdftoppm"), reason="poppler is not installed")
def test_poppler_draws_without_root(unprivileged: None) -> None:
    with unlinked(pdf("x")) as file:
        os.fchmod(file.fileno(), 0o644)
        _, page = render(file, settings(render={"renderer": "poppler"}))
    assert isinstance(page, PageImage), page
