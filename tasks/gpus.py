"""The GPUs of this host, and the claims of its runs to them.

A GPU is claimed by a lock on a file, which the kernel frees however its holder ends.
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
from itertools import takewhile
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


@contextlib.contextmanager
def claim(gpus: list[str], count: int) -> Iterator[tuple[list[str], list[int]]]:
    """Claim `count` of these GPUs: their names, and open files to hand to who shall hold them.

    Raises
    ------
    EngineError
        Other runs hold too many of them.
    """
    names: list[str] = []
    files: list[int] = []
    try:
        with _claiming:  # in one go, so that neighbours stay together
            for gpu in gpus:
                file = _open_lock(gpu)
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    os.close(file)
                    continue
                names.append(gpu)
                files.append(file)
                if len(names) == count:
                    break
        if len(names) < count:
            raise EngineError(
                f"other runs of pagemill hold the GPUs of this host (locks in {_locks()}): wait "
                "for them, or lower work.workers"
            )
        yield names, files
    finally:
        for file in files:
            os.close(file)


def _locks() -> Path:
    return Path(tempfile.gettempdir()) / "pagemill-gpus"


def _open_lock(gpu: str) -> int:
    folder = _locks()
    if not folder.is_dir():
        folder.mkdir(exist_ok=True)
        folder.chmod(0o777)  # for the runs of other users, too
    path = folder / f"{gpu.replace('/', '-')}.lock"
    if not path.exists():
        path.touch()
        path.chmod(0o666)
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
