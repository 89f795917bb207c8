"""Plots of a value over two axes, drawn with matplotlib: heat maps, contours, arrows."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from training.charts import label

# fmt: off
MAPS = [
    "viridis", "PiYG", "Greens", "coolwarm", "magma", "RdBu", "bwr", "Greys", "Blues", "YlOrRd",
    "plasma", "cividis", "Purples", "hot", "seismic", "binary", "Oranges", "turbo",
]
# fmt: on


def _cells(r: random.Random, g: Any) -> tuple[Any, str]:
    """Values of a matrix, and how they are written in its cells."""
    n = r.randint(2, 14)
    kind = r.choice(["matrix", "matrix", "sparse", "sparse", "confusion", "correlation", "table"])
    m = n if kind in ("confusion", "correlation") else r.randint(2, 14)
    if kind == "confusion":
        values = g.integers(0, r.choice([3, 20, 90]), (n, m)) + np.diag(g.integers(20, 300, n))
        if r.random() < 0.5:
            return values / values.sum(1, keepdims=True), ".2f"
        return values, "d"
    if kind == "correlation":
        values = np.corrcoef(g.normal(0, 1, (n, 6)) + g.normal(0, 1, 6)) if n > 2 else np.eye(n)
        return (np.where(np.tri(n), values, np.nan) if r.random() < 0.4 else values), ".2f"
    values = g.normal(0, 1, (n, m)) if kind != "table" else g.uniform(0, 100, (n, m))
    if kind == "sparse":  # of many only a few are strong, the others are zeros
        values = values * (g.random((n, m)) < r.uniform(0.15, 0.6))
    return values, r.choice([".2f", ".2f", ".1f", ".0f"])


def heat_map(axes: Any, r: random.Random, g: Any) -> str:
    """Tiles of colour, mostly with their numbers in them."""
    values, form = _cells(r, g)
    n, m = values.shape
    strongest = max(1e-3, float(np.nanmax(np.abs(values)))) * r.choice([1, 1, 1.6])
    lowest = -strongest if np.nanmin(values) < 0 else 0
    shown = np.abs(values) if (one_sided := lowest and r.random() < 0.4) else values
    drawn = axes.imshow(
        shown,
        cmap=r.choice(MAPS),
        aspect=r.choice(["auto", "equal", "equal"]),
        vmin=0 if one_sided else lowest,
        vmax=strongest,
        alpha=r.choice([1, 1, 0.7]),
    )
    if r.random() < 0.75 and max(n, m) < 15:
        size = r.uniform(3.5, 8) if max(n, m) < 9 else r.uniform(3, 5)
        dark = r.random() < 0.6
        for (i, j), value in np.ndenumerate(values):
            if not np.isnan(value):
                ink = "w" if dark and abs(value) > 0.6 * strongest else "k"
                axes.text(j, i, f"{value:{form}}", ha="center", va="center", fontsize=size, c=ink)
    if r.random() < 0.45:
        axes.set_xticks(np.arange(m - 1) + 0.5, minor=True)
        axes.set_yticks(np.arange(n - 1) + 0.5, minor=True)
        axes.grid(True, which="minor", color=r.choice(["k", "w"]), ls=r.choice(["-", "--"]), lw=0.8)
    if r.random() < 0.85:
        axes.set_xticks(range(m), [label(r) for _ in range(m)], rotation=r.choice([0, 45, 90, 270]))
        axes.set_yticks(range(n), [label(r) for _ in range(n)])
    if r.random() < 0.2:
        axes.xaxis.tick_top()
    if r.random() < 0.4:
        axes.figure.colorbar(drawn, ax=axes, shrink=r.uniform(0.6, 1))
    return "a heat map"


def raster(axes: Any, r: random.Random, g: Any) -> str:
    """A heat map of very many cells, without numbers: spectra, similarities, time by place."""
    n, m = r.randint(15, 90), r.randint(15, 90)
    values = g.normal(0, 1, (n, m))
    kind = r.random()
    if kind < 0.35:
        values = values.cumsum(1)
    elif kind < 0.6:  # blocks along the diagonal
        members = np.sort(g.integers(0, r.randint(2, 6), n))
        values = (members[:, None] == members) * 2.0 + g.normal(0, 0.5, (n, n))
    elif kind < 0.8:
        values = (values > r.uniform(0.5, 2)).astype(float)
    smooth = r.choice(["nearest", "nearest", "bilinear"])
    drawn = axes.imshow(values, cmap=r.choice(MAPS), aspect="auto", interpolation=smooth)
    if r.random() < 0.5:
        axes.figure.colorbar(drawn, ax=axes, orientation=r.choice(["vertical", "horizontal"]))
    return "a heat map"


def hills(r: random.Random, steps: int = 40) -> tuple[Any, Any, Any]:
    x, y = np.meshgrid(np.linspace(-2, 2, steps), np.linspace(-2, 2, steps))
    z = np.zeros_like(x)
    for _ in range(r.randint(2, 5)):
        a, b, w = r.uniform(-1.5, 1.5), r.uniform(-1.5, 1.5), r.uniform(0.3, 1.5)
        z += r.uniform(-1, 1) * np.exp(-((x - a) ** 2 + (y - b) ** 2) / w)
    return x, y, z


def lobes(r: random.Random) -> tuple[Any, Any, Any]:
    """Lobes of both signs around one or two centres, as of waves and fields."""
    x, y = np.meshgrid(np.linspace(-3, 3, 70), np.linspace(-3, 3, 70))
    z = np.zeros_like(x)
    for centre in r.choice([(0.0,), (-1.1, 1.1)]):
        angle = np.arctan2(y - centre, x)
        away = np.hypot(x, y - centre)
        z += (
            np.cos(r.randint(0, 3) * (angle - r.choice([0, np.pi / 2])))
            * np.exp(-(away**2) / r.uniform(0.4, 2.5))
            * r.choice([-1, 1])
        )
    return x, y, z


def contours(axes: Any, r: random.Random, g: Any) -> str:
    levels = r.randint(6, 16)
    x, y, z = lobes(r) if r.random() < 0.45 else hills(r)
    kind = r.random()
    if kind < 0.6:
        colours = r.choice([*MAPS, "terrain", "gray"])
        drawn = axes.contourf(x, y, z, levels=levels, cmap=colours, alpha=r.choice([1, 1, 0.5]))
        if r.random() < 0.35:
            axes.figure.colorbar(drawn, ax=axes)
    if kind > 0.4:  # lines in one colour are dashed below zero
        how = {"colors": "k"} if r.random() < 0.6 else {"cmap": r.choice(["viridis", "coolwarm"])}
        drawn = axes.contour(x, y, z, levels=levels, linewidths=r.uniform(0.6, 1.4), **how)
        if r.random() < 0.2:
            axes.clabel(drawn, fontsize=5)
    if r.random() < 0.3:
        axes.grid(True, lw=0.4, ls="--")
    return "a contour plot"


def arrows(axes: Any, r: random.Random, g: Any) -> str:
    x, y, z = hills(r)
    across, up = np.gradient(z)
    if r.random() < 0.5:
        axes.streamplot(x, y, across, up, density=r.uniform(0.5, 1.2), linewidth=0.7)
    else:
        axes.quiver(x[::3, ::3], y[::3, ::3], across[::3, ::3], up[::3, ::3])
    return "a plot of arrows"
