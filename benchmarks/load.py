"""What processes, threads and the GPU do meanwhile: who is busy while a lap lasts.

with Load() as load:
    ...
load.report()   # {"cores": {"run": 1.02, "engine": 0.98, "render": 1.6}, "gpu_busy": 0.97, ...}
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from statistics import mean
from typing import Any

import psutil

SECONDS = 0.25
ROLES = {"VLLM::": "engine", "tasks.render_child": "render", "prefect.server": "prefect"}
"""Words of a child's command line, and what it is. The process itself is `run`."""


def role_of(process: psutil.Process) -> str:
    """What a child process is, by its command line."""
    command = " ".join(process.cmdline())
    return next((role for word, role in ROLES.items() if word in command), "other")


class Load:
    """Samples this process, its children and the first visible GPU, by a thread of its own."""

    def __init__(self) -> None:
        self._root = psutil.Process()
        self._before: dict[int, tuple[str, float]] = {}
        self._after: dict[int, tuple[str, float]] = {}
        self._held: dict[str, int] = {}
        self._gpu: list[tuple[int, int]] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="load", daemon=True)
        self._device = _device()

    def __enter__(self) -> Load:
        self._before, self._threads = self._cpu(), self._thread_times()
        self._began = time.perf_counter()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._note()
        self._seconds = time.perf_counter() - self._began
        before = self._threads
        self._threads = {
            name: spent - before.get(name, 0.0) for name, spent in self._thread_times().items()
        }

    def report(self) -> dict[str, Any]:
        """Cores and peak resident memory by role, the run's busiest threads, the GPU's busy share.

        ``gpu_busy`` is NVML's: a share of time with any kernel running, not of its arithmetic.
        """
        cores: dict[str, float] = {}
        for pid, (role, spent) in self._after.items():
            used = spent - self._before.get(pid, ("", 0.0))[1]
            cores[role] = cores.get(role, 0.0) + used / self._seconds
        busiest = sorted(self._threads.items(), key=lambda item: -item[1])[:6]
        result: dict[str, Any] = {
            "cores": {role: round(value, 2) for role, value in sorted(cores.items())},
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
        self._after |= self._cpu()
        if self._device:
            with suppress(Exception):  # a gauge: better none than a lap lost
                self._gpu.append(self._device())

    def _cpu(self) -> dict[int, tuple[str, float]]:
        found = {self._root.pid: ("run", _spent(self._root))}
        held = {"run": self._root.memory_info().rss}
        with suppress(psutil.Error):
            for child in self._root.children(recursive=True):
                with suppress(psutil.Error):
                    role = role_of(child)
                    found[child.pid] = (role, _spent(child))
                    held[role] = held.get(role, 0) + child.memory_info().rss
        self._held = {role: max(now, self._held.get(role, 0)) for role, now in held.items()} | {
            role: most for role, most in self._held.items() if role not in held
        }
        return found

    def _thread_times(self) -> dict[str, float]:
        names = {thread.native_id: thread.name for thread in threading.enumerate()}
        spent: dict[str, float] = {}
        for thread in self._root.threads():
            name = names.get(thread.id, "of libraries")
            spent[name] = spent.get(name, 0.0) + thread.user_time + thread.system_time
        return spent


def _spent(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


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
