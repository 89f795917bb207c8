"""Parts: the Parquet objects that hold committed rows, written whole and read by columns."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pagemill.errors import StorageError
from pagemill.storage import Changed, Entry, Storage

Row = dict[str, Any]

WHOLE = 1 << 20
"""Bytes up to which a part is fetched whole: one request is quicker than ranges of it."""
TAIL = 1 << 17
"""Bytes fetched first of a larger one: its footer, and its last columns too."""
AHEAD = 64
"""Parts that are read at a time; what they hold of the columns asked for is in memory."""


class Columns(NamedTuple):
    """Some columns of one part, and the etag of the version that they are of."""

    path: str
    etag: str
    table: pa.Table


def read_columns(
    storage: Storage, entries: Iterable[Entry], columns: Sequence[str], threads: int = 8
) -> Iterator[Columns]:
    """These columns of parts, in order; the other columns are not decoded, nor mostly fetched.

    A column that a part does not have is missing in its table.

    Raises
    ------
    StorageError
        A part is not readable Parquet.
    """
    left = iter(entries)
    with ThreadPoolExecutor(threads, thread_name_prefix="parts") as pool:
        while some := list(islice(left, AHEAD)):
            yield from pool.map(lambda entry: _read(storage, entry, columns), some)


def _read(storage: Storage, entry: Entry, columns: Sequence[str]) -> Columns:
    if entry.size > WHOLE:
        try:
            table = _decode(storage, entry.path, _Ranges(storage, entry), columns)
            return Columns(entry.path, entry.etag, table)
        except Changed:
            pass  # replaced since it was listed
    data, etag = storage.read_versioned(entry.path)
    return Columns(entry.path, etag, _decode(storage, entry.path, io.BytesIO(data), columns))


def read_schema(storage: Storage, entry: Entry) -> pa.Schema:
    """The schema of a part, with its metadata."""
    try:
        with _explained(storage, entry.path):
            return pq.read_schema(_Ranges(storage, entry))
    except Changed:  # replaced since it was listed
        data, _ = storage.read_versioned(entry.path)
        return decode(storage, entry.path, data).schema


def decode(storage: Storage, path: str, data: bytes) -> pa.Table:
    """All of a part. Raises `StorageError` where it is not readable Parquet."""
    return _decode(storage, path, io.BytesIO(data), None)


def encode(table: pa.Table, group: int = 1000) -> bytes:
    """A part's bytes, in row groups of so many rows.

    In memory first: a Parquet writer that fails half-way commits a readable, truncated file.
    """
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", compression_level=3, row_group_size=group)
    return sink.getvalue()


class Unreadable(StorageError):
    """A part that is not readable Parquet."""


def _decode(storage: Storage, path: str, file: Any, columns: Sequence[str] | None) -> pa.Table:
    with _explained(storage, path):
        part = pq.ParquetFile(file, pre_buffer=True)
        names = None if columns is None else [c for c in columns if c in part.schema_arrow.names]
        # Parts are small and many: they are decoded side by side, each in one thread.
        return part.read(columns=names, use_threads=False)


@contextlib.contextmanager
def _explained(storage: Storage, path: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise Unreadable(
            f"{storage.url}/{path}: not a readable part ({' '.join(str(error).split())}): "
            "`pagemill check OUT --repair` sets it aside; the next run reads its documents again"
        ) from None


class _Ranges(io.RawIOBase):
    """A part as a file of which only what is asked for is fetched, all of one version."""

    def __init__(self, storage: Storage, entry: Entry) -> None:
        self._storage, self._entry, self._at = storage, entry, 0
        self._tail_at = max(entry.size - TAIL, 0)
        self._tail = self._fetch(self._tail_at, entry.size - self._tail_at)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {0: 0, 1: self._at, 2: self._entry.size}[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        size = min(size if size >= 0 else self._entry.size, self._entry.size - self._at)
        if self._at >= self._tail_at:
            start = self._at - self._tail_at
            data = self._tail[start : start + size]
        else:
            data = self._fetch(self._at, size)
        self._at += len(data)
        return data

    def _fetch(self, start: int, size: int) -> bytes:
        return self._storage.read_range(self._entry.path, self._entry.etag, start, size)
