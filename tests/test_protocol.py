"""The commit protocol, with the real ledger, over every order of things that chance comes up with.

Writers, kills, stale listings, wrong clocks, changed documents and parts rewritten by strangers
meet in `model_storage`. At every instant a page has at most one row, no document that has rows
is without them, and no older row comes back. When everybody is done and an undisturbed run has
gone over it, each page has exactly one. Without either of the two conditions this fails, which
is tested too.
"""

from __future__ import annotations

import io
import random
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagemill.ledger import DocumentRows, Ledger
from pagemill.schema import row_schema
from tests.model_storage import Handle, World

T0 = datetime(2026, 1, 1, tzinfo=UTC)
FOLDER = "recipe=m-12345678"
SCHEMA = row_schema(["text"])
RANGE = 2
"""Pages of a staged range; documents of more pages are long."""


class Broken(AssertionError):
    """The promise does not hold."""


class Job:
    """Documents that change, writers that read them, and a judge who looks after every write."""

    def __init__(self, choose: random.Random, world: World) -> None:
        self.choose, self.world = choose, world
        self.versions = {f"d{n}": 1 for n in range(5)}
        self._seen: set[str] = set()
        self._newest: dict[tuple[str, int | None], tuple[int, int]] = {}
        self._read: dict[str, list[Any]] = {}
        world.after_write = self.judge

    # -- what a run does -------------------------------------------------------------------

    def run(self, writer: Handle, share: float = 1.0) -> None:
        """List, plan and commit, as a run does; on this writer's own clock.

        `share`: of the documents, which a run may be told to select from.
        """
        selected = [uri for uri in self.versions if self.choose.random() < share]
        clock = self.choose.choice([0, -86400, 86400, 40])
        ticks = self.choose.random() < 0.7  # else it stands still
        ledger = Ledger(writer, "m-12345678", ("text",))  # type: ignore[arg-type]
        ledger.refresh()
        now = partial(self._now, clock, iter(range(10**6)) if ticks else None)
        new: list[DocumentRows] = []
        into: dict[str, list[DocumentRows]] = {}
        for uri in selected:
            item = self._item(ledger, uri, self.versions[uri], now)
            if item and item[0]:
                into.setdefault(item[0], []).append(item[1])
            elif item:
                new.append(item[1])
        self.choose.shuffle(new)
        for part, batch in into.items():
            ledger.commit_into(part, batch)
        for start in range(0, len(new), 3):
            ledger.commit(new[start : start + 3])
            for document in new[start : start + 3]:
                if len(document.rows) > RANGE:
                    ledger.unstage(str(document.rows[0]["document_sha256"]))

    def _now(self, clock: int, ticks: Iterator[int] | None) -> datetime:
        return T0 + timedelta(seconds=clock + (next(ticks) if ticks else 0))

    def _item(
        self, ledger: Ledger, uri: str, version: int, now: Any
    ) -> tuple[str | None, DocumentRows] | None:
        known = ledger.get(uri)
        if known is None:
            return None, DocumentRows(uri, self._read_document(ledger, uri, version, now))
        if known.etag != f"v{version}":
            rows = [self.row(uri, version, n, now()) for n in self.pages(uri, version)]
            return known.part, DocumentRows(uri, rows, known.version)
        due = [group for group in known.open if group.is_due({})]
        pages = tuple(sorted(n for group in due for n in group.numbers if n is not None))
        rows = [self.row(uri, version, n, now(), due[0].tries + 1) for n in pages]
        return (known.part, DocumentRows(uri, rows, known.version, pages)) if pages else None

    def _read_document(self, ledger: Ledger, uri: str, version: int, now: Any) -> list[Any]:
        pages, sha256 = list(self.pages(uri, version)), f"{uri}-v{version}"
        if len(pages) <= RANGE:
            return [self.row(uri, version, n, now()) for n in pages]
        rows = ledger.staged(sha256)
        for first in range(1, len(pages) + 1, RANGE):
            numbers = [n for n in range(first, first + RANGE) if n in pages]
            if any(n not in rows for n in numbers):
                rows |= {n: self.row(uri, version, n, now()) for n in numbers}
                ledger.stage(sha256, numbers[0], numbers[-1], [rows[n] for n in numbers])
        return [rows[n] for n in pages]

    def pages(self, uri: str, version: int) -> range:
        """The page numbers of a document: some are long, and they change their length."""
        return range(1, 2 + (int(uri[1:]) + version) % 4)

    def row(self, uri: str, version: int, page: int, now: datetime, tries: int = 1) -> Any:
        """A row; every third page fails until it has been tried twice."""
        fails = (page + int(uri[1:])) % 3 == 0 and tries < 2
        return {
            **dict.fromkeys(("source_size", "prompt_tokens", "completion_tokens"), 1),
            **dict.fromkeys(("gpu_seconds", "render_seconds"), 0.5),
            **dict.fromkeys(("model_id", "model_revision", "quantization", "framework"), "m"),
            **dict.fromkeys(("pagemill_version", "run_id"), "r"),
            "source_uri": uri,
            "source_etag": f"v{version}",
            "document_sha256": f"{uri}-v{version}",
            "page_number": page,
            "page_count": len(self.pages(uri, version)),
            "text": None if fails else "text",
            "status": "failed" if fails else "ok",
            "error_kind": "time_out" if fails else None,
            "tries": tries,
            "processed_at": now,
        }

    # -- what others do --------------------------------------------------------------------

    def meddle(self) -> None:
        """Now and then a document changes, or a stranger rewrites a part (with equal rows)."""
        if self.choose.random() < 0.05:
            self.versions[self.choose.choice(sorted(self.versions))] += 1
        parts = self._parts()
        if parts and self.choose.random() < 0.03:
            path = self.choose.choice(parts)
            table = pq.read_table(io.BytesIO(self.world.objects[path][0]))
            sink = io.BytesIO()
            pq.write_table(table, sink, compression=self.choose.choice(["snappy", "none"]))
            self.world.write(path, sink.getvalue())

    # -- the judge -------------------------------------------------------------------------

    def judge(self) -> None:
        """Look at the parts as anybody would who reads them at this instant."""
        rows = [row for path in self._parts() for row in self._rows(path)]
        twice = [k for k, n in Counter((row[0], row[2]) for row in rows).items() if n > 1]
        if twice:
            raise Broken(f"two rows: {twice}")
        documents: dict[str, list[Any]] = {}
        for row in rows:
            documents.setdefault(row[0], []).append(row)
        if lost := self._seen - documents.keys():
            raise Broken(f"rows are gone: {lost}")
        self._seen |= documents.keys()
        newest = {(row[0], row[2]): (int(row[1][1:]), row[5]) for row in rows}
        for key, now in newest.items():
            if now < self._newest.get(key, now):
                raise Broken(f"an older row is back: {key} {now}")
        self._newest |= newest
        for uri, mine in documents.items():
            count = mine[0][3] or 0
            if len({row[1] for row in mine}) > 1 or {row[2] for row in mine} != set(
                range(1, count + 1)
            ):
                raise Broken(f"{uri} is not whole, or of two versions: {mine}")

    def judge_the_end(self) -> None:
        """All documents as they are now, every page once, nothing left to try."""
        rows = [row for path in self._parts() for row in self._rows(path)]
        wanted = {
            (uri, f"v{version}", page)
            for uri, version in self.versions.items()
            for page in self.pages(uri, version)
        }
        assert {row[:3] for row in rows} == wanted and len(rows) == len(wanted)
        assert {row[4] for row in rows} <= {"ok", "failed"}

    def _parts(self) -> list[str]:
        return sorted(p for p in self.world.objects if p.startswith(f"{FOLDER}/pages/"))

    def _rows(self, path: str) -> list[Any]:
        data, etag = self.world.objects[path]
        if etag not in self._read:
            names = ["source_uri", "source_etag", "page_number", "page_count", "status", "tries"]
            table = pq.read_table(pa.BufferReader(data), columns=names)
            self._read[etag] = [tuple(row.values()) for row in table.to_pylist()]
        return self._read[etag]


