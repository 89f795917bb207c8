"""A page reader's weights and settings under transformers' names, there and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from training.items import PATCH
from training.model import PageReader, Shape

COPIES = 6
"""Colours times frames of a patch as transformers sees it; all equal for grey stills."""
_NAMES = {
    "blocks.": "model.visual.blocks.",
    "merger.": "model.visual.merger.",
    "embed.": "model.language_model.embed_tokens.",
    "layers.": "model.language_model.layers.",
    "norm.": "model.language_model.norm.",
}
_PATCH = "model.visual.patch_embed.proj.weight"


def to_transformers(model: PageReader) -> dict[str, torch.Tensor]:
    """The weights under transformers' names, in float32."""
    state = {
        _PATCH: model.patch.weight.detach()
        .float()
        .cpu()
        .view(-1, 1, 1, 14, 14)
        .repeat(1, 3, 2, 1, 1)
        / COPIES
    }
    for name, parameter in model.named_parameters():
        for ours, theirs in _NAMES.items():
            if name.startswith(ours):
                state[theirs + name[len(ours) :]] = parameter.detach().float().cpu()
    return state


def load_checkpoint(model: PageReader, folder: Path) -> None:
    """Take the weights of a transformers checkpoint; the auxiliary heads stay as they are."""
    from safetensors.torch import load_file

    state: dict[str, torch.Tensor] = {}
    for shard in sorted(folder.glob("*.safetensors")):
        for name, weight in load_file(shard).items():
            if name.endswith("patch_embed.proj.weight"):
                state["patch.weight"] = weight.float().sum((1, 2)).view(-1, PATCH)
            for ours, theirs in _NAMES.items():
                for prefix in (
                    theirs,
                    theirs.removeprefix("model."),
                    theirs.replace("model.language_model", "model"),
                ):
                    if name.startswith(prefix):
                        state.setdefault(ours + name[len(prefix) :], weight.float())
    missing = model.load_state_dict(state, strict=False).missing_keys
    lost = [name for name in missing if not name.startswith("aux_")]
    if lost:
        raise SystemExit(f"{folder}: no weights for {', '.join(lost[:3])}")


def configuration(shape: Shape, ids: dict[str, int]) -> Any:
    """The `Qwen2_5_VLConfig` of this shape; `ids` are those of the special tokens."""
    from transformers import Qwen2_5_VLConfig

    ends = {
        "bos_token_id": ids["endoftext"],
        "eos_token_id": ids["im_end"],
        "pad_token_id": ids["endoftext"],
    }
    text = {
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.width,
        "intermediate_size": shape.mlp,
        "num_hidden_layers": shape.depth,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "max_position_embeddings": shape.context,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
        **ends,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": shape.theta,
            "mrope_section": list(shape.sections),
        },
    }
    vision = {
        "depth": shape.vision_depth,
        "hidden_size": shape.vision_width,
        "intermediate_size": shape.vision_mlp,
        "num_heads": shape.vision_heads,
        "out_hidden_size": shape.width,
        "fullatt_block_indexes": list(shape.full_attention),
        "window_size": 112,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "in_channels": 3,
        "tokens_per_second": 2,
    }
    return Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        tie_word_embeddings=True,
        image_token_id=ids["image_pad"],
        video_token_id=ids["video_pad"],
        vision_start_token_id=ids["vision_start"],
        vision_end_token_id=ids["vision_end"],
        **ends,
    )
