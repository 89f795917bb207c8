"""SGLang (0.5.23), as a server in a process group of its own.

Not inside this process, because its engine's shutdown kills every child of the caller. The
requests go over HTTP on the loopback, and the server dies with this process.

It needs a GPU, so it has not been run where this was written: the arguments are those of
0.5.23's source, and the tests start a stand-in server that speaks its protocol.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from loaders.checkpoint import declared_quantization, read_config, scheme_name
from loaders.endpoint import Endpoint
from loaders.errors import LoadError, one_line
from loaders.families import FAMILIES, Family
from loaders.openai_engine import OpenAIEngine
from loaders.server import Server, free_port
from loaders.support import family_of, load_arguments, refuse_pair
from loaders.vlm_loader import VLMConfig

GIB = 1 << 30
RESERVE_GB = 4
"""GiB for activations and CUDA graphs, which ``mem_fraction_static`` does not count."""
START_SECONDS = 1800
"""Loading 100 GB from a slow disk takes its time."""
MULTIMODAL_IS_OFF = (FAMILIES["llama4"], FAMILIES["gemma3"])
"""Families that SGLang serves without their eyes, unless told otherwise."""


class SGLangEngine(OpenAIEngine):
    """An `Engine` on ``python -m sglang.launch_server``.

    `VLMConfig.options` are that command's arguments, such as ``context_length``.

    Raises
    ------
    RuntimeError
        The model cannot be loaded; the message names the cause and the remedy.
    """

    def __init__(self, config: VLMConfig, family: Family) -> None:
        family, own = _check(config, family)
        port = free_port()
        command = _command(config, family, own, port)
        self._folder = Path(tempfile.mkdtemp(prefix="pagemill-sglang-"))
        url = f"http://127.0.0.1:{port}"
        self._server = Server(command, f"{url}/health", self._folder / "server.log")
        try:
            self._server.wait(START_SECONDS)
            super().__init__(
                Endpoint(f"{url}/v1", config.model_id, retries=2),
                config.batch_size,
                f"sglang {version('sglang')}",
            )
        except BaseException as error:
            self._end_server()
            if isinstance(error, LoadError):
                raise LoadError(f"{config.model_id}: {one_line(error, 500)}") from error
            raise

    def close(self) -> None:
        """Stop, end what is queued or running with `EngineError`, end the server."""
        super().close()
        self._end_server()

    def _end_server(self) -> None:
        self._server.stop()
        shutil.rmtree(self._folder, ignore_errors=True)


def _check(config: VLMConfig, family: Family) -> tuple[Family, str]:
    """Refuse what cannot work; what the checkpoint is and the name of its own quantization."""
    if importlib.util.find_spec("sglang") is None:
        raise ImportError("no module named sglang")
    if config.device.partition(":")[0] != "cuda":
        raise LoadError(
            f"device {config.device}: SGLang is run on CUDA only; use framework: transformers"
        )
    if config.model_id in family.instead:
        raise LoadError(
            f"{config.model_id}: SGLang cannot load it here; use {family.instead[config.model_id]}"
        )
    checkpoint = read_config(config.model_id, config.revision)
    family = family_of(config, family, checkpoint)
    own = scheme_name(declared_quantization(checkpoint))
    refuse_pair(config, family, own)
    return family, own


def _command(config: VLMConfig, family: Family, own: str, port: int) -> list[str]:
    arguments: dict[str, Any] = {
        "model_path": config.model_id,
        "served_model_name": config.model_id,
        "host": "127.0.0.1",
        "port": port,
        "revision": config.revision,
        "trust_remote_code": config.trust_remote_code,
        "dtype": config.dtype,
        "max_running_requests": config.batch_size,
        "enable_multimodal": family in MULTIMODAL_IS_OFF,
        "log_level": "warning",
        **_device(config),
        **load_arguments(config, own),
        **config.options,
    }
    flags = [flag for name, value in arguments.items() for flag in _flag(name, value)]
    return [sys.executable, "-m", "sglang.launch_server", *flags]


def _flag(name: str, value: Any) -> list[str]:
    if value is None or value is False:
        return []
    flag = f"--{name.replace('_', '-')}"
    values = value if isinstance(value, (list, tuple)) else [value]
    texts = (json.dumps(each) if isinstance(each, dict) else str(each) for each in values)
    return [flag] if value is True else [flag, *texts]


def _device(config: VLMConfig) -> dict[str, Any]:
    """Which GPU, and how much of it."""
    index = int(config.device.partition(":")[2] or 0)
    place = {"base_gpu_id": index} if index else {}
    if config.max_memory_gb is None:
        return place
    if config.max_memory_gb <= RESERVE_GB:
        raise LoadError(
            f"max_memory_gb: {config.max_memory_gb}: SGLang takes {RESERVE_GB} GiB beside weights "
            "and KV cache; raise it, or use framework: transformers"
        )
    share = (config.max_memory_gb - RESERVE_GB) * GIB / _gpu_memory(index)
    return {**place, "mem_fraction_static": round(min(share, 0.95), 3)}


def _gpu_memory(index: int) -> int:
    """Bytes of a GPU, without starting CUDA in this process."""
    import pynvml

    pynvml.nvmlInit()
    try:
        return int(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(index)).total)
    finally:
        pynvml.nvmlShutdown()
