"""Fine-tuning: a vision-language model and its processor, loaded, adapted, ready to train or read.

    model, processor = FastVisionModel.from_pretrained("/models/qwen2.5-vl-7b")  # in 4 bits
    model = FastVisionModel.get_peft_model(model, r=16)
    ...  # train it: a loop of your own, or a trainer
    model = model.merge_and_unload()
    model.save_pretrained("/models/mine")
    processor.save_pretrained("/models/mine")  # a recipe may now say model.id: /models/mine

The interface is Unsloth's, met with transformers, bitsandbytes and peft on a GPU or a CPU; Unsloth
itself is not used. Adapters merged into 4 or 8 bits are rounded with the weights: for an exact
merge load with ``load_in_16bit=True``.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from loaders.checkpoint import declared_quantization, is_folder, read_config, scheme_name
from loaders.errors import LoadError, one_line
from loaders.families import FAMILIES, Family
from loaders.vlm_loader import InferenceFramework, QuantizationType, VLMConfig

if TYPE_CHECKING:
    import torch

log = logging.getLogger("pagemill.loaders")

Given = ParamSpec("Given")
Made = TypeVar("Made")

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

EYES = re.compile(r"vision|visual")
ATTENTION = re.compile(r"attn|attention")
MLP = re.compile(r"mlp|feed_forward|ffn")
NO_LAYER = re.compile(r"projector|merger|connector|adapter|router|lm_head|tower\.head\.")
"""Bridges, routers and heads: not adapted, as they are not quantized."""


@dataclass(frozen=True)
class _Loaded:
    """What is remembered of a model until it is trained or read with."""

    processor: Any
    checkpointing: bool
    full_finetuning: bool


def _explicit_flag_wins(function: Callable[Given, Made]) -> Callable[Given, Made]:
    """Switch the default ``load_in_4bit=True`` off where the caller set another flag.

    The signature then shows the documented default, and what the caller wrote is still told
    from it: ``load_in_8bit=True`` alone means 8 bits, both written out are an error.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def called(*args: Given.args, **kwargs: Given.kwargs) -> Made:
        written = signature.bind(*args, **kwargs).arguments
        if "load_in_4bit" not in written and any(written.get(flag) for flag in FLAGS):
            kwargs["load_in_4bit"] = False
        return function(*args, **kwargs)

    return called


