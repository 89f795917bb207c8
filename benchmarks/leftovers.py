"""What a run leaves behind: processes without a parent, temporary files.

with Leftovers() as leftovers:
    subprocess.run(command, env=leftovers.environment)
leftovers.found     # [] or what is there, in words
"""

from __future__ import annotations

import ctypes
import os
import tempfile
from pathlib import Path

import psutil

_PR_SET_CHILD_SUBREAPER = 36


class Leftovers:
    """Gives a command a TMPDIR of its own and takes in its orphans; looks when it has ended."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self._folder = tempfile.TemporaryDirectory(prefix="pagemill-left-")
        self.environment = {**os.environ, "TMPDIR": self._folder.name}

    def __enter__(self) -> Leftovers:
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # orphans come to us
        self._before = {process.pid for process in psutil.Process().children(recursive=True)}
        return self

    def __exit__(self, *_: object) -> None:
        for process in psutil.Process().children(recursive=True):
            if process.pid not in self._before and process.status() != psutil.STATUS_ZOMBIE:
                self.found.append(f"a process is left: {process.name()}")
        files = sorted(path.name for path in Path(self._folder.name).iterdir())
        self.found += [f"a temporary file is left: {name}" for name in files]
        self._folder.cleanup()
