"""Items: a sample as a model takes it in, tokens with their places and patches with theirs."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np

from training import documents
from training.characters import CLASSES, Array, indices
from training.curriculum import CELLS_OF_A_KIND, KINDS, Stage
from training.documents import CELL, MOST_CELLS, Sample, World
from training.prompts import DESCRIBE, SYSTEM, TRANSCRIBE

PATCH = (CELL // 2) ** 2
"""Pixels of a patch; a cell has four."""
WINDOW = 4
"""Cells along the side of an attention window: 112 pixels."""
MOST_TOKENS = 3968
SLOTS = 32
"""Places in a cell for characters, four rows of eight: what the auxiliary head names."""
CORRUPTED = 0.02
"""Share of the given tokens that are replaced at random, so that one slip does not derail."""


@dataclass
class Item:
    """One sample, tokenized: what a pack takes in."""

    cells: int
    tokens: Array
    positions: Array
    image_at: int
    patches: Array
    row: Array
    column: Array
    windows: list[int]
    place_of_cell: Array
    """For each cell in reading order, where it is in window order."""
    cell_place: Array
    slots: Array
    answer: Array
    answer_at: Array
    answer_place: Array
    kind: int


class Maker:
    """Makes samples, and items of them."""

    def __init__(
        self,
        world: World,
        tokenizer: Any,
        seed: int,
        corrupt: bool = True,
    ) -> None:
        self.world, self.tokenizer, self.corrupt = world, tokenizer, corrupt
        self.r, self.g = random.Random(seed), np.random.default_rng(seed)
        ids = self._ids
        self.before = ids(f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n")
        self.open, self.close = ids("<|vision_start|>"), ids("<|vision_end|>")
        self.after = ids("<|im_end|>\n<|im_start|>assistant\n")
        self.image, self.end, self.pad = (
            tokenizer.token_to_id(f"<|{t}|>") for t in ("image_pad", "im_end", "endoftext")
        )
        self.ordinary = self.end
        self.transcribe, self.describe = [ids(p) for p in TRANSCRIBE], [ids(p) for p in DESCRIBE]

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def sample(self, now: Stage, kind: str | None = None) -> Item | None:
        """One item of the present stage, or None where it came out too large."""
        r = self.r
        if kind is None:
            weights = [
                share / CELLS_OF_A_KIND[k] for share, k in zip(now.shares, KINDS, strict=True)
            ]
            kind = r.choices(KINDS, weights)[0]
        sample = documents.make(r, self.world, kind, now.hard, now.wear, now.longest_line)
        described = {"picture": 0.75, "blank": 0.4, "page": 0.1, "part": 0.04, "line": 0.0}[kind]
        return self.item(sample, KINDS.index(kind), r.random() < described * (now.at > 0.08))

    def item(
        self, sample: Sample, kind: int, describe: bool, prompt: list[int] | None = None
    ) -> Item | None:
        """Tokens, positions and patches of one sample; None if it is larger than a page may be."""
        r, image = self.r, sample.image
        rows, columns = image.shape[0] // CELL, image.shape[1] // CELL
        cells = rows * columns
        text, xs, ys = _strip(sample)
        answer, place = self._answer(
            sample.caption if describe else text, None if describe else (xs, ys), rows, columns
        )
        asked = prompt or self._question(describe)
        image_first = prompt is not None or r.random() < 0.9
        head = [*self.before, *([] if image_first else asked), *self.open]
        tail = [*self.close, *(asked if image_first else []), *self.after]
        total = len(head) + cells + len(tail) + len(answer) - 1
        if cells > MOST_CELLS or total > MOST_TOKENS:
            return None
        given = answer[:-1].copy()
        if self.corrupt and not describe and len(given) > 2:
            slips = np.flatnonzero(self.g.random(len(given)) < CORRUPTED)
            given[slips] = self.g.integers(0, self.ordinary, len(slips))
        order, windows = window_order(rows, columns)
        y, x = np.divmod(np.arange(cells), columns)
        halves = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
        place_of_cell = np.empty(cells, np.int64)
        place_of_cell[order] = np.arange(cells)
        return Item(
            cells,
            np.concatenate([head, np.full(cells, self.image), tail, given]).astype(np.int32),
            _positions(len(head), rows, columns, total),
            len(head),
            _patches(image, rows, columns)[order].reshape(-1, PATCH),
            (y[:, None] * 2 + halves[:, 0])[order].ravel(),
            (x[:, None] * 2 + halves[:, 1])[order].ravel(),
            windows,
            place_of_cell,
            np.stack([y, x], 1)[order],
            _slots(text, xs, ys, rows, columns)[order],
            answer,
            np.arange(total - len(answer), total),
            place,
            kind + (len(KINDS) if describe else 0),
        )

    def _question(self, describe: bool) -> list[int]:
        if describe:
            return self.r.choice(self.describe)
        return self.transcribe[0] if self.r.random() < 0.4 else self.r.choice(self.transcribe)

    def _answer(
        self, text: str, places: tuple[Array, Array] | None, rows: int, columns: int
    ) -> tuple[Array, Array]:
        """The tokens to write, with the end, and the cell in which each begins."""
        encoded = self.tokenizer.encode(text, add_special_tokens=False)
        place = np.full((len(encoded.ids) + 1, 2), -1, np.int32)
        if places is not None and encoded.ids:
            xs, ys = places
            starts, ends = np.array(encoded.offsets, np.int64).T
            space = np.array([character in " \n" for character in text])
            begin = np.where((ends - starts > 1) & space[starts], starts + 1, starts)
            known = ~np.isnan(xs[begin])
            place[:-1, 0] = np.where(
                known, np.clip(np.nan_to_num(ys[begin]) // CELL, 0, rows - 1), -1
            )
            place[:-1, 1] = np.where(
                known, np.clip(np.nan_to_num(xs[begin]) // CELL, 0, columns - 1), -1
            )
        return np.array([*encoded.ids, self.end], np.int64), place


def window_order(rows: int, columns: int) -> tuple[Array, list[int]]:
    """Cells in the order of the vision tower's windows, and how many each window has."""
    cells = np.arange(rows * columns).reshape(rows, columns)
    windows = [
        cells[y : y + WINDOW, x : x + WINDOW].ravel()
        for y in range(0, rows, WINDOW)
        for x in range(0, columns, WINDOW)
    ]
    return np.concatenate(windows), [len(window) for window in windows]


