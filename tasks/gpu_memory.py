"""How much memory of a worker's GPUs is in use, by the driver's own count.

vLLM and SGLang hold it in processes of their own, so torch would not know here.
"""

from __future__ import annotations

import os
from typing import Any

from loaders.families import needs_gpu
from pagemill.settings import Settings
from tasks.gpus import visible_gpus


class GpuMemory:
    """The memory in use, and the most of it that was seen.

    Parameters
    ----------
    settings : Settings
        Their model's device; no GPU where it needs none.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._most: float | None = None
        self._nvml: Any = None
        self._handles: list[Any] | None = None

    def most_gb(self) -> float | None:
        """Looks, and gives the most so far in GB of all GPUs; None where nothing is known.

        That takes the package nvidia-ml-py, which comes with vLLM and SGLang.
        """
        if self._handles is None:
            self._handles = self._open() if needs_gpu(self._settings.model) else []
        try:
            used = sum(self._nvml.nvmlDeviceGetMemoryInfo(h).used for h in self._handles) / 1e9
        except Exception:  # a driver that fails must not cost the run
            self._handles = []
        else:
            self._most = max(self._most or 0.0, used) or None
        return self._most

    def _open(self) -> list[Any]:
        try:
            import pynvml as nvml

            nvml.nvmlInit()
            self._nvml = nvml
            return [_handle(nvml, gpu) for gpu in _names(self._settings)]
        except Exception:  # the package, the driver or this GPU is not there
            return []


def _names(settings: Settings) -> list[str]:
    """The GPUs of this worker, by index or UUID."""
    first = int(settings.model.device.partition(":")[2] or 0)
    wanted = range(first, first + settings.gpus_per_worker)
    if "CUDA_VISIBLE_DEVICES" not in os.environ:
        return [str(index) for index in wanted]
    names = visible_gpus()
    return [names[index] for index in wanted if index < len(names)]


def _handle(nvml: Any, gpu: str) -> Any:
    by_index, by_uuid = nvml.nvmlDeviceGetHandleByIndex, nvml.nvmlDeviceGetHandleByUUID
    return by_index(int(gpu)) if gpu.isdecimal() else by_uuid(gpu)
