"""The characters a page may show: Latin script with its diacritics, and common signs.

    page_text = keep(text)                      # only what can be drawn
    places = indices(page_text)                 # of each character in `CHARACTERS`

The space has place 0.
"""

from __future__ import annotations

import re
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, Any]

ASCII = "".join(map(chr, range(32, 127)))
LATIN_1 = "".join(chr(code) for code in range(0xA1, 0x100) if code != 0xAD)
LATIN_A = "ĀāĂăĄąĆćČčĎďĐđĒēĖėĘęĚěĞğĪīİıŁłŃńŇňŌōŐőŒœŘřŚśŞşŠšȘșŢţȚțŤťŪūŮůŰűŸŹźŻżŽž"
SIGNS = "–—‘’‚“”„‹›†‡•…‰€™−≤≥≠≈→←∞√αβγδπσμλΔΩ■□●✓"
LIGATURES = "ﬁﬂ"
CHARACTERS = ASCII + LATIN_1 + LATIN_A + SIGNS + LIGATURES
CLASSES = len(CHARACTERS) - len(LIGATURES) + 1
"""Of the auxiliary head: a ligature is drawn, but read as its letters."""
FI, FL = len(CHARACTERS) - 2, len(CHARACTERS) - 1
assert len(set(CHARACTERS)) == len(CHARACTERS)

NONE = 0xFFFF
INDEX = np.full(0x10000, NONE, np.uint16)
"""From a UTF-16 unit to a place in `CHARACTERS`, or `NONE`; the space is 0."""
INDEX[[ord(character) for character in CHARACTERS]] = np.arange(len(CHARACTERS))

_LOOKALIKES = str.maketrans({"\u00a0": " ", "\u2010": "-", "\u2011": "-", "\u202f": " ", "ﬀ": "ff"})
_UNKNOWN = re.compile("[^" + re.escape(CHARACTERS[: CLASSES - 1]) + "]")


def indices(text: str) -> Array:
    """Places in `CHARACTERS`, one for each character."""
    return INDEX[np.frombuffer(text.encode("utf-16-le"), np.uint16)]


def as_bytes(values: Array) -> Array:
    """Grey values cut off at 0 and 255."""
    cut: Array = np.clip(values, 0, 255).astype(np.uint8)
    return cut


def keep(text: str) -> str:
    """The text without what cannot be drawn, white space collapsed."""
    return " ".join(_UNKNOWN.sub("", text.translate(_LOOKALIKES)).split())


def drawable(text: str) -> bool:
    """Whether the whole text can be drawn."""
    return _UNKNOWN.search(text.translate(_LOOKALIKES)) is None
