"""A prefix of an S3 bucket as a folder with conditional writes."""

from __future__ import annotations

from pagemill.folder import HIDDEN, AlreadyExists, Changed, Entry, Missing
from pagemill.s3 import S3
from pagemill.s3_errors import S3Error


class Bucket:
    """A prefix of an S3 bucket."""

    def __init__(self, s3: S3, bucket: str, prefix: str) -> None:
        self._s3, self._bucket, self._prefix = s3, bucket, prefix.strip("/")

    def list(self, below: str) -> list[Entry]:
        prefix = self._key(below)
        root = len(self._key(""))
        found = self._s3.list(self._bucket, f"{prefix.rstrip('/')}/" if prefix else "")
        return [
            Entry(o.key[root:], o.etag, o.size)
            for o in found
            if not o.key.endswith("/") and not _is_hidden(o.key)
        ]

    def exists(self, path: str) -> bool:
        return self._s3.head(self._bucket, self._key(path)) is not None

    def read_versioned(self, path: str) -> tuple[bytes, str]:
        try:
            return self._s3.get(self._bucket, self._key(path))
        except S3Error as error:
            raise (Missing(str(error)) if error.code == "NoSuchKey" else error) from None

    def read_range(self, path: str, etag: str, start: int, size: int) -> bytes:
        span = start, start + size - 1
        try:
            return self._s3.get(self._bucket, self._key(path), span, etag)[0]
        except S3Error as error:
            stale = error.code in ("PreconditionFailed", "NoSuchKey")
            raise (Changed(str(error)) if stale else error) from None

    def create(self, path: str, data: bytes) -> str:
        try:
            return self._s3.put(self._bucket, self._key(path), data, IfNoneMatch="*")
        except S3Error as error:
            taken = error.code == "PreconditionFailed"
            raise (AlreadyExists(str(error)) if taken else error) from None

    def replace(self, path: str, data: bytes, etag: str) -> str:
        try:
            return self._s3.put(self._bucket, self._key(path), data, IfMatch=f'"{etag}"')
        except S3Error as error:
            stale = error.code in ("PreconditionFailed", "NoSuchKey")
            raise (Changed(str(error)) if stale else error) from None

    def put(self, path: str, data: bytes) -> str:
        return self._s3.put(self._bucket, self._key(path), data)

    def delete(self, path: str) -> None:
        self._s3.delete(self._bucket, self._key(path))

    def sweep(self) -> int:
        return 0  # one PUT leaves nothing behind

    def _key(self, path: str) -> str:
        return f"{self._prefix}/{path}" if self._prefix else path


def _is_hidden(path: str) -> bool:
    return path.rpartition("/")[2].startswith(HIDDEN)
