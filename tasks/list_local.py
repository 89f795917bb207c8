"""Local files as a source: every one below a folder, also those that cannot be read."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from glob import has_magic

from pagemill.disk import explain_os
from pagemill.document import SourceObject
from pagemill.errors import StorageError
from tasks.listing import GONE, SYMLINKED_FOLDER, Found, Glob, nothing_at


def local_object(path: str, at: os.stat_result) -> SourceObject:
    """A local file: etag ``<mtime_ns>-<size>`` in hex.

    Not the inode, so that a copy or a restored backup that keeps its times is not read again.
    """
    try:
        when = datetime.fromtimestamp(at.st_mtime, UTC)
    except (ValueError, OverflowError):  # beyond the year 9999: some file systems keep any number
        when = None
    return SourceObject(_file_uri(path), f"{at.st_mtime_ns:x}-{at.st_size:x}", at.st_size, when)


def _file_uri(path: str) -> str:
    # Names need not be UTF-8, rows must be.
    return "file://" + os.fsencode(path).decode("utf-8", "backslashreplace")


def list_local(root: str) -> Iterator[Found]:
    try:
        at = os.stat(root)
    except (FileNotFoundError, NotADirectoryError):
        if has_magic(root):
            return _local_glob(root)
        if os.path.islink(root):
            return iter([_faulty(os.path.basename(root), root, "dangling symlink")])
        raise nothing_at(root) from None
    except OSError as error:
        raise StorageError(explain_os(error, "list", root)) from None
    if stat.S_ISDIR(at.st_mode):
        return _walk(root)
    return iter([_file(os.path.basename(root), root, at)])


def _local_glob(pattern: str) -> Iterator[Found]:
    wanted, some = Glob(pattern), False
    folder = wanted.folder or "/"
    if os.path.isdir(folder):
        for found in _walk(folder, wanted.may_hold):
            path = found.source.uri.removeprefix("file://")
            if found.path.endswith("/") or wanted(path):
                some = True
                yield found
    if not some:
        raise nothing_at(pattern)


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