def play(seed: int, **conditions: Any) -> Job:
    """Three writers and what may befall them, then an undisturbed run over it."""
    choose = random.Random(seed)
    world = World(choose, kills=choose.randrange(4), **conditions)
    job = Job(choose, world)
    for names in ("abc", "def"):  # whoever was killed is started again
        for name in names:
            world.start(name, partial(job.run, share=0.7))
        world.run(job.meddle)
    world.stale = world.kills = 0
    for name in "yz":  # twice: pages that failed have to be tried again
        world.start(name, job.run)
        world.run()
    job.judge_the_end()
    ledger_at_the_end(world)
    return job


def ledger_at_the_end(world: World) -> None:
    """The ledger finds nothing wrong either."""

    def look(handle: Handle) -> None:
        ledger = Ledger(handle, "m-12345678", ("text",))  # type: ignore[arg-type]
        ledger.refresh()
        assert list(ledger.problems()) == []

    world.start("judge", look)
    world.run()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32))
def test_a_page_never_has_two_rows_and_in_the_end_has_one(seed: int) -> None:
    play(seed)


@pytest.mark.parametrize("condition", ["creates_only_if_absent", "replaces_only_if_same"])
def test_without_either_condition_the_promise_breaks(condition: str) -> None:
    with pytest.raises(AssertionError):
        for seed in range(60):
            play(seed, **{condition: False})


def test_chance_comes_up_with_what_matters() -> None:
    """Kills, lost races, staged pages and parts rewritten in between do occur in these worlds."""
    worlds = [play(seed).world for seed in range(12)]
    steps = [step for world in worlds for step in world.steps]
    assert sum(world.killed for world in worlds) > 5
    assert sum(": replace" in step for step in steps) > 20
    assert sum(": create" in step and "/staging/" in step for step in steps) > 20
    created = [tuple(s for s in w.steps if ": create" in s and "/pages/" in s) for w in worlds]
    assert any(len({s.split()[-1] for s in each}) < len(each) for each in created)  # a lost race
