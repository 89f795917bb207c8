"""Plan: what the source holds, minus what the output holds, cut into shards.

The selected objects are a temporary table beside the ledger's index, so that a plan is a few
joins and its memory does not grow with the source. Shards are read from it one at a time.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from pagemill.committed import load_open, pack_pages, unpack_pages
from pagemill.document import SourceObject
from pagemill.errors import UsageError
from pagemill.ledger import Ledger, open_ledgers
from pagemill.settings import Limits, Select, Settings, Work
from tasks.discover import Discovery, discover
from tasks.job import Job
from tasks.passwords import password_mark
from tasks.redo import Hit, by_recipe, rows_to_redo
from tasks.render import renderer_identity
from tasks.selection import Selection
from tasks.shard import Group, Item, Reason, Shard, Shards, cut, source_object, to_number

PAGE_BYTES = 50_000
"""Of a PDF, for a first guess at its pages; text takes less, scans take more."""
_IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".jp2", ".heic", ".heif", ".avif")

CHUNK = 5000
"""Objects that are handed to the table at a time."""

_TABLES = """
DROP TABLE IF EXISTS temp.selected;
DROP TABLE IF EXISTS temp.due;
CREATE TEMP TABLE selected (
    uri TEXT PRIMARY KEY, etag TEXT, size INTEGER, modified INTEGER, problem TEXT,
    reason TEXT, part TEXT, seen TEXT, pages TEXT, tries INTEGER DEFAULT 1
) WITHOUT ROWID;
CREATE TEMP TABLE due (uri TEXT PRIMARY KEY, pages TEXT, tries INTEGER) WITHOUT ROWID;
"""


class Plan:
    """What a run will do, and why not the rest. A ledger has one plan at a time.

    Parameters
    ----------
    ledger : Ledger
        Refreshed by the caller.
    select : Select
    work : Work

    Attributes
    ----------
    db : sqlite3.Connection
        The index, with the table ``selected``: a record for every selected object.
    shards : Sequence of Shard
        Made when they are asked for.
    outside : Counter
        Objects outside the selection, by reason.
    reasons : Counter
        Objects to read, by `Reason`; ``done`` counts those that are not.
    deleted : int
        Documents with rows that SOURCE would list, but no longer does. Their rows are kept.
    """

    def __init__(self, ledger: Ledger, select: Select, work: Work) -> None:
        self.ledger, self.db, self.lock = ledger, ledger.index.db, ledger.index.lock
        self.outside: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.deleted = 0
        self.shards: Sequence[Shard] = ()
        self._select, self._work = select, work
        with self.lock:
            self.db.executescript(_TABLES)

    @property
    def selected(self) -> int:
        """Number of selected objects."""
        return self.reasons.total()

    @property
    def todo(self) -> int:
        """Number of objects to read."""
        return sum(self.reasons[reason] for reason in Reason)

    @property
    def items(self) -> Iterator[Item]:
        """Every object to read, shard by shard."""
        return (item for shard in self.shards for item in shard.items)

    def summary(self) -> dict[str, Any]:
        """Counts, as plain data."""
        wanted = "SELECT coalesce(sum(max(size, 0)), 0) FROM selected WHERE reason IS NOT NULL"
        with self.lock:
            (size,) = self.db.execute(wanted).fetchone()
        return {
            "selected": self.selected,
            **{reason.value: self.reasons[reason] for reason in Reason},
            "done": self.reasons["done"],
            "outside": dict(self.outside),
            "deleted": self.deleted,
            "shards": len(self.shards),
            "bytes": size,
        }

    def about_pages(self) -> int:
        """A guess at the pages to read, from names and sizes: nothing is opened for it."""
        image = " OR ".join(f"uri LIKE '%{suffix}'" for suffix in _IMAGES)
        most = len(self._select.page_range(10**9))
        ask = f"""SELECT coalesce(sum(min(:most, CASE
            WHEN pages <> 'null' THEN (SELECT sum(1 + json_extract(range.value, '$[1]')
                - json_extract(range.value, '$[0]')) FROM json_each(pages) range)
            WHEN {image} THEN 1 ELSE max(1, size / :bytes) END)), 0)
            FROM selected WHERE reason IS NOT NULL"""
        with self.lock:
            (pages,) = self.db.execute(ask, {"most": most, "bytes": PAGE_BYTES}).fetchone()
        return int(pages)

    # -- how it is made, in this order -----------------------------------------------------

    def add(self, objects: Iterable[SourceObject]) -> None:
        """Put objects into the table.

        Raises
        ------
        UsageError
            Two objects of the source have one uri.
        """
        insert = "INSERT INTO selected (uri, etag, size, modified, problem) VALUES (?, ?, ?, ?, ?)"
        left = iter(objects)
        while chunk := list(islice(left, CHUNK)):
            records = [(o.uri, o.etag, o.size, to_number(o.modified), o.problem) for o in chunk]
            try:
                with self.ledger.index.writing():
                    self.db.executemany(insert, records)
            except sqlite3.IntegrityError:
                uri = self._listed_twice(records)
                raise UsageError(
                    f"{uri} is listed twice: name each folder of SOURCE once"
                ) from None

    def compare(self, current: Mapping[str, str] | None) -> None:
        """Mark what is new, what has changed and what failed but is worth another try.

        Parameters
        ----------
        current : mapping of str to str or None
            See `deciders`; None where no failure is to be tried again by itself.
        """
        with self.ledger.index.writing():
            self.db.execute(
                """UPDATE selected SET reason = 'new' WHERE NOT EXISTS
                (SELECT 1 FROM documents d WHERE d.uri = selected.uri)"""
            )
            self.db.execute(
                """UPDATE selected SET reason = 'changed', seen = d.version, part = p.path
                FROM documents d JOIN parts p ON p.id = d.part
                WHERE d.uri = selected.uri AND d.etag <> selected.etag"""
            )
            if current is None:
                return
            opened = self.db.execute(
                """SELECT d.uri, d.open FROM documents d JOIN selected s ON s.uri = d.uri
                WHERE d.open IS NOT NULL AND s.reason IS NULL"""
            )
            for uri, text in opened:
                self._add_due(uri, text, current)

    def redo(self, uri: str, numbers: Iterable[int | None], tries: int) -> None:
        """Have committed pages of a document read again (all of it where a number is None).

        Nothing happens where the document is not selected.
        """
        pages = self._in_range(numbers)
        if pages == []:
            return
        with self.ledger.index.writing():
            found = self.db.execute("SELECT pages, tries FROM due WHERE uri = ?", (uri,)).fetchone()
            if found:
                numbers = [*unpack_pages(json.loads(found[0])), *unpack_pages(pages)]
                pages, tries = pack_pages(set(numbers)), max(tries, found[1])
            record = (uri, json.dumps(pages), tries)
            self.db.execute("INSERT OR REPLACE INTO due VALUES (?, ?, ?)", record)

    def keep_to_redo(self) -> None:
        """Leave out what `redo` did not name; what has changed meanwhile is read as a whole."""
        with self.ledger.index.writing():
            gone = self.db.execute(
                "DELETE FROM selected WHERE uri NOT IN (SELECT uri FROM due) OR reason = 'new'"
            )
        self.outside["nothing to redo"] += max(gone.rowcount, 0)

    def cut(self) -> None:
        """Last: mark what is to be tried again, count, and cut into shards."""
        with self.ledger.index.writing():
            self.db.execute(
                """UPDATE selected SET reason = 'retry', pages = due.pages, tries = due.tries + 1,
                seen = d.version, part = p.path
                FROM due JOIN documents d ON d.uri = due.uri JOIN parts p ON p.id = d.part
                WHERE due.uri = selected.uri AND selected.reason IS NULL"""
            )
            counts = "SELECT coalesce(reason, 'done'), count(*) FROM selected GROUP BY reason"
            self.reasons = Counter(dict(self.db.execute(counts).fetchall()))
            self.db.execute("CREATE INDEX temp.of_part ON selected (part) WHERE part IS NOT NULL")
            parts = "SELECT DISTINCT part FROM selected WHERE part IS NOT NULL ORDER BY part"
            groups = [Group(part=part) for (part,) in self.db.execute(parts)]
            fresh = "SELECT uri, size FROM selected WHERE reason = 'new' ORDER BY uri"
            groups += cut(self.db.execute(fresh), self._work)
        self.shards = Shards(self.db, self.lock, groups)

    def _add_due(self, uri: str, text: str, current: Mapping[str, str]) -> None:
        for pages in load_open(text):
            if pages.is_due(current):
                self.redo(uri, pages.numbers, pages.tries)

    def _in_range(self, numbers: Iterable[int | None]) -> list[list[int]] | None:
        wanted = self._select.page_range(10**9)
        return pack_pages(n for n in numbers if n is None or n in wanted)

    def _listed_twice(self, records: list[tuple[Any, ...]]) -> str:
        seen: set[str] = set()
        for uri, *_ in records:
            there = self.db.execute("SELECT 1 FROM selected WHERE uri = ?", (uri,)).fetchone()
            if uri in seen or there:
                return str(uri)
            seen.add(uri)
        raise AssertionError("unreachable")


def plan_job(job: Job, ledger: Ledger) -> Plan:
    """List the source, look at the output, compare."""
    ledger.refresh()
    settings = job.settings
    plan = Plan(ledger, settings.select, settings.work)
    hits = rows_to_redo(ledger, settings.select.redo)
    if job.source is None:
        _plan_rows(plan, settings.select, hits)
        return plan
    found = discover(job.source, settings, job.out)
    plan.add(by_recipe(found, settings.select, ledger.storage, plan.outside))
    plan.outside.update(found.outside)
    plan.compare(deciders(settings) if settings.select.new else None)
    for hit in hits:
        plan.redo(hit.source.uri, hit.numbers, hit.tries)
    if settings.select.new:
        plan.deleted = _count_deleted(plan, found, settings.select)
    else:
        plan.keep_to_redo()
    plan.cut()
    return plan


def _plan_rows(plan: Plan, select: Select, hits: Iterable[Hit]) -> None:
    """Without a source: the rows say where their documents lie."""
    if not plan.ledger.index.parts():
        there = ", ".join(x.recipe for x in open_ledgers(plan.ledger.storage)) or "none"
        raise UsageError(
            f"{plan.ledger.storage.url} holds nothing of this config's recipe, "
            f"{plan.ledger.recipe}, but of {there}: give the config and settings that made it"
        )
    wanted = Selection(select)

    def chosen() -> Iterator[SourceObject]:
        for hit in hits:
            reason = wanted.reason(hit.source.uri.partition("://")[2], hit.source)
            if reason:
                plan.outside[reason] += 1
            else:
                plan.redo(hit.source.uri, hit.numbers, hit.tries)
                yield hit.source

    objects = wanted.sample(chosen(), plan.outside) if select.sample else chosen()
    plan.add(by_recipe(objects, select, plan.ledger.storage, plan.outside))
    plan.compare(None)
    plan.cut()


def _count_deleted(plan: Plan, found: Discovery, select: Select) -> int:
    """Documents that SOURCE would list if they were still there."""
    if select.sample or select.made_by or select.not_made_by:
        return 0  # not all that is there is in the table
    below = f"{found.base}/"
    ask = """SELECT uri, etag, size, modified, NULL FROM documents d WHERE uri > ? AND uri < ?
        AND NOT EXISTS (SELECT 1 FROM selected s WHERE s.uri = d.uri)"""
    with plan.lock:
        unseen = tuple(
            f"{uri}/"
            for (uri,) in plan.db.execute("SELECT uri FROM selected WHERE problem IS NOT NULL")
        )
        gone = plan.db.execute(ask, (below, below + "\U0010ffff"))
        return sum(
            1 for r in gone if not r[0].startswith(unseen) and found.would_list(source_object(*r))
        )


def deciders(settings: Settings) -> dict[str, str]:
    """What decides permanent failures today, by the names used in `decided_by`."""
    limits = {name: f"{value}" for name, value in settings.limits.model_dump().items()}
    return {
        **{name: limits[name] for name in Limits.model_fields},
        "pages": settings.select.pages or "all",
        "renderer": renderer_identity(settings.render.renderer),
        "password": password_mark(settings),
    }
