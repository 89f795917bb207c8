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
import io
import json
import re
import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pagemill.errors import ERRORS, MAX_TRIES, ErrorKind, StorageError
from pagemill.recipe import Recipe
from pagemill.schema import KEY_COLUMNS, Status, row_schema
from pagemill.storage import AlreadyExists, Changed, Missing, Storage

Row = dict[str, Any]

_PART = re.compile(r"part-(\d+)\.parquet$")
_OPEN = (Status.FAILED, Status.SKIPPED)


@dataclass(frozen=True)
class OpenPages:
    """Pages of a document that failed or were skipped for one reason.

    `numbers` holds None for a document that could not be opened at all.
    """

    error_kind: ErrorKind
    decided_by: str | None
    tries: int
    numbers: tuple[int | None, ...]

    def is_due(self, deciders: Mapping[str, str]) -> bool:
        """Whether another run should try them.

        Transient errors are tried by up to `MAX_TRIES` runs; they and permanent ones when what
        decided them, a ``name=value``, is no longer what `deciders` says.
        """
        if ERRORS[self.error_kind].transient and self.tries < MAX_TRIES:
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


@dataclass
class _Part:
    etag: str
    documents: dict[str, Committed] = field(default_factory=dict)


_UNREAD = _Part("")


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
        self.folder = f"recipe={recipe}"
        self.schema = row_schema(outputs)
        self._parts: dict[str, _Part] = {}
        self._documents: dict[str, Committed] = {}
        self._by_hash: dict[str, str] = {}
        self._lock = threading.RLock()

    # -- reading ---------------------------------------------------------------------------

    def refresh(self) -> None:
        """Look at the storage again; only parts that are new or replaced are read."""
        with self._lock:
            listed = {
                e.path: e.etag
                for e in self.storage.list(f"{self.folder}/pages")
                if _PART.search(e.path)
            }
            for gone in self._parts.keys() - listed.keys():
                self._forget(gone)
            stale = [p for p, etag in listed.items() if self._parts.get(p, _UNREAD).etag != etag]
            with ThreadPoolExecutor(8) as pool:
                for path, part in zip(stale, pool.map(self._load, stale), strict=True):
                    self._keep(path, part)

    def get(self, uri: str) -> Committed | None:
        """What is committed of a document, as of the last `refresh` or commit."""
        with self._lock:
            return self._documents.get(uri)

    def documents(self) -> dict[str, Committed]:
        """Every committed document by uri, as of the last `refresh` or commit."""
        with self._lock:
            return dict(self._documents)

    def problems(self) -> list[str]:
        """What does not add up in the committed rows: a line for each document concerned."""
        found: dict[str, str] = {}
        lines = []
        with self._lock:
            for path, part in sorted(self._parts.items()):
                for uri, document in part.documents.items():
                    if uri in found:
                        lines.append(f"{uri}: rows in {found[uri]} and in {path}")
                    found[uri] = path
                    if document.fault:
                        lines.append(f"{uri}: {document.fault} ({path})")
        return lines

    def same_bytes(self, sha256: str, deciders: Mapping[str, str]) -> str | None:
        """The uri of a committed document with these bytes and nothing left to try."""
        with self._lock:
            uri = self._by_hash.get(sha256)
            document = self._documents.get(uri) if uri else None
        if document is None or document.sha256 != sha256:  # replaced by other bytes meanwhile
            return None
        return None if any(pages.is_due(deciders) for pages in document.open) else uri

    def rows(self, uri: str) -> list[Row]:
        """The committed rows of a document, whole; empty if there are none."""
        document = self.get(uri)
        if document is None:
            return []
        table = self._decode(document.part, self.storage.read(document.part))
        return _select(table, uri)

    # -- committing ------------------------------------------------------------------------

    def commit(self, batch: list[DocumentRows]) -> int:
        """Commit documents that the plan saw no rows of, as one new part.

        Returns
        -------
        int
            Documents committed; others' commits of the same documents are kept instead.
        """
        with self._lock:
            self.refresh()
            while True:
                batch = [d for d in batch if self.get(d.uri) is None]
                if not batch:
                    return 0
                path = self._next_part()
                data, table = self._encode([row for d in batch for row in d.rows])
                try:
                    etag = self.storage.create(path, data)
                except AlreadyExists:
                    # Read by its name: the listing may lag behind.
                    self._keep(path, self._load(path))
                    continue
                self._keep(path, _Part(etag, _digest(path, table)))
                return len(batch)

    def commit_into(self, path: str, batch: list[DocumentRows]) -> int:
        """Commit documents whose older rows lie in part `path`, replacing it in one step.

        Documents whose rows have changed since the plan saw them are dropped: another run
        has done that work.
        """
        with self._lock:
            while True:
                data, etag = self.storage.read_versioned(path)
                table = self._decode(path, data)
                now = _digest(path, table)
                batch = [d for d in batch if d.uri in now and now[d.uri].version == d.seen]
                if not batch:
                    self._keep(path, _Part(etag, now))
                    return 0
                merged = self._merge(table, batch)
                try:
                    etag = self.storage.replace(path, _write(merged), etag)
                except Changed:
                    continue
                self._keep(path, _Part(etag, _digest(path, merged)))
                return len(batch)

    # -- long documents --------------------------------------------------------------------

    def stage(self, sha256: str, first: int, last: int, rows: list[Row]) -> None:
        """Keep pages `first` to `last` of a long document until all of it is there."""
        path = f"{self.folder}/staging/{sha256}/{first:06}-{last:06}.parquet"
        with contextlib.suppress(
            AlreadyExists
        ):  # another run staged the same pages of the same bytes
            self.storage.create(path, self._encode(rows)[0])

    def staged(self, sha256: str) -> dict[int, Row]:
        """The staged pages of a document by page number."""
        found: dict[int, Row] = {}
        for entry in self.storage.list(f"{self.folder}/staging/{sha256}"):
            try:
                data = self.storage.read(entry.path)
            except Missing:  # another run has committed the document, and tidied up
                continue
            for row in self._decode(entry.path, data).to_pylist():
                found.setdefault(row["page_number"], row)
        return found

    def unstage(self, sha256: str) -> None:
        """Forget the staged pages of a document, which is committed now."""
        for entry in self.storage.list(f"{self.folder}/staging/{sha256}"):
            self.storage.delete(entry.path)

    def tidy(self, deciders: Mapping[str, str]) -> None:
        """Remove what killed runs left behind: temporary files, staged pages committed since."""
        self.storage.sweep()
        paths = [e.path for e in self.storage.list(f"{self.folder}/staging")]
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

    def _load(self, path: str) -> _Part:
        data, etag = self.storage.read_versioned(path)
        try:
            table = pq.read_table(io.BytesIO(data), columns=list(KEY_COLUMNS))
        except (pa.ArrowException, OSError) as error:
            raise StorageError(
                f"{self.storage.url}/{path}: not a readable part ({error}): move it away; the "
                "next run reads its documents again"
            ) from None
        return _Part(etag, _digest(path, table))

    def _forget(self, path: str) -> None:
        for uri in self._parts.pop(path, _Part("")).documents:
            if self._documents[uri].part == path:
                sha256 = self._documents.pop(uri).sha256
                if self._by_hash.get(sha256 or "") == uri:
                    del self._by_hash[sha256 or ""]

    def _keep(self, path: str, part: _Part) -> None:
        self._forget(path)
        self._parts[path] = part
        self._documents.update(part.documents)
        for uri, document in part.documents.items():
            if document.sha256:
                self._by_hash.setdefault(document.sha256, uri)

    def _next_part(self) -> str:
        numbers = [int(m.group(1)) for p in self._parts if (m := _PART.search(p))]
        return f"{self.folder}/pages/part-{max(numbers, default=-1) + 1:06}.parquet"

    def _encode(self, rows: list[Row]) -> tuple[bytes, pa.Table]:
        table = pa.Table.from_pylist(rows, schema=self.schema)
        return _write(table), table

    def _decode(self, path: str, data: bytes) -> pa.Table:
        try:
            return pq.read_table(io.BytesIO(data))
        except (pa.ArrowException, OSError) as error:
            raise StorageError(
                f"{self.storage.url}/{path}: not readable Parquet ({error})"
            ) from None

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
        new = pa.Table.from_pylist([r for d in batch for r in d.rows], schema=self.schema)
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


