"""Runs that are killed: started, stopped at a moment, looked over afterwards.

`benchmarks/kills.py` and `tests/test_kill.py` are made of these.
"""

from __future__ import annotations

import io
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq

from benchmarks.common import make_pdf, pagemill, quick_leases, run_plainly
from pagemill.config import load_settings
from pagemill.errors import ERRORS, ErrorKind
from pagemill.storage import Storage
from tasks.check import check_ledger, check_source
from tasks.job import open_job

PATIENCE = 120.0
"""Seconds that anything may take before it counts as never."""

Key = tuple[str, int | None]
Row = dict[str, Any]

_EXPECTED = re.compile(
    r"\.pagemill-lock|recipe=[^/]+/(recipe\.json|leases/[^/]+\.json|pages/part-\d{6}\.parquet|runs/[^/]+\.json|"
    r"staging/[0-9a-f]{64}/\d{6}-\d{6}\.parquet)|(.+/)?\.pagemill-tmp-[^/]+"
)


# -- documents -----------------------------------------------------------------------------


def make_documents(folder: Path, scale: int = 4, lines: int = 12, long: int | None = None) -> Path:
    """All that makes a run hard to resume: long, equal, broken, empty, blank, many-framed.

    About 26 pages for each unit of `scale`, of which 12 are the `long` document's.
    """
    from PIL import Image

    folder.mkdir(parents=True)
    make_pdf(folder / "long.pdf", long or 12 * scale, seed=1, lines=lines, blank=[5])
    for n in range(2 * scale):
        make_pdf(folder / f"report-{n:02}.pdf", 2 + n % 5, seed=10 + n, lines=lines)
    make_pdf(folder / "twin-a.pdf", 2 * scale, seed=2, lines=lines)
    (folder / "twin-b.pdf").write_bytes((folder / "twin-a.pdf").read_bytes())
    whole = (folder / "report-00.pdf").read_bytes()
    (folder / "broken.pdf").write_bytes(b"%PDF-1.7\n" + whole[200:400])
    (folder / "empty.pdf").touch()
    frames = [Image.linear_gradient("L").rotate(90 * n).resize((320, 320)) for n in range(3)]
    frames[0].save(folder / "fax.tiff", save_all=True, append_images=frames[1:])
    Image.radial_gradient("L").convert("RGB").save(folder / "photo.png")
    return folder


# -- a run that is stopped -------------------------------------------------------------------


@dataclass
class Run:
    """A `pagemill run` as a process of its own; a context manager that leaves none behind.

    `command`: what runs in its place, such as `aloud`.
    """

    source: Path
    out: Path
    options: tuple[str, ...]
    logs: Path
    command: list[str] | None = None
    process: subprocess.Popen[bytes] = field(init=False)
    children: list[psutil.Process] = field(init=False, default_factory=list)

    def __enter__(self) -> Run:
        self.logs.mkdir(parents=True, exist_ok=True)
        command = self.command or pagemill("run", str(self.source), str(self.out), *self.options)
        with (self.logs / "stdout").open("wb") as out, (self.logs / "stderr").open("wb") as errors:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=errors,
                preexec_fn=_hear_ctrl_c,
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.kill()
        for child in filter(lives, self.children):
            child.kill()

    @property
    def stdout(self) -> str:
        """What it has said on stdout."""
        return (self.logs / "stdout").read_text(errors="replace")

    @property
    def stderr(self) -> str:
        """What it has said on stderr."""
        return (self.logs / "stderr").read_text(errors="replace")

    def wait_for(self, pattern: str, patience: float = PATIENCE) -> bool:
        """Wait until a file below OUT matches, or the run has ended; whether one matches."""
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            ended = self.process.poll() is not None
            if next(self.out.glob(pattern), None):
                return True
            if ended:
                return False
            time.sleep(0.005)
        raise TimeoutError(f"no {pattern} in {self.out}: {self.stderr[-2000:]}")

    def wait_for_lines(self, count: int, about: str = "", patience: float = PATIENCE) -> bool:
        """Wait until it has said so many lines (with this in them), or has ended; which."""
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            ended = self.process.poll() is not None
            if sum(about in line for line in self.stdout.splitlines()) >= count:
                return True
            if ended:
                return False
            time.sleep(0.002)
        raise TimeoutError(f"fewer than {count} lines: {self.stderr[-2000:]}")

    def wait(self, patience: float = PATIENCE) -> int:
        """Its exit code."""
        return self.process.wait(timeout=patience)

    def kill(self) -> bool:
        """SIGKILL to it, not to its children; False if it had ended before.

        It is halted first, so that no child is born between the look and the kill.
        """
        self.process.send_signal(signal.SIGSTOP)
        self.note_children()
        self.process.send_signal(signal.SIGKILL)
        return self.wait() == -signal.SIGKILL

    def note_children(self) -> None:
        """Remember who its children and their children are now."""
        try:
            self.children = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            self.children = []

    def wait_until_alone(self, patience: float = PATIENCE) -> float:
        """Wait until the children are gone that it had; how many seconds that took."""
        began = time.monotonic()
        while alive := list(filter(lives, self.children)):
            if time.monotonic() - began > patience:
                raise TimeoutError(f"its children live on: {alive}")
            time.sleep(0.02)
        return time.monotonic() - began


