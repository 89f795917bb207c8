"""Quantization under transformers: the settings of what `loaders.support` lets through."""

from __future__ import annotations

from typing import Any

from loaders.checkpoint import scheme_name
from loaders.families import Family
from loaders.vlm_loader import QuantizationType, VLMConfig

BITSANDBYTES = (QuantizationType.FOUR_BIT, QuantizationType.EIGHT_BIT)


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
