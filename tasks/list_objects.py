"""S3 or Azure as a source: an object, all below a prefix, or a glob."""

from __future__ import annotations

from collections.abc import Iterator
from glob import has_magic

from pagemill.document import SourceObject
from pagemill.errors import UsageError
from pagemill.s3 import S3Object
from pagemill.s3_errors import S3Error
from pagemill.urls import ObjectStore, split_object
from tasks.listing import FOLDER_MARKER, Found, Glob, nothing_at


def object_of(store: ObjectStore, bucket: str, found: S3Object) -> SourceObject:
    """An object of a store."""
    uri = f"{store.scheme}://{bucket}/{found.key}"
    return SourceObject(uri, found.etag, found.size, found.modified)


def list_objects(source: str, store: ObjectStore) -> Iterator[Found]:
    bucket, key = split_object(source)
    single, denied = _single(store, bucket, key)
    if single:
        yield Found(key.rpartition("/")[2], object_of(store, bucket, single))
    prefix = f"{key.rstrip('/')}/" if key else ""
    some = single is not None
    try:
        for found in store.list(bucket, prefix):
            some = True
            yield _found(store, bucket, len(prefix), found)
    except S3Error as error:
        if single and error.code == "AccessDenied":
            return  # keys that may read this object, and list nothing
        raise (UsageError(str(error)) if error.code == "NoSuchBucket" else error) from None
    if some or not key:
        return
    if denied:
        raise denied
    if not has_magic(key):
        raise nothing_at(source)
    yield from _glob(source, store)


def _single(store: ObjectStore, bucket: str, key: str) -> tuple[S3Object | None, S3Error | None]:
    """The object of exactly this key; or the refusal to say whether there is one."""
    if not key or key.endswith("/"):
        return None, None
    try:
        return store.head(bucket, key), None
    except S3Error as error:
        if error.code == "AccessDenied":
            return None, error
        raise


def _glob(source: str, store: ObjectStore) -> Iterator[Found]:
    bucket, pattern = split_object(source)
    wanted, some = Glob(pattern), False
    for found in store.list(bucket, wanted.fixed):
        if wanted(found.key.rstrip("/")):
            some = True
            yield _found(store, bucket, wanted.fixed.rfind("/") + 1, found)
    if not some:
        raise nothing_at(source)


def _found(store: ObjectStore, bucket: str, below: int, found: S3Object) -> Found:
    marker = FOLDER_MARKER if found.key.endswith("/") and not found.size else None
    return Found(found.key[below:], object_of(store, bucket, found), marker)
