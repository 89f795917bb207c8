"""Pages that lie on their side or stand on their head: the model is to say so, not to read them.

    image, said = turned(r, image)

What the number means is in `pagemill.answers.TURNED`. Upright pages with a line of text up their
margin teach that one line does not make a turned page.
"""

from __future__ import annotations

import random

import numpy as np

from pagemill.answers import TURNED
from training.characters import Array
from training.page import Page
from training.style import Style
from training.words import Speaker

FEWEST_LETTERS = 16
"""A text shorter than this may look alike on its head."""


def enough_to_tell(text: str) -> bool:
    """Whether one can see from the text which way is up."""
    return sum(map(str.isalpha, text)) >= FEWEST_LETTERS


def turned(r: random.Random, image: Array) -> tuple[Array, str]:
    """The page by 90, 180 or 270 degrees, and what is to be said of it."""
    quarters = r.choice([1, 2, 3])
    return np.ascontiguousarray(np.rot90(image, -quarters)), TURNED.format(90 * quarters)


def line_up_the_margin(page: Page, style: Style, say: Speaker) -> None:
    """A line that runs up or down beside the text, as a stamp or a number of a journal does."""
    r = page.r
    size = page.scale * r.uniform(9, 13)
    face = style.library.at(style.second, "r", size)
    high, wide = int(size * 1.5), int(page.down * r.uniform(0.1, 0.7))
    strip = Page(r, wide, high, 1.0)
    text = say.one_of(lambda: say.line(90), lambda: say.title(40), say.date, say.number)
    strip.write_line(text, face, style, 2, size * 0.15, width=wide - 4)
    ink = np.rot90(strip.cover, r.choice([1, 1, 3]))
    x = r.choice([int(page.across * 0.005), page.across - high - 2])
    y = r.randint(0, page.down - wide)
    region = page.cover[y : y + wide, x : x + high]
    np.maximum(region, ink[: region.shape[0], : region.shape[1]], out=region)
