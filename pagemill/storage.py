"""Storage: where the output lies, a folder on local disk or in S3.

    out = Storage("s3://bucket/out", options)
    etag = out.create("pages/part-000000.parquet", data)      # only if there is none
    data, etag = out.read_versioned("pages/part-000000.parquet")
    out.replace("pages/part-000000.parquet", merged, etag)    # only if it is still that one

These two conditional writes are what all of pagemill's bookkeeping rests on. Sources need less
and may be any fsspec URL, see `pagemill.urls.filesystem`.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from pagemill.bucket import Bucket
from pagemill.disk import Disk
from pagemill.errors import StorageError, UsageError
from pagemill.folder import HIDDEN, AlreadyExists, Changed, Entry, Folder, Missing
from pagemill.s3 import S3, split_s3
from pagemill.settings import StorageOptions
from pagemill.urls import local_path, protocol, refuse_secrets

__all__ = ["AlreadyExists", "Changed", "Entry", "Missing", "Storage"]


class Storage:
    """A folder of objects with conditional writes. Paths are relative, POSIX, and objects'.

    Thread-safe. Every method raises `StorageError` for whatever the storage refuses or fails
    to do, in one line: what, where, why, and what to do about it.

    Parameters
    ----------
    url : str
        A local path (plain, ``~`` or ``file://``) or ``s3://bucket/prefix``.
    options : StorageOptions

    Attributes
    ----------
    url : str
        Absolute, without a trailing slash.
    identity : str
        The same for the same place; for S3, with the server.

    Raises
    ------
    UsageError
        Another protocol, or keys in the URL.
    """

    def __init__(self, url: str, options: StorageOptions) -> None:
        refuse_secrets(url, options)
        name = protocol(url)
        self._folder: Folder
        if name == "file":
            self.url = local_path(url)
            self._folder = Disk(Path(self.url))
        elif name == "s3":
            bucket, prefix = split_s3(url.rstrip("/"))
            if prefix.startswith("/"):  # servers disagree what that is
                raise UsageError(f"{url}: an empty name: write s3://{bucket}/{prefix.lstrip('/')}")
            self.url = f"s3://{bucket}/{prefix}".rstrip("/")
            self._folder = Bucket(S3(options), bucket, prefix)
        else:
            raise UsageError(
                f"{url}: the output goes to a local folder or to s3://, which can create an object "
                f"only if it is absent; {name}:// cannot be relied on for that"
            )
        self.identity = f"{options.endpoint_url or ''} {self.url}".strip()

    def list(self, below: str = "") -> list[Entry]:
        """All objects below a folder and its subfolders, sorted by path; never from a cache.

        A missing folder is an empty list; a missing bucket is a `StorageError`.
        """
        return sorted(self._folder.list(below))

    def exists(self, path: str) -> bool:
        """Whether there is such an object."""
        return self._folder.exists(path)

    def read(self, path: str) -> bytes:
        """An object's bytes. Raises `Missing`."""
        return self._folder.read_versioned(path)[0]

    def read_versioned(self, path: str) -> tuple[bytes, str]:
        """An object's bytes and the etag of exactly these bytes. Raises `Missing`."""
        return self._folder.read_versioned(path)

    def read_range(self, path: str, etag: str, start: int, size: int) -> bytes:
        """`size` bytes of this version of an object, from byte `start` on.

        Raises
        ------
        Changed
            What is there is another version, or nothing is there.
        """
        return self._folder.read_range(path, etag, start, size)

    def create(self, path: str, data: bytes) -> str:
        """Write an object, atomically and only if there is none; returns its etag.

        Raises
        ------
        AlreadyExists
            Another's write came first. Never because of this call's own write.
        """
        return self._folder.create(path, data)

    def replace(self, path: str, data: bytes, etag: str) -> str:
        """Write an object in place of the version `etag`, atomically; returns the new etag.

        Raises
        ------
        Changed
            What is there is another version, or nothing is there. (In S3 the etag is a hash of
            the bytes: a version with equal bytes is the same version.)
        """
        return self._folder.replace(path, data, etag)

    def put(self, path: str, data: bytes) -> str:
        """Write an object, atomically, whatever is there; returns its etag."""
        return self._folder.put(path, data)

    def delete(self, path: str) -> None:
        """Remove an object; none there is fine."""
        self._folder.delete(path)

    def sweep(self) -> int:
        """Remove what killed writers left behind over an hour ago; returns how many files."""
        return self._folder.sweep()

    def probe(self) -> None:
        """Try out what the bookkeeping rests on: a few requests, before anything costly.

        Raises
        ------
        StorageError
            Nothing can be written here, or the server ignores the conditions of a write (some
            old S3-compatible servers do), so that runs would overwrite one another's rows.
        """
        path = f"{HIDDEN}tmp-{secrets.token_hex(8)}"  # swept where this process is killed
        etag = self.create(path, b"1")
        try:
            kept = [self._holds(path, None), self._holds(path, etag[:-1] + "-")]
        finally:
            self.delete(path)
        if not all(kept):
            raise StorageError(
                f"{self.url}: this server ignores If-None-Match or If-Match on PUT: use one that "
                "honours them (AWS S3, MinIO and SeaweedFS of 2025 or later do)"
            )

    def _holds(self, path: str, stale: str | None) -> bool:
        try:
            self.replace(path, b"2", stale) if stale else self.create(path, b"2")
        except (AlreadyExists, Changed):
            return True
        return False
