"""S3, as pagemill calls it: seven calls, each with a deadline and with errors in words.

    s3 = S3(StorageOptions(endpoint_url="http://127.0.0.1:9000"))
    etag = s3.put("bucket", "pages/a", b"...", IfNoneMatch="*")

The calls go through an s3fs file system (its client, session and event loop), but not through
its paths: keys are taken as they are (``#``, ``?``, ``*``, ``//``, a trailing ``/``), listings
come page by page and are never cached, and no call silently becomes several.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

from pagemill.s3_errors import S3Error, explain, may_pass
from pagemill.settings import StorageOptions

DEADLINE = 120.0
"""Seconds for one call, its further tries included."""
SILENCE = 30.0
"""Seconds without a byte after which a try is given up, so that several fit into `DEADLINE`."""
SLOWEST = 1_000_000
"""Bytes a second below which a transfer counts as hung; added to `DEADLINE`."""
CHUNK = 4 * 2**20
"""Bytes handed over at once when an object is streamed."""
TRIES = 7
"""Times that a request is made, or a body goes on, before a passing failure is final."""

_ONE_PUT = 5 * 2**30
_WRITER = "pagemill-write"


class S3Object(NamedTuple):
    """One object as a listing or a response shows it; `etag` without quotes, `size` in bytes."""

    key: str
    etag: str
    size: int
    modified: datetime | None


class S3Body:
    """An object that is being read: iterate over it once, in chunks of about `CHUNK` bytes.

    Where the connection breaks it goes on from there, if the object is still the same one.

    Attributes
    ----------
    found : S3Object
        Of exactly the bytes that are read.
    """

    def __init__(
        self, s3: S3, bucket: str, key: str, span: tuple[int, int] | None, etag: str | None
    ) -> None:
        self._s3, self._bucket, self._key = s3, bucket, key
        self._span, self._etag, self._at = span, etag, 0
        self._body, self.found = self._start()
        self._etag = self.found.etag

    def __enter__(self) -> S3Body:
        return self

    def __exit__(self, *_: object) -> None:
        self._body.close()  # without reading the rest

    def __iter__(self) -> Iterator[bytes]:
        end = time.monotonic() + DEADLINE + self.found.size / SLOWEST
        failures = 0
        while self._at < self.found.size:
            try:
                chunk = self._next(max(end - time.monotonic(), 1))
            except S3Error as error:
                failures += 1
                if not error.passes or failures == TRIES:
                    raise
                time.sleep(pause(failures))
                self._resume()
            else:
                failures = 0
                self._at += len(chunk)
                yield chunk

    def _next(self, seconds: float) -> bytes:
        size = min(self.found.size - self._at, CHUNK)
        read = self._s3.run("read", self._bucket, self._key, lambda: self._read(size), seconds)
        if not read:
            raise S3Error(f"cannot read {_url(self._bucket, self._key)}: it ends early", "Broken")
        return bytes(read)

    async def _read(self, size: int) -> bytes:
        # One read gives what one packet brought; a hop between threads for each would be slow.
        parts: list[bytes] = []
        try:
            while size and (part := await self._body.read(size)):
                parts.append(part)
                size -= len(part)
        except Exception:
            if not parts:  # else they count, and the next read fails again
                raise
        return b"".join(parts)

    def _start(self) -> tuple[Any, S3Object]:
        which = {"IfMatch": f'"{self._etag}"'} if self._etag else {}
        if self._span or self._at:
            first, last = self._span or (0, "")
            which["Range"] = f"bytes={first + self._at}-{last}"
        return self._s3.start(self._bucket, self._key, **which)

    def _resume(self) -> None:
        self._body.close()
        try:
            self._body, now = self._start()
        except S3Error as error:
            if error.code in ("PreconditionFailed", "NoSuchKey"):
                raise self._changed() from None
            raise
        if now.etag != self.found.etag or now.size != self.found.size - self._at:
            raise self._changed()  # a server that looks at neither condition

    def _changed(self) -> S3Error:
        where = _url(self._bucket, self._key)
        return S3Error(f"cannot read {where}: it changes while it is read: run again", "Changed")


def s3_filesystem(options: StorageOptions) -> Any:
    """An s3fs file system, made once per process for equal options.

    Keys come from the environment, the profile or the machine's role, never from options.
    """
    import fsspec

    config: dict[str, Any] = {
        "connect_timeout": 10,
        "read_timeout": SILENCE,
        "retries": {"mode": "standard", "total_max_attempts": 1},  # `S3` tries again, see there
        "max_pool_connections": 50,
        # Checksums in trailers are refused by many S3-compatible servers.
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
    }
    if endpoint(options):
        config["s3"] = {"addressing_style": "path"}  # bucket.host has no name in most networks
    fs = fsspec.filesystem(
        "s3",
        anon=options.anonymous,
        requester_pays=options.requester_pays,
        endpoint_url=options.endpoint_url,
        client_kwargs={"region_name": options.region} if options.region else {},
        config_kwargs=config,
        use_listings_cache=False,
        max_concurrency=1,
        **({"profile": options.profile} if options.profile else {}),
    )
    fs.retries = 1
    return fs


def endpoint(options: StorageOptions) -> str | None:
    """The address of an S3 service that is not AWS's, from the options or the environment."""
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    return options.endpoint_url or next((os.environ[n] for n in names if os.environ.get(n)), None)


