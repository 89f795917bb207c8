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
import inspect
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from loaders.adapters import adapt, check_rank, targets
from loaders.base_model import FLAGS, BaseModel, wanted_quantization
from loaders.fast_inference import add_vllm, refuse_fast_inference
from loaders.modes import Loaded, loaded, switch

if TYPE_CHECKING:
    import torch

log = logging.getLogger("pagemill.loaders")

Given = ParamSpec("Given")
Made = TypeVar("Made")


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
        wanted = wanted_quantization(flags, full_finetuning, "quantization_config" in kwargs)
        if fast_inference:
            refuse_fast_inference(full_finetuning, wanted)
        base = BaseModel(
            model_name,
            wanted,
            full_finetuning,
            dtype,
            device_map,
            token,
            trust_remote_code,
            kwargs,
        )
        model, processor, config = base.load()
        model._fast_vision = Loaded(processor, bool(use_gradient_checkpointing), full_finetuning)
        model.max_seq_length = max_seq_length
        if fast_inference:
            add_vllm(model, config, max_seq_length, gpu_memory_utilization, token)
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
        check_rank(r)
        if hasattr(model, "peft_config"):
            raise RuntimeError("the model has LoRA adapters already: train it, or merge them first")
        if getattr(loaded(model), "full_finetuning", False):
            log.warning("full fine-tuning trains all weights: get_peft_model has no effect")
            return model
        if target_modules is None or isinstance(target_modules, list):
            halves = (finetune_language_layers, finetune_vision_layers)
            kinds = (finetune_attention_modules, finetune_mlp_modules)
            target_modules = targets(model, target_modules, halves, kinds)
        adapted = adapt(
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
        if use_gradient_checkpointing is None:
            known = loaded(model)
            use_gradient_checkpointing = known.checkpointing if known else True
        switch(model, bool(use_gradient_checkpointing), use_cache=False, padding="right")
        return model.train()

    @staticmethod
    def for_inference(model: Any) -> Any:
        """Make a model ready to read: dropout and checkpointing off, cache on, left padding.

        Returns
        -------
        The model.
        """
        switch(model, False, use_cache=True, padding="left")
        return model.eval()
