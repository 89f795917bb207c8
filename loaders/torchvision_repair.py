"""A torchvision built for CUDA, made importable beside a torch without CUDA.

The only torchvision wheel for a given torch on PyPI is built for CUDA; beside a CPU torch its
import dies with ``operator torchvision::nms does not exist``, and with it the processors of four
families. They need none of its operators, so declaring two of them is enough.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch

SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_kept: list[Any] = []  # the operators live as long as the library object


def repair_torchvision() -> None:
    """Declare torchvision's operators if its library cannot. Call before importing transformers."""
    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None or torch.version.cuda or _kept or _has_operators():
        return
    try:
        for library in Path(found.origin).parent.glob("_C*.so"):
            torch.ops.load_library(str(library))
    except OSError:
        pass
    if not _has_operators():
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}{SIGNATURE}")
        _kept.append(library)


def _has_operators() -> bool:
    return hasattr(torch.ops.torchvision, "nms")
