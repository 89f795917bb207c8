"""Redo: which committed rows count as missing, and which documents another recipe holds."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pagemill.document import SourceObject
from pagemill.ledger import Ledger, open_ledger
from pagemill.parts import read_columns
from pagemill.settings import Redo, Select
from pagemill.storage import Storage

_COLUMNS = (
    *("source_uri", "source_etag", "source_size", "source_modified", "page_number", "status"),
    *("error_kind", "tries", "processed_at", "mean_logprob"),
)


@dataclass(frozen=True)
class Hit:
    """A document with pages to read again.

    Attributes
    ----------
    source : SourceObject
        As its rows describe it.
    numbers : tuple of int or None
        The pages; None for a document that could not be opened.
    tries : int
        Runs that have tried them.
    """

    source: SourceObject
    numbers: tuple[int | None, ...]
    tries: int


def rows_to_redo(ledger: Ledger, redo: Redo) -> Iterator[Hit]:
    """The committed pages that `redo` names, part by part; none where it names nothing.

    Only the columns that it takes are read, and only of parts that may hold such rows.
    """
    if not redo:
        return
    worth = ledger.index.parts_with(redo.status) if redo.status else None
    parts = [entry for entry in ledger.parts() if worth is None or entry.path in worth]
    for part in read_columns(ledger.storage, parts, _COLUMNS):
        groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in part.table.filter(_named(part.table, redo)).to_pylist():
            groups[row["source_uri"]].append(row)
        yield from map(_hit, groups.values())


def by_recipe(
    objects: Iterable[SourceObject], select: Select, storage: Storage, outside: Counter[str]
) -> Iterator[SourceObject]:
    """Those that `select.made_by` holds and `select.not_made_by` does not; others are counted."""
    there = _recipe(storage, select.made_by)
    absent = _recipe(storage, select.not_made_by)
    for source in objects:
        if there and there.get(source.uri) is None:
            outside[f"not made by {select.made_by}"] += 1
        elif absent and absent.get(source.uri) is not None:
            outside[f"made by {select.not_made_by}"] += 1
        else:
            yield source


def _recipe(storage: Storage, name: str | None) -> Ledger | None:
    if name is None:
        return None
    ledger = open_ledger(storage, name)
    ledger.refresh()
    return ledger


def _named(table: pa.Table, redo: Redo) -> pa.Array:
    tests = [
        pc.is_in(table[column], value_set=pa.array([str(v) for v in values], pa.string()))
        for column, values in (("status", redo.status), ("error_kind", redo.error_kind))
        if values
    ]
    if redo.before:
        tests.append(pc.less(table["processed_at"], pa.scalar(redo.before)))
    if redo.confidence_below is not None:
        tests.append(_unsure(table, math.log(redo.confidence_below)))
    named = tests[0]
    for test in tests[1:]:
        named = pc.and_(named, test)
    return named


def _unsure(table: pa.Table, below: float) -> pa.Array:
    """Where an output's mean log-probability is lower; what is not known is not."""
    unsure = pa.chunked_array([pa.array([False] * table.num_rows)])
    if "mean_logprob" in table.column_names:
        for field in table.schema.field("mean_logprob").type:
            value = pc.struct_field(table["mean_logprob"], field.name)
            unsure = pc.or_(unsure, pc.fill_null(pc.less(value, below), False))
    return unsure


def _hit(rows: list[dict[str, Any]]) -> Hit:
    head = rows[0]
    source = SourceObject(
        head["source_uri"], head["source_etag"], head["source_size"], head["source_modified"]
    )
    numbers = tuple(row["page_number"] for row in rows)
    return Hit(source, numbers, max(row["tries"] for row in rows))
