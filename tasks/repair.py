"""Repair: remove committed rows that cannot be trusted, so that the next run makes them again.

pagemill's own writes leave nothing of the kind; a hand, a sync tool or a failing disk may. A
part that is changed is first copied to ``removed/`` beside ``pages/``, and only replaced if it
is still what was looked at.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pyarrow as pa

from pagemill.ledger import Ledger
from pagemill.parts import Unreadable, decode, encode
from pagemill.storage import AlreadyExists, Entry

Rows = list[tuple[int, dict[str, Any]]]
"""Rows of one document: where in the part, and their key columns."""

_KEYS = ("source_uri", "source_etag", "page_number", "page_count", "processed_at")


def unreadable(ledger: Ledger) -> Iterator[tuple[Entry, str]]:
    """Parts and staged pages that are not what they should be, and why."""
    for entry in ledger.unseen_parts():
        try:
            ledger.look_at(entry)
        except Unreadable as error:
            yield entry, str(error)
    for entry in ledger.staged_ranges():
        try:
            decode(ledger.storage, entry.path, ledger.storage.read(entry.path))
        except Unreadable as error:
            yield entry, str(error)


def repair(ledger: Ledger) -> Iterator[str]:
    """Make the output balance again; a line for each thing done.

    What is not readable is set aside. Of two rows for a page the later stays; of two parts with
    rows of a document the one with the latest. A document that still has not one row for each
    page loses them all, and is read again by the next run.
    """
    for entry, _ in list(unreadable(ledger)):
        yield _set_aside(ledger, entry)
    ledger.refresh()
    for path, uris in sorted(_faulty_parts(ledger).items()):
        yield from _mend(ledger, path, uris)
    ledger.refresh()


def _set_aside(ledger: Ledger, entry: Entry) -> str:
    data, etag = ledger.storage.read_versioned(entry.path)
    kept = _keep_copy(ledger, entry.path, etag, data)
    if "/staging/" in entry.path:
        ledger.storage.delete(entry.path)
        return f"{entry.path}: not readable; its pages are read again; a copy is at {kept}"
    # A name in the sequence of parts stays taken: an empty part, not none.
    empty = ledger.written_schema().empty_table()
    known = ledger.index.documents_of(entry.path)  # of when it was readable, if that was seen here
    ledger.storage.replace(entry.path, encode(empty), etag)
    what = ", ".join(known[:3]) or "its documents"
    more = f" … ({len(known)} in all)" if len(known) > 3 else ""
    return f"{entry.path}: not readable; the next run reads {what}{more} again; a copy is at {kept}"


def _faulty_parts(ledger: Ledger) -> dict[str, set[str]]:
    """Documents that do not add up, by each part that holds rows of them."""
    found: dict[str, set[str]] = defaultdict(set)
    for uri, _ in ledger.index.faults():
        for path in ledger.index.parts_of(uri):
            found[path].add(uri)
    return found


def _mend(ledger: Ledger, path: str, uris: set[str]) -> Iterator[str]:
    data, etag = ledger.storage.read_versioned(path)
    table = decode(ledger.storage, path, data)
    by_uri: dict[str, Rows] = defaultdict(list)
    for at, row in enumerate(table.select(list(_KEYS)).to_pylist()):
        if row["source_uri"] in uris:
            by_uri[row["source_uri"]].append((at, row))
    drop: set[int] = set()
    for uri, rows in sorted(by_uri.items()):
        keep = _trusted(rows) if _is_best(ledger, path, uri) else []
        removed = {at for at, _ in rows}.difference(keep)
        drop |= removed
        if removed:
            what = f"{len(removed)} of {len(rows)} rows removed" if keep else "all rows removed"
            yield f"{uri}: {what} from {path}"
    if drop:
        _keep_copy(ledger, path, etag, data)
        left = pa.array(sorted(set(range(table.num_rows)) - drop), pa.int64())
        ledger.storage.replace(path, encode(table.take(left)), etag)
        ledger.refresh()


def _is_best(ledger: Ledger, path: str, uri: str) -> bool:
    """Whether these rows of a document are the ones to keep: whole ones first, then later ones."""
    there = ledger.index.parts_of(uri)

    def rank(each: str) -> tuple[bool, int, str]:
        whole, version = there[each]
        return whole, int(version.rpartition(" ")[2]), each

    return max(there, key=rank) == path


def _trusted(rows: Rows) -> list[int]:
    """Which rows of one document to keep: one for each page, of the latest version, or none."""

    def made(row: tuple[int, dict[str, Any]]) -> datetime:
        when: datetime = row[1]["processed_at"]
        return when

    newest = max(rows, key=made)[1]
    pages: dict[int | None, int] = {}
    for at, row in sorted(rows, key=made):
        if row["source_etag"] == newest["source_etag"]:
            pages[row["page_number"]] = at
    wanted: set[int | None] = {None}
    if newest["page_number"] is not None:
        wanted = set(range(1, (newest["page_count"] or 0) + 1))
    return [pages[number] for number in wanted] if wanted <= pages.keys() else []


def _keep_copy(ledger: Ledger, path: str, etag: str, data: bytes) -> str:
    name = path.removeprefix(f"{ledger.folder}/").replace("/", "-")
    kept = f"{ledger.folder}/removed/{name}.{etag[:16]}"
    with contextlib.suppress(AlreadyExists):
        ledger.storage.create(kept, data)
    return kept
