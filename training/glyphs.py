"""Letters as pixels: every glyph of a face at a size, drawn once, then copied on to pages.

    library = Library(Path("DATA/fonts"))
    face = library.face(library.pick(r, "text"), "b")
    atlas = face.at(17)
    blit(cover, *atlas.arrays, codes, xs, ys, inks)

A page holds how much of each pixel is covered with ink, 0 to 255.
"""

from __future__ import annotations

import random
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from copy import copy
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numba import njit
from PIL import ImageFont

from training.characters import CHARACTERS, FI, FL, INDEX

SIZES = (
    7,
    8,
    9,
    10,
    11,
    12,
    13,
    14,
    15,
    16,
    17,
    18,
    20,
    22,
    24,
    27,
    30,
    33,
    36,
    40,
    45,
    50,
    58,
    68,
    80,
)
USUAL = 36
"""Sizes up to this are drawn ahead; larger ones, which take most memory, when needed."""
STYLES = {"r": "r", "b": "br", "i": "ir", "bi": "bir"}


@njit(cache=True)
def blit(cover, pixels, start, width, height, left, top, codes, xs, ys, inks):  # type: ignore[no-untyped-def]
    """Draw glyphs `codes` with their baseline's origin at (xs, ys); the darker ink stays."""
    rows, columns = cover.shape
    for i in range(codes.shape[0]):
        g = codes[i]
        x0 = int(xs[i] + 0.5) + left[g]
        y0 = int(ys[i] + 0.5) + top[g]
        for r in range(height[g]):
            y = y0 + r
            if y < 0 or y >= rows:
                continue
            for c in range(width[g]):
                x = x0 + c
                if x < 0 or x >= columns:
                    continue
                ink = (np.int32(pixels[start[g] + r * width[g] + c]) * inks[i]) >> 8
                if ink > cover[y, x]:
                    cover[y, x] = ink


class Atlas:
    """One face at one size. `advance` and `has` go by place in `CHARACTERS`."""

    def __init__(self, path: Path, size: int) -> None:
        font = ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)
        count = len(CHARACTERS)
        self.size = size
        self.advance = np.zeros(count, np.float32)
        self.has = np.zeros(count, bool)
        width, height, left, top = (np.zeros(count, np.int32) for _ in range(4))
        start = np.zeros(count, np.int64)
        missing = bytes(font.getmask("\uffff", mode="L"))
        parts, used = [], 0
        for place, character in enumerate(CHARACTERS):
            mask, (x, y) = font.getmask2(character, mode="L", anchor="ls")
            pixels = bytes(mask)
            self.has[place] = place == 0 or (pixels != missing and len(pixels) > 0)
            self.advance[place] = font.getlength(character)
            width[place], height[place] = mask.size
            left[place], top[place], start[place] = x, y, used
            parts.append(np.frombuffer(pixels, np.uint8))
            used += len(pixels)
        pair = self.advance[INDEX[ord("f")]] + self.advance[INDEX[ord("i")]]
        even = self.advance[INDEX[ord("i")]] == self.advance[INDEX[ord("m")]]
        self.fixed_pitch = bool(even)
        self.ligatures = bool(
            self.has[FI] and self.has[FL] and 0.7 < self.advance[FI] / pair < 1.1 and not even
        )
        self.arrays = (np.concatenate(parts), start, width, height, left, top)


COMMON = (
    "Arimo",
    "Carlito",
    "LiberationSans",
    "LiberationSerif",
    "NimbusRoman",
    "NimbusSans",
    "TeXGyreTermes",
    "TeXGyreHeros",
    "Tinos",
    "DejaVuSans",
    "FreeSerif",
    "CMUSerif",
    "LatinModernRoman",
    "LatinModernSans",
    "P052",
    "URWBookman",
    "Roboto",
)
"""Faces like those that most documents are set in; they are picked more often than the rest."""
LATEX = ("CMUSerif", "LatinModernRoman", "LatinModernRoman", "LatinModernSans", "TeXGyreTermes")


class Library:
    """The faces of a folder `<kind>/<family>__<style>.<ending>`, by kind and family."""

    def __init__(
        self,
        folder: Path,
        kinds: tuple[str, ...] = ("text", "mono", "typewriter", "dots", "hand", "other"),
    ) -> None:
        self.families: dict[str, dict[str, dict[str, Path]]] = {
            kind: defaultdict(dict) for kind in kinds
        }
        for kind in kinds:
            for path in sorted((folder / kind).glob("*")):
                family, style = path.stem.split("__")
                self.families[kind][family][style] = path
        self.atlases: dict[tuple[Path, int], Atlas] = {}

    def pick(self, r: random.Random, kind: str = "text") -> dict[str, Path]:
        """A family: style to file. A kind without faces falls back to text."""
        families = self.families.get(kind) or self.families["text"]
        wanted = LATEX if kind == "latex" else COMMON if kind == "text" and r.random() < 0.4 else ()
        return families[r.choice([name for name in wanted if name in families] or sorted(families))]

    @property
    def foreign(self) -> Library:
        """The same library, in which every text face is one of another script."""
        other = copy(self)
        other.families = {"text": self.families["other"], "mono": self.families["mono"]}
        return other

    def at(self, family: dict[str, Path], style: str, size: float) -> Atlas:
        """The nearest face and size that there is."""
        path = next(
            (family[s] for s in (style, *STYLES[style]) if s in family), next(iter(family.values()))
        )
        key = (path, snap(size))
        return self.atlases.get(key) or _drawn_now(*key)

    def draw_all(self, processes: int) -> None:
        """Every face at every usual size, before the workers are forked and share them."""
        paths = [
            p
            for kind in self.families.values()
            for family in kind.values()
            for p in family.values()
        ]
        with ProcessPoolExecutor(processes, mp_context=get_context("fork")) as pool:
            for atlases in pool.map(_usual_sizes, paths):
                self.atlases.update(atlases)


def snap(size: float) -> int:
    """The nearest of `SIZES`."""
    return min(SIZES, key=lambda other: abs(other - size) / other)


@lru_cache(maxsize=600)
def _drawn_now(path: Path, size: int) -> Atlas:
    return Atlas(path, size)


def _usual_sizes(path: Path) -> dict[tuple[Path, int], Atlas]:
    return {(path, size): Atlas(path, size) for size in SIZES if size <= USUAL}
