"""The ledger: which pages are committed, read from the output itself and nowhere else.

    OUT/recipe=<name>/pages/part-<number>.parquet     committed rows
    OUT/recipe=<name>/staging/<sha256>/<range>.parquet  pages of a long document, not whole yet
    OUT/recipe=<name>/runs/<run id>.json              balance sheets

A part is created under the next free number only if that name is absent, or replaced only if
it is still the one that was read. The loser looks again, drops what others have committed and
tries again. So no row is ever committed twice, whoever else is writing, and a raw read of the
parts is right at every instant.
"""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pagemill.committed import Committed, facts, versions
from pagemill.errors import StorageError, UsageError
from pagemill.index import Index
from pagemill.parts import AHEAD, Columns, Row, Unreadable, decode, encode, read_columns
from pagemill.recipe import Recipe
from pagemill.schema import KEY_COLUMNS, row_schema
from pagemill.storage import AlreadyExists, Changed, Entry, Missing, Storage

_PART = re.compile(r"part-(\d+)\.parquet$")


@dataclass
class DocumentRows:
    """Rows of one document, ready to be committed.

    Attributes
    ----------
    uri : str
    rows : list of dict
        All its rows; or, when `pages` is given, just those of these pages.
    seen : str or None
        The `Committed.version` that the plan saw; None where it saw no rows.
    pages : tuple of int or None
        Which of the committed rows these take the place of; None for all.
    """

    uri: str
    rows: list[Row]
    seen: str | None = None
    pages: tuple[int, ...] | None = None