class FastVisionModel:
    """Vision-language models for fine-tuning; every method is static."""

    @staticmethod
    @_explicit_flag_wins
    def from_pretrained(
        model_name: str = "unsloth/Llama-3.2-11B-Vision-Instruct-bnb-4bit",
        max_seq_length: int = 2048,
        dtype: torch.dtype | str | None = None,
        load_in_4bit: bool = True,
        load_in_8bit: bool = False,
        load_in_16bit: bool = False,
        full_finetuning: bool = False,
        token: str | None = None,
        device_map: Any = "sequential",
        trust_remote_code: bool = False,
        use_gradient_checkpointing: bool | str = "unsloth",
        fast_inference: bool = False,
        gpu_memory_utilization: float = 0.5,
        **kwargs: Any,
    ) -> tuple[Any, Any]:
        """Load a model and its processor, ready to read; with `full_finetuning`, to train.

        Parameters
        ----------
        model_name : str
            A hub id or the path of a folder. A checkpoint that is quantized already is kept as
            it is, and the flags that say otherwise are off, with a message.
        max_seq_length : int
            Remembered as ``model.max_seq_length`` for trainers, and the context of
            `fast_inference`.
        dtype : torch.dtype or str, optional
            ``bfloat16``, ``float16`` or ``float32``: of what is not quantized, and of the
            arithmetic. By default bfloat16 where the device can, else float16.
        load_in_4bit, load_in_8bit, load_in_16bit : bool
            NF4 with double quantization (the default), int8, or neither. One that the caller
            writes wins over the default; two that are true are an error; none is 16 bits.
        full_finetuning : bool
            Train all weights: quantization is off, with a message.
        token : str, optional
            For the hub.
        device_map
            As in transformers; the CPU where there is no GPU.
        trust_remote_code : bool
            Run code that the checkpoint brings along.
        use_gradient_checkpointing : bool or str
            Whether `for_training` keeps few activations and computes them again. ``"unsloth"``
            is True here.
        fast_inference : bool
            Add a vLLM engine of the same checkpoint as ``model.vllm_engine``, and its
            ``generate`` as ``model.fast_generate``. Its weights are a second copy.
        gpu_memory_utilization : float
            Share of the GPU's memory for that engine.
        **kwargs
            For transformers' ``from_pretrained``. A `quantization_config` among them wins over
            the flags.

        Returns
        -------
        model, processor : tuple
            The processor pads on the left.

        Raises
        ------
        ValueError
            Arguments that exclude each other, or an unknown dtype.
        LoadError
            The checkpoint cannot be had or loaded: a RuntimeError of one line with the remedy.
        ImportError, NotImplementedError
            `fast_inference` without vLLM, or with what it cannot do.
        """
        flags = dict(zip(FLAGS, (load_in_4bit, load_in_8bit, load_in_16bit), strict=True))
        wanted = _wanted(flags, full_finetuning, "quantization_config" in kwargs)
        if fast_inference:
            _refuse_fast_inference(full_finetuning, wanted)
        if trust_remote_code and "revision" not in kwargs and not is_folder(model_name):
            log.warning("%s: remote code is trusted but no revision is pinned", model_name)
        checkpoint = read_config(model_name, kwargs.get("revision"), token)
        own = declared_quantization(checkpoint)
        scheme = _scheme(model_name, wanted, scheme_name(own), full_finetuning)
        _prepare_libraries()
        precision = _dtype(dtype)
        config = VLMConfig(
            model_name,
            scheme,
            InferenceFramework.TRANSFORMERS,
            device=_device(device_map),
            trust_remote_code=trust_remote_code,
        )
        common = {"token": token, "trust_remote_code": trust_remote_code}
        arguments = {
            **common,
            **_quantization(config, _family(checkpoint), own, precision),
            "dtype": precision,
            "device_map": _device_map(device_map),
            "use_safetensors": True,
            **kwargs,
        }
        hub = {name: kwargs[name] for name in OF_THE_HUB if name in kwargs}
        model, processor = _load(model_name, own, arguments, {**common, **hub})
        checkpointing = bool(use_gradient_checkpointing)
        model._fast_vision = _Loaded(processor, checkpointing, full_finetuning)
        model.max_seq_length = max_seq_length
        if fast_inference:
            _add_vllm(model, config, max_seq_length, gpu_memory_utilization, precision)
        if full_finetuning:
            model.requires_grad_(True)
            return FastVisionModel.for_training(model), processor
        return FastVisionModel.for_inference(model), processor

    @staticmethod
    def get_peft_model(
        model: Any,
        r: int = 16,
        lora_alpha: int = 16,
        lora_dropout: float = 0,
        target_modules: list[str] | str | None = None,
        finetune_vision_layers: bool = True,
        finetune_language_layers: bool = True,
        finetune_attention_modules: bool = True,
        finetune_mlp_modules: bool = True,
        bias: str = "none",
        use_gradient_checkpointing: bool | str = "unsloth",
        random_state: int = 3407,
        **kwargs: Any,
    ) -> Any:
        """Add LoRA adapters, through peft; the model is then ready to train.

        Parameters
        ----------
        model
            From `from_pretrained`.
        r : int
            Rank of the adapters.
        lora_alpha, lora_dropout, bias
            As in peft.
        target_modules : list of str, optional
            Last names of the layers to adapt, such as ``["q_proj", "v_proj"]``, among those that
            the flags select; by default all of them. A string is peft's own pattern.
        finetune_vision_layers, finetune_language_layers : bool
            In which half of the model.
        finetune_attention_modules, finetune_mlp_modules : bool
            Which of its layers.
        use_gradient_checkpointing : bool or str
            As in `from_pretrained`.
        random_state : int
            Seed of the adapters' weights.
        **kwargs
            For peft's ``LoraConfig``; what is None is left out.

        Returns
        -------
        peft.PeftModel
            The same model where it was loaded for full fine-tuning, which needs no adapters.

        Raises
        ------
        TypeError
            `r` is not a positive integer.
        RuntimeError
            The model has adapters already.
        ValueError
            The flags leave nothing to adapt.
        """
        _check_rank(r)
        if hasattr(model, "peft_config"):
            raise RuntimeError("the model has LoRA adapters already: train it, or merge them first")
        if getattr(_loaded(model), "full_finetuning", False):
            log.warning("full fine-tuning trains all weights: get_peft_model has no effect")
            return model
        if target_modules is None or isinstance(target_modules, list):
            halves = (finetune_language_layers, finetune_vision_layers)
            kinds = (finetune_attention_modules, finetune_mlp_modules)
            target_modules = _targets(model, target_modules, halves, kinds)
        adapted = _adapt(
            model,
            random_state,
            r=r,
            lora_alpha=lora_alpha,
            lora_dropout=lora_dropout,
            target_modules=target_modules,
            bias=bias,
            **{name: value for name, value in kwargs.items() if value is not None},
        )
        return FastVisionModel.for_training(adapted, use_gradient_checkpointing)

    @staticmethod
    def for_training(model: Any, use_gradient_checkpointing: bool | str | None = None) -> Any:
        """Make a model ready to train: dropout and checkpointing on, cache off, right padding.

        Parameters
        ----------
        use_gradient_checkpointing : bool or str, optional
            As `from_pretrained` was told, by default.

        Returns
        -------
        The model.
        """
        loaded = _loaded(model)
        if use_gradient_checkpointing is None:
            use_gradient_checkpointing = loaded.checkpointing if loaded else True
        _switch(model, bool(use_gradient_checkpointing), use_cache=False, padding="right")
        return model.train()

    @staticmethod
    def for_inference(model: Any) -> Any:
        """Make a model ready to read: dropout and checkpointing off, cache on, left padding.

        Returns
        -------
        The model.
        """
        _switch(model, False, use_cache=True, padding="left")
        return model.eval()


