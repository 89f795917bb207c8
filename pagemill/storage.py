"""Storage: where the output lies, a folder on local disk or in S3.

    out = Storage("s3://bucket/out", options)
    etag = out.create("pages/part-000000.parquet", data)      # only if there is none
    data, etag = out.read_versioned("pages/part-000000.parquet")
    out.replace("pages/part-000000.parquet", merged, etag)    # only if it is still that one

These two conditional writes are what all of pagemill's bookkeeping rests on. Sources need less
and may be any fsspec URL, see `filesystem`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from pagemill.errors import StorageError, UsageError
from pagemill.s3 import S3, S3Error, s3_filesystem, scrub, split_s3
from pagemill.settings import StorageOptions

if TYPE_CHECKING:
    from fsspec.spec import AbstractFileSystem

HIDDEN = ".pagemill-"
"""Names of ours that are no objects: lock and temporary files. No ``*`` glob matches them."""
STALE = 3600.0
"""Seconds after which a temporary file has lost its writer."""
LOCK_WAIT = 120.0
"""Seconds to wait for another process that is replacing a file."""

_PACKAGES = {"gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "abfss": "adlfs"}
_SIGNED = re.compile(
    r"[?&](x-amz-\w+|x-goog-\w+|awsaccesskeyid|signature|sig|access_token|api_key)=", re.IGNORECASE
)


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


def protocol(url: str) -> str:
    """``file``, ``s3``, ``https`` …: what a URL begins with; a plain path is ``file``."""
    match = re.match(r"([a-zA-Z][a-zA-Z0-9+.-]+)://", url)
    name = match[1].lower() if match else "file"
    return {"local": "file", "s3a": "s3"}.get(name, name)


def local_path(url: str) -> str:
    """The absolute path of a plain path, ``~/…`` or ``file://…``, taken as it is spelt."""
    return os.path.abspath(os.path.expanduser(re.sub(r"^(file|local)://", "", url)))


def filesystem(url: str, options: StorageOptions) -> tuple[AbstractFileSystem, str]:
    """The fsspec file system of a URL, and the path in it.

    Raises
    ------
    UsageError
        Keys in the URL, an unknown protocol, or one that needs another package.
    """
    import fsspec

    name = protocol(url)
    if name not in ("file", "s3") and "::" in url:
        raise UsageError(f"{name}://…: chained URLs (::) are not read: unpack it first")
    refuse_secrets(url, options)
    if name == "file":
        return fsspec.filesystem("file"), local_path(url)
    if name == "s3":
        return s3_filesystem(options), url.split("://", 1)[1]
    try:
        fs = fsspec.filesystem(name, use_listings_cache=False)
    except ImportError as error:
        package = _PACKAGES.get(name)
        remedy = f"pip install {package}" if package else scrub(str(error))
        raise UsageError(f"{url}: {name}:// needs another package: {remedy}") from None
    except ValueError:
        known = "a path, s3://, gs://, az://, https://"
        raise UsageError(f"{url}: {name}:// is unknown: use {known} or another of fsspec") from None
    return fs, fs._strip_protocol(url)


