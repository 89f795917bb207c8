"""S3 as a source: an object, all below a prefix, or a glob."""

from __future__ import annotations

from collections.abc import Iterator
from glob import has_magic

from pagemill.document import SourceObject
from pagemill.errors import UsageError
from pagemill.s3 import S3, S3Object, split_s3
from pagemill.s3_errors import S3Error
from tasks.listing import FOLDER_MARKER, Found, Glob, nothing_at


def s3_object(bucket: str, found: S3Object) -> SourceObject:
    """An S3 object."""
    return SourceObject(f"s3://{bucket}/{found.key}", found.etag, found.size, found.modified)


def list_s3(source: str, s3: S3) -> Iterator[Found]:
    bucket, key = split_s3(source)
    single, denied = _s3_single(s3, bucket, key)
    if single:
        yield Found(key.rpartition("/")[2], s3_object(bucket, single))
    prefix = f"{key.rstrip('/')}/" if key else ""
    some = single is not None
    try:
        for found in s3.list(bucket, prefix):
            some = True
            yield _s3_found(bucket, len(prefix), found)
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
    yield from _s3_glob(source, s3)


def _s3_single(s3: S3, bucket: str, key: str) -> tuple[S3Object | None, S3Error | None]:
    """The object of exactly this key; or the refusal to say whether there is one."""
    if not key or key.endswith("/"):
        return None, None
    try:
        return s3.head(bucket, key), None
    except S3Error as error:
        if error.code == "AccessDenied":
            return None, error
        raise


def _s3_glob(source: str, s3: S3) -> Iterator[Found]:
    bucket, pattern = split_s3(source)
    wanted, some = Glob(pattern), False
    for found in s3.list(bucket, wanted.fixed):
        if wanted(found.key.rstrip("/")):
            some = True
            yield _s3_found(bucket, wanted.fixed.rfind("/") + 1, found)
    if not some:
        raise nothing_at(source)


def _s3_found(bucket: str, below: int, found: S3Object) -> Found:
    marker = FOLDER_MARKER if found.key.endswith("/") and not found.size else None
    return Found(found.key[below:], s3_object(bucket, found), marker)
