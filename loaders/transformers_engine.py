"""Hugging Face transformers, on a CPU or on CUDA: batches whose rows come and go."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future
from typing import Any

import torch

from loaders import transformers_model
from loaders.batching import BatchingEngine, Job
from loaders.decoding import Batch, Clock, Row, prefill
from loaders.engine import Completion, Request, confidence
from loaders.eyes import Eyes
from loaders.families import Family
from loaders.memory import give_back
from loaders.pictures import for_model
from loaders.visits import Visits
from loaders.vlm_loader import VLMConfig
from pagemill.errors import ErrorKind

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
        self._gathers = True
        self._visits = Visits()
        self._eyes = Eyes(self._model)
        torch.manual_seed(SEED)
        import transformers

        super().__init__(config.batch_size, f"transformers {transformers.__version__}")

    def _refusal(self, request: Request) -> str | None:
        found = next((token for token in self._special if token in request.prompt), None)
        return f"the prompt contains the special token {found!r}: reword it" if found else None

    def submit(self, request: Request) -> Future[Completion]:
        """Queue a request; those about the same images share what the model sees in them."""
        return self._visits.share(request, super().submit)

    def _group(self, request: Request) -> tuple[float, ...]:
        return (request.temperature,) if self._gathers else super()._group(request)

    def _answer(self, jobs: list[Job]) -> None:
        with torch.inference_mode():
            if self._gathers:
                self._flow(jobs)
            else:
                self._decode(jobs)

    def _decode(self, jobs: list[Job]) -> None:
        """A batch that stays as it is, for models whose caches are not known here."""
        clock = Clock()
        self._drain(self._begin(jobs, clock), clock)

    def _flow(self, jobs: list[Job]) -> None:
        """A batch in which each row that ends makes room for another page."""
        line, clock, room = deque(jobs), Clock(), self.capacity
        batch: Batch | None = None
        while self._gathers:
            live = len(batch.live) if batch else 0
            if not line and live < room:
                line.extend(self._more(jobs, room - live))
            if line and live < room:
                job = line.popleft()
                if job.ending:
                    job.drop()
                    continue
                try:
                    new = self._begin([job], clock)
                except BaseException as error:  # as in `_attempt`
                    failure = self._failure(error)
                    if failure.kind is ErrorKind.OUT_OF_MEMORY and live:
                        line.appendleft(job)
                        room = live
                    else:
                        self._fail(job, failure)
                else:
                    batch = self._beside(batch, new, clock)
            elif batch and live:
                batch.gather([])
                self._step(batch, clock)
            else:
                return
        if batch:
            self._drain(batch, clock)
        if line:
            self._decode(list(line))

    def _beside(self, batch: Batch | None, new: Batch, clock: Clock) -> Batch | None:
        """One batch of both; after the end of the first where they cannot be one."""
        if not new.can_gather():
            self._gathers = False
            self._drain(new, clock)
        if not new.live:
            return batch
        if batch is None or not batch.live:
            return new
        if not batch.can_take(new):
            self._drain(batch, clock)
            return new
        batch.gather([new])
        return batch

    def _begin(self, jobs: list[Job], clock: Clock) -> Batch:
        """Read the prompts and images of `jobs` and say their first tokens."""
        inputs = self._inputs([job.request for job in jobs])
        rows = self._rows(jobs, inputs["attention_mask"].sum(dim=1).tolist())
        sampling = _sampling(jobs[0].request.temperature)
        alone = self._visits.of(jobs[0].request) if len(jobs) == 1 else None
        with self._eyes.on(alone):
            batch = prefill(self._model, inputs, rows, ends=self._ends, **sampling)
        clock.share(rows, by_prompt=True)
        self._deliver([row for row in rows if row.finish_reason])
        return batch

    def _drain(self, batch: Batch, clock: Clock) -> None:
        while batch.live:
            self._step(batch, clock)

    def _step(self, batch: Batch, clock: Clock) -> None:
        going = [batch.rows[place] for place in batch.live]
        ended = batch.step(self._ends)
        clock.share(going)
        self._deliver(ended)

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

    def _deliver(self, rows: list[Row]) -> None:
        for row in rows:
            text = self._processor.tokenizer.decode(row.tokens, skip_special_tokens=True)
            completion = Completion(
                text=text.strip(),
                prompt_tokens=row.prompt_tokens,
                completion_tokens=row.generated,
                finish_reason=row.finish_reason or "stop",
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
