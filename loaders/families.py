"""The model families known by name, as data: to add one, add a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pagemill.settings import Model

SKIP = (
    "lm_head",
    "language_model.lm_head",
    "model.vision_tower",
    "model.visual",
    "vision_model",
    "model.vision_model",
    "model.multi_modal_projector",
    "multi_modal_projector",
)
"""Modules that stay in full precision: the eyes, the bridge and the output layer. Written as
prefixes or suffixes of full names, as transformers 5 matches them ("vision_tower" would skip
nothing), and with lm_head, because a list of one's own replaces the default one."""


@dataclass(frozen=True)
class Family:
    """What is to be known of a model family.

    Attributes
    ----------
    names : tuple of str
        What `create_vlm_loader` calls it.
    hub_id : str
        A checkpoint that transformers loads.
    model_types : tuple of str
        What `model_type` in the checkpoint's config.json must be; empty for any.
    skip : tuple of str
        Modules that quantization leaves alone.
    instead : mapping of str to str
        Checkpoints that transformers cannot load, and which to use instead.
    """

    names: tuple[str, ...]
    hub_id: str
    model_types: tuple[str, ...] = ()
    skip: tuple[str, ...] = SKIP
    instead: Mapping[str, str] = field(default_factory=dict)


FAMILIES: dict[str, Family] = {
    "llama4": Family(
        names=("llama-4-maverick", "llama4-maverick"),
        hub_id="meta-llama/Llama-4-Maverick-17B-128E-Instruct",
        model_types=("llama4",),
    ),
    "gemma3": Family(
        names=("gemma-3-27b", "gemma3"),
        hub_id="google/gemma-3-27b-it",
        model_types=("gemma3",),
    ),
    "internvl3": Family(
        names=("internvl3-78b", "internvl3"),
        hub_id="OpenGVLab/InternVL3-78B-hf",
        model_types=("internvl",),
        # Remote code written for transformers 4.
        instead={"OpenGVLab/InternVL3-78B": "OpenGVLab/InternVL3-78B-hf"},
    ),
    "pixtral": Family(
        names=("pixtral-large", "pixtral"),
        hub_id="nintwentydo/Pixtral-Large-Instruct-2411",
        model_types=("llava",),
        # Mistral's own consolidated format.
        instead={
            "mistralai/Pixtral-Large-Instruct-2411": "nintwentydo/Pixtral-Large-Instruct-2411"
        },
    ),
    "qwen25vl": Family(
        names=("qwen2.5-vl-72b", "qwen25vl"),
        hub_id="Qwen/Qwen2.5-VL-72B-Instruct",
        model_types=("qwen2_5_vl",),
    ),
    "auto": Family(names=("auto",), hub_id="any image-text-to-text model"),
}


def family_names() -> str:
    """Every name, for messages."""
    return ", ".join(name for family in FAMILIES.values() for name in family.names)


LOADS_NOTHING = ("echo", "openai")
"""Frameworks whose models are not loaded by the host that asks them."""


def takes_time_to_load(model: Model) -> bool:
    """Whether an engine of this model is loaded by the host it runs on."""
    return model.framework not in LOADS_NOTHING


def needs_gpu(model: Model) -> bool:
    """Whether an engine of this model takes a GPU of the host it runs on."""
    return takes_time_to_load(model) and model.device.startswith("cuda")
