"""What `gpu.py` prints of its laps: each side's rate, and the share of what a chip allows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.common import print_table
from benchmarks.limits import BF16, CHIPS, limits

if TYPE_CHECKING:
    from PIL.Image import Image

    from loaders.engine import Engine
    from pagemill.settings import Settings

SIDES = ("engine", "files", "s3")


def show_engine(
    settings: Settings, images: Sequence[Image], engine: Engine, done: list[dict[str, Any]]
) -> dict[str, Any]:
    """Print the laps, their ratios and the limits; the line of results that holds them."""
    pages = len(images)
    print(f"\n{pages} pages, {engine.version}, {engine.weight_bytes / 1e9:.2f} GB of weights")
    print_table(
        ("side", "s", "pages/s", "output tokens/s", "idle", "hungry", "GPU busy", "cores in use"),
        [
            (
                lap["side"],
                lap["seconds"],
                lap["pages_per_second"],
                round(lap["output_tokens"] / lap["seconds"]),
                *(lap.get(name, "") for name in ("idle", "hungry", "gpu_busy")),
                " ".join(f"{role} {cores:g}" for role, cores in lap["cores"].items()),
            )
            for lap in done
        ],
    )
    rate = {name: mean_rate(done, name) for name in SIDES}
    result: dict[str, Any] = {
        "pages": pages,
        "load_seconds": round(engine.load_seconds, 1),
        "weight_gb": round(engine.weight_bytes / 1e9, 3),
        "pages_per_second": {name: r and round(r, 3) for name, r in rate.items() if r},
    }
    for name, key in (("files", "pipeline_over_engine"), ("s3", "pipeline_over_engine_s3")):
        if rate["engine"] and rate[name]:
            result[key] = round(rate[name] / rate["engine"], 4)
            print(f"{name}: {result[key]:.1%} of the bare engine's speed")
    return {**result, "limits": _limits(settings, images, done), "laps": done}


def mean_rate(done: list[dict[str, Any]], side: str) -> float:
    """Pages/s over all laps of a side; 0 without any."""
    rates = [lap["pages_per_second"] for lap in done if lap["side"] == side]
    return len(rates) / sum(1 / rate for rate in rates) if rates else 0.0


def _limits(
    settings: Settings, images: Sequence[Image], done: list[dict[str, Any]]
) -> dict[str, Any]:
    """What each chip allows for these pages, by arithmetic and bytes; the share that was got."""
    model, pages = Path(settings.model.id), len(images)
    if not done or not (model / "config.json").exists():
        return {}
    one = {name: done[0][name] / pages for name in ("prompt_tokens", "output_tokens")}
    pixels = sum(image.width * image.height for image in images) / pages
    width = {"none": BF16, "8bit": 1.0}.get(settings.model.quantization, 0.5)
    batch = min(settings.model.batch_size, pages)
    limit = limits(model, pixels, batch=batch, weight_bytes=width, **one)
    result: dict[str, Any] = {
        "page": {name: round(value, 1) for name, value in {**one, "pixels": pixels}.items()},
        "vision_tflop": round(limit.vision / 1e12, 4),
        "prefill_tflop": round(limit.prefill / 1e12, 4),
        "decode_tflop": round(limit.decode / 1e12, 4),
        "decode_gb": round(limit.decode_bytes / 1e9, 4),
    }
    rows = []
    for chip, figures in CHIPS.items():
        read, write = limit.seconds(figures)
        most = limit.pages_per_second(figures)
        shares = {s: mean_rate(done, s) / most for s in SIDES if mean_rate(done, s)}
        rows.append((chip, 1000 * read, 1000 * write, most, *(shares.get(s, "") for s in SIDES)))
        result[chip] = {
            "read_ms": round(1000 * read, 3),
            "write_ms": round(1000 * write, 3),
            "pages_per_second": round(most, 2),
            "share": {side: round(share, 4) for side, share in shares.items()},
        }
    print("at most, by the work and the bytes of these pages (bf16 arithmetic):")
    print_table(("chip", "read, ms", "write, ms", "pages/s", *(f"{s} got" for s in SIDES)), rows)
    return result
