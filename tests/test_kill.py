"""Runs that are killed, interrupted or doubled lose nothing and do nothing twice.

`benchmarks/kills.py` does the same at random moments, many times.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.common import ECHO, as_options, run_plainly
from benchmarks.killing import (
    Run,
    Snapshot,
    committed,
    faults,
    look,
    make_documents,
    mark,
)
from pagemill.config import load_settings
from tasks.check import check_ledger, check_source
from tasks.job import open_job

_ECHO = {
    "render.max_pixels": 100_000,
    "work.part_pages": 4,
    "work.shard_documents": 4,
    "model.options.delay": 0.1,
}
SLOW = {**_ECHO, "model.batch_size": 2}
"""Long enough that a run is in the midst of things when a file that we wait for appears."""
FAST = {**_ECHO, "model.batch_size": 64}

A_PART = "recipe=*/pages/part-*.parquet"
A_STAGED_RANGE = "recipe=*/staging/*/*.parquet"
FINISHED_WITH_FAILURES = 3


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory, prefect_home: Callable[[Path], str]
) -> Iterator[Path]:
    """Where Prefect keeps its history; every run has its own API, as at a user's."""
    folder = tmp_path_factory.mktemp("kill")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", prefect_home(folder))
        patch.delenv("PREFECT_API_URL", raising=False)
        yield folder


@pytest.fixture(scope="module")
def source(folder: Path) -> Path:
    return make_documents(folder / "source", scale=2, lines=3)


@pytest.fixture(scope="module")
def undisturbed(folder: Path, source: Path) -> Snapshot:
    out = folder / "undisturbed"
    run_plainly(str(source), str(out), ECHO, FAST)
    return look(out)


@pytest.fixture
def run(source: Path, tmp_path: Path) -> Iterator[Run]:
    """A slow `pagemill run` on its way."""
    options = ("-c", ECHO, *as_options(SLOW))
    with Run(source, tmp_path / "out", options, tmp_path / "logs") as run:
        yield run


def _finish(run: Run) -> Snapshot:
    """Run again to the end, without Prefect: it is not asked what is done."""
    run_plainly(str(run.source), str(run.out), ECHO, FAST)
    return look(run.out)


def _problems(run: Run) -> list[str]:
    job = open_job(str(run.source), str(run.out), load_settings(ECHO, FAST))
    return check_ledger(job.open_ledger()).problems + check_source(job).problems


@pytest.mark.parametrize("moment", ["recipe=*/recipe.json", A_PART, A_STAGED_RANGE])
def test_a_killed_run_is_resumed_without_loss_or_repetition(
    run: Run, undisturbed: Snapshot, moment: str
) -> None:
    assert run.wait_for(moment)
    assert run.kill()
    assert run.children  # the Prefect API, render processes
    run.wait_until_alone()
    killed = look(run.out)
    assert len(killed.rows) < len(undisturbed.rows)
    assert killed.rows or moment != A_PART
    assert killed.staged or moment != A_STAGED_RANGE
    done = _finish(run)
    assert faults(killed, done, undisturbed, texts=True) == []
    assert _problems(run) == []
    assert done.staged == {}


@pytest.mark.parametrize("where", ["pages", "staging"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_run_that_dies_while_it_commits_is_resumed_without_loss_or_repetition(
    source: Path, undisturbed: Snapshot, tmp_path: Path, where: str, when: str
) -> None:
    out = tmp_path / "out"
    code = _DIE_AT_SECOND_LINK.format(when=when, where=where)
    run = [
        sys.executable,
        "-c",
        f"{code}\nrun_plainly({str(source)!r}, {str(out)!r}, ECHO, {FAST})",
    ]
    assert subprocess.run(run, capture_output=True).returncode == -signal.SIGKILL
    killed = look(out)
    assert bool(killed.temporary)
    run_plainly(str(source), str(out), ECHO, FAST)
    assert faults(killed, look(out), undisturbed, texts=True) == []


_DIE_AT_SECOND_LINK = """
import os, signal
from benchmarks.common import ECHO, run_plainly

link, links = os.link, []

def dying_link(source, target):
    links.extend([target] if "/{where}/" in str(target) else [])
    if len(links) == 2 and "{when}" == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    link(source, target)
    if len(links) == 2:
        os.kill(os.getpid(), signal.SIGKILL)

os.link = dying_link
"""


@pytest.mark.parametrize("asked", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_stops_cleanly_and_is_resumed(
    run: Run, undisturbed: Snapshot, asked: signal.Signals
) -> None:
    assert run.wait_for(A_PART)
    run.note_children()
    before = committed(run.out)
    run.process.send_signal(asked)
    assert run.wait() == 130
    run.wait_until_alone()
    ours = [line for line in run.stderr.splitlines() if line.startswith("pagemill: ")]
    assert [line.split(":")[1] for line in ours] == [" stopped"]
    assert "Traceback" not in run.stderr
    stopped = look(run.out)
    assert {k: mark(stopped.rows[k]) for k in before} == {k: mark(r) for k, r in before.items()}
    assert len(stopped.rows) < len(undisturbed.rows)
    assert stopped.temporary == set()
    assert faults(stopped, _finish(run), undisturbed, texts=True) == []
    assert _problems(run) == []


def test_two_runs_at_once_share_an_output(run: Run, undisturbed: Snapshot, tmp_path: Path) -> None:
    with Run(run.source, run.out, run.options, tmp_path / "other-logs") as other:
        codes = [run.wait(), other.wait()]
    # The failures may all have fallen to one of them.
    assert FINISHED_WITH_FAILURES in codes, run.stderr + other.stderr
    assert set(codes) <= {0, FINISHED_WITH_FAILURES}, run.stderr + other.stderr
    done = look(run.out)
    assert faults(done, done, undisturbed, texts=True) == []
    assert _problems(run) == []
