"""What is known of a committed document: its version, its rows by status, what is still open."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pagemill.errors import ERRORS, MAX_TRIES, ErrorKind
from pagemill.status import Status

OPEN = (Status.FAILED, Status.SKIPPED)


@dataclass(frozen=True)
class OpenPages:
    """Pages of a document that failed or were skipped for one reason.

    `numbers` holds None for a document that could not be opened at all.
    """

    error_kind: str
    decided_by: str | None
    tries: int
    numbers: tuple[int | None, ...]

    def is_due(self, deciders: Mapping[str, str]) -> bool:
        """Whether another run should try them.

        Transient errors are tried by up to `MAX_TRIES` runs; they and permanent ones when what
        decided them, a ``name=value``, is no longer what `deciders` says. Kinds of a later
        version of this software are left alone.
        """
        if self.error_kind not in set(ErrorKind):
            return False
        if ERRORS[ErrorKind(self.error_kind)].transient and self.tries < MAX_TRIES:
            return True
        name, _, value = (self.decided_by or "").partition("=")
        return name in deciders and deciders[name] != value


@dataclass(frozen=True)
class Committed:
    """What the ledger knows of one document.

    Attributes
    ----------
    part : str
        Path of the part that holds its rows.
    etag, sha256, page_count
        As in its rows.
    version : str
        Changes whenever its rows are replaced.
    rows : int
    statuses : dict
        Rows by status.
    open : tuple of OpenPages
    fault : str or None
        Why its rows do not add up, where they don't.
    """

    part: str
    etag: str
    sha256: str | None
    page_count: int | None
    version: str
    rows: int
    statuses: dict[str, int]
    open: tuple[OpenPages, ...]
    fault: str | None


FACTS = (
    *("uri", "etag", "size", "modified", "sha256", "page_count", "version", "rows"),
    *Status,
    *("open", "fault"),
)
"""A document as a record of the index: `facts` makes them, `committed` reads them."""


def facts(table: pa.Table) -> list[tuple[Any, ...]]:
    """A record of `FACTS` for every document of a part, from its key columns."""
    if not table.num_rows:
        return []
    table = _with_flags(table)
    grouped = pa.TableGroupBy(table, ["source_uri"], use_threads=False).aggregate(_AGGREGATES)
    # Whole columns at a time: this is what a plan of millions of documents spends its time on.
    etag = grouped["source_etag_min"]
    version = pc.binary_join_element_wise(etag, grouped["processed_at_max"].cast(pa.string()), " ")
    columns = [
        *(grouped["source_uri"], etag, grouped["source_size_max"], grouped["source_modified_max"]),
        *(grouped["document_sha256_max"], grouped["page_count_max"], version),
        *(grouped["source_uri_count"], *(grouped[f"{status}_sum"] for status in Status)),
    ]
    special = _special(table)
    records = []
    whole = _is_whole(grouped).to_pylist()
    for good, *record in zip(whole, *(column.to_pylist() for column in columns), strict=True):
        uri, fault = record[0], None
        if not good:
            fault = _fault(table.filter(pc.equal(table["source_uri"], uri)).to_pylist())
        opened = _dump_open(special[uri]) if uri in special else None
        records.append((*record, opened, fault))
    return records


def _is_whole(grouped: pa.Table) -> pa.Array:
    """Whether there is exactly one row for each of a document's pages, all of one version."""
    rows = grouped["source_uri_count"]
    tests = [
        pc.equal(grouped["source_etag_count_distinct"], 1),
        pc.equal(grouped["page_number_count_distinct"], rows),
        *(pc.equal(grouped[f"page_number_{each}"], rows) for each in ("count", "max")),
        *(pc.equal(grouped[f"page_count_{each}"], rows) for each in ("min", "max")),
        pc.equal(grouped["page_number_min"], 1),
    ]
    whole = tests[0]
    for test in tests[1:]:
        whole = pc.and_(whole, test)
    return pc.fill_null(whole, False)


def versions(table: pa.Table) -> dict[str, str]:
    """`Committed.version` of every document of a part."""
    uri, version = FACTS.index("uri"), FACTS.index("version")
    return {record[uri]: record[version] for record in facts(table)}