class Ledger:
    """The committed rows of one recipe; thread-safe, and safe beside any other writer.

    Parameters
    ----------
    storage : Storage
        The output, OUT.
    recipe : str
        The recipe's name.
    outputs : iterable of str
        The names of its outputs.
    """

    def __init__(self, storage: Storage, recipe: str, outputs: Iterable[str]) -> None:
        self.storage = storage
        self.recipe = recipe
        self.folder = f"recipe={recipe}"
        self.schema = row_schema(outputs)
        self._lock = threading.RLock()
        self._staged: dict[str, set[str]] = {}  # paths by document, which a listing may not show

    @cached_property
    def index(self) -> Index:
        """What the parts held at the last `refresh` or commit."""
        return Index(f"{self.storage.identity} {self.folder}")

    # -- reading ---------------------------------------------------------------------------

    def refresh(self) -> None:
        """Look at the storage again; only parts that are new or replaced are read.

        What is learnt is saved for the next process on this machine.
        """
        with self._lock:
            try:
                self._catch_up()
            except sqlite3.DatabaseError:  # a damaged file: it is only a cache
                self.index = self.index.renewed()
                self._catch_up()
            self.index.save()

    def parts(self) -> list[Entry]:
        """The parts as the storage lists them now."""
        return [e for e in self.storage.list(f"{self.folder}/pages") if _PART.search(e.path)]

    def number(self, path: str) -> int:
        """The number of a part."""
        return int(_PART.findall(path)[0])

    def unseen_parts(self) -> list[Entry]:
        """Parts that are not in the index as they are now."""
        known = self.index.parts()
        return [entry for entry in self.parts() if known.get(entry.path) != entry.etag]

    def look_at(self, entry: Entry) -> None:
        """Take one part into the index. Raises `Unreadable` where it cannot be."""
        for part in read_columns(self.storage, [entry], KEY_COLUMNS, threads=1):
            self._keep(part)

    def get(self, uri: str) -> Committed | None:
        """What is committed of a document, as of the last `refresh` or commit."""
        return self.index.get(uri)

    def documents(self) -> Iterator[str]:
        """The uri of every committed document, in order."""
        after = ""
        while uris := self.index.uris(after):
            yield from uris
            after = uris[-1]

    def problems(self) -> list[str]:
        """What does not add up in the committed rows: a line for each document concerned."""
        return [f"{uri}: {fault}" for uri, fault in self.index.faults()]

    def same_bytes(self, sha256: str, deciders: Mapping[str, str]) -> str | None:
        """The uri of a committed document with these bytes and nothing left to try."""
        for uri, document in self.index.same_bytes(sha256):
            if not any(pages.is_due(deciders) for pages in document.open):
                return uri
        return None

    def rows(self, uri: str) -> list[Row]:
        """The committed rows of a document, whole; empty if there are none."""
        document = self.get(uri)
        if document is None:
            return []
        table = decode(self.storage, document.part, self.storage.read(document.part))
        rows: list[Row] = table.filter(pc.equal(table["source_uri"], uri)).to_pylist()
        return rows

    # -- committing ------------------------------------------------------------------------

    def commit(self, batch: list[DocumentRows]) -> int:
        """Commit documents that the plan saw no rows of, as one new part.

        Returns
        -------
        int
            Documents committed; others' commits of the same documents are kept instead.
        """
        with self._lock:
            self._catch_up()
            while True:
                batch = [d for d in batch if self.get(d.uri) is None]
                if not batch:
                    return 0
                number = self.index.last_number() + 1
                path = f"{self.folder}/pages/part-{number:06}.parquet"
                table = self._table([row for d in batch for row in d.rows])
                try:
                    etag = self.storage.create(path, encode(table))
                except AlreadyExists:
                    # Read by its name: the listing may lag behind.
                    data, etag = self.storage.read_versioned(path)
                    self._keep(Columns(path, etag, decode(self.storage, path, data)))
                    continue
                self._keep(Columns(path, etag, table))
                return len(batch)

    def commit_into(self, path: str, batch: list[DocumentRows]) -> int:
        """Commit documents whose older rows lie in part `path`, replacing it in one step.

        Documents whose rows have changed since the plan saw them are dropped: another run
        has done that work.
        """
        with self._lock:
            while True:
                data, etag = self.storage.read_versioned(path)
                table = decode(self.storage, path, data)
                now = versions(table)
                batch = [d for d in batch if d.uri in now and now[d.uri] == d.seen]
                if not batch:
                    self._keep(Columns(path, etag, table))
                    return 0
                merged = self._merge(table, batch)
                try:
                    etag = self.storage.replace(path, encode(merged), etag)
                except Changed:
                    continue
                self._keep(Columns(path, etag, merged))
                return len(batch)

    # -- long documents --------------------------------------------------------------------

    def stage(self, sha256: str, first: int, last: int, rows: list[Row]) -> bytes:
        """Keep pages `first` to `last` of a long document until all of it is there.

        Returns
        -------
        bytes
            The rows, packed: see `unpack`.
        """
        path = f"{self.folder}/staging/{sha256}/{first:06}-{last:06}.parquet"
        self._staged.setdefault(sha256, set()).add(path)
        packed = encode(self._table(rows))
        with contextlib.suppress(AlreadyExists):  # by another run: the same pages, the same bytes
            self.storage.create(path, packed)
        return packed

    def unpack(self, packed: bytes) -> list[Row]:
        """Rows that `stage` gave packed."""
        rows: list[Row] = decode(self.storage, f"{self.folder}/staging", packed).to_pylist()
        return rows

    def staged(self, sha256: str) -> dict[int, Row]:
        """The staged pages of a document by page number."""
        found: dict[int, Row] = {}
        for entry in self.storage.list(f"{self.folder}/staging/{sha256}"):
            try:
                data = self.storage.read(entry.path)
            except Missing:  # another run has committed the document, and tidied up
                continue
            for row in decode(self.storage, entry.path, data).to_pylist():
                found.setdefault(row["page_number"], row)
        return found

    def staged_ranges(self) -> list[Entry]:
        """All staged ranges of all documents."""
        return self.storage.list(f"{self.folder}/staging")

    def unstage(self, sha256: str) -> None:
        """Forget the staged pages of a document, which is committed now."""
        listed = {entry.path for entry in self.storage.list(f"{self.folder}/staging/{sha256}")}
        for path in sorted(listed | self._staged.pop(sha256, set())):
            self.storage.delete(path)

    def tidy(self, deciders: Mapping[str, str]) -> None:
        """Remove what killed runs left behind: temporary files, staged pages committed since."""
        self.storage.sweep()
        paths = [entry.path for entry in self.staged_ranges()]
        for sha256 in {path.split("/")[-2] for path in paths}:
            if self.same_bytes(sha256, deciders):
                self.unstage(sha256)

    # -- what people read ------------------------------------------------------------------

    def prepare(self, recipe: Recipe) -> None:
        """Before the first commit: prove that the storage keeps its word, leave the recipe.

        Raises
        ------
        StorageError
            Nothing can be written here, or the conditions of a write are ignored.
        """
        self.storage.probe()
        document = {"name": recipe.name, "model_id": recipe.model_id, **recipe.canonical()}
        with contextlib.suppress(AlreadyExists):
            self.storage.create(f"{self.folder}/recipe.json", _json(document))

    def written_schema(self) -> pa.Schema:
        """The schema of the rows that this version writes for this recipe, by its recipe.json.

        Raises
        ------
        StorageError
            It is missing, or not what it should be.
        """
        path = f"{self.folder}/recipe.json"
        try:
            return row_schema(json.loads(self.storage.read(path))["outputs"])
        except (ValueError, KeyError, TypeError) as error:
            raise StorageError(f"{self.storage.url}/{path}: not a recipe: {error}") from None

    def write_run(self, run_id: str, sheet: Mapping[str, Any]) -> str:
        """Write a run's balance sheet; returns its path below OUT."""
        path = f"{self.folder}/runs/{run_id}.json"
        self.storage.put(path, _json(sheet))
        return path

    def runs(self) -> list[dict[str, Any]]:
        """The balance sheets of this recipe, oldest first."""
        paths = sorted(e.path for e in self.storage.list(f"{self.folder}/runs"))
        return [json.loads(self.storage.read(path)) for path in paths if path.endswith(".json")]

    # -- inside ----------------------------------------------------------------------------

    def _catch_up(self) -> None:
        listed = {entry.path: entry for entry in self.parts()}
        known = self.index.parts()
        # What this process has seen may be missing from a listing that lags behind: ask for it
        # by name, or a run would take its own last part for lost.
        unlisted = sorted(known.keys() - listed.keys())
        with ThreadPoolExecutor(AHEAD) as pool:
            there = list(pool.map(self.storage.exists, unlisted))
        with self.index.writing():
            for path, is_there in zip(unlisted, there, strict=True):
                if not is_there:
                    self.index.forget(path)
        stale = [entry for path, entry in listed.items() if known.get(path) != entry.etag]
        parts = read_columns(self.storage, stale, KEY_COLUMNS)
        left = len(stale)
        while left > 0:
            with self.index.writing():  # many parts at once: a part alone is mostly overhead
                for part in islice(parts, AHEAD):
                    self._keep(part)
            left -= AHEAD
        self.index.complete()

    def _keep(self, part: Columns) -> None:
        missing = set(KEY_COLUMNS).difference(part.table.column_names)
        if missing:
            raise Unreadable(
                f"{self.storage.url}/{part.path}: not a part of pagemill's, it has no column "
                f"{min(missing)!r}: move it away, or `pagemill check OUT --repair`"
            )
        self.index.keep(part.path, self.number(part.path), part.etag, facts(part.table))

    def _table(self, rows: list[Row]) -> pa.Table:
        return pa.Table.from_pylist(rows, schema=self.schema)

    def _merge(self, table: pa.Table, batch: list[DocumentRows]) -> pa.Table:
        """`table` with the batch's rows in place of the rows they stand for.

        Columns that this version does not know are kept.
        """
        keep = pa.array([True] * table.num_rows)
        for document in batch:
            mine = pc.equal(table["source_uri"], document.uri)
            if document.pages is not None:
                pages = pa.array(document.pages, table.schema.field("page_number").type)
                mine = pc.and_(mine, pc.is_in(table["page_number"], value_set=pages))
            keep = pc.and_(keep, pc.invert(mine))
        new = self._table([row for document in batch for row in document.rows])
        merged = pa.concat_tables([table.filter(keep), new], promote_options="default")
        metadata = max(table.schema.metadata or {}, self.schema.metadata, key=_version)
        merged = merged.replace_schema_metadata(metadata)
        return merged.sort_by([("source_uri", "ascending"), ("page_number", "ascending")])


