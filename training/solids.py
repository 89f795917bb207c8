"""Plots in three dimensions: surfaces and blocks by matplotlib, smooth bodies by rays."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from training.characters import Array
from training.charts import WORDS
from training.fields import MAPS, hills


def surface(axes: Any, r: random.Random, g: Any) -> str:
    """Surfaces, layers of rock with a cut, or bodies in space; sometimes with arrows to them."""
    kind = r.choices([_blocks, _layers, _sheet, _terrain, _bodies, _mesh], [2, 2, 4, 5, 1.5, 2.5])
    kind[0](axes, r)
    if r.random() < 0.25:
        for _ in range(r.randint(1, 3)):
            axes.text2D(
                r.uniform(0.1, 0.8), r.uniform(0.1, 0.9), r.choice(WORDS), transform=axes.transAxes
            )
    if r.random() < 0.3:
        axes.set_axis_off()
    elif r.random() < 0.5:
        names = r.choice([["X Axis", "Y Axis", "Z Axis"], ["x", "y", "z"], r.choices(WORDS, k=3)])
        axes.set_xlabel(names[0])
        axes.set_ylabel(names[1])
        axes.set_zlabel(names[2])
    axes.view_init(r.uniform(10, 70), r.uniform(0, 360), r.choice([0, 0, 0, r.uniform(-20, 20)]))
    if r.random() < 0.3:
        axes.set_proj_type("ortho")
    if r.random() < 0.4:  # flat, or a tower
        axes.set_box_aspect((1, r.uniform(0.5, 1.2), r.uniform(0.2, 1.2)))
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
        x, y, z = hills(r)
        z = np.where(x > r.uniform(-3, 2), z, np.nan) if r.random() < 0.4 else z
        axes.plot_surface(x, y, z * 0.5 + layer, color=f"C{layer}", rstride=2, cstride=2, lw=0)


def _sheet(axes: Any, r: random.Random) -> None:
    steps = r.choice([1, 2, 3])
    x, y, z = hills(r)
    if r.random() < 0.3:
        z = np.where(np.hypot(x - r.uniform(-2, 2), y) > r.uniform(0.3, 1.2), z, np.nan)
    if r.random() < 0.75:
        axes.plot_surface(x, y, z, cmap=r.choice(MAPS), rstride=steps, cstride=steps)
    else:
        axes.plot_wireframe(x, y, z, rstride=steps, cstride=steps, lw=0.5)
    if r.random() < 0.3:  # what it looks like from above, on the floor
        axes.contour(x, y, z, zdir="z", offset=-1.5, levels=8, cmap="viridis")


def _terrain(axes: Any, r: random.Random) -> None:
    """A smooth surface with a ragged outline or in pieces, its heights as tones and lines."""
    from matplotlib import colormaps
    from matplotlib.colors import LightSource

    x, y, z = hills(r, 60)
    z = z / (np.ptp(z) + 1e-6)
    _, _, shore = hills(r, 60)
    there = shore > np.quantile(shore, r.choice([0, 0.2, 0.35, 0.5]))
    colours = colormaps[r.choice(MAPS)](np.clip((z - z.min()) / (np.ptp(z) + 1e-6), 0, 1))
    if r.random() < 0.6:
        light = LightSource(r.uniform(0, 360), r.uniform(30, 70))
        colours = light.shade_rgb(colours[..., :3], z * 8, blend_mode="soft")
    z = np.where(there, z, np.nan)
    axes.plot_surface(x, y, z, facecolors=colours, rstride=1, cstride=1, lw=0, antialiased=False)
    if r.random() < 0.6:
        axes.contour(x, y, z, levels=r.randint(6, 18), colors=r.choice("wk"), linewidths=0.5)
    if r.random() < 0.6:
        from matplotlib.cm import ScalarMappable

        bar = ScalarMappable(cmap=r.choice(MAPS))
        bar.set_clim(r.uniform(-900, 0), r.uniform(1, 900))
        where = r.choice(["horizontal", "horizontal", "vertical"])
        axes.figure.colorbar(bar, ax=axes, orientation=where, shrink=0.7, label=r.choice(WORDS))


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


def _mesh(axes: Any, r: random.Random) -> None:
    """A ring, a pipe, a spring or a dented ball, with or without the edges of its faces."""
    u, v = np.meshgrid(np.linspace(0, 2 * np.pi, r.choice([24, 50])), np.linspace(0, 2 * np.pi, 18))
    thick, form = r.uniform(0.15, 0.6), r.choice(["ring", "pipe", "spring", "ball"])
    if form == "ball":
        dent = 1 + r.uniform(0, 0.25) * np.sin(r.randint(2, 6) * u) * np.sin(r.randint(2, 5) * v)
        x, y = dent * np.cos(u) * np.sin(v / 2), dent * np.sin(u) * np.sin(v / 2)
        z = dent * np.cos(v / 2)
    elif form == "pipe":
        x, y, z = thick * np.cos(v), thick * np.sin(v), u
    else:
        turns = 1 if form == "ring" else r.randint(2, 3)
        x, y = (
            (1 + thick * np.cos(v)) * np.cos(turns * u),
            (1 + thick * np.cos(v)) * np.sin(turns * u),
        )
        z = thick * np.sin(v) + (0 if form == "ring" else u)
    edge = r.choice([None, "k", "0.3"])
    axes.plot_surface(x, y, z, color=r.choice(["C0", "0.7", "C1"]), edgecolor=edge, lw=0.2)


# -- by rays ------------------------------------------------------------------------------

Layer = tuple[Array, Array, float, float]
"""Depth in each pixel (infinite where there is nothing), normals (3, …), tone, opacity."""


def rendered(axes: Any, r: random.Random, g: Any) -> str:
    """Balls and sticks, lobes that one sees through, lumps: shaded, without axes."""
    size = 170
    turn = _turn(r)
    centres = [turn @ np.array(p) for p in _places(r)]
    layers: list[Layer] = []
    kind = r.choice(["molecule", "orbital", "orbital", "orbital", "lump"])
    if kind != "lump":
        layers += _balls(r, centres, size)
    if kind == "orbital":
        layers += _clouds(r, centres, turn, size)
    elif kind == "lump":
        layers += _clouds(r, [turn @ np.array(p) for p in _places(r)], turn, size)[:1]
    axes.imshow(_shaded(r, layers, size), cmap="gray", vmin=0, vmax=1, interpolation="bilinear")
    axes.set_axis_off()
    return "a three-dimensional drawing"


def _turn(r: random.Random) -> Array:
    """A rotation, often none but about the upright axis."""
    a, b = r.uniform(0, 2 * np.pi), r.choice([0.0, 0.0, r.uniform(-1, 1)])
    about = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    nod = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    return np.asarray(nod @ about)


def _places(r: random.Random) -> list[tuple[float, float, float]]:
    """Centres of two to six balls: in a row, in a ring, or anywhere."""
    n, kind = r.randint(2, 6), r.choice(["row", "row", "ring", "any"])
    if kind == "row":
        n = min(n, 3)
        return [(0, 0.8 * (i - (n - 1) / 2), 0) for i in range(n)]
    if kind == "ring":
        angles = [2 * np.pi * i / n for i in range(n)]
        return [(0.8 * np.cos(a), 0.8 * np.sin(a), 0) for a in angles]
    return [(r.uniform(-1, 1), r.uniform(-1, 1), r.uniform(-1, 1)) for _ in range(n)]


def _balls(r: random.Random, centres: list[Array], size: int) -> list[Layer]:
    """A ball at each centre, and sticks of many small ones between neighbours."""
    layers: list[Layer] = []
    stick = r.uniform(0.05, 0.14)
    tones = [r.uniform(0.1, 0.9) for _ in range(3)]
    for number, centre in enumerate(centres):
        layers.append((*_ball(centre, r.uniform(0.18, 0.34), size), r.choice(tones), 1.0))
        if number:
            for step in np.linspace(0, 1, 22):
                at = centre * step + centres[number - 1] * (1 - step)
                layers.append((*_ball(at, stick, size), 0.45, 1.0))
    return layers


def _ball(centre: Array, radius: float, size: int) -> tuple[Array, Array]:
    y, x = np.mgrid[2 : -2 : size * 1j, -2 : 2 : size * 1j]
    dx, dy = (x - centre[0]) / radius, (y - centre[1]) / radius
    up = 1 - dx**2 - dy**2
    height = np.sqrt(np.maximum(up, 0))
    depth = np.where(up > 0, -(centre[2] + radius * height), np.inf)
    return depth, np.stack([dx, dy, height])


def _clouds(r: random.Random, centres: list[Array], turn: Array, size: int) -> list[Layer]:
    """Where a sum of lobes is above a level, and where it is below minus that level."""
    coarse = 96
    z, y, x = np.mgrid[2:-2:64j, 2 : -2 : coarse * 1j, -2 : 2 : coarse * 1j].astype(np.float32)
    field = np.zeros_like(x)
    wave = r.randint(0, 3)
    for centre in centres[: r.randint(1, 3)]:
        dx, dy, dz = x - centre[0], y - centre[1], z - centre[2]
        axis = turn @ np.array(r.choice([(0, 1, 0), (1, 0, 0), (0, 0, 1)]), np.float32)
        along = dx * axis[0] + dy * axis[1] + dz * axis[2]
        square = dx**2 + dy**2 + dz**2
        form = (np.float32(1), along, along**2 * 3 - square, along * dx)[wave]
        field += r.choice([-1, 1]) * form * np.exp(-square / r.uniform(0.4, 1.1))
    level = float(np.abs(field).max()) * r.uniform(0.12, 0.35)
    opaque = r.choice([1.0, 0.8, 0.65, 0.5])
    tones = r.sample([0.25, 0.45, 0.6, 0.75, 0.85], 2)
    found = [_level(sign * field, level, size) for sign in (1, -1)]
    return [(*layer, tone, opaque) for layer, tone in zip(found, tones, strict=True) if layer]


def _level(field: Array, level: float, size: int) -> tuple[Array, Array] | None:
    """The surface of what is above the level, as seen from the front."""
    import cv2

    inside = field > level
    if not inside.any():
        return None
    first = inside.argmax(0)
    hit = inside.any(0)
    rows, columns = np.indices(first.shape)
    before = field[np.maximum(first - 1, 0), rows, columns]
    there = field[first, rows, columns]
    exact = first - np.clip((there - level) / (there - before + 1e-6), 0, 1)
    behind: Array = np.where(hit, exact * 4 / 63 - 2, 1).astype(np.float32)
    depth: Array = cv2.GaussianBlur(cv2.resize(behind, (size, size)), (0, 0), 1.2)
    covered = cv2.resize(np.asarray(hit, np.float32), (size, size)) > 0.5
    dy, dx = np.gradient(depth, 4 / size)
    normal = np.stack([dx, dy, np.ones_like(dx)]) / np.sqrt(1 + dx**2 + dy**2)
    return np.where(covered, depth, np.inf), normal


def _shaded(r: random.Random, layers: list[Layer], size: int) -> Array:
    """Layers from the back to the front in each pixel, lit from one side, on white or black."""
    sun = np.array([r.uniform(-0.6, 0.6), r.uniform(-0.7, 0), 1.0])
    sun = sun / np.linalg.norm(sun)
    shine, ambient = r.choice([0, 0.05, 0.2, 0.5]), r.uniform(0.45, 0.9)
    image = np.full((size, size), r.choices([1.0, 0.0, 0.85], [12, 0.6, 1])[0])
    depths = np.stack([layer[0] for layer in layers])
    tones = []
    for _, normal, tone, _ in layers:
        facing = np.clip(np.tensordot(sun, normal, 1), 0, 1)
        tones.append(np.clip(tone * (ambient + (1 - ambient) * facing) + shine * facing**24, 0, 1))
    shades, opaque = np.stack(tones), np.array([layer[3] for layer in layers])
    order = np.argsort(-depths, 0)
    for rank in order:
        here = rank[None]
        there = np.isfinite(np.take_along_axis(depths, here, 0)[0])
        share = np.where(there, opaque[rank], 0)
        image = image * (1 - share) + np.take_along_axis(shades, here, 0)[0] * share
    return image
