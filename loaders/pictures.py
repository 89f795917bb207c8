"""Images as every family takes them: RGB, and not too long for their width."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image, ImageOps

LONGEST_RATIO = 50
"""Qwen refuses 200 and Pixtral loses the short side; a page never comes near."""


def for_model(image: Image.Image) -> Image.Image:
    """The image in RGB, on white where it is transparent, padded with white where extreme."""
    return _pad(_to_rgb(image))


def data_url(image: Image.Image) -> str:
    """The image, as every family takes it, as a PNG in a URL."""
    sink = io.BytesIO()
    for_model(image).save(sink, "PNG", compress_level=1)  # up to 3 times faster, a fifth larger
    return f"data:image/png;base64,{base64.b64encode(sink.getvalue()).decode()}"


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I") or image.mode == "F":
        # convert() would clip 16-bit grey to white.
        grey = np.asarray(image.convert("F"))
        return Image.fromarray((grey * (255 / max(255.0, grey.max()))).clip(0)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _pad(image: Image.Image) -> Image.Image:
    width, height = image.size
    least = -(-max(width, height) // LONGEST_RATIO)
    if min(width, height) >= least:
        return image
    return ImageOps.pad(image, (max(width, least), max(height, least)), color="white")