def open_ledgers(storage: Storage) -> list[Ledger]:
    """A ledger for each recipe that OUT holds, to look at; they know no outputs to write."""
    folders = sorted({e.path.split("/", 1)[0] for e in storage.list("") if "/" in e.path})
    return [
        Ledger(storage, folder.removeprefix("recipe="), ())
        for folder in folders
        if folder.startswith("recipe=")
    ]


def open_ledger(storage: Storage, recipe: str | None = None) -> Ledger:
    """The ledger of one recipe of OUT, to look at.

    Parameters
    ----------
    recipe : str, optional
        Its name, or the fingerprint at the end of it; not needed where there is but one.

    Raises
    ------
    UsageError
        There is none, or several that could be meant.
    """
    ledgers = open_ledgers(storage)
    found = [x for x in ledgers if not recipe or recipe == x.recipe or _ends(x.recipe, recipe)]
    if len(found) == 1:
        return found[0]
    there = ", ".join(ledger.recipe for ledger in ledgers) or "none"
    if recipe is None and ledgers:
        raise UsageError(f"{storage.url} holds several recipes, name one: {there}")
    raise UsageError(f"no recipe {recipe or ''!r} in {storage.url}, which holds {there}")


def _ends(name: str, fingerprint: str) -> bool:
    return name.endswith(f"-{fingerprint}")


def _version(metadata: Mapping[bytes, bytes]) -> int:
    return int(metadata.get(b"pagemill_schema", 0))


def _json(document: Mapping[str, Any]) -> bytes:
    return (json.dumps(document, indent=2, ensure_ascii=False, default=str) + "\n").encode()
