"""Loading a model and its processor with transformers: where, how precise, what can go wrong."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import torch

from loaders.checkpoint import declared_quantization, read_config, scheme_name
from loaders.errors import LoadError, one_line
from loaders.families import Family
from loaders.memory import keep_freed_memory
from loaders.onednn import use_onednn
from loaders.quantization import anywhere, quantization_settings
from loaders.support import family_of, refuse_pair
from loaders.torchvision_repair import repair_torchvision
from loaders.vlm_loader import VLMConfig

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
UNBOUNDED = 1 << 30
OF_THE_CONFIG = ("revision", "trust_remote_code", "token", "subfolder", "cache_dir")


def load(config: VLMConfig, family: Family) -> tuple[Any, Any]:
    """The model and its processor.

    Raises
    ------
    LoadError
        One line with the cause and the remedy; what can be refused is refused before loading.
    """
    declared = _check(config, family)
    if config.device == "cpu":
        keep_freed_memory()
    repair_torchvision()
    silence()
    try:
        processor = load_processor(config)
        model = _load_model(config, family, declared)
    except torch.OutOfMemoryError as error:
        raise LoadError(
            f"{config.model_id}: the weights do not fit on {config.device}: "
            "use quantization: 4bit, a smaller model or another device"
        ) from error
    except OSError as error:
        raise LoadError(
            f"{config.model_id}: its files cannot be had ({one_line(error, 160)}); check the "
            "name, the network and that the weights are safetensors"
        ) from error
    _refuse_offload(config, model)
    use_onednn(model)
    return model.eval(), processor


def _check(config: VLMConfig, family: Family) -> dict[str, Any]:
    """Refuse what cannot work; the checkpoint's own quantization."""
    if config.model_id in family.instead:
        raise LoadError(
            f"{config.model_id}: transformers cannot load it; use {family.instead[config.model_id]}"
        )
    _refuse_device(config)
    _dtype(config)
    checkpoint = read_config(config.model_id, config.revision)
    declared = declared_quantization(checkpoint)
    refuse_pair(config, family_of(config, family, checkpoint), scheme_name(declared))
    return declared


def _refuse_device(config: VLMConfig) -> None:
    try:
        kind = torch.device(config.device).type
    except RuntimeError as error:
        raise LoadError(f"device {config.device!r} is unknown: use cuda, cuda:0 or cpu") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise LoadError(
            f"device {config.device}: torch {torch.__version__} sees no GPU; use device: cpu, or "
            "install a driver and a torch for CUDA"
        )


def _dtype(config: VLMConfig) -> torch.dtype:
    """float32 on a CPU: measured faster there than bfloat16."""
    if config.dtype is not None:
        if config.dtype not in DTYPES:
            raise LoadError(f"dtype {config.dtype!r} is unknown: use {', '.join(DTYPES)}")
        return DTYPES[config.dtype]
    if config.device == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def silence() -> None:
    """No progress bars, advice or, from 8-bit, a line for each matrix product."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(transformers|bitsandbytes|torch|accelerate)\b")


def load_processor(config: VLMConfig) -> Any:
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(
        config.model_id, revision=config.revision, trust_remote_code=config.trust_remote_code
    )
    if getattr(processor, "chat_template", None) is None:
        raise LoadError(
            f"{config.model_id}: no chat template, so it is not a model that follows "
            "instructions; use its instruct version"
        )
    tokenizer = processor.tokenizer
    tokenizer.padding_side = "left"  # answers are appended on the right
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return processor


def _load_model(config: VLMConfig, family: Family, declared: dict[str, Any]) -> Any:
    dtype = _dtype(config)
    arguments: dict[str, Any] = {
        "revision": config.revision,
        "trust_remote_code": config.trust_remote_code,
        "dtype": dtype,
        "use_safetensors": True,
        **_placement(config),
        **config.options,
    }
    quantization = quantization_settings(config, family, declared, dtype)
    if quantization is not None:
        arguments["quantization_config"] = quantization
    model = read_weights(config.model_id, declared, arguments)
    if model.config.is_encoder_decoder:
        raise LoadError(
            f"{config.model_id}: an encoder-decoder model, which cannot be batched here; "
            "use a model such as Qwen2.5-VL"
        )
    return model


def read_weights(model_id: str, declared: dict[str, Any], arguments: dict[str, Any]) -> Any:
    """The model, by ``from_pretrained``; one of its layers without weights is an error.

    Parameters
    ----------
    declared : dict
        The checkpoint's own quantization.
    arguments : dict
        For ``from_pretrained``.

    Raises
    ------
    LoadError
        Weights are missing: transformers would fill them by chance.
    """
    from transformers import AutoConfig, AutoModelForImageTextToText

    if declared:
        hub = {name: arguments[name] for name in OF_THE_CONFIG if name in arguments}
        known = AutoConfig.from_pretrained(model_id, **hub)
        known.quantization_config = anywhere(declared)
        arguments = {"config": known, **arguments}
    model, found = AutoModelForImageTextToText.from_pretrained(
        model_id, output_loading_info=True, **arguments
    )
    missing = sorted(found["missing_keys"])
    if missing:
        raise LoadError(
            f"{model_id}: {len(missing)} of its weights are missing, such as {missing[0]}: "
            "download it again, or use another checkpoint"
        )
    return model


def _placement(config: VLMConfig) -> dict[str, Any]:
    """Where the weights go. A limit works only together with ``device_map="auto"``."""
    device = torch.device(config.device)
    if config.max_memory_gb is not None:
        place = "cpu" if device.type == "cpu" else device.index or 0
        return {"device_map": "auto", "max_memory": {place: f"{config.max_memory_gb}GiB"}}
    if device.type == "cuda" and device.index is None and torch.cuda.device_count() > 1:
        return {"device_map": "auto"}
    return {"device_map": {"": config.device}}


def _refuse_offload(config: VLMConfig, model: Any) -> None:
    """Weights beyond the limit go to the CPU or to disk silently, and every page then crawls."""
    places = {str(place) for place in getattr(model, "hf_device_map", {}).values()}
    if "disk" in places or ("cpu" in places and config.device != "cpu"):
        limit = f"max_memory_gb: {config.max_memory_gb}" if config.max_memory_gb else config.device
        raise LoadError(
            f"{config.model_id}: its weights do not fit into {limit}; raise it, or use "
            "quantization: 4bit or a smaller model"
        )


def weight_bytes(model: Any) -> int:
    """Bytes of the weights as they are held, quantized or not; shared ones once."""
    held = {id(part): part.nbytes for part in (*model.parameters(), *model.buffers())}
    return sum(held.values())


def special_tokens(processor: Any) -> frozenset[str]:
    """Tokens that stand for images or end turns: in a prompt they break every family."""
    tokenizer = processor.tokenizer
    # Some tokenizers know the parts of an image only as added tokens, some processors as names.
    added = {str(t) for t in tokenizer.added_tokens_decoder.values() if t.special}
    named = {v for k, v in vars(processor).items() if k.endswith("_token") and isinstance(v, str)}
    tokens = {*tokenizer.all_special_tokens, *added, *named}
    return frozenset(token for token in tokens if token)


def end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """Token ids that end an answer."""
    ends = model.generation_config.eos_token_id
    if ends is None:
        ends = tokenizer.eos_token_id
    return frozenset(ends if isinstance(ends, (list, tuple)) else [ends])


def context_length(model: Any) -> int:
    """Tokens that the model can hold, prompt and answer together."""
    text = model.config.get_text_config()
    return int(getattr(text, "max_position_embeddings", None) or UNBOUNDED)
