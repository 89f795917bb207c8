"""Qwen2.5-VL for packed training: transformers' arithmetic and parameter names, without padding.

    model = PageReader(Shape())
    load_checkpoint(model, Path("models/pagereader-19m"))      # checkpoint.py
    loss, measures = model(batch, weights=(1.0, 0.25))

`tests/test_training.py` holds its logits against `Qwen2_5_VLForConditionalGeneration`. Pictures
are grey, so a patch has 196 numbers here and 3 x 2 x 196 equal ones there. The `aux_*` heads
help training and are not exported: which characters stand in a cell, and in which cell the next
token begins. They seem to break the plateau in which a model writes without looking.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn as nn
import torch.nn.functional as F  # noqa: N812

from training.characters import CLASSES
from training.curriculum import KINDS
from training.items import PATCH, SLOTS
from training.packing import IGNORE

Batch: TypeAlias = dict[str, torch.Tensor]
GRID = 64
"""Rows and columns that the "where" head tells apart."""
LONGEST_IMAGE, LONGEST_WINDOW, LONGEST_SAMPLE = 5120, 64, 3968


@dataclass(frozen=True)
class Shape:
    """The size of the model; the default is pagereader-19m."""

    vision_width: int = 256
    vision_depth: int = 8
    vision_heads: int = 4
    vision_mlp: int = 704
    full_attention: tuple[int, ...] = (3, 7)
    width: int = 384
    depth: int = 6
    heads: int = 6
    kv_heads: int = 2
    mlp: int = 1024
    vocabulary: int = 4096
    context: int = 8192
    theta: float = 10_000.0
    sections: tuple[int, int, int] = (8, 12, 12)
    where_layer: int = 2


TINY = Shape(96, 3, 2, 192, (1,), 128, 3, 2, 1, 256, where_layer=1)
"""Learns single lines on a CPU in a minute or two; for the smoke test."""


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    starts: torch.Tensor,
    longest: int,
    causal: bool,
) -> torch.Tensor:
    """Attention within each of the sequences that `starts` cuts (tokens, heads, width) into."""
    repeat = q.shape[1] // k.shape[1]
    if repeat > 1:
        k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
    if q.is_cuda:
        half = [part.bfloat16() for part in (q, k, v)]
        flash = torch.ops.aten._flash_attention_forward
        return flash(*half, starts, starts, longest, longest, 0.0, causal, False)[0]
    ends = torch.unique_consecutive(starts).tolist()
    parts = []
    for first, last in itertools.pairwise(ends):
        a, b, c = (part[first:last].transpose(0, 1)[None] for part in (q, k, v))
        parts.append(F.scaled_dot_product_attention(a, b, c, is_causal=causal)[0].transpose(0, 1))
    return torch.cat(parts)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary positions, halves paired."""
    a, b = x.float().chunk(2, -1)
    cos, sin = cos[:, None], sin[:, None]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)


class RMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x.float()
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6)
        return (self.weight * y).to(x.dtype)


