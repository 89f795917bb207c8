"""`pagemill doctor`: what works on this machine, and what to install for what does not."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
from collections.abc import Callable
from typing import NamedTuple

from loaders.families import needs_gpu, takes_time_to_load
from pagemill.settings import Settings


class Finding(NamedTuple):
    """One line: what was looked at, whether it is fine, what was seen, what to do."""

    what: str
    state: str
    seen: str
    remedy: str = ""


OK, MISSING, OPTIONAL, BROKEN = "ok", "missing", "optional", "broken"


def examine(settings: Settings) -> list[Finding]:
    """Look at everything that the settings may need. Nothing is loaded, nothing is written."""
    checks: tuple[Callable[[Settings], Finding], ...] = (
        _pdfium,
        _poppler,
        _torch,
        _gpu,
        _framework("transformers", "pip install 'pagemill[transformers]'"),
        _framework("bitsandbytes", "pip install 'pagemill[transformers]'"),
        _framework("vllm", "pip install 'pagemill[vllm]', in an environment of its own"),
        _framework("sglang", "pip install 'pagemill[sglang]', in an environment of its own"),
        *([_endpoint] if settings.model.framework == "openai" else []),
        _model,
        _storage,
        _prefect,
    )
    return [_safely(check, settings) for check in checks]


def _safely(check: Callable[[Settings], Finding], settings: Settings) -> Finding:
    try:
        return check(settings)
    except Exception as error:
        name = getattr(check, "__name__", "check").strip("_")
        return Finding(name, BROKEN, f"{type(error).__name__}: {error}", "install it again")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _pdfium(settings: Settings) -> Finding:
    import pypdfium2

    return Finding("first renderer", OK, f"pypdfium2 {pypdfium2.PYPDFIUM_INFO}")


def _poppler(settings: Settings) -> Finding:
    if shutil.which("pdftoppm") is None:
        remedy = "apt install poppler-utils (pages that pdfium cannot draw fail without it)"
        return Finding("second renderer", OPTIONAL, "poppler is not installed", remedy)
    answer = subprocess.run(["pdftoppm", "-v"], capture_output=True, text=True, timeout=10)
    return Finding("second renderer", OK, answer.stderr.splitlines()[0])


def _torch(settings: Settings) -> Finding:
    if _version("torch") is None:
        state = MISSING if takes_time_to_load(settings.model) else OPTIONAL
        return Finding("torch", state, "not installed", "pip install 'pagemill[transformers]'")
    import torch

    return Finding("torch", OK, f"{torch.__version__}, {torch.get_num_threads()} threads")


def _gpu(settings: Settings) -> Finding:
    wanted = needs_gpu(settings.model)
    if _version("torch") is not None:
        import torch

        if torch.cuda.is_available():
            names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
            idle = len(names) - settings.gpus_per_worker
            alone = wanted and idle > 0 and settings.work.runner == "thread"
            remedy = f"a run leaves {idle} idle: --set work.runner=process" if alone else ""
            return Finding("GPU", OK, ", ".join(names), remedy)
    remedy = "install torch for your GPU's CUDA, or --set model.device=cpu" if wanted else ""
    return Finding("GPU", MISSING if wanted else OPTIONAL, "none that torch can use", remedy)


def _framework(package: str, remedy: str) -> Callable[[Settings], Finding]:
    def check(settings: Settings) -> Finding:
        version = _version(package)
        if version:
            return Finding(package, OK, version)
        needed = settings.model.framework == package
        return Finding(package, MISSING if needed else OPTIONAL, "not installed", remedy)

    return check


def _endpoint(settings: Settings) -> Finding:
    """Is it there, does it take the key, does it serve the model? Nothing is asked of the model."""
    from loaders.endpoint import endpoint_of
    from loaders.openai_engine import OpenAIEngine

    try:
        endpoint = endpoint_of(settings.model.id, settings.model.options)
        engine = OpenAIEngine(endpoint, batch_size=1)
    except RuntimeError as error:
        return Finding("endpoint", BROKEN, str(settings.model.options.get("base_url")), str(error))
    engine.close()
    return Finding("endpoint", OK, f"{endpoint.base_url} serves {endpoint.model}")


def _model(settings: Settings) -> Finding:
    from pagemill.errors import UsageError
    from pagemill.recipe import model_identity

    try:
        name, revision = model_identity(settings.model)
    except UsageError as error:
        return Finding("model", MISSING, settings.model.id, str(error))
    return Finding("model", OK, f"{name} ({revision[:20]}…)")


def _storage(settings: Settings) -> Finding:
    from pagemill.s3 import endpoint as s3_endpoint

    endpoint = s3_endpoint(settings.storage) or "AWS"
    profile = settings.storage.profile or os.environ.get("AWS_PROFILE")
    if settings.storage.anonymous:
        keys = "anonymous"
    elif os.environ.get("AWS_ACCESS_KEY_ID"):
        keys = "keys from the environment"
    else:
        keys = f"profile {profile}" if profile else "no keys in the environment"
    return Finding("storage", OK, f"local disk; S3 at {endpoint}, {keys}; s3fs {_version('s3fs')}")


def _prefect(settings: Settings) -> Finding:
    from prefect.settings import PREFECT_API_URL

    version, url = _version("prefect"), PREFECT_API_URL.value()
    if not url:
        return Finding(
            "Prefect API", OK, f"prefect {version}; none configured, a run starts its own"
        )
    import httpx

    try:
        httpx.get(f"{url}/health", timeout=5).raise_for_status()
    except httpx.HTTPError as error:
        remedy = "start it (`prefect server start`) or unset PREFECT_API_URL"
        return Finding("Prefect API", BROKEN, f"{url}: {type(error).__name__}", remedy)
    return Finding("Prefect API", OK, f"prefect {version} at {url}")
