"""Discover: what the source holds, object by object.

    found = discover("s3://bucket/scans", settings, "s3://bucket/out")
    for source in found:
        ...
    found.outside    # Counter({'not selected': 3, 'below OUT': 12})

SOURCE is a file, a folder, a glob or any fsspec URL. What exists under exactly that name is
taken literally, whatever characters it has; only otherwise is it a glob, as in a shell (``*``
stays within a folder, ``**`` does not; a folder that matches is taken with all that is in it).

What is in scope of it, `tasks.selection` says.

Nothing disappears silently: what cannot be read comes with its `problem`, what is left out is
counted in `outside` by reason.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from fnmatch import translate
from functools import partial
from glob import has_magic
from typing import Any, NamedTuple, TypeVar

from pagemill.disk import explain_os
from pagemill.document import SourceObject
from pagemill.errors import StorageError, UsageError
from pagemill.folder import HIDDEN
from pagemill.s3 import DEADLINE, S3, S3Object, pause, split_s3
from pagemill.s3_errors import S3Error, scrub
from pagemill.settings import Settings, StorageOptions
from pagemill.urls import filesystem, local_path, protocol, refuse_secrets, within
from tasks.selection import Selection

BELOW_OUT = "below OUT"
SYMLINKED_FOLDER = "symlinked folder"
FOLDER_MARKER = "folder marker"
GONE = "gone meanwhile"
TRIES = 3
"""Times that a storage other than S3 is asked, before a failure that may pass is final."""

T = TypeVar("T")


class Found(NamedTuple):
    """An object, or something that is outside for a reason.

    Attributes
    ----------
    path : str
        Below SOURCE; ends with a slash for a folder (that cannot be read).
    source : SourceObject
    outside : str or None
        Why the listing itself leaves it out.
    """

    path: str
    source: SourceObject
    outside: str | None = None


def discover(source: str, settings: Settings, out: str) -> Discovery:
    """List a source; see `Discovery`."""
    return Discovery(source, settings, out)


class Discovery:
    """The selected objects of a source: iterate over it (again, to list again).

    Attributes
    ----------
    outside : Counter of str
        Objects left out, by reason; complete when the iteration is.

    Raises
    ------
    UsageError
        At once: keys in the URL. While iterating: nothing under this name, unknown protocol.
    StorageError
        While iterating: the source as a whole cannot be listed.
    """

    def __init__(self, source: str, settings: Settings, out: str) -> None:
        refuse_secrets(source, settings.at_source)
        self.outside: Counter[str] = Counter()
        self._source, self._options = source, settings.at_source
        self._wanted, self._sample = Selection(settings.select), settings.select.sample
        self._is_ours = _Ours(source, out)
        self._glob = _Glob(_uri(source).partition("://")[2]) if has_magic(source) else None

    def __iter__(self) -> Iterator[SourceObject]:
        self.outside.clear()
        objects = self._objects()
        return iter(self._wanted.sample(objects, self.outside)) if self._sample else objects

    @property
    def base(self) -> str:
        """The uri that the objects lie below."""
        return self._is_ours.base

    def would_list(self, source: SourceObject) -> bool:
        """Whether this object would be listed and in scope (samples aside), if it were there."""
        base = f"{self.base}/"
        if not source.uri.startswith(base) or self._is_ours(source.uri):
            return False
        if self._glob and not self._glob(source.uri.partition("://")[2]):
            return False
        return self._wanted.reason(source.uri[len(base) :], source) is None

    def _objects(self) -> Iterator[SourceObject]:
        for found in _listing(self._source, self._options):
            reason = found.outside or self._reason(found)
            if reason:
                self.outside[reason] += 1
            else:
                yield found.source

    def _reason(self, found: Found) -> str | None:
        if self._is_ours(found.source.uri):
            return BELOW_OUT
        return self._wanted.reason(found.path, found.source)


class _Ours:
    """Whether a uri is pagemill's own: below OUT, when that lies in SOURCE.

    When OUT is SOURCE itself or lies above it, only what pagemill writes there is meant.
    """

    def __init__(self, source: str, out: str) -> None:
        base = _uri(source).rstrip("/")
        # A glob's folder is what stands before its first magic character.
        base = base if not has_magic(base) else re.split(r"[*?[]", base)[0].rpartition("/")[0]
        self.base = base
        self._out = _uri(out).rstrip("/") + "/"
        if protocol(source) == "file" == protocol(out):
            self._out = _as_seen_from(base, self._out)
        self._is_inside = self._out.startswith(base + "/") and self._out != base + "/"

    def __call__(self, uri: str) -> bool:
        if not uri.startswith(self._out):
            return False
        return self._is_inside or uri[len(self._out) :].startswith(("recipe=", HIDDEN))


def _uri(url: str) -> str:
    if protocol(url) == "file":
        return f"file://{local_path(url)}"
    return f"s3://{'/'.join(split_s3(url))}" if protocol(url) == "s3" else url


def _as_seen_from(base: str, out: str) -> str:
    """`out` spelt as a walk from `base` spells it, whatever symlinks lead to either."""
    folder = base.removeprefix("file://") or "/"
    real, real_out = os.path.realpath(folder), os.path.realpath(out.removeprefix("file://"))
    if os.path.commonpath([real, real_out]) != real:
        return f"file://{real_out}/"
    return f"file://{os.path.normpath(os.path.join(folder, os.path.relpath(real_out, real)))}/"


def _listing(source: str, options: StorageOptions) -> Iterator[Found]:
    kind = protocol(source)
    if kind == "file":
        return _local(local_path(source))
    if kind == "s3":
        return _s3(source, S3(options))
    return _other(source, options)


def _nothing_at(source: str) -> UsageError:
    return UsageError(f"nothing at {source}: check the path")


class _Glob:
    """A shell's glob, which also takes what is in a folder that matches."""

    def __init__(self, pattern: str) -> None:
        from fsspec.utils import glob_translate

        self._parts = pattern.rstrip("/").split("/")
        self.fixed = re.split(r"[*?[]", pattern)[0]
        self.folder = self.fixed.rpartition("/")[0]
        try:
            whole = re.sub(r"\\[zZ]$", "", glob_translate("/".join(self._parts)))
            self._matches = re.compile(whole + r"(?:/.*)?", re.DOTALL).fullmatch
        except (ValueError, re.error) as error:
            raise UsageError(f"{pattern}: not a glob: {error}") from None

    def __call__(self, path: str) -> bool:
        return self._matches(path) is not None

    def may_hold(self, folder: str) -> bool:
        """Whether something below this folder could match: else it need not be looked into."""
        for part, name in zip(self._parts, folder.split("/"), strict=False):
            if part == "**":
                return True
            if not re.match(translate(part), name):
                return False
        return True


