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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.multiprocessing as mp

from training.characters import Array
from training.curriculum import Stage, stage
from training.documents import World
from training.items import PATCH, SLOTS, WINDOW, Item, Maker

IGNORE = -100


class PackSize:
    """The arrays of a pack of `cells` image tokens: names, shapes and types."""

    def __init__(self, cells: int) -> None:
        self.cells, self.patches = cells, cells * 4
        self.tokens, self.labels = cells * 5 // 2 + 512, cells * 5 // 4 + 512
        self.samples, self.windows = max(64, cells // 16), cells // 3 + 256
        self.arrays: dict[str, tuple[tuple[int, ...], Any]] = {
            "patches": ((self.patches, PATCH), np.uint8),
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


class Packer:
    """Fills packs with what a maker makes, at a point of the curriculum.

    Parameters
    ----------
    maker : Maker
    progress : shared value, optional
        From 0 to 1, and 1 without; read anew for each pack.
    pictures : float, optional
        As `stage` takes it.
    """

    def __init__(self, maker: Maker, progress: Any = None, pictures: float | None = None) -> None:
        self.maker, self.progress, self.pictures = maker, progress, pictures
        self.waiting: Item | None = None

    def fill(
        self, pack: dict[str, Array], size: PackSize, items: Iterator[Item] | None = None
    ) -> dict[str, int]:
        """Fill a pack with samples of the present stage, or with the given items; what is in it."""
        _empty(pack, self.maker.pad)
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
        return self.maker.sample(
            now, "line" if small and room < 160 else "part" if small and room < 700 else None
        )


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
    packer = Packer(Maker(world, tokenizer, seed), progress, pictures)
    while True:
        number = free.get()
        ready.put((number, packer.fill(packs[number], size)))
