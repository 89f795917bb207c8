"""Which framework, quantization and family go together; what to use instead where they do not.

    print(support_table())

One row for each framework and quantization, with the families it cannot serve. The loaders ask
this before they load anything, and the README's table is made from it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loaders.checkpoint import (
    declared_quantization,
    is_folder,
    is_mistral_form,
    read_config,
    scheme_name,
)
from loaders.errors import LoadError
from loaders.families import FAMILIES, LOADS_NOTHING, Family
from loaders.vlm_loader import InferenceFramework, QuantizationType, VLMConfig
from pagemill.errors import EngineError, UsageError

if TYPE_CHECKING:
    from pagemill.settings import Model

SGLANG = InferenceFramework.SGLANG
VLLM = InferenceFramework.VLLM
TRANSFORMERS = InferenceFramework.TRANSFORMERS
NONE = QuantizationType.NONE
FOUR_BIT = QuantizationType.FOUR_BIT
EIGHT_BIT = QuantizationType.EIGHT_BIT
AWQ = QuantizationType.AWQ
ANY = "any"


@dataclass(frozen=True)
class No:
    """Why a pair does not exist, and what to use instead."""

    cause: str
    instead: str


@dataclass(frozen=True)
class Support:
    """One quantization under one framework.

    Attributes
    ----------
    how : str
        For people.
    scheme : str
        The real name of what is done while loading; empty where the checkpoint decides.
    accepts : tuple of str
        Quantizations of its own that a checkpoint may bring; ``any`` for all.
    needs : mapping of str to str
        Importable name to package, checked before loading.
    refused : mapping of str to No
        By family. Where something is done while loading, a checkpoint that was quantized so
        before is taken all the same.
    tried : str
        What it has been run on.
    arguments : mapping of str to Any
        What a server framework is told, to quantize while it loads.
    """

    how: str
    scheme: str = ""
    accepts: tuple[str, ...] = (ANY,)
    needs: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, No] = field(default_factory=dict)
    tried: str = "CPU"
    arguments: Mapping[str, Any] = field(default_factory=dict)


BNB = {"bitsandbytes": "bitsandbytes"}
BY_THE_CHECKPOINT = {(TRANSFORMERS, "awq"): "gptqmodel", (TRANSFORMERS, "bnb"): "bitsandbytes"}
"""Packages that a checkpoint's own quantization needs."""
FP8_REPO = f"load {FAMILIES['llama4'].hub_id}-FP8 with quantization: none"
EXPERTS = No("its experts, most of the weights, would stay unquantized", FP8_REPO)
NATIVE_ONLY = No("SGLang knows InternVL3 only in its remote-code format", "use framework: vllm")
NOT_AT_LOAD = No(
    "SGLang quantizes only Gemma 3 and Qwen2.5-VL while loading", "use framework: vllm"
)
NO_SERVER_HERE = "not run; a server speaking its protocol stands in"
ON_BOTH = "CPU, H200"
BY_BNB = {"quantization": "bitsandbytes", "load_format": "bitsandbytes"}
EYES = (
    *("visual", "vision_tower", "vision_model", "vision_encoder"),
    *("multi_modal_projector", "vision_language_adapter", "patch_merger", "mlp1"),
)
"""What vLLM's models call the eyes and the bridge, as a part of a layer's name: they stay as they
are, as under transformers (`families.SKIP`)."""
BY_FP8 = {
    "quantization": "fp8_per_channel",
    # Otherwise vLLM 0.26 to 0.32 could not even load Qwen2.5-VL-7B on CUDA: its vision MLP is 3,420
    # wide, no multiple of 16 (vllm-project/vllm#47005).
    "quantization_config": {"ignore": [rf"re:(.*\.)?({'|'.join(EYES)})\."]},
}

SUPPORT: dict[tuple[InferenceFramework, QuantizationType], Support] = {
    (TRANSFORMERS, NONE): Support(
        "the checkpoint as it is, its own quantization included", tried=ON_BOTH
    ),
    (TRANSFORMERS, FOUR_BIT): Support(
        "bitsandbytes nf4, double quantization",
        "bnb-nf4",
        ("bnb-nf4",),
        BNB,
        {"llama4": EXPERTS},
        tried=ON_BOTH,
    ),
    (TRANSFORMERS, EIGHT_BIT): Support(
        "bitsandbytes int8", "bnb-int8", ("bnb-int8",), BNB, {"llama4": EXPERTS}, ON_BOTH
    ),
    (TRANSFORMERS, AWQ): Support("an AWQ checkpoint, through gptqmodel", accepts=("awq",)),
    (VLLM, NONE): Support("the checkpoint as it is, its own quantization included", tried=ON_BOTH),
    (VLLM, FOUR_BIT): Support(
        "bitsandbytes nf4 (from vLLM 0.28 through vllm-bnb-plugin)",
        "bnb-nf4",
        ("bnb-nf4",),
        BNB,
        {"llama4": EXPERTS},
        ON_BOTH,
        BY_BNB,
    ),
    (VLLM, EIGHT_BIT): Support(
        "FP8 with a scale for each channel, or a checkpoint in bitsandbytes int8 or FP8",
        "fp8-per-channel",
        ("bnb-int8", "fp8"),
        refused={"llama4": No("quantizing it while loading is untried", FP8_REPO)},
        arguments=BY_FP8,
    ),
    (VLLM, AWQ): Support(
        "an AWQ checkpoint",
        accepts=("awq",),
        refused={"llama4": No("AWQ does not work with it under vLLM", FP8_REPO)},
    ),
    (SGLANG, NONE): Support(
        "the checkpoint as it is, its own quantization included",
        refused={"internvl3": NATIVE_ONLY},
        tried=NO_SERVER_HERE,
    ),
    (SGLANG, FOUR_BIT): Support(
        "bitsandbytes nf4",
        "bnb-nf4",
        ("bnb-nf4",),
        BNB,
        {
            "llama4": EXPERTS,
            "internvl3": NATIVE_ONLY,
            "pixtral": NOT_AT_LOAD,
            "auto": NOT_AT_LOAD,
        },
        NO_SERVER_HERE,
        BY_BNB,
    ),
    (SGLANG, EIGHT_BIT): Support(
        "FP8",
        "fp8",
        ("fp8",),
        refused={"llama4": No("it would be quantized twice as FP8", FP8_REPO)}
        | {"internvl3": NATIVE_ONLY},
        tried=NO_SERVER_HERE,
        arguments={"quantization": "fp8"},
    ),
    (SGLANG, AWQ): Support(
        "an AWQ checkpoint",
        accepts=("awq",),
        refused={"llama4": No("AWQ is untried with it", FP8_REPO), "internvl3": NATIVE_ONLY},
        tried=NO_SERVER_HERE,
    ),
}


