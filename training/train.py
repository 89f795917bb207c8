"""Train the page reader for a given time, alone or on several GPUs of one machine.

    python -m training.train DATA RUN --minutes 20                          # from scratch
    python -m training.train DATA RUN --minutes 15 --weights models/pagereader-19m    # go on
    torchrun --nproc-per-node 2 -m training.train DATA RUN --minutes 18 --stop-after 9
    torchrun --nproc-per-node 2 -m training.train DATA RUN --minutes 18     # the second half

The schedule is a function of the time spent: rates rise in a warm-up, stay, and fall to zero at
the end; the documents get harder and longer (`CURRICULUM` in curriculum.py). RUN holds the log and
`last.pt`, weights and optimizer; a run that finds one goes on from there, and `--stop-after`
ends a piece early, for machines that are lent in short turns. `--save-every 3` writes it on the
way, for an export while the run goes on.

One GPU of several, beside other work:

    CUDA_VISIBLE_DEVICES=1 python -m training.train DATA RUN --workers 15
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import queue
import random
import threading
import time
from pathlib import Path
from typing import Any, TextIO

import torch
import torch.distributed as dist

from training import blocks, degrade, documents
from training.checkpoint import load_checkpoint
from training.curriculum import KINDS
from training.documents import World
from training.glyphs import Library
from training.model import TINY, Batch, PageReader, Shape, TextBlock, VisionBlock
from training.nf4 import rounded, ways
from training.optimizer import Optimizer
from training.packing import Loader, PackSize
from training.pictures import Pictures
from training.words import Texts

PROJECT = Path(__file__).resolve().parents[1]
MODEL = PROJECT / "models" / "pagereader-19m"


def _share(text: str) -> float:
    share = float(text)
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no share: give a number from 0 to 1")
    return share


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("data", type=Path, help="the folder that training.sources made")
    add("run", type=Path, help="a folder for the log and last.pt")
    add("--minutes", type=float, default=20, help="length of the whole schedule")
    add(
        "--stop-after",
        type=float,
        default=math.inf,
        metavar="MINUTES",
        help="end this piece, counted from the start of the program",
    )
    add("--weights", type=Path, help="a checkpoint to start from, instead of from scratch")
    add("--tokenizer", type=Path, default=MODEL / "tokenizer.json")
    add("--cells", type=int, default=8192, help="image tokens in a batch, on each GPU")
    add(
        "--workers",
        type=int,
        default=0,
        help="document makers on each GPU; 0: one for each core but one",
    )
    add("--warm-up", type=int, default=150, metavar="STEPS")
    add(
        "--fall-from",
        type=float,
        default=0.4,
        metavar="SHARE",
        help="of the schedule, from where rates fall to zero",
    )
    add("--rate", type=float, default=3e-3, help="Muon's; AdamW's is half of it")
    add(
        "--start-at",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="of the curriculum: 0.26 is whole pages from the start",
    )
    add(
        "--pictures",
        type=_share,
        metavar="SHARE",
        help="of the cells, to be pictures instead of the curriculum's 0.08 and less",
    )
    add(
        "--caption-weight",
        type=float,
        default=1.0,
        metavar="TIMES",
        help="what a token of a caption counts in the loss, against one of a page",
    )
    add(
        "--quantize-from",
        type=float,
        default=1.0,
        metavar="SHARE",
        help="of the schedule, from where every second step trains for 4 bits (nf4.py)",
    )
    add(
        "--save-every",
        type=float,
        default=math.inf,
        metavar="MINUTES",
        help="write last.pt on the way as well",
    )
    add("--seed", type=int, default=1)
    add("--tiny", action="store_true", help="a model for tests")
    add("--every", type=int, default=100, metavar="STEPS", help="between two lines of the log")
    return parser.parse_args()


class Ranks:
    """The processes that train together: who this is, and what they agree on."""

    def __init__(self) -> None:
        self.number, self.count = (
            int(os.environ.get("RANK", 0)),
            int(os.environ.get("WORLD_SIZE", 1)),
        )
        self.device = (
            torch.device("cuda", self.number) if torch.cuda.is_available() else torch.device("cpu")
        )
        if self.count > 1:
            torch.cuda.set_device(self.device)
            dist.init_process_group("nccl", device_id=self.device)
            self.clocks = dist.new_group(backend="gloo")

    def agree(self, value: float) -> float:
        """The first process' value: schedules must not drift apart."""
        if self.count == 1:
            return value
        told = torch.tensor([value], dtype=torch.float64)
        dist.broadcast(told, 0, group=self.clocks)
        return float(told.item())

    def average(self, parameters: list[torch.nn.Parameter]) -> None:
        """Replace gradients by their mean over the processes."""
        if self.count > 1:
            gradients = [p.grad for p in parameters if p.grad is not None]
            flat = torch.cat([g.view(-1) for g in gradients])
            dist.all_reduce(flat, op=dist.ReduceOp.AVG)
            torch._foreach_copy_(
                gradients,
                [
                    part.view_as(g)
                    for part, g in zip(
                        flat.split([g.numel() for g in gradients]), gradients, strict=True
                    )
                ],
            )


