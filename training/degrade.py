"""What happens to a page between the printer and the file: scanners, faxes, copiers, time.

    image, xs, ys = finish(r, page, xs, ys, wear=0.6)

`wear` 0 is a page as a PDF renderer draws it, 1 an old sheet from an archive. The picture comes
out at the page's final size, and places move with it.
"""

from __future__ import annotations

import math
import random
from functools import cache

import cv2
import numpy as np

from training.characters import Array, as_bytes
from training.page import Page

NOISE = 1700


@cache
def noises() -> list[Array]:
    """Fields of noise, fine to coarse, as int8-like values around 0; cut from, never changed."""
    g = np.random.default_rng(7)
    fields = []
    for blur in (0, 0.7, 1.2, 4, 30):
        field: Array = g.normal(0, 1, (NOISE, NOISE)).astype(np.float32)
        if blur:
            field = cv2.GaussianBlur(field, (0, 0), blur)
        fields.append(np.clip(field / field.std() * 32, -127, 127).astype(np.int8))
    return fields


def noise(r: random.Random, coarseness: int, rows: int, columns: int) -> Array:
    field = noises()[coarseness]
    y, x = r.randrange(max(1, NOISE - rows)), r.randrange(max(1, NOISE - columns))
    cut = field[y : y + rows, x : x + columns]
    return cut if cut.shape == (rows, columns) else cv2.resize(cut, (columns, rows))


def finish(
    r: random.Random, page: Page, xs: Array, ys: Array, wear: float
) -> tuple[Array, Array, Array]:
    """The grey picture of a page, and where its characters are on it."""
    cover, tint = (
        _to_size(page, page.cover),
        _to_size(page, page.shade) if page.shade.any() else None,
    )
    xs, ys = xs / page.scale, ys / page.scale
    if r.random() < 0.1 + 0.6 * wear:
        cover, tint, xs, ys = _turn(r, cover, tint, xs, ys, wear)
    cover = _soften(r, cover, wear)
    if wear > 0.3 and r.random() < 0.6:
        cover = r.choice([_worn_ink, _ribbon])(r, cover)
    image = _on_paper(r, cover, tint, page, wear)
    if wear > 0.3:
        image = _aged(r, image, cover, wear)
    if r.random() < 0.12 + 0.5 * wear:
        strength = r.choice([r.uniform(1, 5), r.uniform(3, 5 + 14 * wear)]) / 32
        field = noise(r, r.choice([0, 1, 2]), *image.shape)
        image = as_bytes(image + field * np.float32(strength))
    if r.random() < 0.02 + 0.22 * (wear > 0.3):
        image = _bilevel(r, image)
    elif wear > 0.3 and r.random() < 0.15 and image.size > 400_000:
        image, xs, ys = _on_a_table(r, image, xs, ys)
    if r.random() < 0.15 + 0.4 * wear:
        quality = r.randint(35, 92)
        jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        decoded = cv2.imdecode(jpeg, cv2.IMREAD_GRAYSCALE)
        assert decoded is not None  # it has just been written
        image = decoded
    return image, xs, ys


def _to_size(page: Page, layer: Array) -> Array:
    size = (page.width, page.height)
    return (
        layer
        if layer.shape == size[::-1]
        else cv2.resize(layer, size, interpolation=cv2.INTER_AREA)
    )


def _turn(
    r: random.Random, cover: Array, tint: Array | None, xs: Array, ys: Array, wear: float
) -> tuple[Array, Array | None, Array, Array]:
    angle = math.radians(r.gauss(0, 0.35 + 0.7 * wear))
    cos, sin, shear = math.cos(angle), math.sin(angle), r.gauss(0, 0.003)
    matrix = np.array([[cos, -sin + shear, 0], [sin, cos, 0]], np.float32)
    centre = np.array([cover.shape[1] / 2, cover.shape[0] / 2])
    matrix[:, 2] = centre - matrix[:, :2] @ centre + [r.gauss(0, 3 * wear), r.gauss(0, 3 * wear)]
    size = cover.shape[::-1]
    cover = cv2.warpAffine(cover, matrix, size, flags=r.choice([cv2.INTER_LINEAR, cv2.INTER_CUBIC]))
    if tint is not None:
        tint = cv2.warpAffine(tint, matrix, size)
    return (
        cover,
        tint,
        matrix[0, 0] * xs + matrix[0, 1] * ys + matrix[0, 2],
        matrix[1, 0] * xs + matrix[1, 1] * ys + matrix[1, 2],
    )


