"""The index: what the parts hold, a record for each document, in a SQLite file of this process.

It is a cache and nothing else: made from the parts, kept part by part under the part's name and
etag, and thrown away whenever it is not understood. So it may be deleted at any time, and is
never believed over the parts. A process works on a private copy in a file without a name, which
goes when it goes; `save` puts a copy back for the next one, in one step. Memory stays bounded
by SQLite's own cache, however many documents there are.

    parts      id, number, path, etag
    documents  part, then `pagemill.committed.FACTS`
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import socket
import sqlite3
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pagemill.committed import FACTS, Committed, committed, count_errors
from pagemill.errors import StorageError
from pagemill.status import Status

VERSION = 2
"""Raised whenever a table here changes: files of other versions are thrown away."""
MEMORY_KB = 64 << 10
"""SQLite's cache."""
KEEP_DAYS = 30
"""Copies that nobody has used for so long are removed."""

_TYPES = {"uri": "TEXT NOT NULL", "rows": "INTEGER NOT NULL", "size": "INTEGER"}
_TEXTS = ("etag", "sha256", "version", "open", "fault")
_COLUMNS = ", ".join(
    f'"{name}" {_TYPES.get(name, "TEXT" if name in _TEXTS else "INTEGER")}' for name in FACTS
)
_TABLES = f"""
CREATE TABLE parts (id INTEGER PRIMARY KEY, number INTEGER, path TEXT UNIQUE, etag TEXT);
CREATE TABLE documents (part INTEGER NOT NULL, {_COLUMNS});
PRAGMA user_version = {VERSION};
"""
# Made after the first load: filling a table first and sorting it then is several times faster.
_INDEXES = """
CREATE INDEX IF NOT EXISTS by_uri ON documents (uri, etag);
CREATE INDEX IF NOT EXISTS by_part ON documents (part);
CREATE INDEX IF NOT EXISTS by_bytes ON documents (sha256) WHERE sha256 IS NOT NULL;
CREATE INDEX IF NOT EXISTS by_open ON documents (uri) WHERE open IS NOT NULL;
CREATE INDEX IF NOT EXISTS by_fault ON documents (uri) WHERE fault IS NOT NULL;
"""
_INSERT = f"INSERT INTO documents VALUES ({', '.join('?' * (len(FACTS) + 1))})"


def cache_folder() -> Path:
    """Where copies are kept: ``pagemill`` in the platform's cache folder."""
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:  # a user without a name, as in some containers, and no HOME
        base = os.devnull  # no folder: nothing is kept
    return Path(base) / "pagemill"


