"""Training for 4 bits: the matrices as bitsandbytes' nf4 rounds them, in steps between plain ones.

    turns = itertools.cycle(ways(model))
    with rounded(next(turns)):
        loss, measures = model(batch, weights)
        loss.backward()
    optimizer.step(...)        # of the true weights, by the gradient at the rounded ones

The gradient passes through rounding as if it were not there ("straight through"; Y. Bengio et
al., 2013). Every second step is plain, so that bf16 stays as good. bitsandbytes also stores the
scales of the blocks in 8 bits; that changes what is rounded off by 4 %, and is left out here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
import torch.nn as nn

BLOCK = 64
"""Neighbours that share a scale."""
LEVELS = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
"""Equally filled bins of a normal distribution (T. Dettmers et al., QLoRA, 2023, appendix E)."""


def nf4(weights: torch.Tensor) -> torch.Tensor:
    """What 4 bits leave of (n, 64) weights, in their own type."""
    levels = _levels(weights.device)
    scale = weights.float().abs().amax(1, keepdim=True).clamp(min=1e-38)
    nearest = torch.bucketize(weights / scale, (levels[1:] + levels[:-1]) / 2, out_int32=True)
    return (levels[nearest] * scale).to(weights.dtype)


@cache  # or every step would wait for the copy
def _levels(device: torch.device) -> torch.Tensor:
    return torch.tensor(LEVELS, device=device)


@contextmanager
def rounded(parameters: list[nn.Parameter]) -> Iterator[None]:
    """Hold the rounded weights in the parameters, in place; then the true ones again."""
    if not parameters:
        yield
        return
    data = [parameter.data for parameter in parameters]
    true = torch.cat([weight.view(-1, BLOCK) for weight in data])
    sizes = [len(weight.view(-1, BLOCK)) for weight in data]
    _spread(nf4(true), sizes, data)
    try:
        yield
    finally:
        _spread(true, sizes, data)


def _spread(rows: torch.Tensor, sizes: list[int], onto: list[torch.Tensor]) -> None:
    parts = rows.split(sizes)
    torch._foreach_copy_(onto, [p.view_as(w) for p, w in zip(parts, onto, strict=True)])


def ways(model: nn.Module) -> tuple[list[nn.Parameter], ...]:
    """What is rounded in one step, the next, and so on: as the model will be loaded.

    transformers' loader quantizes the language model alone (`loaders.families.SKIP` keeps the
    eyes), vLLM all but the embedding and the first layer of the eyes.
    """

    def matrices(*prefixes: str) -> list[nn.Parameter]:
        named = model.named_parameters()
        return [p for name, p in named if name.startswith(prefixes) and p.dim() == 2]

    return [], matrices("layers."), [], matrices("layers.", "blocks.", "merger.")
