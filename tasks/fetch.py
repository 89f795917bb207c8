"""Fetch: the bytes of one source object, in a temporary file.

    with fetch(source, settings) as fetched:      # or a Failure, which becomes a row
        fetched.file, fetched.sha256, fetched.source.etag

What is wrong with this object alone (forbidden, archived, gone, too large) is a `Failure`, to
become a row. What is wrong with the storage is raised, and stops the shard.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any

from pagemill.disk import explain_os
from pagemill.document import Failure, SourceObject
from pagemill.errors import ErrorKind, PagemillError, StorageError
from pagemill.s3 import CHUNK, DEADLINE, pause
from pagemill.s3_errors import S3Error
from pagemill.settings import Settings, StorageOptions
from pagemill.urls import ObjectStore, filesystem, object_store, protocol, split_object, within
from tasks.list_local import local_object
from tasks.list_objects import object_of
from tasks.list_other import is_denied, is_missing, other_error, other_object

TRIES = 3
"""Times that an object is read from its beginning, when what came was not one version of it."""

_THIS_FILE_ALONE = {
    errno.EACCES,
    errno.EPERM,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENXIO,
    errno.ENODEV,
    errno.ENAMETOOLONG,
}


@dataclass
class Fetched:
    """A document's bytes: a context manager that closes the file.

    Attributes
    ----------
    source : SourceObject
        As it was when these bytes were read: `etag` belongs to exactly these.
    file : binary file
        Temporary and without a name, at its beginning; it has a `fileno`.
    sha256 : str
        Of the bytes, in hex.
    """

    source: SourceObject
    file: IO[bytes]
    sha256: str

    def close(self) -> None:
        """Give the temporary file back."""
        self.file.close()

    def __enter__(self) -> Fetched:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Refused(Exception):
    """This object alone cannot be had."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class _Broken(Exception):
    """What came is not one version of the object, whole: try again, else raise `last`."""

    def __init__(self, last: Exception) -> None:
        super().__init__(str(last))
        self.last = last


def _go_on() -> None:
    pass


def fetch(
    source: SourceObject, settings: Settings, check_stop: Callable[[], None] = _go_on
) -> Fetched | Failure:
    """Read an object into a temporary file, chunk by chunk.

    `check_stop` is called between any two of them; what it raises ends the reading.

    Returns
    -------
    Fetched
        To be closed.
    Failure
        ``unreadable``: this object alone cannot be read; ``too_large``: it has more than
        ``limits.max_file_mb``.

    Raises
    ------
    StorageError
        The storage cannot be reached or refuses everything, or the temporary folder is full.
    """
    if source.problem:
        return _unreadable(source.problem).failure
    limit = settings.limits.max_file_mb
    try:
        if source.size > limit << 20:
            raise _too_large(limit)
        return _fetch(source, settings.at_source, limit, check_stop)
    except _Refused as refused:
        return refused.failure


def _fetch(
    source: SourceObject, options: StorageOptions, limit: int, check_stop: Callable[[], None]
) -> Fetched:
    for failures in range(1, TRIES + 1):
        try:
            with _opened(source, options) as (now, chunks):
                return _copy(now, _while_wanted(chunks, check_stop), limit)
        except _Broken as broken:
            if failures == TRIES:
                raise broken.last from None
        time.sleep(pause(failures))
    raise AssertionError("unreachable")


def _while_wanted(chunks: Iterator[bytes], check_stop: Callable[[], None]) -> Iterator[bytes]:
    for chunk in chunks:
        check_stop()
        yield chunk


def _copy(now: SourceObject, chunks: Iterator[bytes], limit: int) -> Fetched:
    digest, size = hashlib.sha256(), 0
    file = _temporary()
    try:
        for chunk in chunks:
            size += len(chunk)
            if size > limit << 20:  # it has grown since it was listed, or no size was known
                raise _too_large(limit)
            digest.update(chunk)
            _write(file, chunk)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    now = SourceObject(now.uri, now.etag, size, now.modified)
    return Fetched(now, file, digest.hexdigest())


def _temporary() -> IO[bytes]:
    try:
        return tempfile.TemporaryFile(prefix="pagemill-", buffering=0)
    except OSError as error:
        raise _temporary_error(error) from None


