"""What a checkpoint says of itself, read without loading it or importing torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loaders.errors import LoadError


def is_folder(model_id: str) -> bool:
    """A path rather than a hub id: it exists, or can only be a path."""
    is_path = model_id.startswith(("/", "./", "../", "~")) or model_id.count("/") > 1
    return is_path or Path(model_id).is_dir()


def is_mistral_form(model_id: str, options: Mapping[str, Any]) -> bool:
    """Whether a checkpoint is in Mistral's consolidated format, which vLLM alone reads here.

    Parameters
    ----------
    options : mapping
        Of the framework; vLLM's own ``config_format`` decides.
    """
    if "config_format" in options:
        return bool(options["config_format"] == "mistral")
    folder = Path(model_id).expanduser()
    if is_folder(model_id):
        return (folder / "params.json").is_file() and not (folder / "config.json").is_file()
    return model_id.startswith("mistralai/Pixtral")


def read_config(
    model_id: str, revision: str | None = None, token: str | None = None
) -> dict[str, Any]:
    """The checkpoint's config.json.

    Parameters
    ----------
    token : str, optional
        For a private repository of the hub; by default the environment's.

    Raises
    ------
    LoadError
        There is no such folder, file or hub repository; one line with the remedy.
    """
    folder = is_folder(model_id)
    path = _folder_config(model_id) if folder else _hub_config(model_id, revision, token)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LoadError(f"{path}: not a readable model config: {error}") from error
    if not isinstance(config, dict):
        raise LoadError(f"{path}: not a model config: expected a JSON object")
    return config


def _folder_config(model_id: str) -> Path:
    folder = Path(model_id).expanduser()
    if not folder.is_dir():
        raise LoadError(f"{model_id}: no such folder; give the folder of a model, or a hub id")
    if is_mistral_form(model_id, {}):
        raise LoadError(
            f"{model_id}: in Mistral's own format (params.json), which only vLLM reads: use "
            "framework: vllm, or a folder in Hugging Face's format"
        )
    if not (folder / "config.json").is_file():
        raise LoadError(f"{model_id}: no config.json in it; give a folder in Hugging Face's format")
    return folder / "config.json"


def _hub_config(model_id: str, revision: str | None, token: str | None) -> Path:
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    try:
        cached = try_to_load_from_cache(model_id, "config.json", revision=revision)
        # What is cached under a branch may be stale, what is cached under a commit cannot.
        if revision is not None and isinstance(cached, str):
            return Path(cached)
        return Path(hf_hub_download(model_id, "config.json", revision=revision, token=token))
    except Exception as error:
        raise LoadError(
            f"{model_id}: its config.json cannot be had from the hub or its cache "
            f"({type(error).__name__}); check the name, the network and HF_TOKEN, or give the "
            "folder of a downloaded model"
        ) from error


def declared_quantization(config: dict[str, Any]) -> dict[str, Any]:
    """The `quantization_config` of a checkpoint that was quantized before; else empty."""
    declared = config.get("quantization_config")
    return dict(declared) if isinstance(declared, dict) else {}


def scheme_name(declared: dict[str, Any]) -> str:
    """The real name of a checkpoint's own quantization, such as ``fp8`` or ``bnb-nf4``."""
    method = str(declared.get("quant_method", "")) if declared else "none"
    if not method.startswith("bitsandbytes"):
        return method or "unknown"
    if declared.get("load_in_8bit", declared.get("_load_in_8bit")):
        return "bnb-int8"
    return f"bnb-{declared.get('bnb_4bit_quant_type', 'fp4')}"