# -- local files -----------------------------------------------------------------------------


def local_object(path: str, at: os.stat_result) -> SourceObject:
    """A local file: etag ``<mtime_ns>-<size>`` in hex.

    Not the inode, so that a copy or a restored backup that keeps its times is not read again.
    """
    when = datetime.fromtimestamp(at.st_mtime, UTC)
    return SourceObject(_file_uri(path), f"{at.st_mtime_ns:x}-{at.st_size:x}", at.st_size, when)


def _file_uri(path: str) -> str:
    # Names need not be UTF-8, rows must be.
    return "file://" + os.fsencode(path).decode("utf-8", "backslashreplace")


def _local(root: str) -> Iterator[Found]:
    try:
        at = os.stat(root)
    except (FileNotFoundError, NotADirectoryError):
        if has_magic(root):
            return _local_glob(root)
        if os.path.islink(root):
            return iter([_faulty(os.path.basename(root), root, "dangling symlink")])
        raise _nothing_at(root) from None
    except OSError as error:
        raise StorageError(explain_os(error, "list", root)) from None
    if stat.S_ISDIR(at.st_mode):
        return _walk(root)
    return iter([_file(os.path.basename(root), root, at)])


def _local_glob(pattern: str) -> Iterator[Found]:
    wanted, some = _Glob(pattern), False
    folder = wanted.folder or "/"
    if os.path.isdir(folder):
        for found in _walk(folder, wanted.may_hold):
            path = found.source.uri.removeprefix("file://")
            if found.path.endswith("/") or wanted(path):
                some = True
                yield found
    if not some:
        raise _nothing_at(pattern)


