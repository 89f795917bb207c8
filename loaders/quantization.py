"""Quantization under transformers: which pairs work, and the settings of those that do."""

from __future__ import annotations

import importlib.util
from typing import Any

from loaders.checkpoint import scheme_name
from loaders.errors import LoadError
from loaders.families import SCHEMES, Family
from loaders.vlm_loader import QuantizationType, VLMConfig

BITSANDBYTES = {
    QuantizationType.FOUR_BIT: SCHEMES["4bit"],
    QuantizationType.EIGHT_BIT: SCHEMES["8bit"],
}


def refuse_quantization(config: VLMConfig, family: Family, declared: dict[str, Any]) -> None:
    """Raise LoadError for a pair that cannot work, before anything is loaded.

    Parameters
    ----------
    declared : dict
        The checkpoint's own `quantization_config`, or empty.
    """
    wanted, own = config.quantization, scheme_name(declared)
    if wanted is QuantizationType.AWQ and own != "awq":
        raise _refusal(
            config,
            f"the checkpoint is not quantized with AWQ (its own: {own})",
            "give an AWQ checkpoint, or use quantization: 4bit",
        )
    if wanted in BITSANDBYTES and own not in ("none", BITSANDBYTES[wanted]):
        raise _refusal(
            config,
            f"the checkpoint is quantized already ({own})",
            "use quantization: none, which loads it as it is",
        )
    if wanted is QuantizationType.FOUR_BIT and own == "none" and not family.quantizes_at_load:
        raise _refusal(
            config,
            "its experts, most of the weights, would stay unquantized",
            f"load {family.hub_id}-FP8 with quantization: none",
        )
    needed = {"awq": "gptqmodel", "bnb": "bitsandbytes"}.get(
        "bnb" if wanted in BITSANDBYTES else own.split("-")[0]
    )
    if needed and importlib.util.find_spec(needed) is None:
        raise _refusal(config, f"{needed} is not installed", f"pip install {needed}")


def _refusal(config: VLMConfig, cause: str, remedy: str) -> LoadError:
    return LoadError(
        f"{config.model_id}: quantization {config.quantization.value} cannot be used: "
        f"{cause}; {remedy}"
    )


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