# --- what to load ----------------------------------------------------------------------------


def _wanted(
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


def _family(checkpoint: dict[str, Any]) -> Family:
    found = checkpoint.get("model_type")
    return next((f for f in FAMILIES.values() if found in f.model_types), FAMILIES["auto"])


def _quantization(
    config: VLMConfig, family: Family, own: dict[str, Any], precision: torch.dtype
) -> dict[str, Any]:
    from loaders.quantization import quantization_settings
    from loaders.support import refuse_pair

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


# --- loading ---------------------------------------------------------------------------------


def _prepare_libraries() -> None:
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


def _refuse_fast_inference(full_finetuning: bool, wanted: QuantizationType | None) -> None:
    if full_finetuning:
        raise NotImplementedError(
            "fast_inference reads fixed weights: it does not go with full_finetuning"
        )
    if wanted is QuantizationType.EIGHT_BIT:
        raise NotImplementedError(
            "fast_inference cannot load in 8 bits: use load_in_4bit or load_in_16bit"
        )
    if importlib.util.find_spec("vllm") is None:
        raise ImportError(
            "fast_inference needs vLLM: pip install 'pagemill[vllm]', or use fast_inference=False"
        )


def _add_vllm(
    model: Any, config: VLMConfig, max_seq_length: int, share: float, precision: torch.dtype
) -> None:
    from vllm import LLM

    four_bit = config.quantization is QuantizationType.FOUR_BIT
    model.vllm_engine = LLM(
        config.model_id,
        max_model_len=max_seq_length,
        gpu_memory_utilization=share,
        dtype=str(precision).removeprefix("torch."),
        quantization="bitsandbytes" if four_bit else None,
        trust_remote_code=config.trust_remote_code,
    )
    model.fast_generate = model.vllm_engine.generate


# --- training and reading --------------------------------------------------------------------


def _loaded(model: Any) -> _Loaded | None:
    return getattr(model, "_fast_vision", None)


def _switch(model: Any, checkpointing: bool, use_cache: bool, padding: str) -> None:
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    _set_checkpointing(base, checkpointing)
    for config in (base.config, base.config.get_text_config()):
        config.use_cache = use_cache
    loaded = _loaded(model)
    if loaded is not None:
        loaded.processor.tokenizer.padding_side = padding


def _set_checkpointing(model: Any, on: bool) -> None:
    """Its name changed with transformers 5.2x, and the old one warns."""
    kind = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
    if on and model.supports_gradient_checkpointing:
        settings = {f"{kind}_checkpointing_kwargs": {"use_reentrant": False}}
        getattr(model, f"{kind}_checkpointing_enable")(**settings)
    elif not on and model.is_gradient_checkpointing:
        getattr(model, f"{kind}_checkpointing_disable")()


def _check_rank(r: Any) -> None:
    if type(r) is not int or r < 1:
        raise TypeError(f"r, the rank of the adapters, must be a positive integer, not {r!r}")


def _targets(
    model: Any, names: list[str] | None, halves: tuple[bool, bool], kinds: tuple[bool, bool]
) -> list[str]:
    """Full names of the layers to adapt.

    Parameters
    ----------
    names : list of str, optional
        Last names to choose from.
    halves : tuple of bool
        Language, vision.
    kinds : tuple of bool
        Attention, MLP.
    """
    import torch

    patterns = [pattern for pattern, on in zip((ATTENTION, MLP), kinds, strict=True) if on]
    found = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
        and not NO_LAYER.search(name)
        and halves[bool(EYES.search(name))]
        and any(pattern.search(name) for pattern in patterns)
        and (names is None or name.rpartition(".")[2] in names)
    ]
    if not found:
        raise ValueError("no layer is left to adapt: see target_modules and the finetune_ flags")
    return found


def _adapt(model: Any, seed: int, **settings: Any) -> Any:
    import torch

    _prepare_libraries()  # peft imports transformers
    try:
        import peft
    except ImportError as error:
        raise ImportError(
            f"get_peft_model needs peft ({one_line(error)}): pip install 'pagemill[finetune]'"
        ) from error
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **settings))
