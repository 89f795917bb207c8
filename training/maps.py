"""Maps, drawn with matplotlib: countries of Natural Earth, districts and streets of nowhere."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from training.characters import Array
from training.charts import WORDS

COUNTRIES: list[list[Array]] = []
"""The outlines (points, 2) of each country, in degrees; set once in every process."""


def _inks(r: random.Random) -> list[Any]:
    """One grey, groups, or shades of a value."""
    from matplotlib import colormaps

    greys: list[Any] = [str(round(r.uniform(0.6, 1), 2))]
    groups = [f"C{number}" for number in range(7)]
    name = r.choice(["viridis", "Blues", "YlOrRd", "Greens", "Greys"])
    shades = list(colormaps[name](np.linspace(0, 1, 20) ** r.choice([1, 3])))
    return list(r.choices([greys, groups, shades], [3, 3, 4])[0])


def world(axes: Any, r: random.Random, g: Any) -> str:
    """Countries in one grey, in groups or in shades; all of them or a part of the world."""
    from matplotlib.collections import PolyCollection

    colours = _inks(r)
    rings, inks = [], []
    for country in COUNTRIES:
        rings += country
        inks += [r.choice(colours)] * len(country)
    edge = r.choice(["k", "w", "0.5"])
    axes.add_collection(PolyCollection(rings, facecolors=inks, edgecolors=edge, linewidths=0.4))
    axes.autoscale()
    axes.set_aspect("equal")
    if r.random() < 0.35:
        axes.set_facecolor(r.choice(["0.85", "#a8c8e8", "0.5"]))
    x0, x1, y0, y1 = -180.0, 180.0, -60.0, 80.0
    if r.random() < 0.8:
        x, y, span = r.uniform(-120, 120), r.uniform(-40, 60), r.uniform(15, 70)
        x0, x1, y0, y1 = x - span, x + span, y - span * 0.7, y + span * 0.7
    axes.set_xlim(x0, x1)
    axes.set_ylim(y0, y1)
    if r.random() < 0.35:  # places, some of them named
        n = r.randint(3, 60)
        x, y = g.uniform(x0, x1, n), g.uniform(y0, y1, n)
        axes.scatter(x, y, s=r.uniform(3, 40), c=r.choice(["k", "r", "C0"]), alpha=0.8, zorder=3)
        for i in range(min(n, r.choice([0, 8]))):
            axes.annotate(r.choice(WORDS).capitalize(), (x[i], y[i]), fontsize=5)
    if r.random() < 0.2:
        axes.grid(True, lw=0.4)
    if r.random() < 0.4:
        axes.set_axis_off()
    return "a map"


def districts(axes: Any, r: random.Random, g: Any) -> str:
    """Regions with ragged borders, in shades or with names; or blocks of houses and streets."""
    from matplotlib.collections import PolyCollection

    streets = r.random() < 0.35
    n = r.randint(60, 250) if streets else r.randint(12, 60)
    points = g.normal(0, 1, (n, 2)) if r.random() < 0.4 else g.uniform(-2, 2, (n, 2))
    cells = cv2.Subdiv2D((-9, -9, 18, 18))
    cells.insert(points.clip(-8, 8).astype(np.float32).tolist())
    found = [np.asarray(ring, np.float32) for ring in cells.getVoronoiFacetList([])[0]]
    rings: list[Array] = [ring for ring in found if np.abs(ring).max() < 2.2]
    jags: dict[tuple[Any, ...], Array] = {}
    if not streets:
        rings = [_ragged(ring, g, jags) for ring in rings]
    colours = [r.choice(["0.85", "0.93"])] if streets else _inks(r)
    axes.add_collection(
        PolyCollection(
            rings,
            facecolors=[r.choice(colours) for _ in rings],
            edgecolors="w" if streets else r.choice(["k", "w", "0.4"]),
            linewidths=r.uniform(1.5, 4) if streets else r.uniform(0.3, 1),
        )
    )
    axes.set_aspect("equal")
    axes.autoscale()
    if streets:
        axes.set_facecolor(r.choice(["0.8", "w", "0.95"]))
    for ring in r.sample(rings, min(len(rings), r.choice([0, 6, 15]))):
        name = r.choice(WORDS).capitalize()
        axes.annotate(name, ring.mean(0), ha="center", fontsize=r.uniform(4.5, 7))
    if r.random() < 0.4:  # a river or a border, a scale
        axes.plot(*g.normal(0, 0.35, (2, 14)).cumsum(1), c="C0", lw=r.uniform(1, 3))
    if r.random() < 0.8:
        axes.set_axis_off()
    return "a map"


def _ragged(ring: Array, g: Any, jags: dict[tuple[Any, ...], Array]) -> Array:
    """Its sides broken at random, the same way for both neighbours."""
    points = []
    for start, end in zip(ring, np.roll(ring, -1, 0), strict=True):
        first, last = sorted((tuple(start.round(4)), tuple(end.round(4))))
        if (first, last) not in jags:
            share = np.linspace(0, 1, 9)[1:-1, None]
            line = np.array(first) * (1 - share) + np.array(last) * share
            across = np.hypot(*(np.array(last) - first))
            jags[first, last] = line + g.normal(0, 0.045 * across, line.shape)
        middle = jags[first, last]
        points += [start[None], middle if tuple(start.round(4)) == first else middle[::-1]]
    return np.concatenate(points)


def open_atlas(file: Path) -> None:
    """Fill `COUNTRIES` from a TopoJSON file, which shares borders as arcs of small steps."""
    atlas = json.loads(file.read_text())
    scale, start = (np.array(atlas["transform"][name], float) for name in ("scale", "translate"))
    arcs = [np.cumsum(arc, 0) * scale + start for arc in atlas["arcs"]]

    def outline(numbers: list[int]) -> Array:
        ring: Array = np.concatenate([arcs[n] if n >= 0 else arcs[~n][::-1] for n in numbers])
        ring[:, 0] = np.unwrap(ring[:, 0], period=360)  # Russia goes on beyond 180°
        ring[:, 0] -= 360 * np.round(ring[:, 0].mean() / 360)
        return ring

    COUNTRIES.clear()
    for country in atlas["objects"]["countries"]["geometries"]:
        parts = country["arcs"] if country["type"] == "MultiPolygon" else [country["arcs"]]
        COUNTRIES.append([outline(part[0]) for part in parts])