def aloud(source: str, out: str, config: str, overrides: dict[str, Any]) -> list[str]:
    """The command for `work_aloud`."""
    code = "import json, sys; from benchmarks.killing import work_aloud; work_aloud(*json.loads("
    arguments = json.dumps([source, out, config, overrides])
    return [sys.executable, "-c", f"{code}sys.argv[1]))", arguments]


def work_aloud(source: str, out: str, config: str, overrides: dict[str, Any]) -> None:
    """The job without Prefect, with a line on stdout before each write to OUT, and at the end."""
    for name in ("create", "replace", "put", "delete"):
        setattr(Storage, name, _said(name, getattr(Storage, name)))
    with quick_leases(0.05):  # so that they are renewed in a run of two seconds
        run_plainly(source, out, config, overrides)
    _say("done")


def _said(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    def say_and_do(self: Storage, path: str, *more: Any) -> Any:
        _say(name, path)
        return method(self, path, *more)

    return say_and_do


def _say(*words: str) -> None:
    print(f"{time.time():.3f}", *words, flush=True)


def _hear_ctrl_c() -> None:
    """As at a terminal: what a shell starts in the background is told to ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def lives(process: psutil.Process) -> bool:
    """Whether a process runs; one that nobody has buried yet does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


# -- what lies in OUT ------------------------------------------------------------------------


@dataclass(frozen=True)
class Snapshot:
    """All that OUT holds, read as anybody would.

    Attributes
    ----------
    rows : dict
        Committed rows by uri and page.
    staged : dict
        Rows that wait for the rest of their document, by sha256 and page.
    double : list
        Keys of rows that are there twice: none, at any instant.
    temporary : set of str
        Files half written by a killed writer; swept when they are an hour old.
    leases : set of str
        Who works here now, or was killed when he did.
    strange : list of str
        Files that have no business in OUT.
    """

    rows: dict[Key, Row]
    staged: dict[Key, Row]
    double: list[Key]
    temporary: set[str]
    leases: set[str]
    strange: list[str]


def look(out: Path | Storage) -> Snapshot:
    """What OUT holds now."""
    files = _Files(out)
    rows, double = _table(files)
    staged = {
        (row["document_sha256"], row["page_number"]): row
        for row in files.rows(r"recipe=[^/]+/staging/[^/]+/[^/.]+\.parquet")
    }
    temporary = {name for name in files.names if "/.pagemill-tmp-" in f"/{name}"}
    strange = sorted(name for name in files.names if not _EXPECTED.fullmatch(name))
    leases = {name for name in files.names if "/leases/" in name and name not in temporary}
    return Snapshot(rows, staged, double, temporary, leases, strange)


def committed(out: Path | Storage) -> dict[Key, Row]:
    """Its table alone, which can be read at every instant, also while a run goes on."""
    return _table(_Files(out))[0]


def _table(files: _Files) -> tuple[dict[Key, Row], list[Key]]:
    """The committed rows, and the keys that are there twice."""
    rows: dict[Key, Row] = {}
    double = []
    for row in files.rows(r"recipe=[^/]+/pages/[^/.]+\.parquet"):
        key = row["source_uri"], row["page_number"]
        if key in rows:
            double.append(key)
        rows[key] = row
    return rows, double


class _Files:
    """The files below OUT, on disk (all that there are) or in S3 (as listed)."""

    def __init__(self, out: Path | Storage) -> None:
        self._out = out
        if isinstance(out, Path):
            self.names = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
        else:
            self.names = {entry.path for entry in out.list()}

    def rows(self, pattern: str) -> list[Row]:
        """All rows of the files that match."""
        names = sorted(name for name in self.names if re.fullmatch(pattern, name))
        return [row for name in names for row in pq.read_table(self._open(name)).to_pylist()]

    def _open(self, name: str) -> Any:
        if isinstance(self._out, Path):
            return self._out / name
        return io.BytesIO(self._out.read(name))


def said(row: Row) -> Row:
    """What a row says of its page; not who read it, when, and at what cost."""
    names = ("status", "error_kind", "page_count", "document_sha256", "text", "caption")
    return {name: row[name] for name in names}


def mark(row: Row) -> tuple[str, datetime]:
    """Changes when a page is read again."""
    return row["run_id"], row["processed_at"]


def faults(killed: Snapshot, done: Snapshot, undisturbed: Snapshot, texts: bool) -> list[str]:
    """What is wrong with a run that was killed and run again, against an undisturbed one.

    `texts`: the engine gives the same text for the same page, whatever else is in its batch.
    """
    found = []
    if killed.double or done.double:
        found.append(f"double rows: {killed.double or done.double}")
    if done.rows.keys() != undisturbed.rows.keys():
        found.append(f"other rows: {sorted(map(str, done.rows.keys() ^ undisturbed.rows.keys()))}")
    again = [
        key
        for key, row in killed.rows.items()
        if (now := done.rows.get(key, row))["source_etag"] == row["source_etag"]
        and mark(now) != mark(row)
        and not (row["error_kind"] and ERRORS[ErrorKind(row["error_kind"])].transient)
    ]
    if again:
        found.append(f"committed before the kill and read again: {again}")
    again = _staged_again(killed, done)
    if again:
        found.append(f"staged before the kill and read again: {again}")
    if done.leases and not _is_same(killed, done):
        # A run with nothing to do writes nothing, and so lets the lease of a dead one lie.
        found.append(f"leases left over: {done.leases}")
    if done.staged:
        found.append(f"staged pages left over: {sorted(map(str, done.staged))}")
    origins = {row["copied_from"] for row in done.rows.values()} - {None}
    if strangers := origins - {uri for uri, _ in done.rows}:
        found.append(f"copies of documents that have no rows: {strangers}")
    if killed.strange or done.strange:
        found.append(f"strange files: {killed.strange or done.strange}")
    if killed.temporary - done.temporary:
        found.append(f"swept too early: {killed.temporary - done.temporary}")
    common = done.rows.keys() & undisturbed.rows.keys()
    other = [k for k in common if said(done.rows[k]) != said(undisturbed.rows[k])]
    if other and texts:
        found.append(f"rows say something else: {other}")
    if texts and _tokens(done) != _tokens(undisturbed):
        found.append(f"{_tokens(done)} tokens in the rows, undisturbed {_tokens(undisturbed)}")
    return found


def _is_same(killed: Snapshot, done: Snapshot) -> bool:
    return {k: mark(r) for k, r in killed.rows.items()} == {
        k: mark(r) for k, r in done.rows.items()
    }


def _staged_again(killed: Snapshot, done: Snapshot) -> list[Key]:
    """Staged rows that did not become a row of their document, or of one with equal bytes."""
    kept = {(row["document_sha256"], row["page_number"], mark(row)) for row in done.rows.values()}
    return [key for key, row in killed.staged.items() if (*key, mark(row)) not in kept]


def _tokens(snapshot: Snapshot) -> int:
    return sum(row["completion_tokens"] for row in snapshot.rows.values())


def problems(source: str, out: str, config: str, overrides: dict[str, Any]) -> list[str]:
    """What `pagemill check OUT --source SOURCE` would say."""
    job = open_job(source, out, load_settings(config, overrides))
    return check_ledger(job.open_ledger()).problems + check_source(job).problems
