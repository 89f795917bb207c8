"""Watch a process from outside: the peak memory of it and of its children, by what they are.

with Watch(process.pid) as watch:
    process.wait()
watch.peaks     # {"run": 310.2, "render": 88.0, "prefect": 240.1}, in MB
"""

from __future__ import annotations

import re
import threading
from contextlib import suppress
from pathlib import Path

import psutil

from benchmarks.load import ROLES

SECONDS = 0.05


class Watch:
    """Peaks of resident memory (the kernel's VmHWM, so none is missed between two looks)."""

    def __init__(self, pid: int) -> None:
        self.peaks: dict[str, float] = {}
        self._root = psutil.Process(pid)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _loop(self) -> None:
        while not self._done.wait(SECONDS):
            self._note("run", self._root.pid)
            with suppress(psutil.Error):
                for child in self._root.children(recursive=True):
                    with suppress(psutil.Error):
                        command = " ".join(child.cmdline())
                        for word, role in ROLES.items():
                            if word in command:
                                self._note(role, child.pid)

    def _note(self, role: str, pid: int) -> None:
        with suppress(OSError):
            found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
            if found:
                peak = int(found.group(1)) / 1024
                self.peaks[role] = max(self.peaks.get(role, 0.0), round(peak, 1))