class MLP(nn.Module):
    def __init__(self, width: int, inner: int, bias: bool) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=bias)
        self.up_proj = nn.Linear(width, inner, bias=bias)
        self.down_proj = nn.Linear(inner, width, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class VisionAttention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.vision_heads
        self.qkv = nn.Linear(shape.vision_width, 3 * shape.vision_width)
        self.proj = nn.Linear(shape.vision_width, shape.vision_width)

    def forward(
        self,
        x: torch.Tensor,
        starts: torch.Tensor,
        longest: int,
        cos: torch.Tensor,
        sin: torch.Tensor,
    ) -> torch.Tensor:
        q, k, v = self.qkv(x).view(len(x), 3, self.heads, -1).unbind(1)
        seen = attend(rotate(q, cos, sin), rotate(k, cos, sin), v, starts, longest, causal=False)
        return self.proj(seen.reshape(len(x), -1).to(x.dtype))


class VisionBlock(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.norm1, self.norm2 = RMSNorm(shape.vision_width), RMSNorm(shape.vision_width)
        self.attn = VisionAttention(shape)
        self.mlp = MLP(shape.vision_width, shape.vision_mlp, bias=True)

    def forward(
        self,
        x: torch.Tensor,
        starts: torch.Tensor,
        longest: int,
        cos: torch.Tensor,
        sin: torch.Tensor,
    ) -> torch.Tensor:
        x = x + self.attn(self.norm1(x), starts, longest, cos, sin)
        return x + self.mlp(self.norm2(x))


class Merger(nn.Module):
    """Four patches become one image token."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        inner = shape.vision_width * 4
        self.ln_q = RMSNorm(shape.vision_width)
        self.mlp = nn.Sequential(nn.Linear(inner, inner), nn.GELU(), nn.Linear(inner, shape.width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mlp(self.ln_q(x).reshape(len(x) // 4, -1))


class TextAttention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.head = shape.width // shape.heads
        self.q_proj = nn.Linear(shape.width, shape.width)
        self.k_proj = nn.Linear(shape.width, shape.kv_heads * self.head)
        self.v_proj = nn.Linear(shape.width, shape.kv_heads * self.head)
        self.o_proj = nn.Linear(shape.width, shape.width, bias=False)

    def forward(
        self, x: torch.Tensor, starts: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> torch.Tensor:
        q, k, v = (
            part(x).view(len(x), -1, self.head) for part in (self.q_proj, self.k_proj, self.v_proj)
        )
        seen = attend(
            rotate(q, cos, sin), rotate(k, cos, sin), v, starts, LONGEST_SAMPLE, causal=True
        )
        return self.o_proj(seen.reshape(len(x), -1).to(x.dtype))


class TextBlock(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.self_attn = TextAttention(shape)
        self.mlp = MLP(shape.width, shape.mlp, bias=False)
        self.input_layernorm, self.post_attention_layernorm = (
            RMSNorm(shape.width),
            RMSNorm(shape.width),
        )

    def forward(
        self, x: torch.Tensor, starts: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> torch.Tensor:
        x = x + self.self_attn(self.input_layernorm(x), starts, cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class PageReader(nn.Module):
    def __init__(self, shape: Shape | None = None) -> None:
        super().__init__()
        self.shape = shape = shape or Shape()
        self.patch = nn.Linear(PATCH, shape.vision_width, bias=False)
        self.blocks = nn.ModuleList(VisionBlock(shape) for _ in range(shape.vision_depth))
        self.merger = Merger(shape)
        self.embed = nn.Embedding(shape.vocabulary, shape.width)
        self.layers = nn.ModuleList(TextBlock(shape) for _ in range(shape.depth))
        self.norm = RMSNorm(shape.width)
        self.aux_slots = nn.Linear(shape.width, SLOTS * CLASSES)
        self.aux_cell = nn.Linear(shape.width, 2 * GRID)
        self.aux_next = nn.Linear(shape.width, 2 * GRID)
        self._initialize()
        quarter = shape.vision_width // shape.vision_heads // 2
        self.register_buffer("vision_pace", _pace(quarter, 10_000.0), persistent=False)
        self.register_buffer(
            "text_pace", _pace(shape.width // shape.heads, shape.theta), persistent=False
        )
        axis = torch.repeat_interleave(torch.arange(3), torch.tensor(shape.sections))
        self.register_buffer("axis", axis, persistent=False)

    def _initialize(self) -> None:
        into = 0.02 / math.sqrt(2 * self.shape.vision_depth)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                last = name.endswith((".proj.weight", "o_proj.weight", "down_proj.weight"))
                nn.init.normal_(parameter, 0, into if last else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
        nn.init.normal_(self.patch.weight, 0, 0.05)

    def see(self, batch: Batch) -> torch.Tensor:
        """Image tokens, in window order."""
        x = self.patch(batch["patches"].float() * (2 / 255) - 1)
        angles = [batch[side][:, None].float() * self.vision_pace for side in ("row", "column")]
        angle = torch.cat(angles, 1)
        cos, sin = angle.cos(), angle.sin()
        if torch.is_autocast_enabled(x.device.type):
            x = x.bfloat16()
        for number, block in enumerate(self.blocks):
            whole = number in self.shape.full_attention
            starts = batch["starts_image" if whole else "starts_window"]
            x = block(x, starts, LONGEST_IMAGE if whole else LONGEST_WINDOW, cos, sin)
        return self.merger(x)

    def read(self, batch: Batch, seen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The last hidden states, and those of `where_layer`."""
        cell = batch["cell_of_token"]
        words = F.embedding(batch["tokens"], self.embed.weight).to(seen.dtype)
        x = torch.where((cell >= 0)[:, None], seen[cell.clamp(min=0)], words)
        angle = batch["positions"].float()[self.axis].t() * self.text_pace
        cos, sin = angle.cos(), angle.sin()
        middle = x
        for number, layer in enumerate(self.layers):
            x = layer(x, batch["starts_sample"], cos, sin)
            middle = x if number == self.shape.where_layer else middle
        return self.norm(x), middle

    def forward(
        self,
        batch: Batch,
        weights: tuple[float, float],
        sampled_cells: int = 2048,
        caption_weight: float = 1.0,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss, and by kind of sample: tokens, tokens right, sum of cross entropy.

        Parameters
        ----------
        weights : (float, float)
            Of the auxiliary losses: characters in a cell, where the next token is.
        caption_weight : float
            Of a caption's token against one of a page, which has a hundred times as many.
        """
        seen = self.see(batch)
        x, middle = self.read(batch, seen)
        logits = F.linear(x[batch["label_at"]], self.embed.weight.to(x.dtype)).float()
        label = batch["label"].long()
        valid = label != IGNORE
        entropy = F.cross_entropy(logits, label, ignore_index=IGNORE, reduction="none")
        weight = torch.where(batch["label_kind"] >= len(KINDS), caption_weight, 1.0) * valid
        loss = (entropy * weight).sum() / weight.sum().clamp(min=1)
        with torch.no_grad():
            measures = torch.zeros(2 * len(KINDS), 3, device=x.device)
            right = (logits.argmax(-1) == label) & valid
            measures.index_add_(
                0,
                batch["label_kind"].long(),
                torch.stack([valid.float(), right.float(), entropy.detach() * valid], 1),
            )
        if weights[0] > 0:
            loss = loss + weights[0] * self._characters_in_cells(batch, seen, sampled_cells)
        if weights[1] > 0:
            hidden = F.rms_norm(middle, (middle.shape[-1],))
            following = _place_loss(self.aux_next(hidden[batch["label_at"]]), batch["label_place"])
            cell = batch["cell_of_token"]
            own = torch.where((cell >= 0)[:, None], batch["cell_place"][cell.clamp(min=0)], -1)
            step = torch.arange(0, len(own), 4, device=own.device)
            loss = loss + weights[1] * (
                following + 0.2 * _place_loss(self.aux_cell(hidden[step]), own[step])
            )
        return loss, measures

    def _characters_in_cells(self, batch: Batch, seen: torch.Tensor, count: int) -> torch.Tensor:
        chosen = torch.randint(len(seen), (min(count, len(seen)),), device=seen.device)
        logits = (
            self.aux_slots(F.rms_norm(seen[chosen], (seen.shape[-1],))).float().view(-1, CLASSES)
        )
        label = batch["slots"][chosen].long().view(-1)
        entropy = F.cross_entropy(logits, label, reduction="none")
        weight = torch.where(label > 0, 1.0, 0.1)
        return (entropy * weight).sum() / weight.sum()


def _pace(width: int, theta: float) -> torch.Tensor:
    return 1.0 / theta ** (torch.arange(0, width, 2).float() / width)


def _place_loss(logits: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    logits, place = logits.float(), place.long()
    rows = F.cross_entropy(logits[:, :GRID], place[:, 0], ignore_index=-1)
    return rows + F.cross_entropy(logits[:, GRID:], place[:, 1], ignore_index=-1)
