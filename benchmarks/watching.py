"""Watch a command from outside: the peak memory of its processes, and what it leaves behind.

with Watch(process.pid) as watch:
    process.wait()
watch.peaks     # {"run": 310.2, "render": 88.0, "prefect": 240.1}, in MB

done = run_and_check("docs", "out", ["-c", ECHO])
done.amiss      # [] or what is wrong, in words
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.common import pagemill
from benchmarks.load import role_of

SECONDS = 0.05
TORCHS_OWN = "torchinductor_*"
"""A folder that torch makes when its compiler is imported, as transformers does."""
_PR_SET_CHILD_SUBREAPER = 36


class Watch:
    """Peaks of resident memory of a process and, by what they are, of its largest children.

    The kernel's VmHWM, so that no peak between two looks is missed; a child that lives for less
    than the 50 ms between them is.
    """

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
                        if (role := role_of(child)) != "other":
                            self._note(role, child.pid)

    def _note(self, role: str, pid: int) -> None:
        with suppress(OSError):
            found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
            if found:
                peak = int(found.group(1)) / 1024
                self.peaks[role] = max(self.peaks.get(role, 0.0), round(peak, 1))


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
        left = Path(self._folder.name).iterdir()
        files = sorted(path.name for path in left if not path.match(TORCHS_OWN))
        self.found += [f"a temporary file is left: {name}" for name in files]
        self._folder.cleanup()


@dataclass(frozen=True)
class Done:
    """A job that was run and checked.

    Attributes
    ----------
    balance : dict
        Its balance sheet.
    seconds : float
        Of the run, from the command to its exit.
    peak_mb : dict
        See `Watch`.
    amiss : list of str
        An exit code that is not of a finished run, what it left behind, a check that failed.
    """

    balance: dict[str, Any]
    seconds: float
    peak_mb: dict[str, float]
    amiss: list[str]


def run_and_check(source: str, out: str, options: list[str]) -> Done:
    """`pagemill run SOURCE OUT`, then `pagemill check OUT --source SOURCE`."""
    command = pagemill("run", source, out, "--json", *options)
    began = time.perf_counter()
    with Leftovers() as leftovers:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=leftovers.environment
        )
        with process as run, Watch(run.pid) as watch:
            printed = run.communicate()[0]
    seconds, amiss = time.perf_counter() - began, list(leftovers.found)
    if run.returncode not in (0, 3):
        amiss.append(f"the run ended with exit code {run.returncode}")
    check = subprocess.run(
        pagemill("check", out, "--source", source, *options), stdout=subprocess.DEVNULL
    )
    if check.returncode:
        amiss.append("`pagemill check` found problems")
    return Done(json.loads(printed or "{}"), seconds, watch.peaks, amiss)