def refuse_pair(config: VLMConfig, family: Family, own: str) -> None:
    """Raise LoadError for what cannot work, before anything is loaded.

    Parameters
    ----------
    own : str
        The checkpoint's own quantization (`loaders.checkpoint.scheme_name`).
    """
    support = SUPPORT[config.framework, config.quantization]
    if not support.scheme and own not in support.accepts and ANY not in support.accepts:
        raise _refusal(
            config,
            f"the checkpoint is not quantized with AWQ (its own: {own})",
            "give an AWQ checkpoint, or use quantization: 4bit",
        )
    if support.scheme and own not in ("none", *support.accepts):
        raise _refusal(
            config,
            f"the checkpoint is quantized already ({own})",
            "use quantization: none, which loads it as it is",
        )
    no = support.refused.get(_key(family))
    if no is not None and (own == "none" or not support.scheme or no is NATIVE_ONLY):
        raise _refusal(config, no.cause, no.instead)
    _refuse_missing(config, support, own)


def _refuse_missing(config: VLMConfig, support: Support, own: str) -> None:
    needed = set(support.needs.values())
    by_checkpoint = BY_THE_CHECKPOINT.get((config.framework, own.split("-")[0]))
    for package in sorted(needed | {by_checkpoint or ""} - {""}):
        if importlib.util.find_spec(package) is None:
            raise _refusal(config, f"{package} is not installed", f"pip install {package}")


def _refusal(config: VLMConfig, cause: str, remedy: str) -> LoadError:
    what = f"quantization {config.quantization.value} cannot be used"
    if config.quantization is NONE:
        what = f"{config.framework.value} cannot load it"
    return LoadError(f"{config.model_id}: {what}: {cause}; {remedy}")


def _key(family: Family) -> str:
    return next(key for key, known in FAMILIES.items() if known is family)


def family_of(config: VLMConfig, family: Family, checkpoint: dict[str, Any]) -> Family:
    """The family that the checkpoint is of, which under the name ``auto`` is any.

    Raises
    ------
    LoadError
        It is another than the loader's name says.
    """
    found = str(checkpoint.get("model_type"))
    right = next((f for f in FAMILIES.values() if found in f.model_types), FAMILIES["auto"])
    if family.model_types and found not in family.model_types:
        raise LoadError(
            f"{config.model_id}: a {found} model, but {family.names[-1]} loads "
            f"{' or '.join(family.model_types)}; use the name {right.names[-1]}, or a checkpoint "
            f"such as {family.hub_id}"
        )
    return right


def support_table() -> str:
    """The whole table in Markdown: a row for each framework and quantization."""
    header = ["framework", "quantization", "what it is", "run on"]
    header += [f"`{family.names[-1]}`" for family in FAMILIES.values()]
    lines = [header, ["---"] * len(header)]
    for (framework, quantization), support in SUPPORT.items():
        refused = [support.refused.get(key) for key in FAMILIES]
        cells = ["yes" if no is None else f"no: {no.instead}" for no in refused]
        lines.append([f"`{framework}`", f"`{quantization}`", support.how, support.tried, *cells])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def scheme_of(framework: str, quantization: str, own: str) -> str:
    """The real name of a quantization: the checkpoint's own, else what is done while loading."""
    if own != "none":
        return own
    support = SUPPORT[InferenceFramework(framework), QuantizationType(quantization)]
    return support.scheme or ("none" if quantization == NONE else quantization)


def quantization_name(model: Model) -> str:
    """The scheme's real name, for the recipe: ``bnb-nf4``, ``awq``, ``fp8``, ``none`` …

    An endpoint is taken at its word: ``none``, or what `model.quantization` says it serves.

    Raises
    ------
    UsageError
        The model's folder does not exist.
    EngineError
        The config of a hub model cannot be had.
    """
    if model.framework in LOADS_NOTHING:
        return model.quantization
    if is_folder(model.id) and not Path(model.id).expanduser().is_dir():
        raise UsageError(f"model.id: {model.id}: no such folder")
    if model.framework == "vllm" and is_mistral_form(model.id, model.options):
        return scheme_of(model.framework, model.quantization, "none")
    try:
        own = scheme_name(declared_quantization(read_config(model.id, model.revision)))
    except RuntimeError as error:
        raise EngineError(str(error)) from error
    return scheme_of(model.framework, model.quantization, own)


def load_arguments(config: VLMConfig, own: str) -> dict[str, Any]:
    """What vLLM or SGLang is told to quantize; a checkpoint's own quantization they find."""
    return {} if own != "none" else dict(SUPPORT[config.framework, config.quantization].arguments)
