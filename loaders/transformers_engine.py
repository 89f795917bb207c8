"""Hugging Face transformers: static batches on a CPU or on CUDA."""

from __future__ import annotations

from typing import Any

import torch

from loaders import transformers_model
from loaders.batching import BatchingEngine, Job
from loaders.decoding import Clock, Row, decode
from loaders.engine import Completion, Request, confidence
from loaders.families import Family
from loaders.memory import give_back
from loaders.pictures import for_model
from loaders.vlm_loader import VLMConfig

SEED = 0
"""The same requests in the same batches are sampled alike after every load."""


class TransformersEngine(BatchingEngine):
    """An `Engine` on `AutoModelForImageTextToText`.

    Attributes
    ----------
    weight_bytes : int
        Bytes that the loaded weights take.

    Raises
    ------
    RuntimeError
        The model cannot be loaded; the message names the cause and the remedy.
    """

    def __init__(self, config: VLMConfig, family: Family) -> None:
        self._model, self._processor = transformers_model.load(config, family)
        self.weight_bytes = transformers_model.weight_bytes(self._model)
        self._special = transformers_model.special_tokens(self._processor)
        self._ends = transformers_model.end_tokens(self._model, self._processor.tokenizer)
        self._context = transformers_model.context_length(self._model)
        torch.manual_seed(SEED)
        import transformers

        super().__init__(config.batch_size, f"transformers {transformers.__version__}")

    def _refusal(self, request: Request) -> str | None:
        found = next((token for token in self._special if token in request.prompt), None)
        return f"the prompt contains the special token {found!r}: reword it" if found else None

    def _answer(self, jobs: list[Job]) -> None:
        clock = Clock()
        inputs = self._inputs([job.request for job in jobs])
        rows = self._rows(jobs, inputs["attention_mask"].sum(dim=1).tolist())
        with torch.inference_mode():
            self._model.generate(
                **inputs,
                **_sampling(jobs[0].request.temperature),
                use_cache=True,  # a checkpoint that was saved while in training may say otherwise
                max_new_tokens=max(row.limit for row in rows),
                custom_generate=decode,
                rows=rows,
                clock=clock,
                ends=self._ends,
                deliver=self._deliver,
            )

    def _inputs(self, requests: list[Request]) -> Any:
        inputs = self._processor.apply_chat_template(
            [_conversation(request) for request in requests],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        )
        return inputs.to(self._model.device, dtype=self._model.dtype)  # casts floats only

    def _rows(self, jobs: list[Job], prompt_tokens: list[int]) -> list[Row]:
        if max(prompt_tokens) >= self._context:
            raise ValueError(
                f"page and prompt take {max(prompt_tokens)} tokens, the model holds "
                f"{self._context}: lower render.max_pixels"
            )
        return [
            Row(job, tokens, min(job.request.max_new_tokens, self._context - tokens))
            for job, tokens in zip(jobs, prompt_tokens, strict=True)
        ]

    def _deliver(self, row: Row) -> None:
        text = self._processor.tokenizer.decode(row.tokens, skip_special_tokens=True)
        reason = row.finish_reason or "stop"
        completion = Completion(
            text=text.strip(),
            prompt_tokens=row.prompt_tokens,
            completion_tokens=row.generated,
            finish_reason=reason,
            seconds=row.seconds,
            **confidence(row.logprobs),
        )
        self._finish(row.job, completion)

    def _is_out_of_memory(self, error: BaseException) -> bool:
        kinds = (MemoryError, torch.OutOfMemoryError)
        return isinstance(error, kinds) or "can't allocate memory" in str(error)

    def _free(self) -> None:
        self._model = self._processor = None
        give_back()


def _conversation(request: Request) -> list[dict[str, Any]]:
    images = [{"type": "image", "image": for_model(image)} for image in request.images]
    return [{"role": "user", "content": [*images, {"type": "text", "text": request.prompt}]}]


def _sampling(temperature: float) -> dict[str, Any]:
    """Temperature 0 together with sampling is an error in transformers."""
    return {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