def build_world(data: Path, processes: int) -> World:
    """Texts, faces and pictures, before the workers are forked and share them."""
    world = World(Texts(data / "text"), Library(data / "fonts"), Pictures(data / "pictures"))
    blocks.PICTURES[:] = [world.pictures]
    if processes > 1:
        world.library.draw_all(processes)
    degrade.noises()
    for kind in ("line", "page"):  # numba compiles once
        documents.make(random.Random(0), world, kind)
    return world


def batches(loader: Loader, device: torch.device) -> queue.Queue[tuple[Batch, dict[str, int]]]:
    """Packs on the device, fetched ahead by a thread."""
    ready: queue.Queue[tuple[Batch, dict[str, int]]] = queue.Queue(3)

    def fetch() -> None:
        if device.type == "cuda":
            torch.cuda.set_device(device)
            torch.cuda.set_stream(torch.cuda.Stream())
        while True:
            number, sizes = loader.ready.get()
            arrays = {name: torch.from_numpy(array) for name, array in loader.packs[number].items()}
            if device.type == "cuda":
                batch = {
                    name: array.pin_memory().to(device, non_blocking=True)
                    for name, array in arrays.items()
                }
                torch.cuda.current_stream().synchronize()
            else:
                batch = {name: array.clone() for name, array in arrays.items()}
            loader.free.put(number)
            ready.put((batch, sizes))

    threading.Thread(target=fetch, daemon=True).start()
    return ready


class Log:
    def __init__(self, folder: Path, quiet: bool) -> None:
        self.began, self.quiet = time.monotonic(), quiet
        self.file: TextIO | None = None if quiet else (folder / "log.txt").open("a")

    def __call__(self, text: str) -> None:
        if self.file:
            line = f"[{time.monotonic() - self.began:7.1f}] {text}"
            print(line, flush=True)
            print(line, file=self.file, flush=True)


class Meter:
    """What happened between two lines of the log."""

    def __init__(self, device: torch.device) -> None:
        self.measures = torch.zeros(2 * len(KINDS), 3, device=device)
        self.reset()

    def reset(self) -> None:
        self.measures.zero_()
        self.began, self.waited, self.steps = time.monotonic(), 0.0, 0
        self.seen = {"samples": 0, "cells": 0, "labels": 0}

    def add(self, measures: torch.Tensor, sizes: dict[str, int], waited: float) -> None:
        self.measures += measures
        self.steps += 1
        self.waited += waited
        for name in self.seen:
            self.seen[name] += sizes[name]

    def line(self) -> str:
        """Accuracy and cross entropy by kind of sample, and speed."""
        rows = self.measures.tolist()
        if not math.isfinite(sum(row[2] for row in rows)):
            raise SystemExit("the loss is not finite")
        names = [kind + ending for ending in ("", "-caption") for kind in KINDS]
        parts = [
            f"{name} {right / count:.3f}/{entropy / count:.2f}"
            for name, (count, right, entropy) in zip(names, rows, strict=True)
            if count > 50
        ]
        spent = time.monotonic() - self.began
        speed = ", ".join(f"{amount / spent:.0f} {name}/s" for name, amount in self.seen.items())
        pace = f"{spent / self.steps * 1e3:.0f} ms/step, waiting {self.waited / spent:.0%}"
        return f"{' '.join(parts)} | {pace}, {speed} a GPU"


def rate_factor(step: int, share: float, warm_up: int, fall_from: float) -> float:
    rising = min(1.0, (step + 1) / warm_up)
    return rising * (1.0 if share < fall_from else max(0.01, (1 - share) / (1 - fall_from)))


def auxiliary_weights(share: float, learned: bool) -> tuple[float, float]:
    """Strong while reading is learned, weak when it is polished."""
    if learned:
        return 0.15, 0.1
    return max(0.1, 1 - share / 0.6), 0.25 if share < 0.75 else 0.1


