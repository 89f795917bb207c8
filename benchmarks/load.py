"""What processes, threads and the GPU do meanwhile: who is busy while a lap lasts.

with Load() as load:
    ...
load.report()   # {"cores": {"run": 1.02, "engine": 0.98, "render": 1.6}, "gpu_busy": 0.97, ...}

A document's render process may live for less time than lies between two looks. So CPU time is
counted as the kernel does it, once at the beginning and once at the end: of each process, and of
those that it has had and waited for.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from statistics import mean
from typing import Any

import psutil

SECONDS = 0.25
ROLES = {
    "VLLM::": "engine",
    "tasks.children": "worker",
    "tasks.render_child": "render",
    "prefect.server": "prefect",
}
"""Words of a child's command line, and what it is. The process itself is `run`."""


def role_of(process: psutil.Process) -> str:
    """What a child process is, by its command line."""
    command = " ".join(process.cmdline())
    return next((role for word, role in ROLES.items() if word in command), "other")


class Load:
    """Samples this process, its children and the first visible GPU, by a thread of its own."""

    def __init__(self) -> None:
        self._root = psutil.Process()
        self._held: Counter[str] = Counter()
        self._gpu: list[tuple[int, int]] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="load", daemon=True)
        self._device = _device()

    def __enter__(self) -> Load:
        self._cores, self._threads = self._cpu(), self._thread_times()
        self._began = time.perf_counter()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._note()
        self._seconds = time.perf_counter() - self._began
        self._cores = _less(self._cpu(), self._cores)
        self._threads = _less(self._thread_times(), self._threads)

    def report(self) -> dict[str, Any]:
        """Cores and peak resident memory by role, the run's busiest threads, the GPU's busy share.

        ``gpu_busy`` is NVML's: a share of time with any kernel running, not of its arithmetic.
        """
        busiest = sorted(self._threads.items(), key=lambda item: -item[1])[:6]
        result: dict[str, Any] = {
            "cores": {role: round(s / self._seconds, 2) for role, s in sorted(self._cores.items())},
            "memory_gb": {role: round(most / 1e9, 2) for role, most in sorted(self._held.items())},
            "threads": {name: round(spent / self._seconds, 2) for name, spent in busiest},
        }
        if self._gpu:
            result["gpu_busy"] = round(mean(busy for busy, _ in self._gpu) / 100, 3)
            result["gpu_memory_gb"] = round(max(used for _, used in self._gpu) / 1e9, 1)
        return result

    def _loop(self) -> None:
        while not self._done.wait(SECONDS):
            self._note()

    def _note(self) -> None:
        held: Counter[str] = Counter()
        for role, process in self._family():
            with suppress(psutil.Error):
                held[role] += process.memory_info().rss
        self._held |= held  # the larger of each
        if self._device:
            with suppress(Exception):  # a gauge: better none than a lap lost
                self._gpu.append(self._device())

    def _cpu(self) -> dict[str, float]:
        """Seconds of CPU since they began, by role."""
        spent: dict[str, float] = {}
        for role, process in self._family():
            with suppress(psutil.Error):
                times = process.cpu_times()
                had = 0.0 if role == "run" else times.children_user + times.children_system
                spent[role] = spent.get(role, 0.0) + times.user + times.system + had
        return spent

    def _family(self) -> Iterator[tuple[str, psutil.Process]]:
        yield "run", self._root
        with suppress(psutil.Error):
            for child in self._root.children(recursive=True):
                with suppress(psutil.Error):
                    yield role_of(child), child

    def _thread_times(self) -> dict[str, float]:
        names = {thread.native_id: thread.name for thread in threading.enumerate()}
        spent: dict[str, float] = {}
        for thread in self._root.threads():
            name = names.get(thread.id, "of libraries")
            spent[name] = spent.get(name, 0.0) + thread.user_time + thread.system_time
        return spent


def _less(after: dict[str, float], before: dict[str, float]) -> dict[str, float]:
    return {name: spent - before.get(name, 0.0) for name, spent in after.items()}


def _device() -> Any:
    """A function that tells the first visible GPU's busy percentage and used bytes, if any."""
    try:
        import pynvml

        pynvml.nvmlInit()
        first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
        handle = pynvml.nvmlDeviceGetHandleByIndex(int(first or 0))
    except Exception:
        return None
    return lambda: (
        int(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu),
        int(pynvml.nvmlDeviceGetMemoryInfo(handle).used),
    )