class Index:
    """What the parts of one dataset hold; thread-safe.

    Parameters
    ----------
    identity : str
        Of the dataset: where it lies and which recipe it is of.

    Attributes
    ----------
    db : sqlite3.Connection
        For reports and plans that join their own (temporary) tables with these.
    lock : threading.RLock
        To be held round whatever takes several steps.
    """

    def __init__(self, identity: str) -> None:
        self.identity = identity
        self.lock = threading.RLock()
        mark = hashlib.sha256(f"{socket.gethostname()} {identity}".encode()).hexdigest()[:32]
        self._copy = cache_folder() / f"{mark}.sqlite"
        self._saved = True
        self.db = self._open()

    def renewed(self) -> Index:
        """An empty one in its place: this file is damaged."""
        with contextlib.suppress(sqlite3.Error):
            self.db.close()
        with contextlib.suppress(OSError):
            self._copy.unlink(missing_ok=True)
        return Index(self.identity)

    # -- reading ---------------------------------------------------------------------------

    def parts(self) -> dict[str, str]:
        """Path and etag of every part that is in the index."""
        with self.lock:
            return dict(self.db.execute("SELECT path, etag FROM parts"))

    def last_number(self) -> int:
        """The highest number of a part; -1 where there is none."""
        with self.lock:
            (number,) = self.db.execute("SELECT max(number) FROM parts").fetchone()
        return -1 if number is None else int(number)

    def get(self, uri: str) -> Committed | None:
        """What is committed of a document."""
        ask = """SELECT p.path, d.* FROM documents d JOIN parts p ON p.id = d.part
            WHERE d.uri = ? LIMIT 1"""
        with self.lock:
            found = self.db.execute(ask, (uri,)).fetchone()
        return committed(found[0], dict(zip(FACTS, found[2:], strict=True))) if found else None

    def same_bytes(self, sha256: str) -> list[tuple[str, Committed]]:
        """Documents with these bytes: some of them, where there are many."""
        ask = "SELECT uri FROM documents WHERE sha256 = ? LIMIT 8"
        with self.lock:
            uris = [uri for (uri,) in self.db.execute(ask, (sha256,))]
            found = [(uri, self.get(uri)) for uri in uris]
        return [(uri, document) for uri, document in found if document is not None]

    def uris(self, after: str = "", limit: int = 1000) -> list[str]:
        """Uris in order: the first `limit` that come after this one."""
        ask = "SELECT DISTINCT uri FROM documents WHERE uri > ? ORDER BY uri LIMIT ?"
        with self.lock:
            return [uri for (uri,) in self.db.execute(ask, (after, limit))]

    def total(self, *columns: str) -> tuple[int, ...]:
        """Documents, and sums of columns over them."""
        sums = "".join(f', coalesce(sum("{name}"), 0)' for name in columns)
        with self.lock:
            found = self.db.execute(f"SELECT count(*){sums} FROM documents").fetchone()
        return tuple(found)

    def documents_of(self, path: str) -> list[str]:
        """Uris of the documents that a part held when it was last read."""
        ask = """SELECT uri FROM documents WHERE part IN (SELECT id FROM parts WHERE path = ?)
            ORDER BY uri"""
        with self.lock:
            return [uri for (uri,) in self.db.execute(ask, (path,))]

    def parts_of(self, uri: str) -> dict[str, tuple[bool, str]]:
        """The parts that hold rows of a document: whether they add up there, and the version."""
        ask = """SELECT p.path, d.fault IS NULL, d.version FROM documents d
            JOIN parts p ON p.id = d.part WHERE d.uri = ?"""
        with self.lock:
            return {path: (bool(ok), made) for path, ok, made in self.db.execute(ask, (uri,))}

    def parts_with(self, statuses: Iterable[str]) -> set[str]:
        """Paths of the parts that hold rows of one of these statuses."""
        some = " OR ".join(f'"{Status(status)}" > 0' for status in statuses)
        ask = f"SELECT path FROM parts WHERE id IN (SELECT part FROM documents WHERE {some})"
        with self.lock:
            return {path for (path,) in self.db.execute(ask)}

    def errors(self) -> Counter[str]:
        """Rows that failed or were skipped, by error kind."""
        with self.lock:
            found = self.db.execute("SELECT open FROM documents WHERE open IS NOT NULL")
            return count_errors(text for (text,) in found)

    def faults(self) -> list[tuple[str, str]]:
        """Documents whose rows do not add up, and why: by part, then by uri."""
        several = """
            SELECT d.uri, group_concat(p.path, ' and in ') FROM documents d JOIN parts p
            ON p.id = d.part WHERE d.uri IN
                (SELECT uri FROM documents GROUP BY uri HAVING count(*) > 1)
            GROUP BY d.uri ORDER BY min(p.path), d.uri"""
        single = """
            SELECT d.uri, d.fault || ' (' || p.path || ')' FROM documents d JOIN parts p
            ON p.id = d.part WHERE d.fault IS NOT NULL ORDER BY p.path, d.uri"""
        with self.lock:
            found = [(uri, f"rows in {paths}") for uri, paths in self.db.execute(several)]
            return found + self.db.execute(single).fetchall()

    # -- writing ---------------------------------------------------------------------------

    def keep(self, path: str, number: int, etag: str, records: Iterable[tuple[Any, ...]]) -> None:
        """Put these records of a part in place of those of an earlier version of it."""
        with self.writing():
            self._saved = False
            self.forget(path)
            add = "INSERT INTO parts (number, path, etag) VALUES (?, ?, ?)"
            part = self.db.execute(add, (number, path, etag)).lastrowid
            self.db.executemany(_INSERT, ((part, *record) for record in records))

    def forget(self, path: str) -> None:
        """Drop a part that is gone, or replaced."""
        with self.writing():
            self._saved = False
            for (part,) in self.db.execute("SELECT id FROM parts WHERE path = ?", (path,)):
                self.db.execute("DELETE FROM documents WHERE part = ?", (part,))
                self.db.execute("DELETE FROM parts WHERE id = ?", (part,))

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """All of what is written within, or nothing; may be nested."""
        with self.lock:
            if self.db.in_transaction:
                yield
                return
            self.db.execute("BEGIN")
            try:
                yield
            except BaseException as error:
                with contextlib.suppress(sqlite3.Error):  # SQLite may have done so itself
                    self.db.execute("ROLLBACK")
                if isinstance(error, sqlite3.OperationalError):
                    raise StorageError(
                        f"the index in {self._copy.parent} cannot be written ({error}): free some "
                        "space, or set XDG_CACHE_HOME to another folder: what is committed stays"
                    ) from None
                raise
            self.db.execute("COMMIT")

    def complete(self) -> None:
        """After a load: have what lookups need."""
        with self.lock:
            self.db.executescript(_INDEXES)

    def save(self) -> None:
        """Put a copy back for the next process; where that cannot be, it reads the parts again."""
        with self.lock, contextlib.suppress(OSError, sqlite3.Error):
            if self._saved:
                return
            temporary = self._new_file()
            try:
                with contextlib.closing(sqlite3.connect(temporary)) as copy:
                    self.db.backup(copy)
                with temporary.open("rb") as file:
                    os.fsync(file.fileno())  # or a power cut could leave a file full of zeros
                os.replace(temporary, self._copy)
                self._saved = True
            finally:
                temporary.unlink(missing_ok=True)

    # -- the private file ------------------------------------------------------------------

    def _open(self) -> sqlite3.Connection:
        """A private file without a name that holds the saved copy, if there is a good one."""
        with contextlib.suppress(OSError, sqlite3.Error):  # none, damaged, of another version
            _prune(self._copy.parent)
            file = self._new_file()
            try:
                shutil.copyfile(self._copy, file)
                os.utime(self._copy)  # used: not to be pruned
                return _connect(str(file), fresh=False)
            finally:
                file.unlink(missing_ok=True)
        return self._anew()

    def _anew(self) -> sqlite3.Connection:
        with contextlib.suppress(OSError, sqlite3.OperationalError):
            file = self._new_file()
            try:
                return _connect(str(file), fresh=True)
            finally:
                file.unlink(missing_ok=True)
        # No cache folder here, or no room in it: SQLite finds a place for a nameless file.
        return _connect("", fresh=True)

    def _new_file(self) -> Path:
        self._copy.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, name = tempfile.mkstemp(prefix="work-", dir=self._copy.parent)
        os.close(handle)
        return Path(name)


def _connect(file: str, fresh: bool) -> sqlite3.Connection:
    """A connection to a private file: what a crash does to it is nobody's concern."""
    db = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    db.executescript(
        f"PRAGMA journal_mode = MEMORY; PRAGMA synchronous = OFF; PRAGMA cache_size = -{MEMORY_KB}"
    )
    if fresh:
        db.executescript(_TABLES)
    elif db.execute("PRAGMA user_version").fetchone() != (VERSION,):
        db.close()
        raise sqlite3.DatabaseError("another version")
    elif db.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
        db.close()
        raise sqlite3.DatabaseError("damaged")
    else:
        db.executescript(_INDEXES)
    return db


def _prune(folder: Path) -> None:
    """Remove copies that nobody uses any more, and what killed processes left."""
    before = time.time() - KEEP_DAYS * 86400
    for file in [*folder.glob("*.sqlite"), *folder.glob("work-*")]:
        with contextlib.suppress(OSError):
            if file.stat().st_mtime < before:
                file.unlink()