def _strip(sample: Sample) -> tuple[str, Array, Array]:
    first = len(sample.text) - len(sample.text.lstrip())
    text = sample.text.strip()
    return text, sample.xs[first : first + len(text)], sample.ys[first : first + len(text)]


def _patches(image: Array, rows: int, columns: int) -> Array:
    """The four patches of each cell, cells in reading order."""
    half = CELL // 2
    grid = image.reshape(rows, 2, half, columns, 2, half).transpose(0, 3, 1, 4, 2, 5)
    return grid.reshape(rows * columns, 4, PATCH)


def _positions(before: int, rows: int, columns: int, total: int) -> Array:
    """Time, row and column of each token, as Qwen2.5-VL counts them."""
    cells = rows * columns
    positions = np.empty((3, total), np.int32)
    positions[:, :before] = np.arange(before)
    positions[0, before : before + cells] = before
    positions[1, before : before + cells] = before + np.arange(cells) // columns
    positions[2, before : before + cells] = before + np.arange(cells) % columns
    positions[:, before + cells :] = before + max(rows, columns) + np.arange(total - before - cells)
    return positions


def _slots(text: str, xs: Array, ys: Array, rows: int, columns: int) -> Array:
    """Which character stands in which part of which cell; 0 is none."""
    slots = np.zeros((rows * columns, SLOTS), np.int16)
    if text:
        places = indices(text)
        there = ~np.isnan(xs) & (places > 0) & (places < CLASSES - 1)
        there &= (xs >= 0) & (ys >= 0) & (xs < columns * CELL) & (ys < rows * CELL)
        x, y = xs[there], ys[there]
        cell = (y // CELL).astype(int) * columns + (x // CELL).astype(int)
        slots[cell, ((y % CELL) // 7).astype(int) * 8 + ((x % CELL) // 3.5).astype(int)] = places[
            there
        ]
    return slots
