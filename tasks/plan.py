"""Plan: what the source holds, minus what the output holds, cut into shards."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from pagemill.document import SourceObject
from pagemill.errors import UsageError
from pagemill.ledger import Committed, Ledger
from pagemill.settings import Limits, Settings, Work
from tasks.discover import discover
from tasks.job import Job
from tasks.passwords import password_mark
from tasks.render import renderer_identity


class Reason(StrEnum):
    """Why an object is to be read."""

    NEW = "new"
    CHANGED = "changed"
    RETRY = "retry"


@dataclass(frozen=True)
class Item:
    """One object to read.

    Attributes
    ----------
    source : SourceObject
    reason : Reason
    seen : str or None
        Version of its committed rows when the plan looked; None where there were none.
    pages : tuple of int or None
        The pages to read again; None for the whole document.
    tries : int
        Runs that will have tried its pages, this one included.
    """

    source: SourceObject
    reason: Reason
    seen: str | None = None
    pages: tuple[int, ...] | None = None
    tries: int = 1


@dataclass(frozen=True)
class Shard:
    """A unit of work and of retry: some objects and, where they have older rows, the part.

    Attributes
    ----------
    number : int
        From 1, within the run.
    items : tuple of Item
    part : str or None
        The part that the new rows go into; None for a new part.
    """

    number: int
    items: tuple[Item, ...]
    part: str | None = None

    def __repr__(self) -> str:
        return f"Shard({self.number}, {len(self.items)} documents)"


@dataclass
class Plan:
    """What a run will do, and why not the rest.

    Attributes
    ----------
    shards : list of Shard
    selected : dict of str to str
        uri → etag of every selected object.
    outside : Counter
        Objects outside the selection, by reason.
    reasons : Counter
        Objects to read, by `Reason`; ``done`` counts those that are not.
    """

    shards: list[Shard] = field(default_factory=list)
    selected: dict[str, str] = field(default_factory=dict)
    outside: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def items(self) -> Iterator[Item]:
        """Every object to read, shard by shard."""
        return (item for shard in self.shards for item in shard.items)

    def summary(self) -> dict[str, Any]:
        """Counts, as plain data."""
        return {
            "selected": len(self.selected),
            **{reason.value: self.reasons[reason] for reason in Reason},
            "done": self.reasons["done"],
            "outside": dict(self.outside),
            "shards": len(self.shards),
            "bytes": sum(item.source.size for item in self.items),
        }


def plan_job(job: Job, ledger: Ledger) -> Plan:
    """List the source, look at the output, compare."""
    ledger.refresh()
    found = discover(job.source, job.settings, job.out)
    plan = make_plan(found, ledger, job.settings)
    plan.outside.update(found.outside)
    return plan


def make_plan(objects: Iterable[SourceObject], ledger: Ledger, settings: Settings) -> Plan:
    """Compare the source with the ledger (refreshed by the caller).

    Raises
    ------
    UsageError
        Two objects of the source have one uri.
    """
    plan = Plan()
    current = deciders(settings)
    fresh: list[Item] = []
    by_part: dict[str, list[Item]] = defaultdict(list)
    for source in objects:
        if source.uri in plan.selected:
            raise UsageError(f"{source.uri} is listed twice: name each folder of SOURCE once")
        plan.selected[source.uri] = source.etag
        committed = ledger.get(source.uri)
        item = _item(source, committed, current)
        plan.reasons[item.reason if item else "done"] += 1
        if item and committed:
            by_part[committed.part].append(item)
        elif item:
            fresh.append(item)
    groups: list[tuple[list[Item], str | None]]
    groups = [(items, part) for part, items in sorted(by_part.items())]
    groups += [(items, None) for items in _cut(fresh, settings.work)]
    plan.shards = [Shard(n, tuple(items), part) for n, (items, part) in enumerate(groups, start=1)]
    return plan


def deciders(settings: Settings) -> dict[str, str]:
    """What decides permanent failures today, by the names used in `decided_by`."""
    limits = {name: f"{value}" for name, value in settings.limits.model_dump().items()}
    return {
        **{name: limits[name] for name in Limits.model_fields},
        "renderer": renderer_identity(settings.render.renderer),
        "password": password_mark(settings),
    }


def _item(
    source: SourceObject, committed: Committed | None, current: Mapping[str, str]
) -> Item | None:
    if committed is None:
        return Item(source, Reason.NEW)
    if committed.etag != source.etag:
        return Item(source, Reason.CHANGED, committed.version)
    due = [group for group in committed.open if group.is_due(current)]
    if not due:
        return None
    numbers = [number for group in due for number in group.numbers]
    return Item(
        source,
        Reason.RETRY,
        committed.version,
        pages=None if None in numbers else tuple(sorted(n for n in numbers if n is not None)),
        tries=max(group.tries for group in due) + 1,
    )


def _cut(items: list[Item], work: Work) -> Iterator[list[Item]]:
    """Shards of at most so many documents and about so many bytes."""
    shard: list[Item] = []
    size = 0
    for item in items:
        if shard and (
            len(shard) >= work.shard_documents or size + item.source.size > work.shard_mb << 20
        ):
            yield shard
            shard, size = [], 0
        shard.append(item)
        size += item.source.size
    if shard:
        yield shard
