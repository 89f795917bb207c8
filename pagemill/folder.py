"""A folder of objects: what `Storage` needs of a kind of storage, and how writes are refused."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from pagemill.errors import StorageError

HIDDEN = ".pagemill-"
"""Names of ours that are no objects: lock and temporary files. No ``*`` glob matches them."""


class AlreadyExists(StorageError):
    """`create` found the name taken, by another's write."""


class Changed(StorageError):
    """`replace` found another version than the one that was read, or none."""


class Missing(StorageError):
    """`read` found nothing."""


class Entry(NamedTuple):
    """An object of a listing: path below the storage's root, version mark, bytes."""

    path: str
    etag: str
    size: int


class Folder(Protocol):
    """What `Storage` needs of a kind of storage; see its methods."""

    def list(self, below: str) -> list[Entry]: ...
    def exists(self, path: str) -> bool: ...
    def read_versioned(self, path: str) -> tuple[bytes, str]: ...
    def read_range(self, path: str, etag: str, start: int, size: int) -> bytes: ...
    def create(self, path: str, data: bytes) -> str: ...
    def replace(self, path: str, data: bytes, etag: str) -> str: ...
    def put(self, path: str, data: bytes) -> str: ...
    def delete(self, path: str) -> None: ...
    def sweep(self) -> int: ...
