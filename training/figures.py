"""What is no text: photographs, drawings, plots, charts and diagrams, with what they are.

pictures = Pictures(Path("DATA/pictures"))
grey, caption = pictures.photo(r, 400, 300)
said = chart(page, style, say, x, y, width, height)      # drawn on the page, with labels
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import cv2
import numpy as np

from training.characters import Array, as_bytes
from training.page import Page, Style
from training.words import Speaker

NUMBERS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
]


def in_words(count: int, one: str = "one") -> str:
    return one if count == 1 else NUMBERS[count] if count < len(NUMBERS) else str(count)


class Pictures:
    """The grey pictures of a folder `<kind>/*.jpg`, decoded once."""

    def __init__(self, folder: Path) -> None:
        self.kinds: dict[str, list[Array]] = {}
        for kind in ("photo", "drawing", "plot"):
            files = sorted((folder / kind).glob("*.jpg"))
            self.kinds[kind] = [_grey(file) for file in files]
            if kind == "plot" and files:
                captions = json.loads((folder / kind / "captions.json").read_text())
                self.captions = [captions[file.name] for file in files]

    def photo(self, r: random.Random, width: int, height: int) -> tuple[Array, str]:
        """A crop of a photograph, turned, brightened and coarsened at random."""
        if not self.kinds["photo"] or r.random() < 0.08:
            return texture(r, width, height), "A photograph."
        image = _crop(r, r.choice(self.kinds["photo"]), width, height)
        if self.kinds["drawing"] and r.random() < 0.06:
            image = _against(r, image, r.choice(self.kinds["drawing"]))
        if r.random() < 0.25:  # by night, in fog, a faded print
            low, high = sorted(r.uniform(0, 230) for _ in range(2))
            image = image * ((high - low + 20) / 255) + low
        else:
            image = image * r.uniform(0.6, 1.25) + r.uniform(-45, 45)
        if r.random() < 0.12:
            image = image * _vignette(r, width, height)
        if r.random() < 0.12:
            grain = np.random.default_rng(r.getrandbits(32))
            image = image + grain.normal(0, r.uniform(3, 14), image.shape)
        return as_bytes(image), "A photograph."

    def drawing(self, r: random.Random, width: int, height: int) -> tuple[Array, str]:
        """A clip-art drawing on white, sometimes as a silhouette."""
        page = np.full((height, width), 255, np.uint8)
        if not self.kinds["drawing"]:
            return page, "A drawing."
        for _ in range(r.choice([1, 1, 1, 1, 2, 6])):
            art = r.choice(self.kinds["drawing"])
            factor = min(width / art.shape[1], height / art.shape[0]) * r.uniform(0.4, 0.98)
            art = cv2.resize(art, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
            if r.random() < 0.08:
                art = np.where(art > 235, 255, r.choice([0, 0, 60])).astype(np.uint8)
            y, x = (r.randint(0, a - b) for a, b in zip(page.shape, art.shape, strict=True))
            region = page[y : y + art.shape[0], x : x + art.shape[1]]
            np.minimum(region, art, out=region)
        return page, "A drawing."

    def plot(self, r: random.Random, width: int, height: int) -> tuple[Array, str]:
        """A plot as it was drawn, its shape kept as far as that goes."""
        plots = self.kinds["plot"]
        if not plots:
            return np.full((height, width), 255, np.uint8), "A chart."
        number = r.randrange(len(plots))
        return cv2.resize(
            plots[number], (width, height), interpolation=cv2.INTER_CUBIC
        ), self.captions[number]


def _grey(file: Path) -> Array:
    grey = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
    if grey is None:
        raise ValueError(f"{file} is no picture: remove pictures/ and make it again")
    return grey


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


def _against(r: random.Random, image: Array, shape: Array) -> Array:
    """Something dark in front: the outline of a drawing as a figure against the light."""
    factor = min(image.shape[0] / shape.shape[0], image.shape[1] / shape.shape[1])
    shape = cv2.resize(shape, None, fx=factor * 0.9, fy=factor * 0.9, interpolation=cv2.INTER_AREA)
    y, x = (r.randint(0, a - b) for a, b in zip(image.shape, shape.shape, strict=True))
    image = image.copy()
    region = image[y : y + shape.shape[0], x : x + shape.shape[1]]
    figure = cv2.GaussianBlur((shape < 235).astype(np.float32), (0, 0), r.uniform(0.5, 1.2))
    region[:] = region * (1 - figure) + (shape * r.uniform(0, 0.15) + r.uniform(0, 30)) * figure
    return image


def _vignette(r: random.Random, width: int, height: int) -> Array:
    """Darker to the edges, or black around a circle as through an eyepiece."""
    x, y = np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height))
    away = np.hypot(x, y * height / width)
    if r.random() < 0.3:
        return (away < r.uniform(0.6, 1.0)).astype(np.float32)
    return np.clip(1 - r.uniform(0.2, 0.7) * away**2, 0, 1).astype(np.float32)


def _craters(r: random.Random, image: Array) -> Array:
    """Heights with round holes in them, lit from one side."""
    rows, columns = image.shape
    y, x = np.mgrid[:rows, :columns].astype(np.float32)
    relief = image * r.uniform(4, 14)
    for _ in range(r.randint(2, 30)):
        size = min(rows, columns) * r.uniform(0.01, 0.14)
        away = np.hypot(x - r.uniform(0, columns), y - r.uniform(0, rows)) / size
        relief += size * 0.4 * (np.exp(-((away - 1) ** 2) * 9) - np.exp(-(away**2) * 2))
    down, across = np.gradient(relief, axis=0), np.gradient(relief, axis=1)
    angle = r.uniform(0, 2 * math.pi)
    light: Array = down * math.sin(angle) + across * math.cos(angle)
    return 0.5 + r.uniform(0.15, 0.45) * light


def texture(r: random.Random, width: int, height: int) -> Array:
    """Clouds, stars, surfaces: what a photograph of nothing in particular looks like."""
    if (factor := 360 / max(width, height)) < 1:
        small = texture(r, max(2, round(width * factor)), max(2, round(height * factor)))
        return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    g = np.random.default_rng(r.getrandbits(32))
    image: Array = np.zeros((height, width), np.float32)
    for octave in range(2, r.randint(4, 8)):
        coarse = g.normal(0, 1, (2**octave, 2**octave)).astype(np.float32)
        image += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) / 1.7**octave
    image = (image - image.min()) / (np.ptp(image) + 1e-6)
    kind = r.random()
    if kind < 0.25:
        image = _craters(r, image)
    elif kind < 0.6:  # stars
        image = np.maximum(
            image * 0.2, (g.random((height, width)) > 0.998) * g.random((height, width))
        )
        image = cv2.GaussianBlur(image.astype(np.float32), (0, 0), r.uniform(0.6, 1.6)) * 1.8
    if r.random() < 0.4:  # something round, lit from one side
        x, y = np.meshgrid(np.arange(width), np.arange(height))
        radius = min(width, height) * r.uniform(0.2, 0.5)
        inside = (x - width * r.uniform(0.3, 0.7)) ** 2 + (
            y - height * r.uniform(0.3, 0.7)
        ) ** 2 < radius**2
        image = np.where(inside, 0.5 + image * 0.5, image * r.uniform(0.1, 0.7))
    return as_bytes(image * 255)


def chart(
    page: Page, style: Style, say: Speaker, x: float, y: float, width: float, height: float
) -> str:
    """A bar, line or pie chart with labels, in the box; the caption without "A"."""
    r = page.r
    drawn = r.choices([_bars, _curves, _pie], [5, 3, 2])[0]
    return drawn(page, style, say, x, y, width, height)


def _axes(
    page: Page, style: Style, say: Speaker, x: float, y: float, width: float, height: float
) -> tuple[float, float]:
    """Axes with values on the left, said from top to bottom; the origin."""
    r = page.r
    left = x + style.em * 3
    bottom = y + height - style.em * 1.6
    page.line((left, y), (left, bottom))
    page.rule(left, bottom, x + width)
    steps = r.randint(2, 5)
    top = r.choice([1, 5, 10, 100, 1000]) * r.randint(1, 9)
    grid = r.random() < 0.4
    for step in range(steps, -1, -1):
        level = bottom - (bottom - y) * 0.95 * step / steps
        page.write_line(
            f"{top * step / steps:g}",
            style.small,
            style,
            x,
            level - style.em * 0.5,
            "right",
            style.em * 2.6,
        )
        page.say("\n")
        if grid and step:
            page.rule(left, level, x + width, 70)
    return left, bottom


def _bars(
    page: Page, style: Style, say: Speaker, x: float, y: float, width: float, height: float
) -> str:
    r = page.r
    count = r.randint(2, 8)
    left, bottom = _axes(page, style, say, x, y, width, height)
    step = (x + width - left) / (count + 0.4)
    wide = step * r.uniform(0.45, 0.8)
    tone, outlined = r.randint(60, 250), r.random() < 0.2
    for place in range(count):
        start = left + step * (place + 0.4)
        top = bottom - (bottom - y) * r.uniform(0.08, 0.95)
        if outlined:
            page.frame(start, top, wide, bottom - top)
        else:
            cv2.rectangle(
                page.cover, (int(start), int(top)), (int(start + wide), int(bottom)), tone, -1
            )
    for place in range(count):
        start = left + step * (place + 0.2)
        page.write_line(
            r.choice([say.word().capitalize(), str(r.randint(1950, 2030))]),
            style.small,
            style,
            start,
            bottom + style.em * 0.3,
            "centre",
            step * 0.95,
        )
        page.say(" ")
    return f"a bar chart with {in_words(count)} bars"


def _curves(
    page: Page, style: Style, say: Speaker, x: float, y: float, width: float, height: float
) -> str:
    r = page.r
    count, points = r.randint(1, 4), r.randint(4, 14)
    left, bottom = _axes(page, style, say, x, y, width, height)
    for _ in range(count):
        level, tone = r.uniform(0.1, 0.6), r.randint(110, 255)
        heights = [min(0.97, max(0.03, level + r.uniform(-0.15, 0.35))) for _ in range(points)]
        line = [
            (left + (x + width - left) * i / (points - 1), bottom - (bottom - y) * h)
            for i, h in enumerate(heights)
        ]
        cv2.polylines(
            page.cover,
            [np.array(line, np.int32)],
            False,
            tone,
            max(1, int(page.scale * r.choice([1, 2]))),
            cv2.LINE_AA,
        )
        if r.random() < 0.4:
            for point in line:
                cv2.circle(
                    page.cover,
                    (int(point[0]), int(point[1])),
                    max(2, int(page.scale * 2.5)),
                    tone,
                    -1,
                )
    return f"a line chart with {'one line' if count == 1 else in_words(count) + ' lines'}"


def _pie(
    page: Page, style: Style, say: Speaker, x: float, y: float, width: float, height: float
) -> str:
    r = page.r
    count = r.randint(2, 6)
    radius = min(width * 0.6, height) / 2 - style.em
    centre = (int(x + width * 0.4), int(y + height / 2))
    shares = [0.25 + r.random() for _ in range(count)]
    angle = r.uniform(0, 360)
    for share, tone in zip(shares, r.sample([30, 70, 110, 150, 190, 235], count), strict=True):
        end = angle + 360 * share / sum(shares)
        cv2.ellipse(page.cover, centre, (int(radius), int(radius)), 0, angle, end, tone, -1)
        middle = math.radians((angle + end) / 2)
        page.write_line(
            r.choice([f"{100 * share / sum(shares):.0f}%", say.word()[:7]]),
            style.small,
            style,
            centre[0]
            + math.cos(middle) * radius * 1.2
            - style.em * (1.5 if math.cos(middle) < 0 else 0.3),
            centre[1] + math.sin(middle) * radius * 1.15 - style.em * 0.5,
        )
        page.say(" ")
        angle = end
    cv2.circle(page.cover, centre, int(radius), 255, max(1, int(page.scale)), cv2.LINE_AA)
    return f"a pie chart with {in_words(count)} slices"


def diagram(
    page: Page, style: Style, say: Speaker, x: float, y: float, width: float, height: float
) -> str:
    """Boxes or circles with words in them, and arrows between."""
    r = page.r
    columns, rows = r.randint(1, 4), r.randint(1, 4)
    if columns * rows < 2:
        columns = 2
    centres: list[tuple[float, float]] = []
    wide, high = width / columns * r.uniform(0.5, 0.8), height / rows * r.uniform(0.3, 0.65)
    round_ones = r.random() < 0.35
    for row in range(rows):
        for column in range(columns):
            if r.random() < 0.15 and len(centres) + (rows - row) * columns > 4:
                continue
            centres.append((x + width * (column + 0.5) / columns, y + height * (row + 0.5) / rows))
    for _ in range(r.randint(1, len(centres) + 2)):
        start, end = r.sample(centres, 2) if len(centres) > 1 else (centres[0], (x, y))
        thick = max(1, round(page.scale))
        cv2.arrowedLine(
            page.cover,
            (int(start[0]), int(start[1])),
            (int(end[0]), int(end[1])),
            r.randint(130, 255),
            thick,
            cv2.LINE_AA,
            tipLength=0.06,
        )
    for number, (cx, cy) in enumerate(centres):
        if round_ones:
            axes = (int(min(wide, high) * 0.5), int(min(wide, high) * 0.5))
            cv2.ellipse(page.cover, (int(cx), int(cy)), axes, 0, 0, 360, 0, -1)
            cv2.ellipse(
                page.cover,
                (int(cx), int(cy)),
                axes,
                0,
                0,
                360,
                255,
                max(1, round(page.scale)),
                cv2.LINE_AA,
            )
            page.fill(cx - 1, cy - 1, 2, 2, 30)
        else:
            cv2.rectangle(
                page.cover,
                (int(cx - wide / 2), int(cy - high / 2)),
                (int(cx + wide / 2), int(cy + high / 2)),
                0,
                -1,
            )
            page.frame(cx - wide / 2, cy - high / 2, wide, high)
            if r.random() < 0.5:
                page.fill(cx - wide / 2, cy - high / 2, wide, high, r.randint(15, 90))
        if number:
            page.say("\n")
        word = (
            str(r.randint(0, 9))
            if round_ones or r.random() < 0.15
            else say.line(max(4, int(wide / style.em * 1.6)))
        )
        page.write_line(
            word, style.body, style, cx - wide * 0.47, cy - style.em * 0.5, "centre", wide * 0.94
        )
    return "a diagram"
