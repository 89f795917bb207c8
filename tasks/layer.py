"""A PDF's own text: is it worth believing?

A layer can be missing in part (a scan with a typed header), misplaced, hidden, or in an encoding
that no one can read back. It is *sound* where

1. it covers the ink: at least half of what is on the page lies within its boxes (`MIN_COVERED`),
2. there is ink where it says text is: in at least 9 of 10 boxes (`MIN_INKED`),
3. it reads like text: at most 1 character in 50 is unreadable (`MAX_UNREADABLE`), and at most
   1 word in 4 is nothing that a word looks like (`MAX_ODD_WORDS`).

A sound layer is *believed* once the model, asked about a page of the same document, has read the
same words (`agree`). A page with a large photograph fails the first test and goes to the model,
which is the cheaper mistake.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

Box = tuple[int, int, int, int]

MIN_COVERED = 0.5
MIN_INKED = 0.9
MAX_UNREADABLE = 0.02
MAX_ODD_WORDS = 0.25
MIN_VOWELS = 0.25
MIN_AGREEMENT = 0.7
_ENOUGH_LETTERS = 20
_REDUCED = 4
_INK_LEVELS = 32
_UNREADABLE = frozenset({"Co", "Cn", "Cs", "Cc"})
_MIXED = re.compile(r"[^\W\d_][\d!-&*+/:-@^_`{|}~]+[^\W\d_]|\d[^\W\d_]+\d")
_LONGEST_WORD = 40


def fit_of(image: Image, boxes: Sequence[Box]) -> tuple[float, float]:
    """How a layer lies on the picture: the share of ink in its boxes, of boxes with ink in them.

    Parameters
    ----------
    image : PIL.Image.Image
        RGB or RGBX.
    boxes : sequence of (left, top, right, bottom)
        In pixels.
    """
    from PIL import Image, ImageChops, ImageDraw

    grey = image.convert("L").reduce(_REDUCED)
    counts = grey.histogram()
    background = counts.index(max(counts))
    ink = grey.point([255 * (abs(level - background) > _INK_LEVELS) for level in range(256)])
    text = Image.new("L", ink.size, 0)
    draw = ImageDraw.Draw(text)
    inked = 0
    for box in boxes:
        small = _reduced(box)
        draw.rectangle(small, fill=255)
        inked += ink.crop((small[0], small[1], small[2] + 1, small[3] + 1)).getbbox() is not None
    there, covered = ink.histogram()[255], ImageChops.multiply(ink, text).histogram()[255]
    return (covered / there if there else 0.0, inked / len(boxes) if boxes else 0.0)


def _reduced(box: Box) -> Box:
    """In pixels of the reduced picture, with one around it: accents stick out of their line."""
    left, top, right, bottom = (side // _REDUCED for side in box)
    return left - 1, top - 1, max(left, right) + 1, max(top, bottom) + 1


def why_unsound(text: str | None, fit: tuple[float, float] | None) -> str | None:
    """Why a layer is not to be believed; None for a sound one."""
    if not text or fit is None:
        return "no layer"
    covered, inked = fit
    if covered < MIN_COVERED:
        return f"it covers {covered:.0%} of the ink"
    if inked < MIN_INKED:
        return f"{1 - inked:.0%} of it lies where nothing is"
    return why_garbage(text)


def why_garbage(text: str) -> str | None:
    """Why this is no readable text; None if it may be."""
    letters = [c for c in text if not c.isspace()]
    unreadable = sum(c == "\ufffd" or unicodedata.category(c) in _UNREADABLE for c in letters)
    if not letters or unreadable > MAX_UNREADABLE * len(letters):
        return f"{unreadable} of {len(letters)} characters are unreadable"
    words = text.split()
    odd = sum(_is_odd(word) for word in words)
    # Text that lost its spaces, or got one after each letter, is odd as a whole.
    single = sum(len(word) == 1 and word.isascii() and word.isalpha() for word in words)
    if odd > MAX_ODD_WORDS * len(words) or single > 0.5 * len(words):
        return f"{max(odd, single)} of {len(words)} words are none"
    latin = [c for c in letters if c.isascii() and c.isalpha()]
    vowels = sum(c in "aeiouyAEIOUY" for c in latin) / len(latin) if latin else 1.0
    if len(latin) >= _ENOUGH_LETTERS and vowels < MIN_VOWELS:
        return f"{vowels:.0%} of its letters are vowels"
    return None


def _is_odd(word: str) -> bool:
    """Signs amid letters, as of a font without a usable encoding; or far too long."""
    if len(word) > _LONGEST_WORD and word.isalpha() and word.isascii():
        return True
    bare = re.sub(r"^\W+|\W+$", "", word)
    if not any(c.isalnum() for c in word):
        return len(word) > 3 and len(set(word)) > 2
    return "://" not in word and "@" not in word and _MIXED.search(bare) is not None


def agree(layer: str, read: str) -> bool:
    """Whether two readings of a page have the same words, in whatever order."""
    one, two = (Counter(re.findall(r"\w+", text.casefold())) for text in (layer, read))
    common = (one & two).total()
    return 2 * common >= MIN_AGREEMENT * (one.total() + two.total())