def refuse_secrets(url: str, options: StorageOptions) -> None:
    """Raise `UsageError` for a URL with keys in it: they would land in rows and logs."""
    for each in (url, options.endpoint_url or ""):
        name = protocol(each)
        authority = each.partition("://")[2].partition("/")[0]
        user, at, _ = authority.rpartition("@")
        if name == "file" or authority.startswith("arn:"):
            continue
        # A secret may hold a slash, and then the @ is not in the authority: look at the colon.
        password = ":" in user or re.search(r":(?!\d*$)", authority.removeprefix(user + at))
        if password or (at and name == "s3") or (name.startswith("http") and _SIGNED.search(each)):
            raise UsageError(
                f"{name}://***: the URL contains keys, which would land in rows and logs: leave "
                "them out and set AWS_ACCESS_KEY_ID and so on, or storage.profile"
            )


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

    Raises
    ------
    UsageError
        Another protocol, or keys in the URL.
    """

    def __init__(self, url: str, options: StorageOptions) -> None:
        refuse_secrets(url, options)
        name = protocol(url)
        self._folder: _Folder
        if name == "file":
            self.url = local_path(url)
            self._folder = _Disk(Path(self.url))
        elif name == "s3":
            bucket, prefix = split_s3(url.rstrip("/"))
            self.url = f"s3://{bucket}/{prefix}".rstrip("/")
            self._folder = _Bucket(S3(options), bucket, prefix)
        else:
            raise UsageError(
                f"{url}: the output goes to a local folder or to s3://, which can create an object "
                f"only if it is absent; {name}:// cannot be relied on for that"
            )

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
        path = f"{HIDDEN}probe-{secrets.token_hex(8)}"
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


class _Folder(Protocol):
    """What `Storage` needs of a kind of storage; see its methods."""

    def list(self, below: str) -> list[Entry]: ...
    def exists(self, path: str) -> bool: ...
    def read_versioned(self, path: str) -> tuple[bytes, str]: ...
    def create(self, path: str, data: bytes) -> str: ...
    def replace(self, path: str, data: bytes, etag: str) -> str: ...
    def put(self, path: str, data: bytes) -> str: ...
    def delete(self, path: str) -> None: ...
    def sweep(self) -> int: ...


class _Bucket:
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


class _Disk:
    """A local folder. Files are never changed in place, only linked or renamed into it.

    An etag is ``<mtime_ns>-<size>-<inode>``, in hex. The kernel's clock for mtime ticks in
    milliseconds, which two quick writes could share, so writers set it themselves, to the
    nanosecond and always later than the version before.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def list(self, below: str) -> list[Entry]:
        with _explained("list", self._root / below):
            return list(self._walk(self._root / below))

    def exists(self, path: str) -> bool:
        with _explained("look at", self._root / path):
            try:
                (self._root / path).stat()
            except (FileNotFoundError, NotADirectoryError):
                return False
            return True

    def read_versioned(self, path: str) -> tuple[bytes, str]:
        with _explained("read", self._root / path), (self._root / path).open("rb") as file:
            return file.read(), _etag(os.fstat(file.fileno()))

    def create(self, path: str, data: bytes) -> str:
        target = self._root / path
        with _explained("write", target), self._written(target, data) as temporary:
            try:
                os.link(temporary, target)
            except FileExistsError:
                # Over NFS the answer to a link that was made may be lost, and the repeated
                # request finds it there: then the temporary file has two names.
                if temporary.stat().st_nlink != 2:
                    raise
            _sync_folder(target.parent)
            return _etag(temporary.stat())

    def replace(self, path: str, data: bytes, etag: str) -> str:
        target = self._root / path
        with _explained("write", target):
            if not target.exists():
                raise Changed(f"cannot replace {target}: it is gone: look again")
            with self._written(target, data) as temporary, self._locked():
                if _etag(target.stat()) != etag:
                    raise Changed(f"cannot replace {target}: somebody else did: look again")
                return _move(temporary, target)

    def put(self, path: str, data: bytes) -> str:
        target = self._root / path
        with _explained("write", target), self._written(target, data) as temporary, self._locked():
            return _move(temporary, target)

    def delete(self, path: str) -> None:
        with _explained("delete", self._root / path):
            (self._root / path).unlink(missing_ok=True)

    def sweep(self) -> int:
        swept = 0
        with _explained("list", self._root):
            for temporary in self._root.rglob(f"{HIDDEN}tmp-*"):
                with contextlib.suppress(FileNotFoundError):  # its writer was not dead after all
                    if time.time() - temporary.stat().st_mtime > STALE:
                        temporary.unlink()
                        swept += 1
        return swept

    def _walk(self, folder: Path) -> Iterator[Entry]:
        try:
            found = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except FileNotFoundError:
            return  # no such folder, or removed meanwhile
        except NotADirectoryError:
            if self._root.is_dir():
                return  # an object of that name, as in S3
            raise
        for entry in found:
            if entry.is_dir():
                yield from self._walk(Path(entry.path))
            elif not entry.name.startswith(HIDDEN):
                with contextlib.suppress(FileNotFoundError):
                    at = entry.stat()
                    path = Path(entry.path).relative_to(self._root).as_posix()
                    yield Entry(path, _etag(at), at.st_size)

    @contextlib.contextmanager
    def _written(self, target: Path, data: bytes) -> Iterator[Path]:
        """A temporary file beside `target` that holds `data`, safe on the disk."""
        _make_folder(target.parent)
        temporary = target.parent / f"{HIDDEN}tmp-{os.getpid()}-{secrets.token_hex(8)}"
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                _set_time(file.fileno(), time.time_ns())
                os.fsync(file.fileno())
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Nobody else, in this process or another, replaces a file of this storage meanwhile."""
        import fcntl

        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(self._root / f"{HIDDEN}lock", flags, 0o666)
        try:
            deadline = time.monotonic() + LOCK_WAIT
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise StorageError(
                            f"{self._root}: another process holds {HIDDEN}lock for over "
                            f"{LOCK_WAIT:.0f} s: is a pagemill run stopped (Ctrl-Z)? end it"
                        ) from None
                    time.sleep(0.005)
            yield
        finally:
            os.close(descriptor)  # which unlocks


def _move(temporary: Path, target: Path) -> str:
    with contextlib.suppress(FileNotFoundError):
        older = target.stat().st_mtime_ns
        if temporary.stat().st_mtime_ns <= older:
            _set_time(temporary, older + 1)
    etag = _etag(temporary.stat())
    os.rename(temporary, target)
    _sync_folder(target.parent)
    return etag


def _set_time(file: int | Path, nanoseconds: int) -> None:
    os.utime(file, ns=(nanoseconds, nanoseconds))


def _etag(at: os.stat_result) -> str:
    return f"{at.st_mtime_ns:x}-{at.st_size:x}-{at.st_ino:x}"


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        _make_folder(folder.parent)
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_hidden(path: str) -> bool:
    return path.rpartition("/")[2].startswith(HIDDEN)


_CAUSES: dict[int, tuple[str, str]] = {
    errno.ENOSPC: ("the disk is full", "free some space: what is committed stays"),
    errno.EDQUOT: ("the quota is used up", "free some space: what is committed stays"),
    errno.EACCES: ("permission denied", "check its owner and mode"),
    errno.EPERM: ("not permitted here", "check its attributes, and that hard links are possible"),
    errno.EOPNOTSUPP: ("not possible here", "use a file system that has hard links"),
    errno.EROFS: ("the file system is read-only", "choose another folder"),
    errno.ENOTDIR: ("a part of this path is a file", "choose another folder"),
    errno.EEXIST: ("a part of this path is a file", "choose another folder"),
    errno.EISDIR: ("it is a folder", "choose another name"),
    errno.EIO: ("the disk fails", "check it, and the system's log"),
}


def explain_os(error: OSError, what: str, path: Any) -> str:
    """An error of the operating system in one line: what, where, why, what to do."""
    fallback = (error.strerror or type(error).__name__, "see the system's log")
    cause, remedy = _CAUSES.get(error.errno or 0, fallback)
    return f"cannot {what} {path}: {cause}: {remedy}"


@contextlib.contextmanager
def _explained(what: str, path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise Missing(f"cannot {what} {path}: no such file: look again") from None
    except FileExistsError as error:
        if error.filename2 is None:
            raise StorageError(explain_os(error, what, path)) from None
        raise AlreadyExists(f"cannot {what} {path}: somebody else did: look again") from None
    except OSError as error:
        raise StorageError(explain_os(error, what, path)) from None
