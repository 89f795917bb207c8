"""Anything else that fsspec knows as a source: a web server, Google's and Azure's storage, …"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from glob import has_magic
from typing import Any, TypeVar

from pagemill.document import SourceObject
from pagemill.errors import StorageError
from pagemill.s3 import DEADLINE, pause
from pagemill.s3_errors import scrub
from pagemill.settings import StorageOptions
from pagemill.urls import filesystem, protocol, within
from tasks.listing import Found, Glob, nothing_at

TRIES = 3
"""Times that a storage other than S3 is asked, before a failure that may pass is final."""

T = TypeVar("T")


def other_object(fs: Any, info: dict[str, Any]) -> SourceObject:
    """An object of any fsspec file system; size -1 where the server does not tell.

    The etag is what the storage calls so, else last-modified and size.
    """
    modified = _when(info)
    size = info.get("size")
    size = -1 if size is None or int(size) >> 63 else int(size)  # what a row can hold
    mark = next((info[k] for k in ("ETag", "etag", "content_hash", "md5Hash") if info.get(k)), None)
    etag = str(mark).removeprefix("W/").strip('"') if mark else f"{modified}-{size:x}"
    return SourceObject(fs.unstrip_protocol(info["name"]), etag, size, modified)


def _when(info: dict[str, Any]) -> datetime | None:
    names = ("Last-Modified", "LastModified", "last_modified", "mtime", "updated", "modified")
    value = next((info[name] for name in names if info.get(name)), info.get("created"))
    try:
        if isinstance(value, int | float):
            return datetime.fromtimestamp(value, UTC)
        if isinstance(value, str):
            is_iso = re.match(r"\d{4}-", value)
            value = datetime.fromisoformat(value) if is_iso else parsedate_to_datetime(value)
        if isinstance(value, datetime):
            return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
    except (ValueError, OverflowError):  # no time, or none that a calendar has
        pass
    return None


def other_error(error: Exception, what: str, url: str) -> StorageError:
    """A failure of any fsspec file system, in one line."""
    words = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return StorageError(scrub(f"cannot {what} {url}: {words}: check the URL and your access to it"))


def is_denied(error: Exception) -> bool:
    """Whether this says that reading is not allowed; fsspec's HTTP calls that missing."""
    cause = error.__cause__ if isinstance(error, FileNotFoundError) else error
    return isinstance(error, PermissionError) or getattr(cause, "status", None) in (401, 403, 451)


def is_missing(error: Exception) -> bool:
    """Whether this says that there is nothing; fsspec's HTTP says so of any failure."""
    if not isinstance(error, FileNotFoundError):
        return False
    cause = error.__cause__
    return cause is None or getattr(cause, "status", None) in (404, 410)


def list_other(source: str, options: StorageOptions) -> Iterator[Found]:
    fs, path = filesystem(source, options)
    is_http = protocol(source).startswith("http")
    try:
        info = _patiently(lambda: fs.info(path))
    except Exception as error:
        if is_missing(error) and has_magic(path) and not is_http:  # "?" begins a query there
            yield from _other_glob(source, fs, path)
            return
        if is_missing(error):
            raise nothing_at(source) from None
        raise other_error(error, "list", source) from None
    if info["type"] == "directory" or (is_http and path.endswith("/")):
        yield from _other_walk(fs, path)
    else:
        yield Found(path.rpartition("/")[2], other_object(fs, info))


def _other_glob(source: str, fs: Any, pattern: str) -> Iterator[Found]:
    wanted, some = Glob(pattern), False
    for found in _other_walk(fs, wanted.folder):
        if found.path.endswith("/") or wanted(fs._strip_protocol(found.source.uri)):
            some = True
            yield found
    if not some:
        raise nothing_at(source)


def _other_walk(fs: Any, root: str) -> Iterator[Found]:
    folders, seen = [root], {root.rstrip("/")}
    while folders:
        folder = folders.pop()
        try:
            entries = sorted(_patiently(partial(fs.ls, folder, detail=True)), key=_name)
        except Exception as error:
            if folder == root:
                raise other_error(error, "list", fs.unstrip_protocol(root)) from None
            problem = scrub(f"{type(error).__name__}: {error}")
            source = SourceObject(fs.unstrip_protocol(folder), "", 0, None, problem)
            yield Found(_below(root, folder) + "/", source)
            continue
        for info in _told(fs, entries):
            name = str(info["name"])
            if name.rstrip("/") in seen:
                continue  # the folder's own marker, or a page's link to itself
            if info["type"] == "directory":
                seen.add(name.rstrip("/"))
                folders.append(name)
            else:
                yield Found(_below(root, name), other_object(fs, info))


def _told(fs: Any, entries: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Entries of a listing; where that tells neither size nor version, as a page of links does,
    each object is asked for itself, or it would look changed ever after."""

    def told(info: dict[str, Any]) -> dict[str, Any]:
        if info["type"] == "directory" or info.get("size") is not None:
            return info
        try:
            return {**info, **_patiently(lambda: fs.info(info["name"])), "name": info["name"]}
        except Exception as error:
            if is_missing(error) or is_denied(error):
                return info  # found out again when it is read, and a row then
            raise other_error(error, "look at", fs.unstrip_protocol(info["name"])) from None

    with ThreadPoolExecutor(8) as pool:
        yield from pool.map(told, entries)


def _patiently(call: Callable[[], T]) -> T:
    """A call of any fsspec file system: in time, and again after a failure that may pass."""
    for failures in range(1, TRIES):
        try:
            return within(DEADLINE, call)
        except Exception as error:
            if is_missing(error) or is_denied(error) or isinstance(error, TimeoutError):
                raise
        time.sleep(pause(failures))
    return within(DEADLINE, call)


def _name(info: dict[str, Any]) -> str:
    return str(info["name"])


def _below(root: str, path: str) -> str:
    return path.rstrip("/").removeprefix(root.rstrip("/")).lstrip("/")
