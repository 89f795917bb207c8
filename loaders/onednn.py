"""A model's matrix products on a CPU, by oneDNN.

In float32 torch multiplies with MKL, which on other processors than Intel's does not use AVX-512:
on an AMD EPYC (Zen 5, 2 cores) it does 110 GFLOP/s where oneDNN, which torch carries as well, does
280, and with eight rows in a batch 50 where it does 135. So layers are given oneDNN's product over
weights that it has packed once. Both are float32: results differ in the last digits, as between
any two batch sizes. bfloat16 goes to oneDNN by itself.
"""

from __future__ import annotations

import platform
from typing import Any

import torch
from torch import Tensor, nn

X86 = ("x86_64", "amd64")
ATTENTION = "pagemill-onednn"
"""Name of `_attend` among the attentions of transformers."""
LONG, CHUNK = 1024, 384
"""Patches from which on an image is attended to here; those that look at once, by their scores."""


def available() -> bool:
    """Whether this torch has oneDNN's product over packed weights, and this CPU is one for it."""
    return (
        platform.machine().lower() in X86
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def use_onednn(model: nn.Module) -> None:
    """Let oneDNN multiply in the float32 layers of a model that is on a CPU and only infers.

    Layers of other precisions or kinds, such as quantized ones, stay as they are. A layer is
    packed when it is first used, and its weight is then kept in packed form alone, unless another
    layer shares it. Of attention, only what a vision tower does over a whole image is changed.
    """
    if not available():
        return
    _attend_by_onednn(getattr(getattr(model, "config", None), "vision_config", None))
    owners: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    for module in model.modules():
        weight: Any = getattr(module, "weight", None)
        if type(module) not in (nn.Linear, nn.Conv3d) or not _fits(weight):
            continue
        if type(module) is nn.Linear:
            module.__class__ = _Linear
            module._alone = owners[id(weight)] == 1
        elif module.padding == (0, 0, 0) and module.groups == 1:
            module.__class__ = _PatchConv3d


def _fits(weight: Any) -> bool:
    return weight is not None and weight.dtype is torch.float32 and weight.device.type == "cpu"


class _Linear(nn.Linear):  # type: ignore[misc]
    """`nn.Linear` over packed weights."""

    weight: Any
    _packed: Tensor | None = None
    _alone: bool

    def forward(self, x: Tensor) -> Tensor:
        if self._packed is None:
            self._pack()
        product: Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self._packed, self.bias, "none", [], ""
        )
        return product

    def _pack(self) -> None:
        packed = torch.ops.mkldnn._reorder_linear_weight(self.weight.detach())
        self._packed = packed
        if self._alone:
            self.weight = nn.Parameter(packed, requires_grad=False)


class _PatchConv3d(nn.Conv3d):  # type: ignore[misc]
    """`nn.Conv3d` that knows a single patch: as one product, eight times faster."""

    def forward(self, x: Tensor) -> Tensor:
        if tuple(x.shape[-3:]) != self.kernel_size:
            return super().forward(x)
        product = torch.ops.mkldnn._linear_pointwise(
            x.flatten(1), self.weight.flatten(1), self.bias, "none", [], ""
        )
        return product[:, :, None, None, None]


def _attend_by_onednn(eyes: Any) -> None:
    """Give the vision tower of that config `_attend`, where it has torch's own attention."""
    if getattr(eyes, "_attn_implementation", None) != "sdpa":
        return
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(ATTENTION, _attend)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)
    eyes._attn_implementation = ATTENTION


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **settings: Any
) -> tuple[Tensor, None]:
    """Attention as transformers calls it: (images, heads, patches, width).

    torch's own multiplies with MKL; here a page of 5,000 patches takes 0.6 of the time.
    """
    causal = settings.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    plain = not causal and attention_mask is None and query.dtype is torch.float32
    if not plain or query.shape[2] < LONG or query.shape[:2] != key.shape[:2]:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        attended: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, **settings
        )
        return attended
    scale = settings.get("scaling") or query.shape[-1] ** -0.5
    images, heads, patches, _ = query.shape
    seen = query.new_empty(images, patches, heads, value.shape[-1])
    for image in range(images):
        for head in range(heads):
            seen[image, :, head] = _look(
                query[image, head] * scale, key[image, head], value[image, head]
            )
    return seen, None


def _look(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """One head: (patches, width) each."""
    multiply, key = torch.ops.mkldnn._linear_pointwise, key.contiguous()
    values = value.t().contiguous()
    seen = []
    for some in query.split(CHUNK):
        scores = multiply(some, key, None, "none", [], "")
        torch.softmax(scores, dim=-1, out=scores)
        seen.append(multiply(scores, values, None, "none", [], ""))
    return torch.cat(seen)
