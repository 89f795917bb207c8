"""The curriculum: which documents a run is trained on, and when."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

KINDS = ("line", "part", "page", "picture", "blank")
CELLS_OF_A_KIND = {"line": 31, "part": 230, "page": 1100, "picture": 520, "blank": 300}


@dataclass(frozen=True)
class Stage:
    """What is trained on at one point of the run; in between, values are interpolated."""

    at: float
    shares: tuple[float, ...]
    """Of the image cells, by kind."""
    hard: float
    wear: float
    longest_line: int


CURRICULUM = (
    Stage(0.00, (1.0, 0.0, 0.0, 0.0, 0.0), 0.75, 0.15, 12),
    Stage(0.03, (1.0, 0.0, 0.0, 0.0, 0.0), 0.70, 0.25, 60),
    Stage(0.05, (0.6, 0.4, 0.0, 0.0, 0.0), 0.65, 0.40, 65),
    Stage(0.10, (0.25, 0.60, 0.12, 0.03, 0.0), 0.60, 0.60, 70),
    Stage(0.16, (0.10, 0.46, 0.38, 0.05, 0.01), 0.52, 0.85, 75),
    Stage(0.26, (0.05, 0.22, 0.64, 0.08, 0.01), 0.45, 1.00, 80),
    Stage(1.00, (0.03, 0.11, 0.77, 0.08, 0.01), 0.22, 1.00, 90),
)


def stage(progress: float, pictures: float | None = None) -> Stage:
    """The curriculum at `progress`, from 0 to 1.

    `pictures` is the share of the cells that shows pictures instead of the curriculum's, once it
    has any; the other kinds share the rest as they did.
    """
    points = [s.at for s in CURRICULUM]

    def mix(values: Iterable[float]) -> float:
        return float(np.interp(progress, points, list(values)))

    shares = [mix(s.shares[k] for s in CURRICULUM) for k in range(len(KINDS))]
    at = KINDS.index("picture")
    if pictures is not None and shares[at]:
        rest = (1 - pictures) / (1 - shares[at])
        shares = [pictures if k == at else share * rest for k, share in enumerate(shares)]
    return Stage(
        progress,
        tuple(shares),
        mix(s.hard for s in CURRICULUM),
        mix(s.wear for s in CURRICULUM),
        int(mix(s.longest_line for s in CURRICULUM)),
    )
