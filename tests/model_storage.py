"""A storage in memory with exactly the promises that the ledger rests on, and a world of writers.

    world = World(random.Random(1))
    world.start("a", job)          # job(handle) runs in turns: one storage call, then another's
    world.run()

Every call of a writer is a step. Between any two steps of one writer any other may take any
number of its own; a writer may be killed before or after any step, its call carried out or not;
listings may be older than the writes they ought to show. `World.after_write` is called after
every change, to look whether the promise of the moment holds.
"""

from __future__ import annotations

import random
import threading
import uuid
from collections.abc import Callable

from pagemill.storage import AlreadyExists, Changed, Entry, Missing


class Killed(BaseException):
    """A writer's end. No `Exception`: nobody survives it by catching that."""


class World:
    """Objects, the listings of before, and the writers that take turns.

    Parameters
    ----------
    choose : random.Random
        Decides everything.
    creates_only_if_absent, replaces_only_if_same : bool
        The two conditions; a storage without them breaks its promises.
    stale : float
        The share of listings that are old.
    kills : int
        Writers that may be killed.
    """

    def __init__(
        self,
        choose: random.Random,
        creates_only_if_absent: bool = True,
        replaces_only_if_same: bool = True,
        stale: float = 0.3,
        kills: int = 0,
    ) -> None:
        self.choose, self.stale, self.kills = choose, stale, kills
        self.creates_only_if_absent = creates_only_if_absent
        self.replaces_only_if_same = replaces_only_if_same
        self.identity = uuid.uuid4().hex
        self.objects: dict[str, tuple[bytes, str]] = {}
        self.before: list[dict[str, tuple[bytes, str]]] = [{}]
        self.after_write: Callable[[], None] = lambda: None
        self.steps: list[str] = []
        self.killed = 0
        self._writers: dict[str, _Writer] = {}
        self._versions = 0

    def start(self, name: str, job: Callable[[Handle], None]) -> None:
        """Let a writer begin; it takes its first step when `run` gives it a turn."""
        self._writers[name] = _Writer(self, name, job)

    def run(self, between: Callable[[], None] = lambda: None) -> None:
        """Give turns at random until every writer is done; `between` is called before each."""
        while alive := [w for w in self._writers.values() if not w.done]:
            between()
            writer = self.choose.choice(alive)
            if self.killed < self.kills and self.choose.random() < 0.05:
                self.killed += 1
                writer.doomed = True
            writer.turn()
        failed = [writer.error for writer in self._writers.values() if writer.error]
        if failed:
            raise failed[0]

    def write(self, path: str, data: bytes | None) -> str:
        """Change an object, whoever does it; None removes it."""
        self._versions += 1
        etag = f"e{self._versions}"
        if data is None:
            self.objects.pop(path, None)
        else:
            self.objects[path] = data, etag
        self.before.append(dict(self.objects))
        self.after_write()
        return etag


class _Writer:
    """A thread that runs only when it is its turn."""

    def __init__(self, world: World, name: str, job: Callable[[Handle], None]) -> None:
        self.world, self.name, self.done, self.doomed = world, name, False, False
        self.error: BaseException | None = None
        self._go, self._rest = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, args=(job,), daemon=True)
        self._thread.start()

    def turn(self) -> None:
        self._go.release()
        self._rest.acquire()
        if self.done:
            self._thread.join()

    def pause(self) -> None:
        """Between two steps. What a pool reads for a writer is a part of the writer's step."""
        if threading.current_thread() is self._thread:
            self._rest.release()
            self._go.acquire()
            if self.doomed:
                raise Killed

    def _run(self, job: Callable[[Handle], None]) -> None:
        self._go.acquire()
        try:
            job(Handle(self))
        except Killed:
            pass
        except BaseException as error:
            self.error = error
        self.done = True
        self._rest.release()


class Handle:
    """What a writer has of the storage: `pagemill.storage.Storage`'s methods."""

    def __init__(self, writer: _Writer) -> None:
        self._writer, self._world = writer, writer.world
        self.url = f"model://{writer.world.identity}"
        self.identity = f"{self.url} as seen by {uuid.uuid4().hex}"

    def list(self, below: str = "") -> list[Entry]:
        world = self._step("list", below)
        old = world.choose.random() < world.stale
        seen = world.choose.choice(world.before[-6:]) if old else world.objects
        prefix = f"{below.rstrip('/')}/" if below else ""
        found = [Entry(p, e, len(d)) for p, (d, e) in seen.items() if p.startswith(prefix)]
        self._writer.pause()
        return sorted(found)

    def exists(self, path: str) -> bool:
        return path in self._step("look at", path).objects

    def read(self, path: str) -> bytes:
        return self.read_versioned(path)[0]

    def read_versioned(self, path: str) -> tuple[bytes, str]:
        world = self._step("read", path)
        if path not in world.objects:
            raise Missing(path)
        return world.objects[path]

    def read_range(self, path: str, etag: str, start: int, size: int) -> bytes:
        data, now = self._step("read", path).objects.get(path, (b"", ""))
        if now != etag:
            raise Changed(path)
        return data[start : start + size]

    def create(self, path: str, data: bytes) -> str:
        world = self._step("create", path)
        if world.creates_only_if_absent and path in world.objects:
            raise AlreadyExists(path)
        return self._written(path, data)

    def replace(self, path: str, data: bytes, etag: str) -> str:
        world = self._step("replace", path)
        if world.replaces_only_if_same and world.objects.get(path, (b"", ""))[1] != etag:
            raise Changed(path)
        return self._written(path, data)

    def put(self, path: str, data: bytes) -> str:
        self._step("put", path)
        return self._written(path, data)

    def delete(self, path: str) -> None:
        self._step("delete", path).write(path, None)
        self._writer.pause()

    def sweep(self) -> int:
        return 0

    def probe(self) -> None:
        pass

    def _step(self, what: str, path: str) -> World:
        self._writer.pause()
        self._world.steps.append(f"{self._writer.name}: {what} {path}")
        return self._world

    def _written(self, path: str, data: bytes) -> str:
        etag = self._world.write(path, data)
        self._writer.pause()  # carried out, and perhaps never heard of
        return etag
