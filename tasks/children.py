"""Workers in processes of their own on this host: on its GPUs, or `work.workers` on a CPU.

A child holds the claim to its GPU, sees no other one, loads its engine beside its first work, and
ends when its parent is gone. Shards and receipts travel over a Unix socket that only the two can
open.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.managers import BaseManager, BaseProxy
from pathlib import Path
from typing import cast

from loaders.families import needs_gpu
from loaders.resident import TURN
from pagemill.errors import PagemillError, UsageError, WorkerLost
from tasks.gauges import Report
from tasks.gpus import claim, visible_gpus
from tasks.hand import STOP_SECONDS
from tasks.job import Job
from tasks.process import process_shard
from tasks.receipt import Receipt
from tasks.shard import Shard
from tasks.worker import Worker

START_SECONDS = 120
SILENT_SECONDS = 600.0
"""For a worker to say how far it is; it answers beside its work. A driver that hangs never does."""
_PROJECT = Path(__file__).resolve().parents[1]
_GONE = (EOFError, OSError)
"""What a call raises when the process at the other end has died."""


def child_makers(job: Job) -> list[Callable[[int | None], Child]]:
    """A function for each worker that this host has room for; it starts it, for so many pages.

    Raises
    ------
    UsageError
        The model needs a GPU, and there are not enough.
    """
    work = job.settings.work
    if not needs_gpu(job.settings.model):
        return [partial(Child, job, f"child-{n}", None) for n in range(1, (work.workers or 1) + 1)]
    gpus = visible_gpus()
    each = job.settings.gpus_per_worker
    room = len(gpus) * work.workers_per_gpu // each
    if not room or room < (work.workers or 1):
        raise UsageError(
            f"work.runner: process: {work.workers or 1} workers of {each} GPUs do "
            f"not fit on the {len(gpus)} GPUs here (work.workers_per_gpu: {work.workers_per_gpu}): "
            "see `pagemill doctor`, or lower work.workers"
        )
    return [partial(Child, job, "gpu", gpus)] * (work.workers or room)


class Child:
    """A worker in a process of its own; see `tasks.hand.Hand`.

    Raises
    ------
    EngineError
        No GPU is free.
    WorkerLost
        The process died before it could take work.
    """

    def __init__(self, job: Job, name: str, gpus: list[str] | None, pages: int | None) -> None:
        self.loaded = False
        self._silent = 0.0
        self._closed = threading.Event()
        self._folder = tempfile.TemporaryDirectory(prefix="pagemill-")
        address = {"address": f"{self._folder.name}/socket", "authkey": secrets.token_hex(32)}
        # What its framework leaves there goes with the folder: vLLM never removes its sockets.
        own = {"TMPDIR": self._folder.name}
        if gpus is None:
            self.name, self._process = name, _spawn(address, own, [])
        else:
            settings = job.settings
            with claim(gpus, settings.gpus_per_worker, settings.work.workers_per_gpu) as mine:
                self.name = f"{name}-{mine.name}"
                own["CUDA_VISIBLE_DEVICES"] = ",".join(mine.gpus)
                if mine.turn is not None:
                    own[TURN] = str(mine.turn)
                self._process = _spawn(address, own, mine.files)
        try:
            self._worker = self._connect(address, job)
            with self._lifeline():
                self._worker.warm_up(pages)
        except BaseException:
            self.close()
            raise
        for watch in (self._await_engine, self._listen):
            threading.Thread(target=watch, daemon=True).start()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def renews(self) -> bool:
        return self.loaded

    def enter(self) -> None:
        with self._lifeline():
            self._worker.enter()

    def process(self, shard: Shard) -> Receipt:
        with self._lifeline():
            return self._worker.process(shard)

    def report(self) -> Report:
        with self._lifeline():
            return self._worker.report()

    def stop(self) -> None:
        self._ask(self._worker.stop, STOP_SECONDS)

    def close(self) -> None:
        self._closed.set()
        self._kill()
        self._process.wait()
        assert self._process.stdin
        self._process.stdin.close()
        self._folder.cleanup()

    def _listen(self) -> None:
        """Kill it when it is silent, so that its shards go to the next one."""
        while not self._closed.wait(SILENT_SECONDS / 10):
            self._ask(self._worker.report, SILENT_SECONDS)

    def _ask(self, call: Callable[[], object], seconds: float) -> None:
        """Make a call; a worker that has not answered by then is killed."""

        def ask() -> None:
            with contextlib.suppress(Exception), self._lifeline():  # an error is an answer
                call()

        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        asking.join(seconds)
        if asking.is_alive():
            self._silent = seconds
            self._kill()

    def _kill(self) -> None:
        # What it has committed is safe, and nothing else is to be kept. The whole group, also of
        # one that is dead: its framework may have processes of its own, which hold the GPU.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def _await_engine(self) -> None:
        with contextlib.suppress(PagemillError), self._lifeline():  # its shards are told
            self._worker.load()
            self.loaded = True

    def _connect(self, address: dict[str, str], job: Job) -> _Remote:
        manager = _Manager(address["address"], authkey=bytes.fromhex(address["authkey"]))
        deadline = time.monotonic() + START_SECONDS
        with self._lifeline():
            while not _connected(manager):
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise WorkerLost(self._obituary())
                time.sleep(0.02)
            remote: _Remote = manager.worker(job, self.name)  # type: ignore[attr-defined]
            return remote

    @contextlib.contextmanager
    def _lifeline(self) -> Iterator[None]:
        try:
            yield
        except _GONE:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=5)
            raise WorkerLost(self._obituary()) from None

    def _obituary(self) -> str:
        code = self._process.poll()
        if code is None:
            return f"worker {self.name} (process {self.pid}) does not answer"
        if self._silent:
            return f"worker {self.name} (process {self.pid}) was silent for {self._silent:g} s"
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        hint = " (out of memory?)" if code == -signal.SIGKILL else ""
        return f"worker {self.name} (process {self.pid}) {how}{hint}"


def _connected(manager: _Manager) -> bool:
    """Connect, unless nobody listens yet: the socket is there a moment before."""
    with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
        manager.connect()
        return True
    return False


def _spawn(
    address: dict[str, str], environment: dict[str, str], locks: list[int]
) -> subprocess.Popen[bytes]:
    path = os.pathsep.join([str(_PROJECT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    process = subprocess.Popen(
        [sys.executable, "-m", "tasks.children"],
        stdin=subprocess.PIPE,  # it ends when this is closed
        env={**os.environ, "PYTHONPATH": path, **environment},
        pass_fds=locks,
        start_new_session=True,  # Ctrl-C is for the run, which tells its workers
    )
    assert process.stdin
    process.stdin.write(json.dumps(address).encode() + b"\n")
    process.stdin.flush()
    return process


# -- what runs in the child ----------------------------------------------------------------


@dataclass
class _Served:
    """What the parent may call."""

    worker: Worker

    def warm_up(self, pages: int | None) -> None:
        self.worker.warm_up(pages)
        self.worker.ledger.refresh()

    def load(self) -> None:
        self.worker.engine()

    def enter(self) -> None:
        self.worker.enter()

    def process(self, shard: Shard) -> Receipt:
        try:
            return process_shard(self.worker, shard)
        except _GONE as error:  # over there it would mean that we are gone
            raise RuntimeError(f"{type(error).__name__}: {error}") from error

    def report(self) -> Report:
        return self.worker.report()

    def stop(self) -> None:
        self.worker.stop.set()


class _Remote(BaseProxy):
    """`_Served`, as the parent holds it. Each thread that calls has a connection of its own."""

    def warm_up(self, pages: int | None) -> None:
        self._callmethod("warm_up", (pages,))

    def load(self) -> None:
        self._callmethod("load")

    def enter(self) -> None:
        self._callmethod("enter")

    def process(self, shard: Shard) -> Receipt:
        return cast(Receipt, self._callmethod("process", (shard,)))

    def report(self) -> Report:
        return cast(Report, self._callmethod("report"))

    def stop(self) -> None:
        self._callmethod("stop")


class _Manager(BaseManager):
    """Calls over a Unix socket."""


_Manager.register(
    "worker",
    callable=lambda job, name: _Served(Worker(job, name)),
    proxytype=_Remote,
    exposed=("warm_up", "load", "enter", "process", "report", "stop"),
)


def _end_with_parent(folder: Path) -> None:
    # Not by `sys.stdin`, whose lock would be held meanwhile: vLLM may fork its process from this
    # one, and the first that a forked process does is to close `sys.stdin`.
    while os.read(0, 1):
        pass
    shutil.rmtree(folder, ignore_errors=True)  # nobody else is left to do it
    os.killpg(0, signal.SIGKILL)  # its framework's processes, too


def _track_what_is_shared() -> None:
    """Have shared memory and semaphores removed when all processes here are dead, killed or not.

    That is what Python's resource tracker is for; but one that a framework starts is of our group,
    and would be killed with it. Ours is handed to all, as `multiprocessing.spawn` does it.
    """
    reads, writes = os.pipe()
    subprocess.Popen(
        [sys.executable, "-c", f"from multiprocessing.resource_tracker import main; main({reads})"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,  # it would complain of what it removes
        pass_fds=(reads,),
        start_new_session=True,
    )
    os.close(reads)
    vars(resource_tracker)["_resource_tracker"]._fd = writes


def main() -> None:
    """Serve one worker until the parent closes our standard input."""
    address = json.loads(sys.stdin.buffer.readline())
    _track_what_is_shared()
    folder = Path(address["address"]).parent
    threading.Thread(target=_end_with_parent, args=(folder,), daemon=True).start()
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("pagemill").setLevel(logging.INFO)
    manager = _Manager(address["address"], authkey=bytes.fromhex(address["authkey"]))
    manager.get_server().serve_forever()


if __name__ == "__main__":
    main()