def train(given: argparse.Namespace) -> None:
    ranks = Ranks()
    given.run.mkdir(parents=True, exist_ok=True)
    log = Log(given.run, ranks.number > 0)
    cores = len(os.sched_getaffinity(0)) // ranks.count
    workers = given.workers or max(1, cores - 1)
    loader = Loader(
        PackSize(given.cells),
        build_world(given.data, workers if ranks.device.type == "cuda" else 1),
        given.tokenizer,
        workers,
        given.seed + 7919 * ranks.number,
        given.pictures,
    )
    torch.manual_seed(given.seed)
    torch.set_num_threads(2 if ranks.device.type == "cuda" else max(1, cores - 1))
    torch.backends.cuda.matmul.allow_tf32 = True
    model = PageReader(TINY if given.tiny else Shape()).to(ranks.device)
    optimizer = Optimizer(model, given.rate, given.rate / 2)
    spent = resume(given, model, optimizer, ranks)
    log(
        f"{workers} workers, {ranks.count} x {ranks.device}, "
        f"from {spent / 60:.1f} of {given.minutes} minutes"
    )
    if ranks.device.type == "cuda":
        torch._dynamo.config.recompile_limit = 64
        for block in (VisionBlock, TextBlock):
            block.forward = torch.compile(block.forward, dynamic=False)  # type: ignore[method-assign]
    loop(given, ranks, log, loader, model, optimizer, spent)
    loader.close()
    os._exit(0)  # the feeding thread may wait for ever


def resume(
    given: argparse.Namespace, model: PageReader, optimizer: Optimizer, ranks: Ranks
) -> float:
    """Weights, and the optimizer's state where there is one; the seconds that were spent."""
    last = given.run / "last.pt"
    if last.exists():
        state = torch.load(last, map_location=ranks.device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        return float(state["spent"])
    if given.weights:
        load_checkpoint(model, given.weights)
    return 0.0


def save(
    given: argparse.Namespace, ranks: Ranks, model: PageReader, optimizer: Optimizer, share: float
) -> None:
    """Replace last.pt whole, so that it can be exported at any time."""
    if ranks.number == 0:
        spent = share * given.minutes * 60
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "spent": spent}
        torch.save(state, given.run / "writing.pt")
        os.replace(given.run / "writing.pt", given.run / "last.pt")


def loop(
    given: argparse.Namespace,
    ranks: Ranks,
    log: Log,
    loader: Loader,
    model: PageReader,
    optimizer: Optimizer,
    spent: float,
) -> None:
    parameters, meter = list(model.parameters()), Meter(ranks.device)
    turns = itertools.cycle(ways(model))
    ready: Any = batches(loader, ranks.device)
    began, step, share, saved = time.monotonic(), 0, 0.0, spent / (given.minutes * 60)
    while True:
        if step == 3:  # compiling is not counted
            began = time.monotonic()
            meter.reset()
        share = ranks.agree(
            (spent + time.monotonic() - began if step >= 3 else spent) / (given.minutes * 60)
        )
        stop = ranks.agree(float(time.monotonic() - log.began > given.stop_after * 60))
        if share >= 1 or stop:
            break
        loader.progress.value = given.start_at + (1 - given.start_at) * share
        waiting = time.monotonic()
        batch, sizes = ready.get()
        waiting = time.monotonic() - waiting
        if ranks.device.type == "cuda":  # or its memory is used again while the GPU still reads it
            for array in batch.values():
                array.record_stream(torch.cuda.current_stream())
        with rounded(next(turns) if share >= given.quantize_from else []):
            with torch.autocast(
                ranks.device.type, torch.bfloat16, enabled=ranks.device.type == "cuda"
            ):
                loss, measures = model(
                    batch,
                    auxiliary_weights(share, given.weights is not None),
                    caption_weight=given.caption_weight,
                )
            loss.backward()
        ranks.average(parameters)
        optimizer.step(rate_factor(step, share, given.warm_up, given.fall_from))
        model.zero_grad(set_to_none=True)
        meter.add(measures, sizes, waiting)
        step += 1
        if step % given.every == 0:
            log(f"step {step} at {share:.3f}: {meter.line()}")
            meter.reset()
        if (share - saved) * given.minutes >= given.save_every:
            saved = share
            save(given, ranks, model, optimizer, share)
    save(given, ranks, model, optimizer, share)
    log(f"{'done' if share >= 1 else 'stopped'} after {step} steps at {share:.3f}")


if __name__ == "__main__":
    train(arguments())
