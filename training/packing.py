"""Samples become arrays of one fixed size, made by many processes into shared memory.

    loader = Loader(PackSize(8192), world, tokenizer_file, workers=15, seed=1)
    number, sizes = loader.ready.get()
    batch = loader.packs[number]                 # dict of arrays; copy, then give back
    loader.free.put(number)

A pack holds several samples back to back, without padding between them: image cells for the
vision tower (in the order of its windows), tokens for the language model, and the tokens to
predict. `starts_*` say where samples and windows begin, as variable-length attention wants it.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.multiprocessing as mp

from training import documents
from training.characters import CLASSES, Array, indices
from training.documents import CELL, MOST_CELLS, Sample, World
from training.prompts import DESCRIBE, SYSTEM, TRANSCRIBE

WINDOW = 4
"""Cells along the side of an attention window: 112 pixels."""
MOST_TOKENS = 3968
SLOTS = 32
"""Places in a cell for characters, four rows of eight: what the auxiliary head names."""
IGNORE = -100
KINDS = ("line", "part", "page", "picture", "blank")
CELLS_OF_A_KIND = {"line": 31, "part": 230, "page": 1100, "picture": 520, "blank": 300}
CORRUPTED = 0.02
"""Share of the given tokens that are replaced at random, so that one slip does not derail."""


@dataclass(frozen=True)
class Stage:
    """What is trained on at one point of the run; in between, values are interpolated."""

    at: float
    shares: tuple[float, ...]
    """Of the image cells, by kind."""
    hard: float
    wear: float
    longest_line: int


CURRICULUM = (
    Stage(0.00, (1.0, 0.0, 0.0, 0.0, 0.0), 0.75, 0.15, 12),
    Stage(0.03, (1.0, 0.0, 0.0, 0.0, 0.0), 0.70, 0.25, 60),
    Stage(0.05, (0.6, 0.4, 0.0, 0.0, 0.0), 0.65, 0.40, 65),
    Stage(0.10, (0.25, 0.60, 0.12, 0.03, 0.0), 0.60, 0.60, 70),
    Stage(0.16, (0.10, 0.46, 0.38, 0.05, 0.01), 0.52, 0.85, 75),
    Stage(0.26, (0.05, 0.22, 0.64, 0.08, 0.01), 0.45, 1.00, 80),
    Stage(1.00, (0.03, 0.11, 0.77, 0.08, 0.01), 0.22, 1.00, 90),
)


def stage(progress: float, pictures: float | None = None) -> Stage:
    """The curriculum at `progress`, from 0 to 1.

    `pictures` is the share of the cells that shows pictures instead of the curriculum's, once it
    has any; the other kinds share the rest as they did.
    """
    points = [s.at for s in CURRICULUM]

    def mix(values: Iterable[float]) -> float:
        return float(np.interp(progress, points, list(values)))

    shares = [mix(s.shares[k] for s in CURRICULUM) for k in range(len(KINDS))]
    at = KINDS.index("picture")
    if pictures is not None and shares[at]:
        rest = (1 - pictures) / (1 - shares[at])
        shares = [pictures if k == at else share * rest for k, share in enumerate(shares)]
    return Stage(
        progress,
        tuple(shares),
        mix(s.hard for s in CURRICULUM),
        mix(s.wear for s in CURRICULUM),
        int(mix(s.longest_line for s in CURRICULUM)),
    )


class PackSize:
    """The arrays of a pack of `cells` image tokens: names, shapes and types."""

    def __init__(self, cells: int) -> None:
        self.cells, self.patches = cells, cells * 4
        self.tokens, self.labels = cells * 5 // 2 + 512, cells * 5 // 4 + 512
        self.samples, self.windows = max(64, cells // 16), cells // 3 + 256
        self.arrays: dict[str, tuple[tuple[int, ...], Any]] = {
            "patches": ((self.patches, CELL * CELL // 4), np.uint8),
            "row": ((self.patches,), np.int16),
            "column": ((self.patches,), np.int16),
            "starts_image": ((self.samples + 1,), np.int32),
            "starts_window": ((self.windows + 1,), np.int32),
            "tokens": ((self.tokens,), np.int32),
            "positions": ((3, self.tokens), np.int32),
            "starts_sample": ((self.samples + 1,), np.int32),
            "cell_of_token": ((self.tokens,), np.int32),
            "label_at": ((self.labels,), np.int32),
            "label": ((self.labels,), np.int32),
            "label_place": ((self.labels, 2), np.int32),
            "label_kind": ((self.labels,), np.int32),
            "cell_place": ((cells, 2), np.int32),
            "slots": ((cells, SLOTS), np.int16),
        }
        self.bytes = sum(_rounded(shape, kind) for shape, kind in self.arrays.values())

    def views(self, buffer: Array) -> dict[str, Array]:
        """The arrays as they lie in one buffer."""
        views, start = {}, 0
        for name, (shape, kind) in self.arrays.items():
            views[name] = np.frombuffer(buffer, kind, int(np.prod(shape)), start).reshape(shape)
            start += _rounded(shape, kind)
        return views


def _rounded(shape: tuple[int, ...], kind: Any) -> int:
    return (math.prod(shape) * int(np.dtype(kind).itemsize) + 255) // 256 * 256


def window_order(rows: int, columns: int) -> tuple[Array, list[int]]:
    """Cells in the order of the vision tower's windows, and how many each window has."""
    cells = np.arange(rows * columns).reshape(rows, columns)
    windows = [
        cells[y : y + WINDOW, x : x + WINDOW].ravel()
        for y in range(0, rows, WINDOW)
        for x in range(0, columns, WINDOW)
    ]
    return np.concatenate(windows), [len(window) for window in windows]


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
    """Makes samples and packs them."""

    def __init__(
        self,
        world: World,
        tokenizer: Any,
        seed: int,
        progress: Any = None,
        corrupt: bool = True,
        pictures: float | None = None,
    ) -> None:
        self.world, self.tokenizer, self.corrupt = world, tokenizer, corrupt
        self.progress, self.pictures = progress, pictures
        self.r, self.g = random.Random(seed), np.random.default_rng(seed)
        self.waiting: Item | None = None
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
        asked = prompt or (
            r.choice(self.describe)
            if describe
            else self.transcribe[0]
            if r.random() < 0.4
            else r.choice(self.transcribe)
        )
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
        half = CELL // 2
        patches = (
            image.reshape(rows, 2, half, columns, 2, half)
            .transpose(0, 3, 1, 4, 2, 5)
            .reshape(cells, 4, half * half)
        )
        place_of_cell = np.empty(cells, np.int64)
        place_of_cell[order] = np.arange(cells)
        return Item(
            cells,
            np.concatenate([head, np.full(cells, self.image), tail, given]).astype(np.int32),
            _positions(len(head), rows, columns, total),
            len(head),
            patches[order].reshape(-1, half * half),
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

    def fill(
        self, pack: dict[str, Array], size: PackSize, items: Iterator[Item] | None = None
    ) -> dict[str, int]:
        """Fill a pack with samples of the present stage, or with the given items; what is in it."""
        _empty(pack, self.pad)
        now = stage(self.progress.value if self.progress is not None else 1.0, self.pictures)
        used = {"samples": 0, "cells": 0, "tokens": 0, "labels": 0}
        starts: dict[str, list[int]] = {"image": [0], "window": [0], "sample": [0]}
        misses = 0
        while (
            misses < 6 and used["cells"] < size.cells * 0.985 and used["labels"] < size.labels - 40
        ):
            item = self._next(now, size.cells - used["cells"], items)
            if item is None:
                if items is not None:
                    break
                continue
            if not _fits(item, used, starts, size):
                misses += 1
                if (self.waiting is None and item.cells > 500) or items is not None:
                    self.waiting = item
                    misses += 2
                continue
            _put(pack, item, used, starts)
        pack["patches"][used["cells"] * 4 :] = 255
        _close(pack["starts_image"], starts["image"], size.patches, 4096)
        _close(pack["starts_sample"], starts["sample"], size.tokens, 2048)
        _close(pack["starts_window"], starts["window"], size.patches, 4 * WINDOW * WINDOW)
        return used

    def _next(self, now: Stage, room: int, items: Iterator[Item] | None) -> Item | None:
        if self.waiting is not None and (self.waiting.cells <= room or items is not None):
            item, self.waiting = self.waiting, None
            return item
        if items is not None:
            return next(items, None)
        small = now.at > 0.15
        return self.sample(
            now, "line" if small and room < 160 else "part" if small and room < 700 else None
        )


def _strip(sample: Sample) -> tuple[str, Array, Array]:
    first = len(sample.text) - len(sample.text.lstrip())
    text = sample.text.strip()
    return text, sample.xs[first : first + len(text)], sample.ys[first : first + len(text)]


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


def _empty(pack: dict[str, Array], pad: int) -> None:
    for name, value in (
        ("cell_of_token", -1),
        ("label", IGNORE),
        ("label_place", -1),
        ("label_kind", 0),
        ("label_at", 0),
        ("cell_place", -1),
        ("slots", 0),
        ("tokens", pad),
        ("positions", 0),
        ("row", 0),
        ("column", 0),
    ):
        pack[name][:] = value


def _fits(item: Item, used: dict[str, int], starts: dict[str, list[int]], size: PackSize) -> bool:
    windows = size.windows - 100 - (size.cells - used["cells"]) // (WINDOW * WINDOW)
    return (
        used["cells"] + item.cells <= size.cells
        and used["tokens"] + len(item.tokens) <= size.tokens
        and used["labels"] + len(item.answer) <= size.labels
        and used["samples"] < size.samples - 24
        and len(starts["window"]) + len(item.windows) <= windows
    )


def _put(
    pack: dict[str, Array], item: Item, used: dict[str, int], starts: dict[str, list[int]]
) -> None:
    cell, token, label = used["cells"], used["tokens"], used["labels"]
    cells, tokens, labels = item.cells, len(item.tokens), len(item.answer)
    for name in ("patches", "row", "column"):
        pack[name][cell * 4 : (cell + cells) * 4] = getattr(item, name)
    pack["tokens"][token : token + tokens] = item.tokens
    pack["positions"][:, token : token + tokens] = item.positions
    pack["cell_of_token"][token + item.image_at : token + item.image_at + cells] = (
        item.place_of_cell + cell
    )
    pack["label_at"][label : label + labels] = item.answer_at + token
    pack["label"][label : label + labels] = item.answer
    pack["label_place"][label : label + labels] = item.answer_place
    pack["label_kind"][label : label + labels] = item.kind
    pack["cell_place"][cell : cell + cells] = item.cell_place
    pack["slots"][cell : cell + cells] = item.slots
    for window in item.windows:
        starts["window"].append(starts["window"][-1] + window * 4)
    starts["image"].append((cell + cells) * 4)
    starts["sample"].append(token + tokens)
    for name, amount in (("samples", 1), ("cells", cells), ("tokens", tokens), ("labels", labels)):
        used[name] += amount


def _close(array: Array, starts: list[int], total: int, step: int) -> None:
    """Cover what is left over with dummies of bounded size; the rest of the array is the end."""
    while starts[-1] < total:
        starts.append(min(total, starts[-1] + step))
    assert len(starts) <= len(array), (len(starts), len(array))
    array[: len(starts)] = starts
    array[len(starts) :] = total


class Loader:
    """Worker processes that fill packs; `progress` is theirs to read."""

    def __init__(
        self,
        size: PackSize,
        world: World,
        tokenizer_file: Path,
        workers: int,
        seed: int,
        pictures: float | None = None,
    ) -> None:
        context = mp.get_context("fork")
        count = workers * 2 + 4
        self._memory = [
            torch.empty(size.bytes, dtype=torch.uint8).share_memory_() for _ in range(count)
        ]
        self.packs = [size.views(memory.numpy()) for memory in self._memory]
        self.free, self.ready = context.Queue(), context.Queue()
        self.progress = context.Value("d", 0.0, lock=False)
        for number in range(count):
            self.free.put(number)
        arguments = (self.packs, size, self.free, self.ready, world, tokenizer_file, self.progress)
        self.workers = [
            context.Process(target=_work, args=(*arguments, seed * 1000 + n, pictures), daemon=True)
            for n in range(workers)
        ]
        for worker in self.workers:
            worker.start()

    def close(self) -> None:
        for worker in self.workers:
            worker.terminate()


def _work(
    packs: list[dict[str, Array]],
    size: PackSize,
    free: Any,
    ready: Any,
    world: World,
    tokenizer_file: Path,
    progress: Any,
    seed: int,
    pictures: float | None,
) -> None:
    from tokenizers import Tokenizer

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    maker = Maker(world, tokenizer, seed, progress, pictures=pictures)
    while True:
        number = free.get()
        ready.put((number, maker.fill(packs[number], size)))
