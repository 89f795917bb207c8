"""Ready to train or ready to read: what is switched in a model, and what is remembered for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Loaded:
    """What is remembered of a model until it is trained or read with."""

    processor: Any
    checkpointing: bool
    full_finetuning: bool


def loaded(model: Any) -> Loaded | None:
    return getattr(model, "_fast_vision", None)


def switch(model: Any, checkpointing: bool, use_cache: bool, padding: str) -> None:
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    _set_checkpointing(base, checkpointing)
    for config in (base.config, base.config.get_text_config()):
        config.use_cache = use_cache
    known = loaded(model)
    if known is not None:
        known.processor.tokenizer.padding_side = padding


def _set_checkpointing(model: Any, on: bool) -> None:
    """Its name changed with transformers 5.2x, and the old one warns."""
    kind = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
    if on and model.supports_gradient_checkpointing:
        settings = {f"{kind}_checkpointing_kwargs": {"use_reentrant": False}}
        getattr(model, f"{kind}_checkpointing_enable")(**settings)
    elif not on and model.is_gradient_checkpointing:
        getattr(model, f"{kind}_checkpointing_disable")()
