"""Quantization under transformers: the settings of what `loaders.support` lets through."""

from __future__ import annotations

from typing import Any

from loaders.checkpoint import scheme_name
from loaders.families import Family
from loaders.vlm_loader import QuantizationType, VLMConfig

BITSANDBYTES = (QuantizationType.FOUR_BIT, QuantizationType.EIGHT_BIT)
LEFT_ALONE = ("modules_to_not_convert", "llm_int8_skip_modules")
"""Where a checkpoint lists what it did not quantize."""


def anywhere(declared: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint's quantization, whose list of modules left alone is found by transformers 5.

    The lists were written for transformers 4, which looked for a name anywhere in a module's full
    name; 5 takes it as a regular expression at the beginning. Official AWQ checkpoints of
    Qwen2.5-VL say ``visual``, which is ``model.visual`` now: its layers would be made anew, with
    weights of chance, and the model would read nonsense without an error.
    """
    lists = {key: declared[key] for key in LEFT_ALONE if declared.get(key)}
    found = {key: [*names, *(rf".*\.{name}" for name in names)] for key, names in lists.items()}
    return {**declared, **found}


def quantization_settings(
    config: VLMConfig, family: Family, declared: dict[str, Any], dtype: Any
) -> Any:
    """The `quantization_config` for from_pretrained, or None where the checkpoint's own rules."""
    from transformers import AwqConfig, BitsAndBytesConfig

    own = scheme_name(declared)
    if own == "awq" and config.device == "cpu":
        # The default CPU backend compiles C++ for minutes; this one is plain torch.
        return AwqConfig(backend="torch_awq")
    if own != "none" or config.quantization not in BITSANDBYTES:
        return None
    if config.quantization is QuantizationType.EIGHT_BIT:
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=list(family.skip))
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=list(family.skip),
    )
