"""Loops: does a model repeat itself, and since when?

    if (keep := find_loop(tokens)) is not None: tokens = tokens[:keep]

The thresholds were chosen on all 69 pages of the corpus, read with the default model (2026-11):
five pages loop until the token cap, and all five are caught; four repeat exactly for 147-224
tokens, then find back to the page, and stopping those would lose its rest; real tables and
filler text repeat at most 58 tokens exactly and fit no period by more than 0.54.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

LONGEST_PERIOD = 100
EXACT = 300
"""Tokens of exact repetition, at least four times its period, that make a loop."""
NEAR = 640
"""Tokens that a period may explain but for a counter or a date. Longer than `EXACT`, because
the rows of a real table differ by little more than a number."""
FIT = 0.65
"""The share of tokens that a near-period explains: "1. the 2. the" is 0.67."""
CHECK_EVERY = 32
"""Tokens between two looks for a loop."""
EXACT_AT_CAP = 64
"""Repeated tokens that make an answer which reaches its cap a loop: it is cut off anyway."""
PIECE = re.compile(r"\s*\w{1,4}|\s*[^\w\s]|\s+")
"""About a token: up to four letters of a word, or a sign."""


def find_loop(tokens: Sequence[int], exact: int = EXACT) -> int | None:
    """How many tokens to keep when the tail of `tokens` repeats itself, else None.

    Parameters
    ----------
    tokens : sequence of int
        What the model has said so far.
    exact : int
        Tokens of exact repetition to be called a loop; lower it where the answer ends anyway.

    Returns
    -------
    int or None
        The length up to the end of the first period: what came before, and the phrase once.
    """
    suspects = _suspects(tokens, exact)
    said = np.asarray(tokens if suspects else (), dtype=np.int64)
    for period in suspects:
        repeats = said[period:] == said[:-period]
        stretch = _true_tail(repeats) + period
        if stretch >= max(exact, 4 * period):
            return len(said) - stretch + period
        if len(repeats) >= NEAR and repeats[-NEAR:].mean() >= FIT:
            return len(said) - _fitting_tail(repeats, period)
    return None


def find_loop_in_text(text: str, exact: int = EXACT) -> int | None:
    """How many characters to keep when the tail of `text` repeats itself, else None.

    For an endpoint that sends text and no token ids; pieces of words stand for the tokens.
    """
    pieces = PIECE.findall(text)[:-1]  # the last may go on
    names: dict[str, int] = {}
    keep = find_loop([names.setdefault(piece, len(names)) for piece in pieces], exact)
    return None if keep is None else sum(len(piece) for piece in pieces[:keep])


def _suspects(tokens: Sequence[int], exact: int) -> list[int]:
    """The periods that the end of `tokens` may have, the shortest first.

    One look at all of them together: a small model is looked at 400 times a second, and next to
    never it loops.
    """
    end = np.asarray(tokens[-NEAR - LONGEST_PERIOD :], dtype=np.int64)
    fits = np.zeros(min(LONGEST_PERIOD, len(tokens) // 4), dtype=np.bool_)
    for length, share in ((min(16, exact // 2), 1.0), (NEAR, FIT)):
        if len(end) > length:
            # Row by row what stands a period before the last `length` tokens.
            before = sliding_window_view(end[:-1], length)[::-1][: len(fits)]
            same = np.count_nonzero(before == end[-length:], axis=1)
            fits[: len(same)] |= same >= int(share * length)
    return [int(period) + 1 for period in np.flatnonzero(fits)]


def _true_tail(repeats: np.ndarray[Any, np.dtype[np.bool_]]) -> int:
    """Length of the run of True at the end."""
    last_false = np.flatnonzero(~repeats[-4 * NEAR :])
    return len(repeats[-4 * NEAR :]) - int(last_false[-1]) - 1 if len(last_false) else len(repeats)


def _fitting_tail(repeats: np.ndarray[Any, np.dtype[np.bool_]], period: int) -> int:
    """Length of the end in which every stretch of a period or 16 tokens mostly repeats."""
    step = max(period, 16)
    length = 0
    while length < len(repeats):
        block = repeats[max(0, len(repeats) - length - step) : len(repeats) - length]
        if block.mean() < 0.5:
            break
        length += len(block)
    return length
