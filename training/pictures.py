"""Pictures that are no text: photographs, drawings and plots, with what they are.

pictures = Pictures(Path("DATA/pictures"))
grey, caption = pictures.photo(r, 400, 300)
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import cv2
import numpy as np

from training.characters import Array, as_bytes
from training.figures import in_words
from training.textures import backdrop, engraved, texture, vignette

Picture = tuple[Array, str]
"""Grey pixels, and what they are."""


class Pictures:
    """The grey pictures of a folder `<kind>/`, decoded once."""

    def __init__(self, folder: Path) -> None:
        self.kinds: dict[str, list[Array]] = {}
        for kind in ("photo", "drawing", "plot"):  # the plots last, their files are named below
            files = sorted(p for p in (folder / kind).glob("*.*") if p.suffix != ".json")
            self.kinds[kind] = [_read(file) for file in files]
        listed = folder / "plot" / "captions.json"
        said = json.loads(listed.read_text()) if listed.exists() else {}
        self.captions: list[str] = [said[file.name] for file in files]
        self.single = [n for n, caption in enumerate(self.captions) if caption[:2] in ("A ", "An")]
        """Which plots have no others beside them."""
        files = sorted((folder / "cutout").glob("*.webp"))
        self.cutouts = [_read(file, cv2.IMREAD_UNCHANGED)[..., 2:] for file in files]
        """Tone and opacity (rows, columns, 2) of photographed things without what is behind."""

    def photo(self, r: random.Random, width: int, height: int) -> Picture:
        """A photograph, or a few of them; with a border, a grain or a fog at random."""
        if r.random() < 0.06 and min(width, height) > 150:
            return self._photos(r, width, height)
        image = self._scene(r, width, height)
        if r.random() < 0.2:  # by night, in fog, a faded print
            low, high = sorted(r.uniform(0, 230) for _ in range(2))
            image = image * ((high - low + 30) / 255) + low
        else:
            image = image * r.uniform(0.6, 1.25) + r.uniform(-45, 45)
        if r.random() < 0.12:
            image = image * vignette(r, width, height)
        if r.random() < 0.15:
            grain = np.random.default_rng(r.getrandbits(32))
            image = image + grain.normal(0, r.uniform(3, 14), image.shape)
        if r.random() < 0.06:
            image = cv2.GaussianBlur(image.astype(np.float32), (0, 0), r.uniform(1, 4))
        if r.random() < 0.1:
            edge = max(1, int(min(width, height) * r.uniform(0.01, 0.08)))
            tone = r.choice([255, 255, 0, r.randint(0, 255)])
            image[:edge], image[-edge:], image[:, :edge], image[:, -edge:] = [tone] * 4
        return as_bytes(image), "A photograph."

    def _scene(self, r: random.Random, width: int, height: int) -> Array:
        """A crop of a photograph, or things against a backdrop; something may stand in front."""
        kind = r.random()
        alone = bool(self.cutouts) and kind < 0.1
        if alone:
            image = backdrop(r, width, height)
        elif not self.kinds["photo"] or kind > 0.93:
            image = texture(r, width, height).astype(np.float32)
        else:
            image = _crop(r, r.choice(self.kinds["photo"]), width, height).astype(np.float32)
        if alone or (self.cutouts and r.random() < 0.2):
            for _ in range(r.choice([1, 1, 1, 2, 4])):
                cutout = r.choice(self.cutouts)
                image = _in_front(r, image, cutout[..., 0], cutout[..., 1] / np.float32(255))
        if self.kinds["drawing"] and not alone and r.random() < 0.07:  # against the light
            shape = r.choice(self.kinds["drawing"])
            dark = shape * r.uniform(0, 0.15) + r.uniform(0, 30)
            image = _in_front(r, image, dark, (shape < 235).astype(np.float32))
        return image

    def _photos(self, r: random.Random, width: int, height: int) -> Picture:
        columns, rows = r.choice([(2, 1), (3, 1), (4, 1), (2, 2), (3, 2), (1, 2), (4, 3)])
        gap = r.choice([0, 2, r.randint(3, 20)])
        image = np.full((height, width), r.choice([255, 255, 0, 128]), np.uint8)
        wide, high = (width - gap * (columns - 1)) // columns, (height - gap * (rows - 1)) // rows
        for place in range(columns * rows):
            x, y = place % columns * (wide + gap), place // columns * (high + gap)
            image[y : y + high, x : x + wide] = as_bytes(self._scene(r, wide, high))
        return image, f"{in_words(columns * rows).capitalize()} photographs side by side."

    def drawing(self, r: random.Random, width: int, height: int, scale: float = 1.5) -> Picture:
        """Clip art on white, sometimes as a silhouette; or a photograph as engravers draw it."""
        page = np.full((height, width), 255, np.uint8)
        if self.kinds["photo"] and r.random() < 0.3:
            photo = _crop(r, r.choice(self.kinds["photo"]), width, height)
            return engraved(r, photo, scale), "A drawing."
        if not self.kinds["drawing"]:
            return page, "A drawing."
        if r.random() < 0.1:
            page[:] = r.randint(120, 255)
        for _ in range(r.choice([1, 1, 1, 1, 2, 6])):
            art = r.choice(self.kinds["drawing"])
            factor = min(width / art.shape[1], height / art.shape[0]) * r.uniform(0.4, 0.98)
            art = cv2.resize(art, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
            if r.random() < 0.12:
                art = np.where(art > 235, 255, r.choice([0, 0, 60])).astype(np.uint8)
            elif r.random() < 0.15:  # outlines only
                art = cv2.adaptiveThreshold(art, 255, 0, cv2.THRESH_BINARY, 7, 6)
            y, x = (r.randint(0, a - b) for a, b in zip(page.shape, art.shape, strict=True))
            region = page[y : y + art.shape[0], x : x + art.shape[1]]
            np.minimum(region, art, out=region)
        return page, "A drawing."

    def any_plot(self, r: random.Random, single: bool = False) -> int:
        """The number of a plot, or of one that has no others beside it."""
        return r.choice(self.single) if single else r.randrange(len(self.kinds["plot"]))

    def plot(self, r: random.Random, width: int, height: int, number: int | None = None) -> Picture:
        """A plot as it was drawn, its shape kept nearly, on its own ground."""
        if not self.kinds["plot"]:
            return np.full((height, width), 255, np.uint8), "A chart."
        number = self.any_plot(r) if number is None else number
        plot = self.kinds["plot"][number]
        ground = int(np.median(np.concatenate([plot[0], plot[-1], plot[:, 0], plot[:, -1]])))
        page = np.full((height, width), ground, np.uint8)
        factor = min(width / plot.shape[1], height / plot.shape[0])
        stretch = r.uniform(1, 1.25)
        wide = min(width, max(2, int(plot.shape[1] * factor * stretch)))
        high = min(height, max(2, int(plot.shape[0] * factor * stretch)))
        how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
        x, y = r.randint(0, width - wide), r.randint(0, height - high)
        page[y : y + high, x : x + wide] = cv2.resize(plot, (wide, high), interpolation=how)
        if r.random() < 0.03:
            page = 255 - page
        return page, self.captions[number]


def _read(file: Path, how: int = cv2.IMREAD_GRAYSCALE) -> Array:
    pixels = cv2.imread(str(file), how)
    if pixels is None:
        raise ValueError(f"{file} is no picture: remove pictures/ and make it again")
    return pixels


def _crop(r: random.Random, grey: Array, width: int, height: int) -> Array:
    rows, columns = grey.shape
    share = r.uniform(0.35, 1)
    ratio = width / height
    across = min(columns, rows * ratio) * share
    down = across / ratio
    x, y = int(r.uniform(0, columns - across)), int(r.uniform(0, rows - down))
    crop = grey[y : max(int(y + down), y + 2), x : max(int(x + across), x + 2)]
    crop = cv2.resize(crop, (width, height), interpolation=cv2.INTER_CUBIC)
    return crop[:, ::-1] if r.random() < 0.5 else crop


def _in_front(r: random.Random, image: Array, tone: Array, opacity: Array) -> Array:
    """The picture with something before it, as large as it or much smaller, in its own light."""
    share = r.uniform(0.3, 1.0)
    factor = min(image.shape[0] / tone.shape[0], image.shape[1] / tone.shape[1]) * share
    size = tuple(max(2, int(side * factor)) for side in tone.shape[::-1])
    tone = cv2.resize(tone, size, interpolation=cv2.INTER_AREA) * r.uniform(0.5, 1.1)
    cover = cv2.resize(opacity, size, interpolation=cv2.INTER_AREA)
    cover = cv2.GaussianBlur(cover, (0, 0), r.uniform(0.5, 1.2))
    if r.random() < 0.5:
        tone, cover = tone[:, ::-1], cover[:, ::-1]
    y, x = (r.randint(0, a - b) for a, b in zip(image.shape, tone.shape, strict=True))
    region = image[y : y + tone.shape[0], x : x + tone.shape[1]]
    region[:] = region * (1 - cover) + tone * cover
    return image
