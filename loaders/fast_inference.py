"""`fast_inference`: a vLLM engine beside the model that is fine-tuned."""

from __future__ import annotations

import importlib.util
from typing import Any

from loaders.vlm_loader import QuantizationType, VLMConfig


def refuse_fast_inference(full_finetuning: bool, wanted: QuantizationType | None) -> None:
    """Raise what `FastVisionModel.from_pretrained` documents, before anything is loaded."""
    if full_finetuning:
        raise NotImplementedError(
            "fast_inference reads fixed weights: it does not go with full_finetuning"
        )
    if wanted is QuantizationType.EIGHT_BIT:
        raise NotImplementedError(
            "fast_inference cannot load in 8 bits: use load_in_4bit or load_in_16bit"
        )
    if importlib.util.find_spec("vllm") is None:
        raise ImportError(
            "fast_inference needs vLLM: pip install 'pagemill[vllm]', or use fast_inference=False"
        )


def add_vllm(
    model: Any, config: VLMConfig, max_seq_length: int, share: float, token: str | None
) -> None:
    """Give the model its ``vllm_engine`` and ``fast_generate``, with a share of the GPU."""
    from vllm import LLM

    four_bit = config.quantization is QuantizationType.FOUR_BIT
    model.vllm_engine = LLM(
        config.model_id,
        revision=config.revision,
        hf_token=token,
        max_model_len=max_seq_length,
        gpu_memory_utilization=share,
        dtype=config.dtype,
        quantization="bitsandbytes" if four_bit else None,
        trust_remote_code=config.trust_remote_code,
    )
    model.fast_generate = model.vllm_engine.generate
