"""Muon for the matrices, AdamW for the rest.

Muon (K. Jordan, 2024) replaces a matrix's averaged gradient by the nearest orthogonal matrix,
found with five Newton-Schulz steps whose coefficients are those of Polar Express (N. Amsel et
al., 2025). Matrices of one shape are stepped together; Q, K and V of a fused projection count
as three.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import torch
import torch.nn as nn

COEFFICIENTS = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)


def orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """The nearest orthogonal matrices to (count, rows, columns), roughly."""
    x = matrices.bfloat16() if matrices.is_cuda else matrices
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for a, b, c in COEFFICIENTS:
        square = x @ x.mT
        x = a * x + (b * square + c * (square @ square)) @ x
    return x.mT if tall else x


class Muon:
    def __init__(self, parameters: list[tuple[str, nn.Parameter]]) -> None:
        self.groups: dict[tuple[int, int], list[tuple[nn.Parameter, int]]] = defaultdict(list)
        for name, parameter in parameters:
            parts = 3 if "qkv" in name else 1
            self.groups[parameter.shape[0] // parts, parameter.shape[1]].append((parameter, parts))
        self.averages = {
            shape: torch.zeros(sum(parts for _, parts in group), *shape, device=group[0][0].device)
            for shape, group in self.groups.items()
        }

    @torch.no_grad()
    def step(self, rate: float, decay: float, momentum: float) -> None:
        for shape, group in self.groups.items():
            gradient = torch.cat(
                [p.grad.view(parts, *shape) for p, parts in group if p.grad is not None]
            ).float()
            average = self.averages[shape]
            average.lerp_(gradient, 1 - momentum)
            update = orthogonal(torch.lerp(gradient, average, momentum)) * (
                0.2 * math.sqrt(max(shape))
            )
            matrices = [p.data for p, _ in group]
            pieces = update.split([parts for _, parts in group])
            changes = [
                piece.reshape(m.shape).to(m.dtype)
                for piece, m in zip(pieces, matrices, strict=True)
            ]
            torch._foreach_mul_(matrices, 1 - rate * decay)
            torch._foreach_add_(matrices, changes, alpha=-rate)

    def state_dict(self) -> dict[str, Any]:
        return {str(shape): average for shape, average in self.averages.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for shape, average in self.averages.items():
            average.copy_(state[str(shape)])


class Optimizer:
    """Both, with one schedule: `step(0.5)` steps at half the full rates."""

    def __init__(
        self,
        model: nn.Module,
        muon_rate: float = 3e-3,
        adam_rate: float = 1.5e-3,
        decay: float = 0.03,
    ) -> None:
        named = list(model.named_parameters())
        matrices = [
            (n, p) for n, p in named if p.dim() == 2 and not n.startswith(("embed", "patch", "aux"))
        ]
        ours = {name for name, _ in matrices}
        self.rest = [p for n, p in named if n not in ours]
        self.rates, self.decay, self.steps = (muon_rate, adam_rate), decay, 0
        self.muon = Muon(matrices)
        fused = self.rest[0].is_cuda
        self.adam = torch.optim.AdamW(
            self.rest, lr=adam_rate, betas=(0.9, 0.95), eps=1e-9, weight_decay=0.0, fused=fused
        )

    def step(self, factor: float) -> None:
        self.steps += 1
        self.muon.step(self.rates[0] * factor, self.decay, min(0.95, 0.85 + 0.1 * self.steps / 300))
        nn.utils.clip_grad_norm_(self.rest, 1.0, foreach=True)
        for group in self.adam.param_groups:
            group["lr"] = self.rates[1] * factor
        self.adam.step()

    def state_dict(self) -> dict[str, Any]:
        return {"muon": self.muon.state_dict(), "adam": self.adam.state_dict(), "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.muon.load_state_dict(state["muon"])
        self.adam.load_state_dict(state["adam"])
        self.steps = state["steps"]