def committed(part: str, record: Mapping[str, Any]) -> Committed:
    """A record of the index as an object."""
    return Committed(
        part=part,
        etag=record["etag"],
        sha256=record["sha256"],
        page_count=record["page_count"],
        version=record["version"],
        rows=record["rows"],
        statuses={str(s): record[s] for s in Status if record[s]},
        open=load_open(record["open"]),
        fault=record["fault"],
    )


_AGGREGATES = [
    *(("source_uri", "count"), ("source_etag", "min"), ("source_etag", "count_distinct")),
    *(("source_size", "max"), ("source_modified", "max"), ("document_sha256", "max")),
    *(("page_number", "min"), ("page_number", "max"), ("page_number", "count")),
    *(("page_number", "count_distinct"), ("page_count", "min"), ("page_count", "max")),
    ("processed_at", "max"),
    *((str(status), "sum") for status in Status),
]


def _with_flags(table: pa.Table) -> pa.Table:
    """The key columns with times as numbers and a column of 0 and 1 for every status."""
    for name in ("source_modified", "processed_at"):
        at = table.column_names.index(name)
        table = table.set_column(at, name, table[name].cast(pa.int64()))
    for status in Status:
        flag = pc.equal(table["status"], status.value).cast(pa.int32())
        table = table.append_column(str(status), flag)
    return table


def _special(table: pa.Table) -> dict[str, list[dict[str, Any]]]:
    """Rows that failed or were skipped, by document: few, as a rule."""
    wanted = pc.is_in(table["status"], value_set=pa.array([s.value for s in OPEN]))
    columns = ["source_uri", "error_kind", "decided_by", "tries", "page_number"]
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in table.select(columns).filter(wanted).to_pylist():
        found[row["source_uri"]].append(row)
    return found


def _dump_open(rows: list[dict[str, Any]]) -> str:
    groups: dict[tuple[Any, ...], list[int | None]] = defaultdict(list)
    for row in rows:
        groups[row["error_kind"], row["decided_by"], row["tries"]].append(row["page_number"])
    return json.dumps([[*key, pack_pages(numbers)] for key, numbers in groups.items()])


def load_open(text: str | None) -> tuple[OpenPages, ...]:
    """The column `open` of the index as objects."""
    return tuple(
        OpenPages(kind, decided_by, tries, tuple(unpack_pages(pages)))
        for kind, decided_by, tries, pages in (json.loads(text) if text else ())
    )


def count_errors(texts: Iterable[str]) -> Counter[str]:
    """Rows by error kind, from columns `open` of the index."""
    errors: Counter[str] = Counter()
    for text in texts:
        for kind, _, _, pages in json.loads(text):
            errors[kind] += 1 if pages is None else sum(b - a + 1 for a, b in pages)
    return errors


def pack_pages(numbers: Iterable[int | None]) -> list[list[int]] | None:
    """Page numbers as ranges, first and last; None where the whole document is meant."""
    ranges: list[list[int]] = []
    numbers = list(numbers)
    if None in numbers:
        return None
    for number in sorted(n for n in numbers if n is not None):
        if ranges and number <= ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ranges


def unpack_pages(ranges: list[list[int]] | None) -> list[int | None]:
    """The numbers that `pack_pages` packed."""
    if ranges is None:
        return [None]
    return [number for first, last in ranges for number in range(first, last + 1)]


def _fault(rows: list[dict[str, Any]]) -> str | None:
    """Why these rows of one document are not one row a page, if they are not."""
    if len({row["source_etag"] for row in rows}) > 1:
        return "rows of two versions of the document"
    if len({row["page_count"] for row in rows}) > 1:
        return "rows that do not agree how many pages it has"
    numbers = [row["page_number"] for row in rows]
    if numbers == [None]:
        return None
    if None in numbers:
        return "a row for the whole document beside rows of its pages"
    count = rows[0]["page_count"] or 0
    missing, double = set(range(1, count + 1)) - set(numbers), len(numbers) - len(set(numbers))
    if missing:
        return f"{len(missing)} of {count} pages have no row, the first is page {min(missing)}"
    if double:
        return f"{double} pages have more than one row"
    extra = sum(1 for n in numbers if n > count)
    return f"{extra} rows are of pages beyond its {count}" if extra else None