def _walk(root: str, enter: Callable[[str], bool] = lambda _: True) -> Iterator[Found]:
    """Everything below a folder that is not a folder, sorted within each folder."""
    below = len(root.rstrip("/")) + 1
    folders = [root]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as listed:
                entries = sorted(listed, key=lambda entry: entry.name)
        except FileNotFoundError:
            yield _outside(folder, GONE)
            continue
        except OSError as error:
            if folder == root:
                raise StorageError(explain_os(error, "list", root)) from None
            yield _faulty(f"{folder[below:]}/", folder, _os_words(error))
            continue
        deeper = [entry.path for entry in entries if _is_folder(entry)]
        folders += [path for path in reversed(deeper) if enter(path)]
        skip = set(deeper)
        for entry in entries:
            if entry.path not in skip:
                yield _entry(entry.path[below:], entry.path)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False  # looked at again, and reported


def _entry(name: str, path: str) -> Found:
    try:
        at = os.lstat(path)
        if stat.S_ISLNK(at.st_mode):
            return _symlink(name, path)
        return _file(name, path, at)
    except FileNotFoundError:
        return _outside(path, GONE)
    except OSError as error:
        return _faulty(name, path, _os_words(error))


def _symlink(name: str, path: str) -> Found:
    try:
        at = os.stat(path)
    except FileNotFoundError:
        return _faulty(name, path, "dangling symlink")
    if stat.S_ISDIR(at.st_mode):
        return _outside(path, SYMLINKED_FOLDER)  # it may lead back, or be listed elsewhere too
    return _file(name, path, at)


def _file(name: str, path: str, at: os.stat_result) -> Found:
    if not stat.S_ISREG(at.st_mode):
        return _faulty(name, path, "not a regular file")  # to open a FIFO may take for ever
    source = local_object(path, at)
    if source.uri != f"file://{path}":
        return _faulty(name, path, "its name is not UTF-8: rename it")
    return Found(name, source)


def _faulty(name: str, path: str, problem: str) -> Found:
    uri = _file_uri(path)
    name = os.fsencode(name).decode("utf-8", "backslashreplace")
    return Found(name, SourceObject(uri, "", 0, None, problem))


def _outside(path: str, reason: str) -> Found:
    return Found("", SourceObject(_file_uri(path), "", 0), reason)


def _os_words(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()


# -- S3 --------------------------------------------------------------------------------------


def s3_object(bucket: str, found: S3Object) -> SourceObject:
    """An S3 object."""
    return SourceObject(f"s3://{bucket}/{found.key}", found.etag, found.size, found.modified)


def _s3(source: str, s3: S3) -> Iterator[Found]:
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
        raise _nothing_at(source)
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
    wanted, some = _Glob(pattern), False
    for found in s3.list(bucket, wanted.fixed):
        if wanted(found.key.rstrip("/")):
            some = True
            yield _s3_found(bucket, wanted.fixed.rfind("/") + 1, found)
    if not some:
        raise _nothing_at(source)


def _s3_found(bucket: str, below: int, found: S3Object) -> Found:
    marker = FOLDER_MARKER if found.key.endswith("/") and not found.size else None
    return Found(found.key[below:], s3_object(bucket, found), marker)


# -- anything else that fsspec knows ---------------------------------------------------------


def other_object(fs: Any, info: dict[str, Any]) -> SourceObject:
    """An object of any fsspec file system; size -1 where the server does not tell.

    The etag is what the storage calls so, else last-modified and size.
    """
    modified = _when(info)
    size = info.get("size")
    size = -1 if size is None else int(size)
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
    except ValueError:
        return None
    if not isinstance(value, datetime):
        return None
    return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


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


def _other(source: str, options: StorageOptions) -> Iterator[Found]:
    fs, path = filesystem(source, options)
    is_http = protocol(source).startswith("http")
    try:
        info = _patiently(lambda: fs.info(path))
    except Exception as error:
        if is_missing(error) and has_magic(path) and not is_http:  # "?" begins a query there
            yield from _other_glob(source, fs, path)
            return
        if is_missing(error):
            raise _nothing_at(source) from None
        raise other_error(error, "list", source) from None
    if info["type"] == "directory" or (is_http and path.endswith("/")):
        yield from _other_walk(fs, path)
    else:
        yield Found(path.rpartition("/")[2], other_object(fs, info))


def _other_glob(source: str, fs: Any, pattern: str) -> Iterator[Found]:
    wanted, some = _Glob(pattern), False
    for found in _other_walk(fs, wanted.folder):
        if found.path.endswith("/") or wanted(fs._strip_protocol(found.source.uri)):
            some = True
            yield found
    if not some:
        raise _nothing_at(source)


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
