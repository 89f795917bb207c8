"""The model that is fine-tuned: what the arguments ask for, and loading it with transformers."""

from __future__ import annotations

import importlib.util
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from loaders.checkpoint import declared_quantization, is_folder, read_config, scheme_name
from loaders.errors import LoadError, one_line
from loaders.families import FAMILIES
from loaders.vlm_loader import InferenceFramework, QuantizationType, VLMConfig

if TYPE_CHECKING:
    import torch

log = logging.getLogger("pagemill.loaders")

FLAGS = {
    "load_in_4bit": QuantizationType.FOUR_BIT,
    "load_in_8bit": QuantizationType.EIGHT_BIT,
    "load_in_16bit": QuantizationType.NONE,
}
DTYPES = ("bfloat16", "float16", "float32")
OF_THE_HUB = ("revision", "cache_dir", "local_files_only")
"""Arguments that the processor takes as the model does."""
SPREAD = (None, "auto", "balanced", "balanced_low_0", "sequential")
"""Device maps that say how to fill GPUs; without one they all mean the CPU."""


@dataclass(frozen=True)
class BaseModel:
    """A model as `FastVisionModel.from_pretrained` was asked for it.

    Attributes
    ----------
    quantization : QuantizationType, optional
        What the flags ask for; None where a quantization_config decides.
    more : dict
        For transformers' ``from_pretrained``.
    """

    name: str
    quantization: QuantizationType | None
    full_finetuning: bool
    dtype: torch.dtype | str | None
    device_map: Any
    token: str | None
    trust_remote_code: bool
    more: dict[str, Any]

    def load(self) -> tuple[Any, Any, VLMConfig]:
        """The model, its processor, and the config that says how it was loaded."""
        revision = self.more.get("revision")
        if self.trust_remote_code and "revision" not in self.more and not is_folder(self.name):
            log.warning("%s: remote code is trusted but no revision is pinned", self.name)
        checkpoint = read_config(self.name, revision, self.token)
        own = declared_quantization(checkpoint)
        scheme = _scheme(self.name, self.quantization, scheme_name(own), self.full_finetuning)
        prepare_libraries()
        precision = _dtype(self.dtype)
        config = VLMConfig(
            self.name,
            scheme,
            InferenceFramework.TRANSFORMERS,
            device=_device(self.device_map),
            trust_remote_code=self.trust_remote_code,
            revision=revision,
            dtype=str(precision).removeprefix("torch."),
        )
        common = {"token": self.token, "trust_remote_code": self.trust_remote_code}
        arguments = {
            **common,
            **_quantization(config, checkpoint, own, precision),
            "dtype": precision,
            "device_map": _device_map(self.device_map),
            "use_safetensors": True,
            **self.more,
        }
        hub = {name: self.more[name] for name in OF_THE_HUB if name in self.more}
        model, processor = _load(config.model_id, own, arguments, {**common, **hub})
        return model, processor, config


def wanted_quantization(
    flags: dict[str, bool], full_finetuning: bool, configured: bool
) -> QuantizationType | None:
    """What the flags ask for; None where a quantization_config decides."""
    chosen = [flag for flag, on in flags.items() if on]
    if len(chosen) > 1:
        raise ValueError(f"{' and '.join(chosen)} are true: choose one")
    if configured and full_finetuning:
        raise ValueError("full_finetuning trains unquantized weights: no quantization_config")
    if configured:
        return None
    wanted = FLAGS[chosen[0]] if chosen else QuantizationType.NONE
    if full_finetuning and wanted is not QuantizationType.NONE:
        log.warning("full fine-tuning trains unquantized weights: %s is off", chosen[0])
        return QuantizationType.NONE
    return wanted


def _scheme(
    model_name: str, wanted: QuantizationType | None, own: str, full_finetuning: bool
) -> QuantizationType:
    """What to do while loading, given the checkpoint's own quantization."""
    if own != "none" and full_finetuning:
        raise ValueError(
            f"{model_name}: the checkpoint is quantized ({own}), and full_finetuning trains "
            "unquantized weights: give the 16-bit checkpoint"
        )
    if wanted is None or wanted is QuantizationType.NONE:
        return QuantizationType.NONE
    bits = wanted.value
    if own != "none":
        if own != {"4bit": "bnb-nf4", "8bit": "bnb-int8"}[bits]:
            log.warning("%s is quantized already (%s): load_in_%s is off", model_name, own, bits)
        return QuantizationType.NONE
    if importlib.util.find_spec("bitsandbytes") is None:
        log.warning(
            "bitsandbytes is not installed: load_in_%s is off; pip install bitsandbytes", bits
        )
        return QuantizationType.NONE
    return wanted


def _quantization(
    config: VLMConfig, checkpoint: dict[str, Any], own: dict[str, Any], precision: torch.dtype
) -> dict[str, Any]:
    from loaders.quantization import quantization_settings
    from loaders.support import family_of, refuse_pair

    family = family_of(config, FAMILIES["auto"], checkpoint)
    refuse_pair(config, family, scheme_name(own))
    settings = quantization_settings(config, family, own, precision)
    return {} if settings is None else {"quantization_config": settings}


def _dtype(dtype: torch.dtype | str | None) -> torch.dtype:
    import torch

    if dtype is None:
        narrow = torch.cuda.is_available() and not torch.cuda.is_bf16_supported()
        return torch.float16 if narrow else torch.bfloat16
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise ValueError(f"dtype {dtype} is unknown: use {', '.join(DTYPES)} or None")
    return getattr(torch, name)


def _device(device_map: Any) -> str:
    """The kind of device, and a refusal of one that is not there."""
    import torch

    if torch.cuda.is_available():
        return "cpu" if str(device_map) == "cpu" else "cuda"
    asked = device_map.values() if isinstance(device_map, dict) else [device_map]
    if any(str(place).startswith("cuda") or isinstance(place, int) for place in asked):
        raise LoadError(
            f"device_map {device_map!r}: torch {torch.__version__} sees no GPU; use "
            'device_map="sequential", which then is the CPU'
        )
    return "cpu"


def _device_map(device_map: Any) -> Any:
    import torch

    on_cpu = not torch.cuda.is_available() and (
        device_map is None or (isinstance(device_map, str) and device_map in SPREAD)
    )
    return {"": "cpu"} if on_cpu else device_map


def prepare_libraries() -> None:
    """Make transformers importable and quiet."""
    from loaders.torchvision_repair import repair_torchvision
    from loaders.transformers_model import silence

    repair_torchvision()
    silence()


def _load(
    model_name: str, own: dict[str, Any], arguments: dict[str, Any], of_processor: dict[str, Any]
) -> tuple[Any, Any]:
    import torch
    from transformers import AutoProcessor

    from loaders.transformers_model import read_weights

    try:
        processor = AutoProcessor.from_pretrained(model_name, **of_processor)
        model = read_weights(model_name, own, arguments)
    except torch.OutOfMemoryError as error:
        raise LoadError(
            f"{model_name}: the weights do not fit; use load_in_4bit=True or a smaller model"
        ) from error
    except OSError as error:
        raise LoadError(
            f"{model_name}: its files cannot be had ({one_line(error, 160)}); check the name, the "
            "network and that the weights are safetensors"
        ) from error
    tokenizer = processor.tokenizer
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model, processor
