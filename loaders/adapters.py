"""LoRA adapters: which layers of a vision-language model get them, and adding them by peft."""

from __future__ import annotations

import re
from typing import Any

from loaders.base_model import prepare_libraries
from loaders.errors import one_line

EYES = re.compile(r"vision|visual")
ATTENTION = re.compile(r"attn|attention")
MLP = re.compile(r"mlp|feed_forward|ffn")
NO_LAYER = re.compile(r"projector|merger|connector|adapter|router|lm_head|tower\.head\.")
"""Bridges, routers and heads: not adapted, as they are not quantized."""


def check_rank(r: Any) -> None:
    if type(r) is not int or r < 1:
        raise TypeError(f"r, the rank of the adapters, must be a positive integer, not {r!r}")


def targets(
    model: Any, names: list[str] | None, halves: tuple[bool, bool], kinds: tuple[bool, bool]
) -> list[str]:
    """Full names of the layers to adapt.

    Parameters
    ----------
    names : list of str, optional
        Last names to choose from.
    halves : tuple of bool
        Language, vision.
    kinds : tuple of bool
        Attention, MLP.
    """
    import torch

    patterns = [pattern for pattern, on in zip((ATTENTION, MLP), kinds, strict=True) if on]
    found = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
        and not NO_LAYER.search(name)
        and halves[bool(EYES.search(name))]
        and any(pattern.search(name) for pattern in patterns)
        and (names is None or name.rpartition(".")[2] in names)
    ]
    if not found:
        raise ValueError("no layer is left to adapt: see target_modules and the finetune_ flags")
    return found


def adapt(model: Any, seed: int, **settings: Any) -> Any:
    """The model with adapters, their weights drawn by `seed`; `settings` are peft's."""
    import torch

    prepare_libraries()  # peft imports transformers
    try:
        import peft
    except ImportError as error:
        raise ImportError(
            f"get_peft_model needs peft ({one_line(error)}): pip install 'pagemill[finetune]'"
        ) from error
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **settings))