def _write(file: IO[bytes], chunk: bytes) -> None:
    view = memoryview(chunk)
    try:
        while view:
            view = view[file.write(view) :]
    except OSError as error:
        raise _temporary_error(error) from None


def _temporary_error(error: OSError) -> StorageError:
    return StorageError(
        f"{explain_os(error, 'write a temporary file in', tempfile.gettempdir())}; "
        "TMPDIR names another folder"
    )


def _too_large(limit: int) -> _Refused:
    decided_by = f"max_file_mb={limit}"
    return _Refused(Failure(ErrorKind.TOO_LARGE, f"over {limit} MB", decided_by))


def _unreadable(message: str) -> _Refused:
    return _Refused(Failure(ErrorKind.UNREADABLE, message))


_Opened = contextlib.AbstractContextManager[tuple[SourceObject, Iterator[bytes]]]


def _opened(source: SourceObject, options: StorageOptions) -> _Opened:
    """The object as it is now, and its bytes in chunks."""
    if protocol(source.uri) == "file":
        return _local(source.uri.removeprefix("file://"))
    if store := object_store(source.uri, options):
        return _object(source.uri, store)
    return _other(source.uri, options)


@contextlib.contextmanager
def _local(path: str) -> Iterator[tuple[SourceObject, Iterator[bytes]]]:
    try:
        # Not to block: what was a file when it was listed may be a FIFO by now.
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            before = os.fstat(file)
            if not stat.S_ISREG(before.st_mode):
                raise _unreadable("not a regular file")
            now = local_object(path, before)
            yield now, _local_chunks(path, file, now.etag)
        finally:
            os.close(file)
    except OSError as error:
        if error.errno in _THIS_FILE_ALONE:
            raise _unreadable((error.strerror or "unreadable").lower()) from None
        raise StorageError(explain_os(error, "read", path)) from None


def _local_chunks(path: str, file: int, etag: str) -> Iterator[bytes]:
    yield from iter(lambda: os.read(file, CHUNK), b"")
    if local_object(path, os.fstat(file)).etag != etag:
        raise _Broken(_unreadable("it keeps changing while it is read"))


@contextlib.contextmanager
def _object(uri: str, store: ObjectStore) -> Iterator[tuple[SourceObject, Iterator[bytes]]]:
    bucket, key = split_object(uri)
    try:
        with store.open(bucket, key) as body:
            yield object_of(store, bucket, body.found), iter(body)
    except S3Error as error:
        if error.code == "Changed":
            raise _Broken(error) from None
        if message := _alone(store, bucket, key, error):
            raise _unreadable(message) from None
        raise


def _alone(store: ObjectStore, bucket: str, key: str, error: S3Error) -> str | None:
    """What is wrong with this object alone, if it is that."""
    if error.code == "NoSuchKey":
        return "gone meanwhile"
    if error.code == "InvalidObjectState":
        return "archived: restore the object first"
    if error.code.startswith("KMS"):
        return f"cannot be decrypted ({error.code})"
    # Denied this object, or everything? The listing that found it needed rights of its own.
    if error.code == "AccessDenied" and store.can_list(bucket, key):
        return "access denied"
    return None


@contextlib.contextmanager
def _other(uri: str, options: StorageOptions) -> Iterator[tuple[SourceObject, Iterator[bytes]]]:
    fs, path = filesystem(uri, options)
    file: Any = None

    def look() -> SourceObject:
        return other_object(fs, {**within(DEADLINE, lambda: fs.info(path)), "name": path})

    def chunks(etag: str) -> Iterator[bytes]:
        yield from iter(lambda: within(DEADLINE, lambda: file.read(CHUNK)), b"")
        if look().etag != etag:  # fsspec reads range by range, of whatever is there just then
            raise _Broken(_unreadable("it keeps changing while it is read"))

    try:
        now = look()
        file = within(DEADLINE, lambda: fs.open(path, "rb"))
        yield now, chunks(now.etag)
    except (_Refused, _Broken, PagemillError):
        raise
    except Exception as error:
        if is_missing(error):
            raise _unreadable("gone meanwhile") from None
        if is_denied(error):
            raise _unreadable("access denied") from None
        raise _Broken(other_error(error, "read", uri)) from None
    finally:
        if file is not None:
            file.close()
