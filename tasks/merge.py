"""Merge: a copy of an output in large files, for readers, in another place.

A file of the copy holds the rows of so many consecutive parts, always the same ones: rows never
move between files, so a reader of the copy meets no row twice while it is being renewed, and a
merge that was killed, or that follows a later run, writes only what is missing or has changed.
Each file names in its metadata the versions of the parts that it was made from.
"""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from pagemill.errors import UsageError
from pagemill.ledger import Ledger, open_ledgers
from pagemill.parts import decode, encode, read_schema
from pagemill.storage import Entry, Storage
from pagemill.urls import protocol

MANIFEST = "merged.json"
MARK = b"pagemill_merged"
"""Metadata of a file of the copy: path and etag of the parts that it was made from."""
ROWS = 20_000
"""Rows of a row group."""


def merge(out: Storage, new: Storage, every: int) -> Iterator[str]:
    """Copy each recipe of `out` to `new`, `every` parts to a file; a line for each recipe.

    Raises
    ------
    UsageError
        `new` lies in `out` or `out` in it; or it holds rows that are no such copy.
    """
    _refuse_nesting(out, new)
    ledgers = open_ledgers(out)
    if not ledgers:
        raise UsageError(f"{out.url}: no pagemill output here: check the path")
    for ledger in ledgers:
        yield _merge_recipe(ledger, new, every)


def _merge_recipe(ledger: Ledger, new: Storage, every: int) -> str:
    _claim(ledger, new, every)
    groups: dict[int, list[Entry]] = defaultdict(list)
    for entry in ledger.parts():
        groups[ledger.number(entry.path) // every].append(entry)
    copies = {entry.path: entry for entry in new.list(f"{ledger.folder}/pages")}
    written = rows = 0
    for number, parts in sorted(groups.items()):
        path = f"{ledger.folder}/pages/part-{number:06}.parquet"
        made_from, count = _made_from(new, copies.get(path))
        if made_from != {part.path: part.etag for part in parts}:
            count = _write(ledger, new, path, parts, copies.get(path))
            written += 1
        rows += count
    _finish(ledger, new, every, rows)
    return f"{ledger.recipe}: {rows} rows in {len(groups)} files, {written} of them written now"


def _write(ledger: Ledger, new: Storage, path: str, parts: list[Entry], older: Entry | None) -> int:
    tables, versions = [], {}
    for part in parts:
        data, versions[part.path] = ledger.storage.read_versioned(part.path)
        tables.append(decode(ledger.storage, part.path, data))
    schema = ledger.written_schema()
    table = pa.concat_tables([schema.empty_table(), *tables], promote_options="default")
    mark = {MARK: json.dumps({"parts": versions, "rows": table.num_rows}).encode()}
    table = table.replace_schema_metadata({**(schema.metadata or {}), **mark})
    data = encode(table, ROWS)
    if older:
        new.replace(path, data, older.etag)
    else:
        new.create(path, data)
    return int(table.num_rows)


def _made_from(new: Storage, copy: Entry | None) -> tuple[dict[str, str] | None, int]:
    if copy is None:
        return None, 0
    mark = (read_schema(new, copy).metadata or {}).get(MARK)
    if mark is None:
        raise UsageError(f"{new.url}/{copy.path} is no copy of a merge: choose another place")
    told = json.loads(mark)
    return told["parts"], told["rows"]


def _claim(ledger: Ledger, new: Storage, every: int) -> None:
    """Make sure that the place is free, or holds an earlier copy of the same."""
    there = {entry.path for entry in new.list(ledger.folder)}
    manifest = f"{ledger.folder}/{MANIFEST}"
    if not there:
        _finish(ledger, new, every, None)
        new.put(f"{ledger.folder}/recipe.json", ledger.storage.read(f"{ledger.folder}/recipe.json"))
        return
    if manifest not in there:
        raise UsageError(
            f"{new.url}/{ledger.folder} holds rows that are no copy: merge to another place"
        )
    told: dict[str, Any] = json.loads(new.read(manifest))
    if (told["from"], told["parts_per_file"]) != (ledger.storage.url, every):
        raise UsageError(
            f"{new.url}/{ledger.folder} is a copy of {told['from']} with --parts "
            f"{told['parts_per_file']}: keep to that, or merge to another place"
        )


def _finish(ledger: Ledger, new: Storage, every: int, rows: int | None) -> None:
    """The manifest: `rows` and `finished` are null until the first merge is through."""
    finished = datetime.now(UTC).isoformat(timespec="seconds") if rows is not None else None
    told = {"from": ledger.storage.url, "parts_per_file": every, "rows": rows, "finished": finished}
    new.put(f"{ledger.folder}/{MANIFEST}", (json.dumps(told, indent=2) + "\n").encode())


def _refuse_nesting(out: Storage, new: Storage) -> None:
    def place(storage: Storage) -> str:
        real = os.path.realpath(storage.url) if protocol(storage.url) == "file" else storage.url
        return re.sub(r"/+$", "", real) + "/"

    one, other = place(out), place(new)
    if one.startswith(other) or other.startswith(one):
        raise UsageError(
            f"NEW ({new.url}) and OUT ({out.url}) lie in one another: readers of one would find "
            "the other's rows: choose a place beside it"
        )
