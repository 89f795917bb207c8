"""The one engine of this process: loaded once, kept, replaced when another config is asked for.

    engine = resident(settings.model, pages=12)

Importing this loads no framework; the first call of `resident` does.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import threading
import time
from collections.abc import Iterator

from loaders.echo import EchoEngine, EchoOptions
from loaders.engine import Engine
from loaders.errors import LoadError, one_line
from loaders.support import quantization_name
from loaders.vlm_loader import InferenceFramework, QuantizationType, VLMConfig, create_vlm_loader
from pagemill.errors import EngineError, UsageError
from pagemill.settings import Model

log = logging.getLogger("pagemill.loaders")

FEW_PAGES = 500
"""Fewer are read sooner by vLLM without compiling. It compiles and captures graphs for 25 to 60 s
(H100). A small model then reads perhaps 10 pages a second instead of 6; a large one gains less."""
RELOAD = 10
"""Times as many pages are worth loading again, with compiling, what was loaded without."""

TURN = "PAGEMILL_LOAD_TURN"
"""The variable with the number of an open file, where this process shares its GPU: to be locked
while loading, since vLLM takes for its own what others take of the GPU meanwhile."""

_lock = threading.Lock()
_held: list[tuple[Model, Engine]] = []  # none or one; the model as it was loaded
_loads = 0


def loads() -> int:
    """How often this process has loaded a model."""
    return _loads


def is_loading() -> bool:
    """Whether a model is being loaded at this moment."""
    return _lock.locked() and not _held


def resident(model: Model, pages: int | None = None) -> Engine:
    """This process's engine for `model`, loading it if need be; others wait meanwhile.

    An engine of another config is closed first: two models seldom fit. So is one that has broken.

    Parameters
    ----------
    model : Model
    pages : int, optional
        About how many it will read. Fewer than `FEW_PAGES`: vLLM does not compile, unless
        ``model.options.enforce_eager`` says so. Many are taken for granted where it is left out.

    Raises
    ------
    UsageError
        The model's folder or name does not exist.
    EngineError
        The model cannot be loaded; one line with the cause and the remedy.
    """
    with _lock:
        if not (_held and _held[0][1].alive and _suits(_held[0][0], model, pages)):
            _close()
            wanted = _for_few(model) if _are_few(pages) else model
            if wanted != model:
                log.info("about %d pages: vLLM loads without compiling", pages)
            _held.append((wanted, _open(wanted)))
        return _held[0][1]


def _are_few(pages: int | None, limit: int = FEW_PAGES) -> bool:
    return pages is not None and pages < limit


def _for_few(model: Model) -> Model:
    """The model as it is loaded for a few pages; its own options win."""
    if model.framework != "vllm":
        return model
    return model.model_copy(update={"options": {"enforce_eager": True, **model.options}})


def _suits(held: Model, model: Model, pages: int | None) -> bool:
    """Whether what is resident is kept for this."""
    if held == model:
        return True
    if held != _for_few(model):
        return False
    if _are_few(pages, RELOAD * FEW_PAGES):
        return True
    log.info("it was loaded for a few pages, without compiling: it is loaded again for many")
    return False


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
    quantization = quantization_name(model)
    with _turn():
        began = time.perf_counter()
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


@contextlib.contextmanager
def _turn() -> Iterator[None]:
    """Load one after the other with those on the same GPU."""
    if (file := os.environ.get(TURN)) is None:
        yield
        return
    fcntl.flock(int(file), fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(int(file), fcntl.LOCK_UN)


def _close() -> None:
    while _held:
        _held.pop()[1].close()


def _endpoint(model: Model) -> Engine:
    from loaders.endpoint import endpoint_of
    from loaders.openai_engine import OpenAIEngine

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
