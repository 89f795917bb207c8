"""A page being typeset: ink, what it says, and where each character stands.

    page = Page(r, width=880, height=1140, scale=1.6)
    style = Style(r, library, em=14, scale=1.6)
    y, rest = page.write("Some text", style.body, style, Box(x, y, width, bottom))
    text, xs, ys = page.result()

Coordinates are canvas pixels, `scale` times the final ones; `degrade` brings the page to size.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from training.characters import FI, FL, INDEX, Array, indices
from training.glyphs import Atlas, blit
from training.style import Run, Style

NOWHERE = np.nan


class Box(NamedTuple):
    """Where to write: from (x, y), `width` across, no lower than `bottom`."""

    x: float
    y: float
    width: float
    bottom: float


@dataclass
class Setting:
    """How one paragraph is set; what is left out comes from the style."""

    align: str = "left"  # left, right, centre, justified
    indent: float = 0.0
    leading: float | None = None
    longest: int = 10**9
    underline: bool = False


class Page:
    """Coverage of ink, the text in reading order, and a place for each of its characters."""

    def __init__(self, r: random.Random, width: int, height: int, scale: float) -> None:
        self.r, self.width, self.height, self.scale = r, width, height, scale
        self.across, self.down = round(width * scale), round(height * scale)
        self.cover = np.zeros((self.down, self.across), np.uint8)
        self.shade = np.zeros((self.down, self.across), np.uint8)
        self.pictures: list[tuple[int, int, Array]] = []
        self.counts: Counter[str] = Counter()
        self._parts: list[tuple[str, Array, Array]] = []
        self.length = 0
        self.rest = ""
        """Text of a paragraph that the next column goes on with."""
        self.joined = False
        """Whether that text goes on in the middle of a word."""
        self.shape = ""
        """The rows and columns of the last table."""

    # -- text -----------------------------------------------------------------------------

    def say(self, text: str, xs: Array | None = None, ys: Array | None = None) -> None:
        """Add to what the page says, at these places or at none."""
        if xs is None or ys is None:
            xs = ys = np.full(len(text), NOWHERE, np.float32)
        self._parts.append((text, xs, ys))
        self.length += len(text)

    def separate(self, mark: str = "\n\n") -> None:
        if self._parts:
            self.say(mark)

    def mark(self) -> int:
        """A point to come back to with `take_back`."""
        return len(self._parts)

    def take_back(self, mark: int) -> None:
        del self._parts[mark:]
        self.length = sum(len(part[0]) for part in self._parts)

    def result(self) -> tuple[str, Array, Array]:
        """The text and the places of its characters, NaN where there is none."""
        text = "".join(part[0] for part in self._parts)
        if not text:
            return "", np.zeros(0, np.float32), np.zeros(0, np.float32)
        return (
            text,
            np.concatenate([p[1] for p in self._parts]),
            np.concatenate([p[2] for p in self._parts]),
        )

    def write(
        self, text: str, face: Atlas, style: Style, box: Box, how: Setting | None = None
    ) -> tuple[float, str]:
        """Set a paragraph and say it; the y below it, and the text that found no room."""
        how = how or Setting()
        text = fitting(text, face)
        codes = indices(text)
        runs = style.runs(text) if face is style.body or face is style.bold else []
        advance, which = _advances(codes, face, style, runs)
        leading = how.leading or (
            style.leading if face.size <= style.em * 1.05 else face.size * 1.2
        )
        lines, reach = _wrap(codes, advance, box.width, how.indent, style.hyphens, face)
        xs, ys = np.empty(len(codes), np.float32), np.empty(len(codes), np.float32)
        y, end = box.y, 0
        for number, (first, last, hyphen) in enumerate(lines):
            if number >= how.longest or y + face.size * 1.05 > box.bottom:
                break
            start = how.indent if number == 0 else 0.0
            places = reach[first:last] - reach[first]
            free = box.width - start - (reach[last] - reach[first])
            if how.align == "justified" and number < len(lines) - 1 and free > 0:
                places = _stretched(places, codes[first:last], free, face.size * 0.9)
            elif how.align == "centre":
                start += free / 2
            elif how.align == "right":
                start += free
            places = places + np.float32(box.x + start)
            base = y + face.size * 0.8
            for run in np.unique(which[first:last]) if runs else (0,):
                here = which[first:last] == run
                other, lift = runs[run - 1][2:] if run else (face, 0.0)
                self._draw(codes[first:last][here], places[here], base - lift, other, style)
            if hyphen:
                code = INDEX[[ord("-")]]
                self._draw(code, places[-1:] + advance[last - 1], base, face, style)
            if how.underline:
                self.rule(
                    places[0], base + face.size * 0.15, places[-1] + advance[last - 1], style.ink
                )
            end = min(last + (0 if hyphen else 1), len(codes))
            xs[first:last] = places + advance[first:last] / 2
            if end > last:
                xs[last] = xs[last - 1]
            ys[first:end] = base - face.size * 0.3
            y += leading
        said = text[:end].rstrip()
        if said:
            self.say(said, xs[: len(said)], ys[: len(said)])
        return y, text[end:]

    def write_line(
        self,
        text: str,
        face: Atlas,
        style: Style,
        x: float,
        y: float,
        align: str = "left",
        width: float = 0.0,
    ) -> float:
        """One line without wrapping; where it ends. It is cut where a `width` is given."""
        text = fitting(text, face)
        codes = indices(text)
        reach = np.concatenate([[0], np.cumsum(face.advance[codes])]).astype(np.float32)
        if width and reach[-1] > width:
            cut = max(1, int(np.searchsorted(reach, width, "right")) - 1)
            text = text[:cut].rstrip() or "."
            codes, reach = indices(text), reach[: len(text) + 1]
        if align != "left" and width:
            x += (width - reach[-1]) * (0.5 if align == "centre" else 1)
        base = y + face.size * 0.8
        advance = face.advance[codes]
        self._draw(codes, reach[:-1] + np.float32(x), base, face, style)
        middle = np.full(len(text), base - face.size * 0.3, np.float32)
        self.say(text, reach[:-1] + np.float32(x) + advance / 2, middle)
        return float(x + reach[-1])

    def _draw(self, codes: Array, xs: Array, base: float, face: Atlas, style: Style) -> None:
        if style.ligatures and face.ligatures:
            codes, xs = _join(codes, xs)
        count = len(codes)
        inks = np.full(count, style.ink, np.int32)
        ys = np.full(count, base, np.float32)
        if style.jitter:
            g = np.random.default_rng(self.r.getrandbits(32))
            wobble = style.jitter * face.size
            xs = xs + g.normal(0, 0.012, count).astype(np.float32) * wobble
            ys = ys + g.normal(0, 0.018, count).astype(np.float32) * wobble
            inks = (inks * np.clip(g.normal(0.92, 0.12 * style.jitter, count), 0.35, 1)).astype(
                np.int32
            )
            wrong = np.flatnonzero(g.random(count) < style.mistyped)
            if len(wrong):  # a letter that was struck first, and is still to be seen
                other = g.choice(codes, len(wrong))
                faint = inks[wrong] * 2 // 3
                blit(
                    self.cover, *face.arrays, other, xs[wrong].astype(np.float32), ys[wrong], faint
                )
        blit(self.cover, *face.arrays, codes, xs.astype(np.float32), ys, inks)

    # -- shapes ---------------------------------------------------------------------------

    def rule(
        self, x: float, y: float, until: float, ink: int = 220, thick: int | None = None
    ) -> None:
        self.line((x, y), (until, y), ink, thick)

    def line(
        self,
        start: tuple[float, float],
        end: tuple[float, float],
        ink: int = 220,
        thick: int | None = None,
    ) -> None:
        thick = thick or max(1, round(self.scale * 0.8))
        points = [(int(x), int(y)) for x, y in (start, end)]
        cv2.line(self.cover, points[0], points[1], min(255, int(ink)), thick)

    def frame(self, x: float, y: float, width: float, height: float, ink: int = 220) -> None:
        thick = max(1, round(self.scale * 0.8))
        cv2.rectangle(
            self.cover, (int(x), int(y)), (int(x + width), int(y + height)), min(255, ink), thick
        )

    def fill(self, x: float, y: float, width: float, height: float, shade: int) -> None:
        """A tint behind the text."""
        cv2.rectangle(self.shade, (int(x), int(y)), (int(x + width), int(y + height)), shade, -1)

    def paste(self, x: float, y: float, picture: Array) -> None:
        """A grey picture; it goes below the text when the page is finished."""
        self.pictures.append((int(x), int(y), picture))


def fitting(text: str, face: Atlas) -> str:
    """The text without the characters that the face lacks."""
    codes = indices(text)
    has = face.has[np.minimum(codes, len(face.has) - 1)] & (codes < len(face.has))
    if has.all():
        return text
    kept = "".join(character for character, there in zip(text, has, strict=True) if there)
    return " ".join(kept.split()) or "a"


def _advances(codes: Array, face: Atlas, style: Style, runs: list[Run]) -> tuple[Array, Array]:
    """How wide each character is set, and which of the runs it belongs to, from 1; 0 is none."""
    advance = face.advance[codes] + (style.tracking if face is style.body else 0)
    if style.word_space and face is style.body:
        advance = np.where(codes == 0, advance + style.word_space, advance)
    which = np.zeros(len(codes), np.int16)
    for number, (first, last, other, _) in enumerate(runs, 1):
        if other.has[np.minimum(codes[first:last], len(other.has) - 1)].all():
            which[first:last] = number
            advance[first:last] = other.advance[codes[first:last]]
    return advance, which


def _stretched(places: Array, codes: Array, free: float, most: float) -> Array:
    """A line with what is free given to its spaces, unless that is too much for each."""
    spaces = codes == 0
    if not spaces.sum() or free / spaces.sum() >= most:
        return places
    before = np.concatenate([[0], np.cumsum(spaces[:-1])]).astype(np.float32)
    moved: Array = places + before * (free / spaces.sum())
    return moved


def _join(codes: Array, xs: Array) -> tuple[Array, Array]:
    """fi and fl as one glyph each."""
    f, i, last = INDEX[ord("f")], INDEX[ord("i")], INDEX[ord("l")]
    at = np.flatnonzero(codes[:-1] == f)
    at = at[(codes[at + 1] == i) | (codes[at + 1] == last)]
    if not len(at):
        return codes, xs
    codes, kept = codes.copy(), np.ones(len(codes), bool)
    codes[at] = np.where(codes[at + 1] == i, FI, FL)
    kept[at + 1] = False
    return codes[kept], xs[kept]


def _wrap(
    codes: Array, advance: Array, width: float, indent: float, hyphens: bool, face: Atlas
) -> tuple[list[tuple[int, int, bool]], Array]:
    """Lines as (first, last, hyphen drawn), and the running sum of advances."""
    count = len(codes)
    reach = np.zeros(count + 1, np.float32)
    np.cumsum(advance, out=reach[1:])
    spaces = np.flatnonzero(codes == 0)
    hyphen = face.advance[INDEX[ord("-")]]
    lines: list[tuple[int, int, bool]] = []
    first, room = 0, width - indent
    while first < count:
        limit = reach[first] + room + 1
        if reach[count] <= limit:
            lines.append((first, count, False))
            break
        fits = int(np.searchsorted(reach, limit, "right")) - 1
        place = int(np.searchsorted(spaces, fits, "right")) - 1
        last = int(spaces[place]) if place >= 0 else -1
        if hyphens and last >= first:
            after = int(spaces[place + 1]) if place + 1 < len(spaces) else count
            cut = min(int(np.searchsorted(reach, limit - hyphen, "right")) - 1, after - 3)
            word = codes[last + 1 : after]
            letters = bool(len(word)) and bool(
                ((word >= 33) & (word <= 58) | (word >= 65) & (word <= 90)).all()
            )
            if cut - last >= 4 and letters:
                lines.append((first, cut, True))
                first, room = cut, width
                continue
        if last <= first:
            last = max(fits, first + 1)
            lines.append((first, last, False))
            first = last
        else:
            lines.append((first, last, False))
            first = last + 1
        room = width
    return lines, reach
