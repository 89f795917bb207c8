"""What a chip allows: floating-point work and bytes of a page, from a checkpoint's config.json.

limit = limits(model, pixels=1_310_720, prompt_tokens=1690, output_tokens=400, batch=128)
limit.seconds(CHIPS["H200"])    # of a page, at least
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHIPS = {
    # Dense bf16 FLOP/s: matrix products as measured on an H200 (its data sheet says 989e12; the
    # H100's tensor cores are the same). Bytes/s: of the data sheets.
    "H100": (790e12, 3.35e12),
    "H200": (790e12, 4.8e12),
}
BF16 = 2.0


@dataclass(frozen=True)
class Limits:
    """One page's work.

    Attributes
    ----------
    vision, prefill, decode : float
        Floating-point operations: of the vision tower, of the prompt, of the answer.
    decode_bytes : float
        Bytes moved to decode the answer: the weights, shared by the batch, and the page's own
        keys and values.
    """

    vision: float
    prefill: float
    decode: float
    decode_bytes: float

    def seconds(self, chip: tuple[float, float]) -> tuple[float, float]:
        """Seconds of a page at least: reading it (arithmetic), writing its answer (both)."""
        flops, bandwidth = chip
        return (
            (self.vision + self.prefill) / flops,
            max(self.decode / flops, self.decode_bytes / bandwidth),
        )

    def pages_per_second(self, chip: tuple[float, float]) -> float:
        """At most, where reading and writing take turns on the chip."""
        return 1 / sum(self.seconds(chip))


def limits(
    model: Path,
    pixels: float,
    prompt_tokens: float,
    output_tokens: float,
    batch: int,
    weight_bytes: float = BF16,
) -> Limits:
    """Of a page of so many pixels and tokens, for a checkpoint of Qwen2.5-VL's architecture.

    A product of a (m, k) and a (k, n) matrix counts 2mkn; norms, activations and softmax nothing.
    """
    config = json.loads((model / "config.json").read_text())
    text, seeing = config["text_config"], config["vision_config"]
    patches = pixels / seeing["patch_size"] ** 2
    per_layer, head = _text_weights(text)
    layers, heads = text["num_hidden_layers"], text["num_attention_heads"]
    width = text["hidden_size"] // heads
    attention = 4 * layers * heads * width  # for each pair of tokens: scores, then values
    cache = 2 * layers * text["num_key_value_heads"] * width * BF16  # of one token
    mean = prompt_tokens + output_tokens / 2
    language = layers * per_layer
    return Limits(
        vision=_vision(seeing, patches),
        prefill=2 * prompt_tokens * language + attention * prompt_tokens**2 / 2 + 2 * head,
        decode=output_tokens * (2 * (language + head) + attention * mean),
        decode_bytes=output_tokens * ((language + head) * weight_bytes / batch + cache * mean),
    )


def _text_weights(text: dict[str, Any]) -> tuple[float, float]:
    """Weights of a layer, and of the head."""
    size, heads = text["hidden_size"], text["num_attention_heads"]
    keys = text["num_key_value_heads"] * (size // heads)
    layer = 2 * size * size + 2 * size * keys + 3 * size * text["intermediate_size"]
    return layer, size * text["vocab_size"]


def _vision(seeing: dict[str, Any], patches: float) -> float:
    size, merge = seeing["hidden_size"], seeing["spatial_merge_size"] ** 2
    layer = 4 * size * size + 3 * size * seeing["intermediate_size"]
    full = len(seeing["fullatt_block_indexes"])
    window = (seeing["window_size"] / seeing["patch_size"]) ** 2
    pairs = full * patches**2 + (seeing["depth"] - full) * patches * window
    embed = 3 * seeing["temporal_patch_size"] * seeing["patch_size"] ** 2 * size
    merger = size * merge * (size * merge + seeing["out_hidden_size"])
    weights = patches * (seeing["depth"] * layer + embed) + patches / merge * merger
    return float(2 * weights + 4 * size * pairs)
