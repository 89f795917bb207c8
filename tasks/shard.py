"""Shards: the unit of work and of retry, cut from a plan's table when their turn comes."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import overload

from pagemill.committed import unpack_pages
from pagemill.document import SourceObject
from pagemill.settings import Work

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_COLUMNS = "uri, etag, size, modified, problem, reason, seen, pages, tries"


class Reason(StrEnum):
    """Why an object is to be read."""

    NEW = "new"
    CHANGED = "changed"
    RETRY = "retry"


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class Group:
    """What a shard is of: the documents of a part, or new ones from a uri to another."""

    part: str | None = None
    first: str = ""
    last: str = ""


class Shards(Sequence[Shard]):
    """The shards of a plan, each read from its table ``selected`` when it is asked for."""

    def __init__(self, db: sqlite3.Connection, lock: threading.RLock, groups: list[Group]) -> None:
        self._db, self._lock, self._groups = db, lock, groups

    def __len__(self) -> int:
        return len(self._groups)

    @overload
    def __getitem__(self, index: int) -> Shard: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Shard]: ...
    def __getitem__(self, index: int | slice) -> Shard | Sequence[Shard]:
        if isinstance(index, slice):
            return [self[at] for at in range(len(self))[index]]
        group = self._groups[index]
        where, values = "part = ?", [group.part]
        if group.part is None:
            where, values = "reason = 'new' AND uri BETWEEN ? AND ?", [group.first, group.last]
        ask = f"SELECT {_COLUMNS} FROM selected WHERE {where} ORDER BY uri"
        with self._lock:
            items = tuple(_item(*record) for record in self._db.execute(ask, values))
        return Shard(range(len(self))[index] + 1, items, group.part)


def cut(new: Iterable[tuple[str, int]], work: Work) -> Iterator[Group]:
    """Shards of at most so many documents and about so many bytes."""
    first = last = ""
    count = bytes_ = 0
    for uri, size in new:
        full = count >= work.shard_documents or bytes_ + size > work.shard_mb << 20
        if count and full:
            yield Group(None, first, last)
            count = bytes_ = 0
        first = first if count else uri
        last, count, bytes_ = uri, count + 1, bytes_ + max(size, 0)
    if count:
        yield Group(None, first, last)


def source_object(
    uri: str, etag: str, size: int, modified: int | None, problem: str | None
) -> SourceObject:
    """A record of the index, or of a plan, as an object."""
    when = None if modified is None else _EPOCH + timedelta(microseconds=modified)
    return SourceObject(uri, etag, size, when, problem)


def to_number(when: datetime | None) -> int | None:
    """A time as the index keeps it: microseconds since 1970."""
    return None if when is None else (when - _EPOCH) // timedelta(microseconds=1)


def _item(
    uri: str,
    etag: str,
    size: int,
    modified: int | None,
    problem: str | None,
    reason: str,
    seen: str | None,
    pages: str | None,
    tries: int,
) -> Item:
    numbers = unpack_pages(json.loads(pages or "null"))
    return Item(
        source_object(uri, etag, size, modified, problem),
        Reason(reason),
        seen,
        None if None in numbers else tuple(n for n in numbers if n is not None),
        tries,
    )
