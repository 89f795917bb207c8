"""The GPUs of this host, and the claims of its runs to them.

A GPU is claimed by a lock on a file, which the kernel frees however its holder ends. Workers that
share one (`work.workers_per_gpu`) have a lock each, beside one together that keeps others off.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product, takewhile
from pathlib import Path

from pagemill.errors import EngineError

_claiming = threading.Lock()


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, by index, UUID or MIG name. CUDA is not touched."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        names = (name.strip() for name in chosen.split(","))
        return list(takewhile(lambda name: name and not name.startswith("-"), names))
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    listed = subprocess.run(query, capture_output=True, text=True, timeout=60)
    return listed.stdout.split() if listed.returncode == 0 else []


@dataclass
class Claim:
    """What a worker holds.

    Attributes
    ----------
    gpus : list of str
        As `visible_gpus` names them.
    name : str
        Of this claim: no other one has it at the same time.
    files : list of int
        Open files, to hand to who shall hold it.
    turn : int or None
        On a GPU that is shared: which of the files to lock while loading.
    """

    gpus: list[str] = field(default_factory=list)
    name: str = ""
    files: list[int] = field(default_factory=list)
    turn: int | None = None


@contextlib.contextmanager
def claim(gpus: list[str], count: int, sharers: int = 1) -> Iterator[Claim]:
    """Claim `count` of these GPUs, or a place on one of them where `sharers` work side by side.

    Raises
    ------
    EngineError
        Other runs hold too many of them.
    """
    mine = Claim()
    try:
        with _claiming:  # in one go, so that neighbours stay together
            for place, gpu in product(range(1, sharers + 1), gpus):  # no GPU twice before all once
                files = _take(gpu) if sharers == 1 else _take_place(gpu, place)
                if not files:
                    continue
                mine.gpus.append(gpu)
                mine.files += files
                mine.name = "+".join(mine.gpus)
                if sharers > 1:
                    mine.name += f".{place}"
                    mine.turn = files[-1]
                if len(mine.gpus) == count:
                    break
        if len(mine.gpus) < count:
            raise EngineError(
                f"other runs of pagemill hold the GPUs of this host (locks in {_locks()}): wait "
                "for them, or lower work.workers"
            )
        yield mine
    finally:
        for file in mine.files:
            os.close(file)


def _take_place(gpu: str, place: int) -> list[int]:
    """Lock a place on a GPU; the last file is the one whose lock its sharers load under."""
    if shared := _take(gpu, fcntl.LOCK_SH):
        if own := _take(f"{gpu}.{place}"):
            return [*shared, *own, _open_lock(f"{gpu}.load")]
        os.close(shared[0])
    return []


def _take(name: str, how: int = fcntl.LOCK_EX) -> list[int]:
    """The file, locked; none where others hold it."""
    file = _open_lock(name)
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return []
    return [file]


def _locks() -> Path:
    return Path(tempfile.gettempdir()) / "pagemill-gpus"


def _open_lock(name: str) -> int:
    folder = _locks()
    if not folder.is_dir():
        folder.mkdir(exist_ok=True)
        folder.chmod(0o777)  # for the runs of other users, too
    path = folder / f"{name.replace('/', '-')}.lock"
    if not path.exists():
        path.touch()
        path.chmod(0o666)
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
