"""A trained model as a transformers checkpoint: bf16, in shards of at most 14 MB.

    python -m training.export RUN/last.pt models/pagereader-19m OUT
    python -m training.export RUN/last.pt models/pagereader-19m OUT --mean-with WEIGHTS

The second argument is a checkpoint whose tokenizer, processor and settings are taken over. With
--mean-with every weight is the mean of the run's and of the WEIGHTS that it began with.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import torch

from loaders.torchvision_repair import repair_torchvision
from training.checkpoint import configuration, load_checkpoint, to_transformers
from training.model import PageReader, Shape

SPECIAL = ("endoftext", "im_end", "vision_start", "vision_end", "image_pad", "video_pad")
KEPT = ("*.json", "*.jinja")
NOT_KEPT = ("config.json", "generation_config.json", "model.safetensors.index.json")


def special_ids(tokenizer: Any) -> dict[str, int]:
    """Ids of the special tokens, without their brackets, from a `tokenizers.Tokenizer`."""
    return {name: tokenizer.token_to_id(f"<|{name}|>") for name in SPECIAL}


def read(weights: Path) -> PageReader:
    """A checkpoint's folder, or the last.pt of a run."""
    model = PageReader(Shape())
    if weights.is_dir():
        load_checkpoint(model, weights)
    else:
        model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True)["model"])
    return model


def meet(model: PageReader, start: Path) -> None:
    """Move a model half the way back to the weights that its training began with.

    What was learnt on the way is mostly kept there, and of what was forgotten most comes back
    (M. Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022).
    """
    other = read(start)
    with torch.no_grad():
        for weight, first in zip(model.parameters(), other.parameters(), strict=True):
            weight.lerp_(first, 0.5)


def to_checkpoint(model: PageReader, ids: dict[str, int]) -> Any:
    """The same model as transformers' class, in float32."""
    repair_torchvision()
    from transformers import Qwen2_5_VLForConditionalGeneration

    twin = Qwen2_5_VLForConditionalGeneration(configuration(model.shape, ids))
    missing, unexpected = twin.load_state_dict(to_transformers(model), strict=False)
    if unexpected or set(missing) - {"lm_head.weight"}:
        raise SystemExit(f"the names do not fit this transformers: {missing} {unexpected}")
    twin.tie_weights()
    return twin.eval()


def export(model: PageReader, like: Path, out: Path) -> None:
    """Write the folder."""
    from tokenizers import Tokenizer
    from transformers import GenerationConfig

    ids = special_ids(Tokenizer.from_file(str(like / "tokenizer.json")))
    twin = to_checkpoint(model, ids).to(torch.bfloat16)
    ends = [ids["im_end"], ids["endoftext"]]
    twin.generation_config = GenerationConfig(
        bos_token_id=ids["endoftext"],
        eos_token_id=ends,
        pad_token_id=ids["endoftext"],
        do_sample=False,
        max_new_tokens=2048,
    )
    twin.save_pretrained(out, max_shard_size="14MB")
    for pattern in KEPT:
        for file in like.glob(pattern):
            if file.name not in NOT_KEPT:
                shutil.copy(file, out / file.name)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("run", type=Path, help="last.pt of a training run, or a checkpoint")
    parser.add_argument("like", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--mean-with", type=Path, metavar="WEIGHTS", help="a checkpoint")
    given = parser.parse_args()
    model = read(given.run)
    if given.mean_with:
        meet(model, given.mean_with)
    export(model, given.like, given.out)


if __name__ == "__main__":
    main()