def pause(failures: int) -> float:
    """Seconds to wait after so many failures in a row: up to 0.2, 0.4, … 8, and at random."""
    return float(random.uniform(0.25, 1) * min(0.1 * 2**failures, 8))


class S3:
    """Calls to one S3 service. Thread-safe; make one wherever it is needed, it is cheap.

    A failure that may pass (`S3Error.passes`) is tried again here and nowhere else, up to
    `TRIES` times within `DEADLINE`, after a random pause that doubles. The clients below are
    told not to: they know no body that is cut off, nor an outer deadline.

    Every method raises `S3Error`, a `StorageError`, whose message says what was being done,
    where, why it failed and what to do.
    """

    scheme = "s3"

    def __init__(self, options: StorageOptions) -> None:
        self._fs = s3_filesystem(options)
        self._endpoint = endpoint(options) or "the S3 endpoint"

    def list(self, bucket: str, prefix: str, limit: int = 1000) -> Iterator[S3Object]:
        """All objects whose keys begin with `prefix`, in key order, `limit` for each request."""
        token: dict[str, Any] = {}
        while True:
            more = {"Prefix": prefix, "MaxKeys": limit, **token}
            page = self._call("list", bucket, prefix, "list_objects_v2", **more)
            for item in page.get("Contents", ()):
                found = _utc(item.get("LastModified"))
                yield S3Object(item["Key"], _bare(item["ETag"]), item["Size"], found)
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def can_list(self, bucket: str, prefix: str) -> bool:
        """Whether these keys may list here: tells one forbidden object from a forbidden bucket."""
        try:
            self._call("list", bucket, prefix, "list_objects_v2", Prefix=prefix, MaxKeys=1)
        except S3Error as error:
            if error.code in ("AccessDenied", "Refused"):
                return False
            raise
        return True

    def head(self, bucket: str, key: str) -> S3Object | None:
        """The object, or None where there is none."""
        try:
            response = self._call("look at", bucket, key, "head_object", Key=key)
        except S3Error as error:
            if error.code == "NoSuchKey":
                return None
            raise
        return _object(key, response)

    def open(
        self,
        bucket: str,
        key: str,
        span: tuple[int, int] | None = None,
        etag: str | None = None,
    ) -> S3Body:
        """Start to read an object; close it, or use it as a context manager.

        `span` asks for some of it, from the first to the last byte; `etag` for this version
        only. Reading raises code ``Changed`` where the connection broke and the rest is of
        another version.
        """
        return S3Body(self, bucket, key, span, etag)

    def start(self, bucket: str, key: str, **which: Any) -> tuple[Any, S3Object]:
        """A body as the client gives it, and whose it is; `S3Body` reads it."""
        response = self._call("read", bucket, key, "get_object", Key=key, **which)
        return response["Body"], _object(key, response)

    def get(
        self,
        bucket: str,
        key: str,
        span: tuple[int, int] | None = None,
        etag: str | None = None,
    ) -> tuple[bytes, str]:
        """An object's bytes and the etag of exactly these; `span` and `etag` as in `open`."""
        for attempt in range(1, TRIES + 1):
            try:
                with self.open(bucket, key, span, etag) as body:
                    return b"".join(body), body.found.etag
            except S3Error as error:
                if error.code != "Changed" or attempt == TRIES:
                    raise
        raise AssertionError("unreachable")

    def put(self, bucket: str, key: str, data: bytes, **condition: Any) -> str:
        """Write an object in one request, ``IfNoneMatch="*"`` or ``IfMatch=etag`` perhaps.

        Always one PUT, never a multipart upload: that is atomic, gives the etag and leaves
        nothing behind when killed.

        A write whose answer was lost is tried again, and is then refused because of *itself*.
        So every write carries a mark of its own in its metadata, and whenever one fails, the
        object there is asked whose it is. What cannot be decided (the server stays silent) is
        raised: should that write land later, it lands under its own condition, and so never
        over another's.

        Raises
        ------
        S3Error
            Code ``PreconditionFailed``: another's write came first.
        """
        if len(data) > _ONE_PUT:
            raise S3Error(f"cannot write {_url(bucket, key)}: over 5 GiB: lower work.part_pages")
        mark = uuid.uuid4().hex
        request = {"Key": key, "Body": data, "Metadata": {_WRITER: mark}, **condition}
        seconds = DEADLINE + len(data) / SLOWEST
        for attempt in range(1, TRIES + 1):
            try:
                response = self._call("write", bucket, key, "put_object", seconds, **request)
                return _bare(response["ETag"])
            except S3Error as error:
                if error.code == "ConditionalRequestConflict":  # two at once: S3 asks to try again
                    time.sleep(pause(attempt))
                    continue
                if (etag := self._landed(bucket, key, mark)) is None:
                    raise
                return etag
        raise S3Error(f"cannot write {_url(bucket, key)}: others keep writing it", "Busy")

    def delete(self, bucket: str, key: str) -> None:
        """Remove an object; none there is fine."""
        self._call("delete", bucket, key, "delete_object", Key=key)

    def _landed(self, bucket: str, key: str, mark: str) -> str | None:
        """The etag of what is at `key`, if the write with this mark put it there."""
        try:
            response = self._call("look at", bucket, key, "head_object", Key=key)
        except S3Error:
            return None  # the first error says more
        ours = response.get("Metadata", {}).get(_WRITER) == mark
        return _bare(response["ETag"]) if ours else None

    def _call(
        self,
        what: str,
        bucket: str,
        key: str,
        method: str,
        seconds: float | None = None,
        **arguments: Any,
    ) -> Any:
        async def call() -> Any:
            for failures in range(1, TRIES):
                try:
                    return await self._fs._call_s3(method, Bucket=bucket, **arguments)
                except Exception as error:
                    if not may_pass(error):
                        raise
                await asyncio.sleep(pause(failures))
            return await self._fs._call_s3(method, Bucket=bucket, **arguments)

        return self.run(what, bucket, key, call, seconds or DEADLINE)

    def run(
        self,
        what: str,
        bucket: str,
        key: str,
        call: Callable[[], Awaitable[Any]],
        seconds: float,
    ) -> Any:
        """The result of a coroutine of the client's, in time; its failure as an `S3Error`."""
        from fsspec.asyn import sync

        try:
            return sync(self._fs.loop, call, timeout=seconds)
        except Exception as error:
            doing = f"cannot {what} {_url(bucket, key)}"
            raise explain(error, doing, self._endpoint, seconds) from None


def split_s3(url: str) -> tuple[str, str]:
    """Bucket (or an access point's ARN) and key of ``s3://bucket/key``, the key as it is."""
    path = re.sub(r"^s3a?://", "", url)
    if arn := re.match(r"(arn:[^/]+:accesspoint/[^/]+)/?(.*)", path, re.DOTALL):
        return arn[1], arn[2]
    bucket, _, key = path.partition("/")
    return bucket, key


def _object(key: str, response: Any) -> S3Object:
    modified = _utc(response.get("LastModified"))
    return S3Object(key, _bare(response["ETag"]), response["ContentLength"], modified)


def _utc(when: datetime | None) -> datetime | None:
    return when.astimezone(UTC) if when else None


def _bare(etag: str) -> str:
    return etag.removeprefix("W/").strip('"')


def _url(bucket: str, key: str) -> str:
    return f"s3://{bucket}/{key}"
