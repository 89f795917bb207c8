"""AWQ checkpoints of small models, for tests: the published format, written tensor by tensor.

    quantized, same = quantize(model, folder)

AWQ's file format without its search for better scales, which needs calibration data and changes
no shape: every linear layer of the language model becomes ``qweight`` (int32, eight codes of four
bits a word, in the order below), ``qzeros`` and ``scales`` (float16, one for each group of inputs).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

BITS, CODES = 4, 8
ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight neighbouring outputs lies in which four bits of a word, the lowest first."""
GROUP = 64


def quantize(model: Path, folder: Path) -> tuple[Path, Path]:
    """The model in AWQ, and the model with the very weights that the AWQ one stands for.

    Parameters
    ----------
    model : pathlib.Path
        A folder in Hugging Face's format.
    folder : pathlib.Path
        Where ``awq`` and ``plain`` are written.
    """
    from safetensors.torch import load_file, save_file

    quantized, plain = folder / "awq", folder / "plain"
    for copy in (quantized, plain):
        shutil.copytree(model, copy, ignore=shutil.ignore_patterns("*.safetensors*"))
    packed: dict[str, Any] = {}
    restored: dict[str, Any] = {}
    shards = [load_file(file) for file in sorted(model.glob("*.safetensors"))]
    for name, tensor in (item for shard in shards for item in shard.items()):
        if _is_language_layer(name):
            parts, weight = pack(tensor)
            stem = name.removesuffix("weight")
            packed |= {f"{stem}{part}": value for part, value in parts.items()}
            restored[name] = weight.to(tensor.dtype)
        else:
            packed[name] = restored[name] = tensor
    save_file(packed, quantized / "model.safetensors", metadata={"format": "pt"})
    save_file(restored, plain / "model.safetensors", metadata={"format": "pt"})
    declared = {
        "quant_method": "awq",
        "bits": BITS,
        "group_size": GROUP,
        "version": "gemm",
        "zero_point": True,
        # As Qwen/Qwen2.5-VL-72B-Instruct-AWQ names what it leaves alone.
        "modules_to_not_convert": ["visual", "vision_tower", "multi_modal_projector"],
    }
    path = quantized / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": declared}))
    return quantized, plain


def pack(weight: Any) -> tuple[dict[str, Any], Any]:
    """A weight of shape (outputs, inputs) as AWQ's three tensors, and what they stand for."""
    import torch

    groups = weight.float().t().reshape(-1, GROUP, weight.shape[0])  # (groups, inputs, outputs)
    high, low = groups.amax(1, keepdim=True), groups.amin(1, keepdim=True)
    scales = ((high - low) / (2**BITS - 1)).clamp(min=1e-5).half().float()
    zeros = (-low / scales).round().clamp(0, 2**BITS - 1)
    codes = (groups / scales + zeros).round().clamp(0, 2**BITS - 1)
    restored = ((codes - zeros) * scales).reshape(-1, weight.shape[0]).t().contiguous()
    parts = {
        "qweight": _words(codes.reshape(-1, weight.shape[0]).to(torch.int64)),
        "qzeros": _words(zeros.squeeze(1).to(torch.int64)),
        "scales": scales.squeeze(1).half().contiguous(),
    }
    return parts, restored


def _words(codes: Any) -> Any:
    """Codes of shape (rows, outputs) as int32 of shape (rows, outputs / 8)."""
    import torch

    eight = codes.reshape(codes.shape[0], -1, CODES)
    words = sum(eight[..., place] << BITS * n for n, place in enumerate(ORDER))
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32).contiguous()


def _is_language_layer(name: str) -> bool:
    seeing = any(part in name for part in ("visual", "vision", "projector"))
    return not seeing and name.endswith("_proj.weight")
