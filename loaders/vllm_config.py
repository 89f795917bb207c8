"""How vLLM is set up: its engine arguments, and what they cannot say."""

from __future__ import annotations

from typing import Any

from loaders.loops import CHECK_EVERY
from loaders.support import EYES, load_arguments
from loaders.vlm_loader import QuantizationType, VLMConfig

GIB = 1 << 30
MEMORY_SHARE = 0.9
"""vLLM's own default of `gpu_memory_utilization`."""
RENDERERS = 8
"""Threads that prepare images, a core each at most. Eight did 128 pages in 1.4 s."""


def arguments_for(config: VLMConfig, own: str, mistral: bool) -> dict[str, Any]:
    """vLLM's engine arguments; `config.options` win."""
    arguments: dict[str, Any] = {
        "model": config.model_id,
        "revision": config.revision,
        "trust_remote_code": config.trust_remote_code,
        "dtype": _dtype(config, own),
        "load_format": "safetensors",
        "max_num_seqs": config.batch_size,
        "stream_interval": CHECK_EVERY,
        # Every page is new: a cache would only cost memory, and threads cannot share it.
        "mm_processor_cache_gb": 0,
        "renderer_num_workers": RENDERERS,
        "enable_prefix_caching": True,  # for the further outputs of a page, see `visits`
        "limit_mm_per_prompt": {"video": 0, "audio": 0},
        "worker_extension_cls": "loaders.vllm_worker.WeighingWorker",
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
        **load_arguments(config, own),
        **_memory(config),
    }
    if mistral:
        form = ("config_format", "load_format", "tokenizer_mode")
        arguments |= dict.fromkeys(form, "mistral")
    return arguments | config.options


def engine_config(arguments: dict[str, Any]) -> Any:
    """The `VllmConfig` of these engine arguments."""
    from vllm import AsyncEngineArgs
    from vllm.usage.usage_lib import UsageContext

    # Of vLLM's defaults those for throughput: 16,384 tokens a step on an H100 instead of the
    # 2,048 of an engine that says nothing, which is hardly more than one page.
    config = AsyncEngineArgs(**arguments).create_engine_config(UsageContext.LLM_CLASS)
    _make_room_for_images(config)
    if arguments.get("quantization") == "bitsandbytes":
        # It would quantize every linear layer; for FP8 an argument says it (`support.BY_FP8`).
        config.quant_config.llm_int8_skip_modules = list(EYES)
    return config


def _make_room_for_images(config: Any) -> None:
    """Let vLLM see an image once for all that is asked of it together.

    It forgets an image to make room for the next, with room for one step's; but it plans a step
    while another runs, whose images it still holds. A request whose image finds no room begins
    nevertheless, with the words before it: too early to share what the one ahead has yet to read.
    """
    scheduler = config.scheduler_config
    scheduler.encoder_cache_size *= 2
    # And room for all of an image that a step begins with: where one may be cut by the step's end.
    if not scheduler.disable_chunked_mm_input and config.speculative_config is None:
        step = scheduler.max_num_batched_tokens * 3 // 4
        scheduler.max_num_scheduled_tokens = max(step, scheduler.max_num_seqs)


def _dtype(config: VLMConfig, own: str) -> str:
    """The same as under transformers: float32 on a CPU, else bfloat16 where it can."""
    from vllm.platforms import current_platform

    if config.dtype is not None:
        return config.dtype
    if config.device == "cpu":
        # Neither FP8 nor the bitsandbytes plugin takes float32 beside quantized weights.
        plain = config.quantization is QuantizationType.NONE and own == "none"
        return "float32" if plain else "bfloat16"
    return "bfloat16" if current_platform.has_device_capability(80) else "float16"


def _memory(config: VLMConfig) -> dict[str, Any]:
    """`max_memory_gb` as a share of the device: weights, activations and KV cache together."""
    from vllm.platforms import current_platform

    if config.max_memory_gb is None:
        return {}
    share = config.max_memory_gb * GIB / current_platform.get_device_total_memory()
    return {"gpu_memory_utilization": min(share, MEMORY_SHARE)}
