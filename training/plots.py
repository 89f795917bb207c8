"""Plots as people publish them, drawn with matplotlib ahead of training, with what they are.

    write_plots(Path("DATA/pictures/plot"), Path("countries-110m.json"))  # 3 minutes on 2 cores

Each is a grey JPEG; `captions.json` says what it shows. Maps are of Natural Earth's public domain
outlines, as the package world-atlas has them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np

from training.characters import Array
from training.figures import NUMBERS

WORDS = [
    "time",
    "distance",
    "age",
    "price",
    "depth",
    "energy",
    "weight",
    "speed",
    "year",
    "month",
    "sample",
    "group",
    "count",
    "share",
    "rate",
    "error",
    "temperature",
    "pressure",
    "income",
    "score",
    "region",
    "model",
    "control",
    "treated",
    "north",
    "south",
    "total",
    "series",
    "mean",
    "signal",
    "phase",
    "frequency",
    "amplitude",
    "index",
    "density",
    "population",
    "budget",
    "revenue",
]

Plot = Callable[[Any, random.Random, Any], str]
COUNTRIES: list[list[Array]] = []
"""The outlines (points, 2) of each country, in degrees; set once in every process."""


def bars(axes: Any, r: random.Random, g: Any) -> str:
    n = r.randint(2, 9)
    names = [r.choice(WORDS).capitalize() for _ in range(n)]
    heights = g.uniform(1, 10, n)
    if r.random() < 0.3:
        axes.barh(range(n), heights, color=f"C{r.randrange(9)}")
        axes.set_yticks(range(n), names)
    else:
        if r.random() < 0.4:
            for k in range(m := r.randint(2, 3)):
                axes.bar(
                    np.arange(n) + k * 0.8 / m, g.uniform(1, 10, n), 0.8 / m, label=r.choice(WORDS)
                )
            axes.legend(fontsize=6)
        else:
            axes.bar(range(n), heights, color=f"C{r.randrange(9)}", width=r.uniform(0.4, 0.9))
        axes.set_xticks(range(n), names, rotation=r.choice([0, 0, 45, 90]))
    return "a bar chart"


def lines(axes: Any, r: random.Random, g: Any) -> str:
    n = r.randint(1, 4)
    x = np.linspace(0, r.choice([1, 10, 100]), r.choice([8, 30, 200]))
    for k in range(n):
        y = (
            g.normal(0, 1, len(x)).cumsum()
            if r.random() < 0.5
            else np.sin(x / x[-1] * r.uniform(3, 20) + k)
        )
        axes.plot(
            x,
            y,
            r.choice(["-", "-", "--", ".-", "o-"]),
            lw=r.uniform(0.7, 2),
            ms=3,
            label=r.choice(WORDS),
        )
    if n > 1 and r.random() < 0.7:
        axes.legend(fontsize=6)
    return "a line chart with " + ("one line" if n == 1 else f"{NUMBERS[n]} lines")


def points(axes: Any, r: random.Random, g: Any) -> str:
    for _ in range(r.randint(1, 3)):
        axes.scatter(
            *g.normal(r.uniform(-2, 2), 1, (2, r.randint(15, 150))), s=r.uniform(3, 25), alpha=0.7
        )
    return "a scatter plot"


def pie(axes: Any, r: random.Random, g: Any) -> str:
    n = r.randint(2, 6)
    form = r.choice([None, "%1.0f%%"])
    axes.pie(
        g.uniform(1, 5, n),
        labels=[r.choice(WORDS) for _ in range(n)],
        autopct=form,
        textprops={"fontsize": 6},
    )
    return f"a pie chart with {NUMBERS[n]} slices"


def histogram(axes: Any, r: random.Random, g: Any) -> str:
    axes.hist(g.gamma(r.uniform(1, 5), 1, 800), bins=r.randint(12, 40), color=f"C{r.randrange(9)}")
    return "a histogram"


def heat_map(axes: Any, r: random.Random, g: Any) -> str:
    """Tiles of colour, mostly with their numbers in them; of many only a few are strong."""
    n, m = r.randint(3, 12), r.randint(3, 12)
    values = g.normal(0, 1, (n, m))
    if r.random() < 0.5:
        values *= g.random((n, m)) < r.uniform(0.2, 0.6)
    strongest = max(1.0, float(np.abs(values).max())) * r.choice([1, 1, 1.6])
    colours = r.choice(["viridis", "PiYG", "Greens", "coolwarm", "magma", "RdBu", "bwr", "Greys"])
    shape = r.choice(["auto", "equal"])
    axes.imshow(values, cmap=colours, aspect=shape, vmin=-strongest, vmax=strongest)
    if r.random() < 0.7:
        form = r.choice([".2f", ".2f", ".1f", ".0f"])
        size = r.uniform(4, 7)
        for i in range(n):
            for j in range(m):
                axes.text(j, i, f"{values[i, j]:{form}}", ha="center", va="center", fontsize=size)
    if r.random() < 0.4:
        axes.set_xticks(np.arange(m - 1) + 0.5, minor=True)
        axes.set_yticks(np.arange(n - 1) + 0.5, minor=True)
        axes.grid(True, which="minor", color=r.choice(["k", "w"]), ls=r.choice(["-", "--"]), lw=0.8)
    axes.set_xticks(range(m), [r.choice(WORDS)[:6] for _ in range(m)], rotation=r.choice([0, 90]))
    axes.set_yticks(range(n), [r.choice(WORDS)[:6] for _ in range(n)])
    return "a heat map"


def _hills(r: random.Random) -> tuple[Any, Any, Any]:
    x, y = np.meshgrid(np.linspace(-2, 2, 40), np.linspace(-2, 2, 40))
    z = np.zeros_like(x)
    for _ in range(r.randint(2, 5)):
        a, b, w = r.uniform(-1.5, 1.5), r.uniform(-1.5, 1.5), r.uniform(0.3, 1.5)
        z += r.uniform(-1, 1) * np.exp(-((x - a) ** 2 + (y - b) ** 2) / w)
    return x, y, z


def contours(axes: Any, r: random.Random, g: Any) -> str:
    levels = r.randint(6, 16)
    x, y, z = _lobes(r) if r.random() < 0.45 else _hills(r)
    kind = r.random()
    if kind < 0.6:
        colours = r.choice(["viridis", "PiYG", "terrain", "gray", "RdBu", "Blues"])
        axes.contourf(x, y, z, levels=levels, cmap=colours, alpha=r.choice([1, 1, 0.5]))
    if kind > 0.4:  # lines in one colour are dashed below zero
        how = {"colors": "k"} if r.random() < 0.6 else {"cmap": r.choice(["viridis", "coolwarm"])}
        axes.contour(x, y, z, levels=levels, linewidths=r.uniform(0.6, 1.4), **how)
    if r.random() < 0.3:
        axes.grid(True, lw=0.4, ls="--")
    return "a contour plot"


def _lobes(r: random.Random) -> tuple[Any, Any, Any]:
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


def surface(axes: Any, r: random.Random, g: Any) -> str:
    """Surfaces, layers of rock with a cut, or bodies in space; sometimes with arrows to them."""
    kind = r.choices([_blocks, _layers, _sheet, _bodies], [2, 2, 5, 2])[0]
    kind(axes, r)
    if r.random() < 0.25:
        for _ in range(r.randint(1, 3)):
            axes.text2D(
                r.uniform(0.1, 0.8), r.uniform(0.1, 0.9), r.choice(WORDS), transform=axes.transAxes
            )
    if r.random() < 0.3:
        axes.set_axis_off()
    elif r.random() < 0.4:
        axes.set_xlabel(r.choice(WORDS))
        axes.set_ylabel(r.choice(WORDS))
        axes.set_zlabel(r.choice(WORDS))
    axes.view_init(r.uniform(10, 60), r.uniform(0, 360))
    return "a three-dimensional plot"


def _blocks(axes: Any, r: random.Random) -> None:
    filled = np.ones((6, 6, 5), bool)
    filled[: r.randint(0, 3), : r.randint(0, 3), r.randint(0, 4) :] = False
    colours = np.empty((6, 6, 5), object)
    for layer in range(5):
        colours[:, :, layer] = f"C{r.randrange(9)}"
    axes.voxels(filled, facecolors=colours, edgecolor=r.choice([None, "k"]), lw=0.2)


def _layers(axes: Any, r: random.Random) -> None:
    for layer in range(r.randint(2, 5)):
        x, y, z = _hills(r)
        z = np.where(x > r.uniform(-3, 2), z, np.nan) if r.random() < 0.4 else z
        axes.plot_surface(x, y, z * 0.5 + layer, color=f"C{layer}", rstride=2, cstride=2, lw=0)


def _sheet(axes: Any, r: random.Random) -> None:
    steps = r.choice([1, 2, 3])
    x, y, z = _hills(r)
    if r.random() < 0.3:
        z = np.where(np.hypot(x - r.uniform(-2, 2), y) > r.uniform(0.3, 1.2), z, np.nan)
    if r.random() < 0.75:
        colours = r.choice(["viridis", "terrain", "magma", "coolwarm", "gray"])
        axes.plot_surface(x, y, z, cmap=colours, rstride=steps, cstride=steps)
    else:
        axes.plot_wireframe(x, y, z, rstride=steps, cstride=steps, lw=0.5)
    if r.random() < 0.3:  # what it looks like from above, on the floor
        axes.contour(x, y, z, zdir="z", offset=-1.5, levels=8, cmap="viridis")


def _bodies(axes: Any, r: random.Random) -> None:
    u, v = np.meshgrid(np.linspace(0, 2 * np.pi, 24), np.linspace(0, np.pi, 16))
    for _ in range(r.randint(1, 4)):
        width, height, lift = r.uniform(0.4, 1.2), r.uniform(0.4, 1.4), r.uniform(-2, 2)
        axes.plot_surface(
            width * np.cos(u) * np.sin(v) + r.uniform(-0.5, 0.5),
            width * np.sin(u) * np.sin(v),
            height * np.cos(v) + lift,
            color=r.choice(["C0", "C3", "0.6", "0.8"]),
            alpha=r.choice([1, 0.5]),
        )


def arrows(axes: Any, r: random.Random, g: Any) -> str:
    x, y, z = _hills(r)
    if r.random() < 0.5:
        axes.streamplot(x, y, np.gradient(z)[0], np.gradient(z)[1], density=0.8, linewidth=0.7)
    else:
        axes.quiver(
            x[::3, ::3], y[::3, ::3], np.gradient(z)[0][::3, ::3], np.gradient(z)[1][::3, ::3]
        )
    return "a plot of arrows"


def boxes(axes: Any, r: random.Random, g: Any) -> str:
    axes.boxplot([g.normal(r.uniform(0, 3), 1, 60) for _ in range(r.randint(3, 8))])
    return "a box plot"


def world(axes: Any, r: random.Random, g: Any) -> str:
    """Countries in one grey, in groups or in shades; all of them or a part of the world."""
    from matplotlib import colormaps
    from matplotlib.collections import PolyCollection

    greys: list[Any] = ["0.8"]
    groups = [f"C{number}" for number in range(7)]
    shades = list(colormaps["viridis"](np.linspace(0, 1, 20) ** 3))
    colours = r.choices([greys, groups, shades], [3, 3, 4])[0]
    rings, inks = [], []
    for country in COUNTRIES:
        rings += country
        inks += [r.choice(colours)] * len(country)
    edge = r.choice(["k", "w", "0.5"])
    axes.add_collection(PolyCollection(rings, facecolors=inks, edgecolors=edge, linewidths=0.4))
    axes.autoscale()
    axes.set_aspect("equal")
    if r.random() < 0.8:
        x, y, span = r.uniform(-120, 120), r.uniform(-40, 60), r.uniform(15, 70)
        axes.set_xlim(x - span, x + span)
        axes.set_ylim(y - span * 0.7, y + span * 0.7)
    if r.random() < 0.4:
        axes.set_axis_off()
    return "a map"


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


PLOTS: dict[Plot, float] = {
    bars: 3,
    lines: 3.5,
    points: 2.5,
    pie: 2,
    histogram: 1,
    heat_map: 4,
    contours: 3.5,
    surface: 6,
    arrows: 1,
    boxes: 1,
    world: 3,
}


# rows, columns, which of their places each plot takes, share
LAYOUTS: list[tuple[int, int, list[Any], float]] = [
    (1, 1, [1], 16),
    (1, 2, [1, 2], 2),
    (1, 3, [1, 2, 3], 1),
    (1, 4, [1, 2, 3, 4], 1),
    (2, 2, [1, 2, 3, 4], 2),
    (2, 3, [1, 2, 3, 4, 5, 6], 1),
    (2, 5, [*range(1, 11)], 1.5),
    (2, 2, [1, 2, (3, 4)], 0.8),
    (2, 2, [(1, 2), 3, 4], 0.5),
    (3, 2, [1, 2, (3, 4), 5], 1.2),
    (3, 2, [1, 2, 3, 4, 5, 6], 0.5),
]


def draw(seed: int, file: Path) -> str:
    """One plot, or several on one sheet; the caption."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from PIL import Image

    r, g = random.Random(seed), np.random.default_rng(seed)
    rows, columns, places = r.choices(LAYOUTS, [share for *_, share in LAYOUTS])[0][:3]
    size = (
        (columns * r.uniform(2, 3), rows * r.uniform(1.6, 2.4))
        if rows * columns > 1
        else (r.uniform(3, 5), r.uniform(2.4, 4))
    )
    figure = plt.figure(figsize=size, dpi=100)
    same = r.choices(list(PLOTS), list(PLOTS.values()))[0]
    captions = []
    plt.rcParams["font.size"] = r.uniform(5.5, 9)
    lettered = len(places) > 1 and r.random() < 0.4
    for number, place in enumerate(places):
        plot = same if r.random() < 0.75 else r.choices(list(PLOTS), list(PLOTS.values()))[0]
        axes = figure.add_subplot(
            rows, columns, place, **({"projection": "3d"} if plot is surface else {})
        )
        captions.append(plot(axes, r, g))
        if lettered:
            title = " ".join(r.choices(WORDS, k=r.randint(3, 10)))
            title = f"{'ABCDEFGHIJ'[number]}. {title.capitalize()}{r.choice(['?', '.', ''])}"
            axes.set_title(fill(title, 28), fontsize=r.uniform(5, 7), loc="left", fontweight="bold")
        elif r.random() < 0.5:
            title = " ".join(r.choices(WORDS, k=r.randint(1, 4))).capitalize()
            axes.set_title(title, fontsize=r.uniform(6, 11))
        if r.random() < 0.5 and plot not in (pie, surface, world):
            axes.set_xlabel(r.choice(WORDS))
            axes.set_ylabel(r.choice(WORDS))
        if r.random() < 0.2 and plot is not surface:
            axes.grid(True, lw=0.3)
    if r.random() < 0.7:
        figure.tight_layout()
    figure.savefig(file.with_suffix(".png"))
    plt.close(figure)
    image = (
        Image.open(file.with_suffix(".png")).convert("RGB").convert("L", (1 / 3, 1 / 3, 1 / 3, 0))
    )
    image.thumbnail((460, 460))
    image.save(file, quality=80)
    file.with_suffix(".png").unlink()
    if len(captions) == 1:
        return f"{captions[0].capitalize()}."
    return f"{NUMBERS[len(captions)].capitalize()} plots side by side; the first is {captions[0]}."


def write_plots(place: Path, atlas: Path, count: int = 640, processes: int = 2) -> None:
    place.mkdir(parents=True, exist_ok=True)
    files = [place / f"{number:04d}.jpg" for number in range(count)]
    with ProcessPoolExecutor(processes, initializer=open_atlas, initargs=(atlas,)) as pool:
        captions = list(pool.map(draw, range(count), files, chunksize=8))
    listed = {file.name: caption for file, caption in zip(files, captions, strict=True)}
    (place / "captions.json").write_text(json.dumps(listed, indent=0))
