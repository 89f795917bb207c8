"""The one engine of this process: loaded once, kept, replaced when another config is asked for.

    engine = resident(settings.model)

Importing this loads no framework; the first call of `resident` does.
"""

from __future__ import annotations

import logging
import threading
import time

from loaders.echo import EchoEngine, EchoOptions
from loaders.engine import Engine
from loaders.errors import LoadError, one_line
from loaders.families import quantization_name
from loaders.vlm_loader import InferenceFramework, QuantizationType, VLMConfig, create_vlm_loader
from pagemill.errors import EngineError, UsageError
from pagemill.settings import Model

log = logging.getLogger("pagemill.loaders")

_lock = threading.Lock()
_held: list[tuple[Model, Engine]] = []  # none or one
_loads = 0


def loads() -> int:
    """How often this process has loaded a model."""
    return _loads


def is_loading() -> bool:
    """Whether a model is being loaded at this moment."""
    return _lock.locked() and not _held


def resident(model: Model) -> Engine:
    """This process's engine for `model`, loading it if need be; others wait meanwhile.

    An engine of another config is closed first: two models seldom fit.

    Raises
    ------
    UsageError
        The model's folder or name does not exist.
    EngineError
        The model cannot be loaded; one line with the cause and the remedy.
    """
    with _lock:
        if not _held or _held[0][0] != model:
            _close()
            _held.append((model, _open(model)))
        return _held[0][1]


def release() -> None:
    """Unload the resident engine, if there is one."""
    with _lock:
        _close()


def engine_for(model: Model) -> Engine:
    """A new engine for `model`; the caller closes it.

    Raises
    ------
    UsageError
        The model's name or an option of echo is unknown.
    EngineError
        The model cannot be loaded.
    """
    if model.framework == "echo":
        return _echo(model)
    if model.framework == "openai":
        return _endpoint(model)
    config = VLMConfig(
        model_id=model.id,
        quantization=QuantizationType(model.quantization),
        framework=InferenceFramework(model.framework),
        max_memory_gb=model.max_memory_gb,
        device=model.device,
        trust_remote_code=model.trust_remote_code,
        revision=model.revision,
        batch_size=model.batch_size,
        dtype=model.options.get("dtype"),
        options={name: value for name, value in model.options.items() if name != "dtype"},
    )
    try:
        loader = create_vlm_loader(model.name, config)
        loader.load()
        return loader.engine
    except ValueError as error:
        raise UsageError(f"model.name: {one_line(error)}") from error
    except RuntimeError as error:
        raise EngineError(one_line(error)) from error


def _open(model: Model) -> Engine:
    global _loads
    began, quantization = time.perf_counter(), quantization_name(model)
    engine = engine_for(model)
    engine.load_seconds = time.perf_counter() - began
    _loads += 1
    log.info(
        "loaded %s (%s, %s, %.0f MB of weights) in %.1f s",
        model.id,
        engine.version,
        quantization,
        engine.weight_bytes / 1e6,
        engine.load_seconds,
    )
    return engine


def _close() -> None:
    while _held:
        _held.pop()[1].close()


def _endpoint(model: Model) -> Engine:
    from loaders.openai_engine import OpenAIEngine, endpoint_of

    try:
        return OpenAIEngine(endpoint_of(model.id, model.options), model.batch_size)
    except LoadError as error:
        raise EngineError(one_line(error)) from error


def _echo(model: Model) -> Engine:
    try:
        options = EchoOptions(**model.options)
    except TypeError as error:
        raise UsageError(f"model.options of echo: {one_line(error)}") from error
    return EchoEngine(options, model.batch_size)
