"""The key-value cache of a batch whose rows come and go, over the caches of transformers.

    gather(cache, rows=[0, 2], newcomers=[another], length=1290)

Rows are aligned at their last token; a shorter one has padding on its left, which the attention
mask hides. transformers copies all of the cache for each token (`torch.cat`), a fifth of a step of
eight rows; here its full layers have room behind the last token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

ROOM = 256
"""Tokens that fit before a layer is copied again."""


class GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """A `DynamicLayer` whose keys and values are the first tokens of something longer."""

    _wide: tuple[Tensor, Tensor] | None = None

    def hold(self, wide: tuple[Tensor, Tensor], length: int) -> None:
        """Let the first `length` tokens of these be the keys and values."""
        self._wide = wide
        self.keys, self.values = (part[:, :, :length] for part in wide)

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> Any:
        old = self.keys.shape[-2]
        length = old + key_states.shape[-2]
        wide = self._wide
        if wide is None or wide[0].shape[-2] < length:
            room = length - old + ROOM
            wide = _aligned([*self.keys], old, room), _aligned([*self.values], old, room)
        wide[0][:, :, old:length] = key_states
        wide[1][:, :, old:length] = value_states
        self.hold(wide, length)
        return self.keys, self.values


def can_gather(cache: Any) -> bool:
    """Whether every layer of a cache is one that `gather` knows."""
    known = (DynamicLayer, DynamicSlidingWindowLayer, GrowingLayer)
    return type(cache) is DynamicCache and all(type(layer) in known for layer in cache.layers)


def let_grow(cache: Any) -> None:
    """Give the full layers of a cache room behind the last token, from the next one on."""
    for layer in cache.layers:
        if type(layer) is DynamicLayer and layer.is_initialized:
            layer.__class__ = GrowingLayer


def gather(cache: Any, rows: Sequence[int], newcomers: Sequence[Any], length: int) -> None:
    """Make `cache` hold its own `rows`, then those of `newcomers`, all `length` tokens long.

    What is longer loses tokens on its left, which must be padding.
    """
    others = [other.layers for other in newcomers]
    for layer, *new in zip(cache.layers, *others, strict=True):
        if not layer.is_initialized:  # it uses another layer's
            continue
        sliding = type(layer) is DynamicSlidingWindowLayer
        to, room = (min(length, layer.sliding_window - 1), 0) if sliding else (length, ROOM)
        keys = _aligned([*(layer.keys[row] for row in rows), *_rows(new, "keys")], to, room)
        values = _aligned([*(layer.values[row] for row in rows), *_rows(new, "values")], to, room)
        if sliding:
            layer.keys, layer.values, layer.cumulative_length = keys, values, length
        else:
            layer.__class__ = GrowingLayer
            layer.hold((keys, values), length)


def _rows(layers: Sequence[Any], name: str) -> list[Tensor]:
    return [row for layer in layers for row in getattr(layer, name)]


def _aligned(rows: Sequence[Tensor], length: int, room: int) -> Tensor:
    """Rows of (heads, tokens, width) as one tensor, their last tokens at `length`."""
    heads, _, width = rows[0].shape
    wide = rows[0].new_empty(len(rows), heads, length + room, width)
    for place, row in enumerate(rows):
        tokens = min(row.shape[1], length)
        wide[place, :, : length - tokens] = 0
        wide[place, :, length - tokens : length] = row[:, row.shape[1] - tokens :]
    return wide
