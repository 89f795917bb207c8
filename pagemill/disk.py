"""A local folder with conditional writes: link() to create, rename() under a lock to replace."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pagemill.errors import StorageError
from pagemill.folder import HIDDEN, AlreadyExists, Changed, Entry, Missing

STALE = 3600.0
"""Seconds after which a temporary file has lost its writer."""
LOCK_WAIT = 120.0
"""Seconds to wait for another process that is replacing a file."""


class Disk:
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

    def read_range(self, path: str, etag: str, start: int, size: int) -> bytes:
        file = self._root / path
        with _explained("read", file):
            try:
                with file.open("rb") as stream:
                    if _etag(os.fstat(stream.fileno())) == etag:
                        return os.pread(stream.fileno(), size, start)
            except FileNotFoundError:
                pass
        raise Changed(f"cannot read {file}: somebody else replaced it: look again")

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