def _digest(path: str, table: pa.Table) -> dict[str, Committed]:
    """What a part holds, document by document."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in table.select(list(KEY_COLUMNS)).to_pylist():
        groups[row["source_uri"]].append(row)
    return {uri: _committed(path, rows) for uri, rows in groups.items()}


def _committed(path: str, rows: list[Row]) -> Committed:
    head = rows[0]
    statuses: dict[str, int] = defaultdict(int)
    open_pages: dict[tuple[Any, ...], list[int | None]] = defaultdict(list)
    for row in rows:
        statuses[row["status"]] += 1
        if row["status"] in _OPEN:
            open_pages[row["error_kind"], row["decided_by"], row["tries"]].append(
                row["page_number"]
            )
    latest = max(row["processed_at"] for row in rows)
    return Committed(
        part=path,
        etag=head["source_etag"],
        sha256=head["document_sha256"],
        page_count=head["page_count"],
        version=f"{head['source_etag']} {latest.isoformat()}",
        rows=len(rows),
        statuses=dict(statuses),
        open=tuple(OpenPages(ErrorKind(k), d, t, tuple(n)) for (k, d, t), n in open_pages.items()),
        fault=_fault(rows),
    )


def _fault(rows: list[Row]) -> str | None:
    """Why these rows of one document are not one row a page, if they are not."""
    if len({row["source_etag"] for row in rows}) > 1:
        return "rows of two versions of the document"
    numbers = [row["page_number"] for row in rows]
    if numbers == [None]:
        return None
    if None in numbers:
        return "a row for the whole document beside rows of its pages"
    count = rows[0]["page_count"] or 0
    missing, double = set(range(1, count + 1)) - set(numbers), len(numbers) - len(set(numbers))
    if missing:
        return f"{len(missing)} of {count} pages have no row, the first is page {min(missing)}"
    return f"{double} pages have more than one row" if double else None


def _version(metadata: Mapping[bytes, bytes]) -> int:
    return int(metadata.get(b"pagemill_schema", 0))


def _select(table: pa.Table, uri: str) -> list[Row]:
    rows: list[Row] = table.filter(pc.equal(table["source_uri"], uri)).to_pylist()
    return rows


def _write(table: pa.Table) -> bytes:
    # In memory first: a Parquet writer that fails half-way commits a readable, truncated file.
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", compression_level=3, row_group_size=1000)
    return sink.getvalue()


def _json(document: Mapping[str, Any]) -> bytes:
    return (json.dumps(document, indent=2, ensure_ascii=False, default=str) + "\n").encode()
