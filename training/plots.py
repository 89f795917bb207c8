"""Plots as people publish them, drawn with matplotlib ahead of training, with what they are.

    write_plots(Path("DATA/pictures/plot"), Path("countries-110m.json"))  # 15 minutes on 2 cores

Each is a grey WebP; `captions.json` says what it shows. Which there are says `PLOTS`. Maps are of
Natural Earth's public domain outlines, as the package world-atlas has them.
"""

from __future__ import annotations

import json
import random
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np

from training import charts, fields, maps, solids
from training.charts import WORDS, Plot, phrase
from training.figures import NUMBERS

PLOTS: dict[Plot, float] = {
    charts.bars: 4,
    charts.opinions: 2,
    charts.lines: 4,
    charts.areas: 0.6,
    charts.points: 2.5,
    charts.pie: 3,
    charts.histogram: 1.2,
    charts.boxes: 1.2,
    fields.heat_map: 6,
    fields.raster: 1,
    fields.contours: 3,
    fields.arrows: 1,
    solids.surface: 7,
    solids.rendered: 3.5,
    maps.world: 2.5,
    maps.districts: 2,
}
WITHOUT_AXES = (charts.pie, solids.surface, solids.rendered, maps.world, maps.districts)

# rows, columns, which of their places each plot takes, share
LAYOUTS: list[tuple[int, int, list[Any], float]] = [
    (1, 1, [1], 18),
    (1, 2, [1, 2], 1.5),
    (2, 1, [1, 2], 0.5),
    (1, 3, [1, 2, 3], 0.8),
    (1, 4, [1, 2, 3, 4], 0.6),
    (2, 2, [1, 2, 3, 4], 1.5),
    (2, 3, [1, 2, 3, 4, 5, 6], 0.8),
    (2, 5, [*range(1, 11)], 0.8),
    (3, 3, [*range(1, 10)], 0.4),
    (2, 2, [1, 2, (3, 4)], 0.8),
    (2, 2, [(1, 2), 3, 4], 0.5),
    (3, 2, [1, 2, (3, 4), 5], 1.0),
    (3, 2, [1, 2, 3, 4, 5, 6], 0.5),
]
LOOKS: dict[str, float] = {
    "default": 14,
    "ggplot": 1,
    "seaborn-v0_8-whitegrid": 1,
    "dark_background": 0.7,
    "bmh": 0.5,
    "grayscale": 0.7,
    "classic": 0.7,
}
LONGEST_SIDE = 720


def draw(seed: int, file: Path) -> str:
    """One plot, or several on one sheet; the caption."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    r, g = random.Random(seed), np.random.default_rng(seed)
    rows, columns, places = r.choices(LAYOUTS, [share for *_, share in LAYOUTS])[0][:3]
    size = (
        (columns * r.uniform(2, 3), rows * r.uniform(1.6, 2.4))
        if rows * columns > 1
        else (r.uniform(3, 5), r.uniform(2.4, 4.5))
    )
    look = r.choices(list(LOOKS), list(LOOKS.values()))[0]
    with plt.style.context(look):
        plt.rcParams["font.size"] = r.uniform(5.5, 9)
        plt.rcParams["font.family"] = r.choice(["sans-serif", "sans-serif", "serif"])
        figure = plt.figure(figsize=size, dpi=r.uniform(110, 190))
        captions = _sheet(figure, r, g, rows, columns, places)
        if r.random() < 0.7:
            figure.tight_layout()
        figure.canvas.draw()
        colours = np.asarray(figure.canvas.buffer_rgba())[..., :3]  # type: ignore[attr-defined]
        plt.close(figure)
    _save(colours.mean(2), file)
    if len(captions) == 1:
        return f"{captions[0].capitalize()}."
    return side_by_side(captions)


def side_by_side(captions: list[str]) -> str:
    """The caption of a sheet, from those of its plots."""
    return f"{NUMBERS[len(captions)].capitalize()} plots side by side; the first is {captions[0]}."


def _sheet(
    figure: Any, r: random.Random, g: Any, rows: int, columns: int, places: list[Any]
) -> list[str]:
    """Draw the plots, mostly of one kind; what they are."""
    same = r.choices(list(PLOTS), list(PLOTS.values()))[0]
    mixed = r.random() < 0.4
    lettered = len(places) > 1 and r.random() < 0.4
    titled = 0.0 if r.random() < 0.3 else 0.7
    captions = []
    for number, place in enumerate(places):
        other = mixed and r.random() < 0.7
        plot = r.choices(list(PLOTS), list(PLOTS.values()))[0] if other else same
        space = {"projection": "3d"} if plot is solids.surface else {}
        axes = figure.add_subplot(rows, columns, place, **space)
        captions.append(plot(axes, r, g))
        if lettered:
            title = f"{'ABCDEFGHIJ'[number]}. {phrase(r, 3, 10)}{r.choice(['?', '.', ''])}"
            axes.set_title(fill(title, 28), fontsize=r.uniform(5, 7), loc="left", fontweight="bold")
        elif r.random() < titled:
            axes.set_title(phrase(r), fontsize=r.uniform(6, 11))
        if plot not in WITHOUT_AXES:
            if r.random() < 0.5:
                axes.set_xlabel(phrase(r, 1, 3))
                axes.set_ylabel(r.choice(WORDS))
            if r.random() < 0.2:
                axes.grid(True, lw=0.3)
            if r.random() < 0.2:
                axes.spines[["top", "right"]].set_visible(False)
    return captions


def _save(grey: Any, file: Path) -> None:
    import cv2

    factor = LONGEST_SIDE / max(grey.shape)
    grey = grey.round().astype(np.uint8)
    if factor < 1:
        grey = cv2.resize(grey, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(file), grey, [cv2.IMWRITE_WEBP_QUALITY, 55])


def write_plots(place: Path, atlas: Path, count: int = 2000, processes: int = 2) -> None:
    place.mkdir(parents=True, exist_ok=True)
    files = [place / f"{number:04d}.webp" for number in range(count)]
    with ProcessPoolExecutor(processes, initializer=maps.open_atlas, initargs=(atlas,)) as pool:
        captions = list(pool.map(draw, range(count), files, chunksize=8))
    listed = {file.name: caption for file, caption in zip(files, captions, strict=True)}
    (place / "captions.json").write_text(json.dumps(listed, indent=0))
