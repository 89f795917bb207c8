"""The lease: a note in the output that says who works on a recipe, so that two runs don't both.

    with Lease(storage, "recipe=x-1234/leases", "all", "run 7 on host a").held("wait", tell):
        ...

It only saves work. The rows stay right without it, whoever commits. The note is renewed while its
holder lives; it is dead when it has not changed for `DEAD_SECONDS` of the observer's own clock, so
that no two clocks need to agree. A holder on this host that is no longer running is dead at once.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from pagemill.errors import Busy, StorageError
from pagemill.settings import WhenBusy
from pagemill.storage import AlreadyExists, Changed, Missing, Storage

log = logging.getLogger("pagemill.lease")

RENEW_SECONDS = 10.0
DEAD_SECONDS = 60.0
"""Six renewals: a holder that is only slow is not taken for dead."""


@dataclass
class Lease:
    """A claim to a part of a recipe's work.

    Attributes
    ----------
    storage : Storage
    folder : str
        Where the leases of the recipe lie, below the storage's root.
    part : str
        What is claimed: ``all``, or the name of one of the parts that the work is split into.
        Different parts do not stand in each other's way; ``all`` does, in everybody's.
    holder : str
        For people: who holds it.
    """

    storage: Storage
    folder: str
    part: str
    holder: str
    renew_seconds: float = RENEW_SECONDS
    dead_seconds: float = DEAD_SECONDS
    _etag: str = ""
    _beat: int = 0
    _seen: dict[str, tuple[str, float]] = field(default_factory=dict)

    @contextlib.contextmanager
    def held(self, when_busy: WhenBusy, tell: Callable[[str], None]) -> Iterator[bool]:
        """Hold the lease inside the block; gives whether others had it before.

        Parameters
        ----------
        when_busy : WhenBusy
            ``wait`` until the others are done, ``stop`` as soon as one is seen alive, ``share``
            the work with them and hold nothing.
        tell : callable
            Gets a line for people when it has to wait.

        Raises
        ------
        Busy
            Another run holds it, and `when_busy` is ``stop``.
        """
        if when_busy == WhenBusy.SHARE:
            yield False
            return
        waited = self._acquire(when_busy, tell)
        done = threading.Event()
        thread = threading.Thread(target=self._renew, args=(done,), name="lease", daemon=True)
        thread.start()
        try:
            yield waited
        finally:
            done.set()
            thread.join()
            self._release()

    # -- inside ----------------------------------------------------------------------------

    @property
    def _path(self) -> str:
        return f"{self.folder}/{self.part}.json"

    def _data(self) -> bytes:
        self._beat += 1
        return json.dumps({"holder": self.holder, "beat": self._beat, **_this_process()}).encode()

    def _acquire(self, when_busy: WhenBusy, tell: Callable[[str], None]) -> bool:
        told = False
        while True:
            alive, changed = self._look()
            if not alive and self._take():
                return told
            if alive and not told:
                tell(f"{self._name_of(alive)} works on this recipe: waiting (work.when_busy)")
                told = True
            if when_busy == WhenBusy.STOP and changed:
                raise Busy(
                    f"{self._name_of(changed)} works on this recipe: wait for it, or let both go "
                    "on with work.when_busy=share, which stays right"
                )
            time.sleep(min(1.0, self.renew_seconds / 4))

    def _look(self) -> tuple[str | None, str | None]:
        """Paths of a lease in our way that is not known to be dead, and of one known to live."""
        alive = changed = None
        for entry in self.storage.list(self.folder):
            part = entry.path.rpartition("/")[2].removesuffix(".json")
            if "all" not in (part, self.part) and part != self.part:
                continue
            etag, since = self._seen.get(entry.path, ("", 0.0))
            if etag != entry.etag:
                changed = entry.path if etag else changed
                gone = _is_gone(self._read(entry.path))
                since = -self.dead_seconds if gone else time.monotonic()
                self._seen[entry.path] = entry.etag, since
            if time.monotonic() - since < self.dead_seconds:
                alive = entry.path
        return alive, changed

    def _take(self) -> bool:
        """Create the lease, or replace a dead one."""
        dead = self._seen.get(self._path)
        try:
            if dead is None:
                self._etag = self.storage.create(self._path, self._data())
            else:
                self._etag = self.storage.replace(self._path, self._data(), dead[0])
        except (AlreadyExists, Changed):
            self._seen.pop(self._path, None)
            return False
        return True

    def _name_of(self, path: str) -> str:
        return str(self._read(path).get("holder", "another run"))

    def _read(self, path: str) -> dict[str, Any]:
        with contextlib.suppress(Missing, ValueError):
            data = json.loads(self.storage.read(path))
            return data if isinstance(data, dict) else {}
        return {}

    def _renew(self, done: threading.Event) -> None:
        while not done.wait(self.renew_seconds):
            try:
                self._etag = self.storage.replace(self._path, self._data(), self._etag)
            except Changed:
                log.warning("%s was taken for dead: another run works beside it", self.holder)
                self._etag = ""
                return
            except StorageError as error:
                log.warning("the lease is not renewed: %s", error)

    def _release(self) -> None:
        with contextlib.suppress(StorageError):
            if self._etag and self.storage.read_versioned(self._path)[1] == self._etag:
                self.storage.delete(self._path)


def _this_process() -> dict[str, Any]:
    return {"host": _host(), "pid": os.getpid(), "began": psutil.Process().create_time()}


def _host() -> str:
    """What sees the same process ids: this boot of this kernel, this container."""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return ""


def _is_gone(data: dict[str, Any]) -> bool:
    """Whether the holder is a process of this host that has ended."""
    if not data.get("host") or data["host"] != _host():
        return False
    try:
        return bool(psutil.Process(data["pid"]).create_time() != data["began"])
    except psutil.NoSuchProcess:
        return True
    except (psutil.Error, KeyError, TypeError, ValueError):
        return False
