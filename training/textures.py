"""What gives a picture its surface: clouds, stars and craters, light, and an engraver's lines."""

from __future__ import annotations

import math
import random

import cv2
import numpy as np

from training.characters import Array, as_bytes


def vignette(r: random.Random, width: int, height: int) -> Array:
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


def backdrop(r: random.Random, width: int, height: int) -> Array:
    """What an object is photographed against: white, one tone, or light that falls off."""
    kind = r.random()
    if kind < 0.35:
        return np.full((height, width), r.choice([255, 255, r.randint(0, 255)]), np.float32)
    start, end = r.uniform(0, 255), r.uniform(0, 255)
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    share = (x, y, np.hypot(x - 0.5, y - 0.5))[r.randrange(3)]
    if kind > 0.8:  # a table or the ground, and what is behind it
        share = (y > r.uniform(0.4, 0.8)).astype(np.float32)
    image: Array = (start + (end - start) * share).astype(np.float32)
    return image


def engraved(r: random.Random, grey: Array, scale: float) -> Array:
    """A photograph as it was once drawn for print: lines that swell, hatching, outlines, dots.

    `scale` is how many pixels of `grey` one of the finished picture has, so that lines stay.
    """
    rows, columns = grey.shape
    calm = cv2.GaussianBlur(grey, (0, 0), 1.5 * scale).astype(np.float32)
    calm = (calm - calm.min()) / (np.ptp(calm) + 1e-6)
    edges = calm - cv2.GaussianBlur(calm, (0, 0), 2.5 * scale)
    outline = edges < min(-0.01, float(np.quantile(edges, r.uniform(0.04, 0.14))))
    kind = r.choice(["outline", "lines", "hatching", "stipple"])
    ink = outline if kind != "lines" or r.random() < 0.5 else np.zeros_like(outline)
    y, x = np.mgrid[:rows, :columns].astype(np.float32)
    period = r.uniform(4, 8) * scale
    if kind in ("lines", "hatching"):
        for level in (1.0,) if kind == "lines" else (0.55, 0.3):
            angle = r.uniform(0, math.pi)
            bend = calm * r.uniform(0, 1.5) * period
            wave = np.sin((x * math.cos(angle) + y * math.sin(angle) + bend) * 6.283 / period)
            limit = 1 - 2 * calm if kind == "lines" else np.where(calm < level, 0.4, -2)
            ink = ink | (wave < limit - 0.1)
    elif kind == "stipple":
        chance = np.random.default_rng(r.getrandbits(32))
        dots = chance.random((max(2, int(rows / scale / 2)), max(2, int(columns / scale / 2))))
        ink = ink | (cv2.resize(dots, (columns, rows)) > 0.35 + 0.65 * calm)
    paper, dark = r.choice([255, 255, r.randint(190, 255)]), r.randint(0, 70)
    return np.where(ink, dark, paper).astype(np.uint8)