def _soften(r: random.Random, cover: Array, wear: float) -> Array:
    chance = r.random()
    if chance < 0.12 + 0.3 * wear:
        return cv2.GaussianBlur(cover, (0, 0), r.uniform(0.3, 0.6 + 0.45 * wear))
    if chance < 0.2 + 0.35 * wear:
        return cv2.dilate(cover, np.ones((1, 2) if r.random() < 0.5 else (2, 1), np.uint8))
    if chance < 0.3 + 0.45 * wear:  # drawn smaller and enlarged again
        factor = r.uniform(0.95 - 0.3 * wear, 0.97)
        small = cv2.resize(cover, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        return cv2.resize(
            small, cover.shape[::-1], interpolation=r.choice([cv2.INTER_LINEAR, cv2.INTER_CUBIC])
        )
    return cover


def _worn_ink(r: random.Random, cover: Array) -> Array:
    """Ink that is thin in patches, broken by the paper's grain, or filled in."""
    patches = noise(r, r.choice([1, 2, 3, 4]), *cover.shape) * np.float32(
        r.uniform(0.002, 0.006)
    ) + r.uniform(0.8, 1.05)
    return as_bytes(cover * patches)


def _ribbon(r: random.Random, cover: Array) -> Array:
    """Ink through a ribbon or carbon paper: strokes swell, fray and fill, and fade in places."""
    soft = cv2.GaussianBlur(cover, (0, 0), r.uniform(0.5, 1.0)).astype(np.float32)
    soft *= 1 + noise(r, r.choice([0, 1, 2]), *cover.shape) * np.float32(r.uniform(0.002, 0.008))
    if r.random() < 0.4:
        soft *= 1 + noise(r, 3, *cover.shape) * np.float32(r.uniform(0.001, 0.004))
    return as_bytes((soft - r.uniform(0, 20)) * r.uniform(1.3, 2.4))


def _on_paper(r: random.Random, cover: Array, tint: Array | None, page: Page, wear: float) -> Array:
    """Ink on paper: two tones, tints and pictures; sometimes light on dark."""
    paper = 255 if r.random() < 0.75 - 0.65 * wear else r.randint(255 - int(40 + 60 * wear), 255)
    ink = r.choice([0, 0, 0, r.randint(0, 90)]) if wear < 0.3 else r.randint(0, 110)
    ink = min(ink, max(0, paper - 80))  # what cannot be seen teaches to guess
    if wear < 0.3 and r.random() < 0.03:
        paper, ink = r.randint(0, 60), r.randint(190, 255)
    image = np.full(cover.shape, paper, np.float32)
    if tint is not None:
        image -= tint.astype(np.float32) * ((paper - ink) / 255)
    for x, y, picture in page.pictures:
        size = (
            max(2, round(picture.shape[1] / page.scale)),
            max(2, round(picture.shape[0] / page.scale)),
        )
        small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        left, top = round(x / page.scale), round(y / page.scale)
        region = image[max(0, top) : top + size[1], max(0, left) : left + size[0]]
        region[:] = small[: region.shape[0], : region.shape[1]] * (paper / 255)
    share = cover.astype(np.float32) / 255
    return as_bytes(image * (1 - share) + ink * share)


def _aged(r: random.Random, image: Array, cover: Array, wear: float) -> Array:
    """Light, stains, the back of the sheet, the scanner's edges, holes, specks and pens."""
    rows, columns = image.shape
    light = image.astype(np.float32)
    if r.random() < 0.6:
        across = np.linspace(
            r.uniform(0.75, 1.08), r.uniform(0.75, 1.08), columns, dtype=np.float32
        )
        down = np.linspace(r.uniform(0.85, 1.05), r.uniform(0.85, 1.05), rows, dtype=np.float32)
        light *= across[None] * down[:, None]
    if r.random() < 0.5:
        light += noise(r, 4, rows, columns) * np.float32(r.uniform(0.05, 0.35))
    if r.random() < 0.3:  # what is on the back, mirrored
        back = cv2.GaussianBlur(cover[:, ::-1], (0, 0), r.uniform(0.8, 2.5))
        shift = (r.randint(-30, 30), r.randint(-30, 30))
        light -= np.roll(back, shift, (0, 1)) * np.float32(r.uniform(0.05, 0.3))
    light = np.clip(light, 0, 255)
    small = rows * columns < 150_000  # a mark would hide all there is
    for mark, chance in (
        ((_specks, 0.2),)
        if small
        else (
            (_edges, 0.3),
            (_specks, 0.35),
            (_stamp, 0.25),
            (_pen, 0.3),
            (_fold, 0.2),
            (_holes, 0.1),
        )
    ):
        if r.random() < chance:
            mark(r, light)
    return as_bytes(light)


def _on_a_table(r: random.Random, image: Array, xs: Array, ys: Array) -> tuple[Array, Array, Array]:
    """The sheet photographed on a lighter or darker ground, with the shadow of its edge."""
    rows, columns = image.shape
    factor = r.uniform(0.86, 0.98)
    wide, high = int(columns * factor), int(rows * factor)
    x, y = r.randint(0, columns - wide), r.randint(0, rows - high)
    ground = np.full(image.shape, r.choice([5, 60, 150, 200, 235, 250]), np.uint8)
    shadow = r.randint(1, 4)
    cv2.rectangle(ground, (x, y), (x + wide + shadow, y + high + shadow), r.randint(60, 200), -1)
    ground[y : y + high, x : x + wide] = cv2.resize(
        image, (wide, high), interpolation=cv2.INTER_AREA
    )
    return ground, xs * factor + x, ys * factor + y


def _edges(r: random.Random, light: Array) -> None:
    rows, columns = light.shape
    tone = r.choice([0, 20, 60, 120])
    for side in range(4):
        if r.random() < 0.5:
            wide = r.randint(2, max(3, int(min(rows, columns) * 0.03)))
            part = (light[:wide], light[-wide:], light[:, :wide], light[:, -wide:])[side]
            part[:] = part * 0.2 + tone * 0.8


def _specks(r: random.Random, light: Array) -> None:
    rows, columns = light.shape
    for _ in range(1 + int(r.uniform(0, 120) * min(1.0, rows * columns / 800_000))):
        size = r.choice([1, 1, 1, 2, 3])
        x, y = r.randrange(columns), r.randrange(rows)
        light[y : y + size, x : x + size] = r.choice([20, 60, 120, 245])


def _stamp(r: random.Random, light: Array) -> None:
    """A round or square stamp that one can see the text through."""
    rows, columns = light.shape
    layer: Array = np.zeros(light.shape, np.uint8)
    x, y = r.randrange(columns), r.randrange(rows)
    size = r.randint(18, max(20, min(rows, columns) // 7))
    if r.random() < 0.6:
        for radius in {size, int(size * 0.92), int(size * 0.55)}:
            cv2.circle(layer, (x, y), radius, 255, r.randint(1, 2), cv2.LINE_AA)
    else:
        cv2.rectangle(
            layer, (x - size, y - size // 3), (x + size, y + size // 3), 255, r.randint(1, 3)
        )
    words = "".join(r.choices("ABCDEFGHIKLMNOPRSTUVW ", k=r.randint(2, 9)))
    cv2.putText(
        layer, words, (x - size // 2, y), cv2.FONT_HERSHEY_SIMPLEX, size / 70, 255, 1, cv2.LINE_AA
    )
    turn = cv2.getRotationMatrix2D((x, y), r.uniform(-40, 40), 1)
    layer = cv2.warpAffine(layer, turn, (columns, rows))
    light -= layer * np.float32(r.uniform(0.15, 0.6))


def _pen(r: random.Random, light: Array) -> None:
    """Strokes of a pen: a note or a signature that nobody can read, a tick, an underline."""
    rows, columns = light.shape
    layer = np.zeros(light.shape, np.uint8)
    x, y = r.randrange(columns), r.randrange(rows)
    if r.random() < 0.3:
        cv2.line(
            layer,
            (x, y),
            (x + r.randint(20, 200), y + r.randint(-4, 4)),
            255,
            r.randint(1, 2),
            cv2.LINE_AA,
        )
    else:
        size = r.randint(6, 22)
        points = []
        for _ in range(r.randint(4, 30)):
            points.append((x, y + r.randint(-size, size)))
            x += r.randint(-size // 3, size)
        smooth = cv2.GaussianBlur(
            np.array(points, np.float32).reshape(-1, 1, 2).repeat(4, 0), (1, 7), 0
        )
        cv2.polylines(layer, [smooth.astype(np.int32)], False, 255, r.randint(1, 2), cv2.LINE_AA)
    light -= layer * np.float32(r.uniform(0.3, 0.8))


def _fold(r: random.Random, light: Array) -> None:
    rows, columns = light.shape
    if r.random() < 0.5:
        light[int(rows * r.uniform(0.2, 0.8))] *= r.uniform(0.6, 0.95)
    else:
        light[:, int(columns * r.uniform(0.2, 0.8))] *= r.uniform(0.6, 0.95)


def _holes(r: random.Random, light: Array) -> None:
    rows, columns = light.shape
    x = int(columns * r.choice([0.03, 0.97]))
    for y in (0.35, 0.65) if r.random() < 0.5 else (0.1, 0.5, 0.9):
        cv2.circle(light, (x, int(rows * y)), r.randint(5, 11), float(r.choice([20, 100, 230])), -1)


def _bilevel(r: random.Random, image: Array) -> Array:
    """A fax or a black-and-white scan: a threshold at a higher resolution, then made smaller."""
    factor = r.choice([1, 1.5, 2, 2])
    big = (
        cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
        if factor > 1
        else image
    )
    around = cv2.blur(big, (2 * int(30 * factor) + 1,) * 2).astype(np.float32)
    y, x = big.shape[0] // 10, big.shape[1] // 10
    inside = np.s_[y : 9 * y : 5, x : 9 * x : 5]  # black edges are no ink
    depth = max(25.0, float(np.percentile(around[inside] - big[inside], 99.7)))
    if r.random() < 0.4:  # not all scanners follow the light
        around[:] = np.percentile(around[inside], 10)
    level = around - depth * r.uniform(0.25, 0.6)
    black = np.where(big > level, 255, 0).astype(np.uint8)
    return (
        cv2.resize(black, image.shape[::-1], interpolation=cv2.INTER_AREA) if factor > 1 else black
    )
