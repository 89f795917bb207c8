"""Runs go through failing storage, or end with one clear line; nothing is lost, nothing twice.

`benchmarks/faults.py` does the same many times.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.common import ECHO, as_options, pagemill, quick_leases, run_plainly
from benchmarks.faults import KINDS, Task
from benchmarks.killing import faults, look, make_documents, make_pdf
from pagemill.errors import StorageError
from pagemill.ledger import DocumentRows, Ledger
from pagemill.storage import Storage
from tests.fault_proxy import FaultProxy
from tests.seaweed import S3Server
from tests.test_ledger import document, row

SMALL: dict[str, Any] = {
    "render.max_pixels": 50_000,
    "work.part_pages": 4,
    "work.shard_documents": 3,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_documents(tmp_path_factory.mktemp("faults") / "in", scale=1, lines=2, long=6)


@pytest.fixture(scope="module")
def task(s3: S3Server, folder: Path) -> Task:
    """Documents in S3."""
    bucket = s3.bucket()
    for path in sorted(folder.iterdir()):
        s3.put(bucket, f"in/{path.name}", path.read_bytes())
    return Task(f"s3://{bucket}/in", ECHO, SMALL, s3)


@pytest.mark.parametrize("outage", ["", "unavailable", "denied"])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_run_against_failing_storage_loses_nothing_and_does_nothing_twice(
    task: Task,
    s3: S3Server,
    impatient: None,
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
    outage: str,
) -> None:
    monkeypatch.setattr("pagemill.s3.SILENCE", 1.0)
    out = f"s3://{s3.bucket()}/out"
    undisturbed = task.finish(f"{out}-undisturbed", s3.endpoint_url)
    failing = FaultProxy(s3.endpoint_url, seed, 0.25, KINDS)
    with quick_leases(0.5, dead_seconds=1), failing as proxy:
        outcome = task.disturbed(out, proxy, (outage, 20), undisturbed, texts=True)
    assert outcome.amiss == []
    assert sum(outcome.faults.values()) >= 3
    assert bool(outcome.given_up) >= bool(outage)


def test_rights_lost_halfway_end_a_run_with_exit_code_4_and_one_line(
    task: Task,
    s3: S3Server,
    proxy: FaultProxy,
    prefect_home: Callable[[Path], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PREFECT_HOME", prefect_home(tmp_path))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    out = f"s3://{s3.bucket()}/out"
    parts = "/pages/part-000000.parquet"

    def deny(_: Any) -> str | None:
        committed = any(r.method == "PUT" and r.path.endswith(parts) for r in proxy.requests[:-1])
        return "denied" if committed else None

    proxy.decide = deny
    options = as_options({**SMALL, "storage.endpoint_url": proxy.options.endpoint_url})
    command = pagemill("run", task.source, out, "-c", ECHO, *options)
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 4, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("pagemill: ")]
    assert "access denied" in line and "Traceback" not in done.stderr
    stopped = task.look(out)
    assert stopped.rows and not stopped.double
    undisturbed = task.finish(f"{out}-undisturbed", s3.endpoint_url)
    again = task.finish(out, s3.endpoint_url)
    assert faults(stopped, again, undisturbed, texts=True) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small disk needs the right to mount")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_ends_a_run_and_loses_nothing(
    folder: Path, small_disk: Path, tmp_path: Path
) -> None:
    out, filler = small_disk / "out", small_disk / "filler"
    filler.write_bytes(bytes((1 << 20) - (72 << 10)))
    with pytest.raises(StorageError, match="the disk is full: free some space"):
        run_plainly(str(folder), str(out), ECHO, SMALL)
    stopped = look(out)
    assert stopped.rows and not stopped.double and not stopped.temporary
    filler.unlink()
    run_plainly(str(folder), str(out), ECHO, SMALL)
    run_plainly(str(folder), str(tmp_path / "undisturbed"), ECHO, SMALL)
    assert faults(stopped, look(out), look(tmp_path / "undisturbed"), texts=True) == []


@pytest.mark.parametrize("place", ["disk", "s3"])
def test_a_part_replaced_behind_our_back_is_read_again_and_kept(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    url = f"s3://{s3.bucket()}/out" if place == "s3" else str(tmp_path / "out")
    ledger = Ledger(Storage(url, s3.options), "m-12345678", ("text",))
    ledger.commit([document("a"), document("b")])
    seen = ledger.get("a"), ledger.get("b")
    assert seen[0] and seen[1]
    stranger = Ledger(Storage(url, s3.options), "m-12345678", ("text",))
    by_stranger = DocumentRows("b", [row("b", text="by a stranger")], seen[1].version)
    replace = ledger.storage.replace

    def late(path: str, data: bytes, etag: str) -> str:
        monkeypatch.setattr(ledger.storage, "replace", replace)
        assert stranger.commit_into(path, [by_stranger]) == 1
        return replace(path, data, etag)

    monkeypatch.setattr(ledger.storage, "replace", late)
    by_us = DocumentRows("a", [row("a", text="ours")], seen[0].version)
    assert ledger.commit_into(seen[0].part, [by_us]) == 1
    assert [r["text"] for uri in "ab" for r in ledger.rows(uri)] == ["ours", "by a stranger"]


def test_a_source_that_changes_under_a_run_is_read_as_it_is_now(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    make_pdf(source / "a.pdf", 2, seed=1)
    run_plainly(str(source), str(tmp_path / "out"), ECHO, SMALL)
    make_pdf(source / "a.pdf", 3, seed=2)
    run_plainly(str(source), str(tmp_path / "out"), ECHO, SMALL)
    rows = look(tmp_path / "out").rows
    assert sorted(page or 0 for _, page in rows) == [1, 2, 3]
    assert len({row["source_etag"] for row in rows.values()}) == 1
