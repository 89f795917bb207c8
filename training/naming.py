"""Which kinds of pictures a model knows: a table of what they are and what it calls them.

    python -m training.naming models/pagereader-19m DATA          # or RUN/last.pt; 5 min on 2 cores

The pictures are made as in training, from seeds that no run uses, without wear. It tells what to
draw more of; what a model is worth says benchmarks/reading.py, on pictures that nobody drew.
"""

from __future__ import annotations

import argparse
import random
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from training.curriculum import KINDS
from training.documents import World, make
from training.export import read, special_ids, to_checkpoint
from training.items import Item, Maker
from training.train import MODEL, build_world

PROMPT = "Describe this image."
# class: how a caption that names it begins
CLASSES = {
    "several plots": r"\w+ plots side",
    "several photographs": r"\w+ photographs side",
    "photograph": "A photograph",
    "drawing": "A drawing",
    "drawing in 3-D": "A three-dimensional drawing",
    "plot in 3-D": "A three-dimensional plot",
    "bars": "A (stacked )?bar chart",
    "lines": "A line chart",
    "Gantt": "A Gantt chart",
    "pie": "A pie chart",
    "points": "A scatter plot",
    "distribution": "A (histogram|box plot|violin plot)|An area chart",
    "heat map": "A heat map",
    "field": "A (contour plot|plot of arrows)",
    "map": "A map",
    "diagram": "A diagram",
    "table": "A table",
    "blank": "A blank page",
}
OTHER = "text"
_BEFORE = re.compile(r"^This page is [^.]*\.\s*")


def class_of(caption: str) -> str:
    """What a caption calls its picture; a page of text is what begins like none of `CLASSES`."""
    caption = _BEFORE.sub("", caption)
    return next((name for name, start in CLASSES.items() if re.match(start, caption)), OTHER)


def pictures(world: World, maker: Maker, each: int, seed: int) -> dict[str, list[Item]]:
    """About `each` items of every class, fewer of those that come seldom."""
    found: dict[str, list[Item]] = defaultdict(list)
    asked = list(maker.tokenizer.encode(PROMPT, add_special_tokens=False).ids)
    for number in range(100 * each):
        sample = make(random.Random(f"{seed} {number}"), world, "picture", wear=0.0)
        items = found[class_of(sample.caption)]
        if len(items) < each and (item := maker.item(sample, KINDS.index("picture"), True, asked)):
            items.append(item)
    return dict(found)


def said(twin: Any, item: Item, tokenizer: Any, longest: int = 32) -> str:
    """What the model, as transformers' class, answers about one item."""
    cells = item.patches.reshape(-1, 4, 196)[item.place_of_cell].reshape(-1, 196)
    patches = torch.from_numpy(cells.astype(np.float32) * (2 / 255) - 1).repeat(1, 6)
    rows, columns = item.cell_place.max(0) + 1
    asked = torch.from_numpy(item.tokens[: item.answer_at[0] + 1])[None].long().to(twin.device)
    answer = twin.generate(  # which asks for no gradients
        input_ids=asked,
        attention_mask=torch.ones_like(asked),
        pixel_values=patches.to(twin.device),
        image_grid_thw=torch.tensor([[1, rows * 2, columns * 2]], device=twin.device),
        mm_token_type_ids=(asked == tokenizer.token_to_id("<|image_pad|>")).int(),
        max_new_tokens=longest,
        do_sample=False,
    )
    return str(tokenizer.decode(answer[0, asked.shape[1] :].tolist())).strip()


def load(weights: Path, tokenizer: Any) -> Any:
    """A folder, or a run's last.pt, as transformers' class."""
    ids = special_ids(tokenizer)
    twin = to_checkpoint(read(weights), ids)
    twin.generation_config.pad_token_id = ids["endoftext"]
    twin.generation_config.eos_token_id = [ids["im_end"], ids["endoftext"]]
    return twin.to("cuda" if torch.cuda.is_available() else "cpu")


def show(called: dict[str, Counter[str]]) -> None:
    """A line a class: how many are right, and what the others are called."""
    right = sum(names[name] for name, names in called.items())
    for name, names in sorted(called.items()):
        others = ", ".join(f"{other} {n}" for other, n in names.most_common() if other != name)
        print(f"{name:20} {names[name]:3} of {names.total():3}   {others}")
    print(f"{'all':20} {right:3} of {sum(names.total() for names in called.values()):3}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("weights", type=Path, help="a checkpoint's folder, or last.pt of a run")
    parser.add_argument("data", type=Path, help="the folder that training.sources made")
    parser.add_argument("--each", type=int, default=12, help="pictures of each class")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    world = build_world(given.data, 1)
    twin = load(given.weights, tokenizer)
    made = pictures(
        world, Maker(world, tokenizer, given.seed, corrupt=False), given.each, given.seed
    )
    show(
        {
            name: Counter(class_of(said(twin, item, tokenizer)) for item in items)
            for name, items in made.items()
        }
    )


if __name__ == "__main__":
    main()
