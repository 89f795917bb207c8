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
RUN = 3
"""Of a run of one token so many count for a near-period."""
CHECK_EVERY = 32
"""Tokens between two looks for a loop."""
EXACT_AT_CAP = 64
"""Repeated tokens that make an answer which reaches its cap a loop: it is cut off anyway."""
Tokens = np.ndarray[Any, np.dtype[np.int64]]
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
    keep = _exact_loop(tokens, exact)
    return _near_loop(tokens) if keep is None else keep


def find_loop_in_text(text: str, exact: int = EXACT) -> int | None:
    """How many characters to keep when the tail of `text` repeats itself, else None.

    For an endpoint that sends text and no token ids; pieces of words stand for the tokens.
    """
    pieces = PIECE.findall(text)[:-1]  # the last may go on
    names: dict[str, int] = {}
    keep = find_loop([names.setdefault(piece, len(names)) for piece in pieces], exact)
    return None if keep is None else sum(len(piece) for piece in pieces[:keep])


def _exact_loop(tokens: Sequence[int], exact: int) -> int | None:
    probe = min(16, exact // 2)
    periods = _periods(np.asarray(tokens[-probe - LONGEST_PERIOD :]), probe, 1.0)
    said = np.asarray(tokens if periods else ())
    for period in periods:
        stretch = _true_tail(said[period:] == said[:-period]) + period
        if stretch >= max(exact, 4 * period):
            return len(said) - stretch + period
    return None


def _near_loop(tokens: Sequence[int]) -> int | None:
    """The same where the repetition has counters or dates in it, of any run its first tokens."""
    if len(tokens) <= NEAR:
        return None
    end = np.asarray(tokens[-2 * (NEAR + LONGEST_PERIOD) :])
    periods = _periods(end[_without_runs(end)], NEAR, FIT)
    if not periods:
        return None
    said = np.asarray(tokens)
    places = _without_runs(said)
    said, period = said[places], periods[0]
    tail = _fitting_tail(said[period:] == said[:-period], period)
    return int(places[-tail]) if tail else None


def _periods(end: Tokens, length: int, share: float) -> list[int]:
    """Periods that explain that share of the last `length` tokens, the shortest first.

    One look at all of them together: a small model is looked at 400 times a second, and next to
    never it loops.
    """
    if len(end) <= length:
        return []
    # Row by row what stands a period before the last `length` tokens.
    before = sliding_window_view(end[:-1], length)[::-1][:LONGEST_PERIOD]
    same = np.count_nonzero(before == end[-length:], axis=1)
    return [int(period) + 1 for period in np.flatnonzero(same >= int(share * length))]


def _without_runs(said: Tokens) -> Tokens:
    """Places of tokens, of each run of one token only the first `RUN`.

    Leaders of dots and lines to write on are long, and what stands between them is short: they
    would explain nearly all of a table of contents or a form.
    """
    same = np.ones(max(0, len(said) - RUN), dtype=np.bool_)
    for back in range(1, RUN + 1):
        same &= said[RUN:] == said[RUN - back : len(said) - back]
    return np.concatenate([np.arange(min(RUN, len(said))), np.flatnonzero(~same) + RUN])


def _true_tail(repeats: np.ndarray[Any, np.dtype[np.bool_]]) -> int:
    """Length of the run of True at the end."""
    last_false = np.flatnonzero(~repeats)
    return len(repeats) - int(last_false[-1]) - 1 if len(last_false) else len(repeats)


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
