"""Decoding a batch whose rows come and go.

`generate` of transformers decodes every row of a batch until the longest has ended. Here a row that
ends leaves at once, its answer is delivered, and another page takes its place: it is read alone
(which on a CPU is quicker than reading several at once) and its cache is put beside the others'.
The prompt, the cache, the positions and the sampling stay those of `generate`, which calls
`_prefill` as its `custom_generate`, so that the tokens are the same too.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from loaders.batching import Job
from loaders.engine import FinishReason
from loaders.kv_cache import can_gather, gather, let_grow
from loaders.loops import CHECK_EVERY, EXACT, EXACT_AT_CAP, find_loop

PER_ROW = ("attention_mask", "position_ids", "token_type_ids", "mm_token_type_ids")
"""Inputs of a decoding step with an entry for each row (the last two dimensions: row, token)."""
SHARED = ("input_ids", "past_key_values", "use_cache", "logits_to_keep")
ONLY_AT_FIRST = ("image_grid_thw", "video_grid_thw")
"""Serve to place the images' tokens, and transformers 5.17 hands them on for ever."""


ANYWHERE = {
    "TemperatureLogitsWarper",
    "TopKLogitsWarper",
    "TopPLogitsWarper",
    "MinPLogitsWarper",
    "RepetitionPenaltyLogitsProcessor",
    "SuppressTokensLogitsProcessor",
}
"""Ways of sampling that do not ask how long the prompt was."""


@dataclass(eq=False)
class Row:
    """One request in a batch being decoded.

    Attributes
    ----------
    prompt_tokens : int
        Without padding.
    limit : int
        New tokens, at most.
    tokens : list of int
        What was said, without the end token; cut where a loop began.
    generated : int
        Tokens said, before any cut.
    logprobs : list of float
        Of `tokens` and the end token, where the request asked for them.
    seconds : float
        This row's share of the time.
    """

    job: Job
    prompt_tokens: int
    limit: int
    tokens: list[int] = field(default_factory=list)
    generated: int = 0
    logprobs: list[float] = field(default_factory=list)
    seconds: float = 0.0
    finish_reason: FinishReason | None = None

    def take(self, token: int, logprob: float | None, ends: frozenset[int]) -> bool:
        """Add a token; True while the row goes on."""
        if self.job.ending:
            self.finish_reason = "aborted"
            return False
        if logprob is not None:
            self.logprobs.append(logprob)
        if token in ends:
            self.finish_reason = "stop"
        else:
            self.tokens.append(token)
            self.generated += 1
            self._look_for_an_end()
        return self.finish_reason is None

    def _look_for_an_end(self) -> None:
        full = self.generated >= self.limit
        if not full and self.generated % CHECK_EVERY:
            return
        keep = find_loop(self.tokens, EXACT_AT_CAP if full else EXACT)
        if keep is not None:
            del self.tokens[keep:], self.logprobs[keep:]
            self.finish_reason = "loop"
        elif full:
            self.finish_reason = "length"


class Clock:
    """Shares the batch's time among its rows, so that their seconds add up to it."""

    def __init__(self) -> None:
        self._last = time.perf_counter()

    def share(self, rows: list[Row], by_prompt: bool = False) -> None:
        """Give the time since the last call to `rows`, evenly or by their prompt's length."""
        now = time.perf_counter()
        weights = [row.prompt_tokens if by_prompt else 1 for row in rows]
        for row, weight in zip(rows, weights, strict=True):
            row.seconds += (now - self._last) * weight / sum(weights)
        self._last = now


@dataclass(eq=False)
class Batch:
    """Rows that are decoded together, and what the model needs to say their next tokens.

    Attributes
    ----------
    rows : list of Row
    input_ids : torch.Tensor
        (rows, tokens): all that was said, the prompt included.
    kwargs : dict
        The model's other inputs, as `generate` keeps them.
    """

    model: Any
    rows: list[Row]
    input_ids: Any
    kwargs: dict[str, Any]
    processors: Any
    sample: bool

    @property
    def live(self) -> list[int]:
        """Places of the rows that have not ended."""
        return [place for place, row in enumerate(self.rows) if row.finish_reason is None]

    def step(self, ends: frozenset[int]) -> list[Row]:
        """Say a token in each row; those that have ended by it."""
        return self._say(self._inputs(), ends)

    def _inputs(self) -> dict[str, Any]:
        inputs: dict[str, Any] = self.model.prepare_inputs_for_generation(
            self.input_ids, next_sequence_length=1, **self.kwargs
        )
        return inputs

    def _say(self, inputs: dict[str, Any], ends: frozenset[int]) -> list[Row]:
        outputs = self.model(**inputs, return_dict=True)
        self.kwargs = self.model._update_model_kwargs_for_generation(
            outputs, self.kwargs, is_encoder_decoder=False
        )
        logits = outputs.logits[:, -1].float()
        del outputs, inputs  # the logits and the pixels of a prefill are large
        tokens = _pick(self.processors(self.input_ids, logits), self.sample)
        self.input_ids = torch.cat([self.input_ids, tokens[:, None]], dim=-1)
        said = zip(self.rows, tokens.tolist(), _logprobs(self.rows, logits, tokens), strict=True)
        return [
            row
            for row, token, logprob in said
            if row.finish_reason is None and not row.take(token, logprob, ends)
        ]

    def can_gather(self) -> bool:
        """No input of the model is tied to the rows in a way that is not known here."""
        plain = (bool, int, float, str, type(None))
        known = {*PER_ROW, *SHARED, *(k for k, v in self.kwargs.items() if isinstance(v, plain))}
        return (
            {type(processor).__name__ for processor in self.processors} <= ANYWHERE
            and self.kwargs.keys() <= known
            and can_gather(self.kwargs.get("past_key_values"))
            and all(
                value.shape[-1] == self.input_ids.shape[1] for value in self._per_row().values()
            )
        )

    def can_take(self, other: Batch) -> bool:
        """Whether the rows of another batch can stand beside these."""
        mine, others = self._per_row(), other._per_row()
        return mine.keys() == others.keys() and all(
            value.dim() == others[name].dim() and value.shape[:-2] == others[name].shape[:-2]
            for name, value in mine.items()
        )

    def _per_row(self) -> dict[str, Any]:
        return {name: v for name in PER_ROW if (v := self.kwargs.get(name)) is not None}

    def gather(self, newcomers: Sequence[Batch]) -> None:
        """Drop the rows that have ended, and take over those of other batches."""
        live = self.live
        if not newcomers and len(live) == len(self.rows):
            return
        parts = [(self, live), *((new, new.live) for new in newcomers)]
        lengths = [int(part.kwargs["attention_mask"][at].sum(-1).max()) for part, at in parts if at]
        length = max(lengths, default=1)
        cache = self.kwargs["past_key_values"]
        gather(cache, live, [new.kwargs["past_key_values"] for new in newcomers], length - 1)
        per_row = {
            name: _aligned([part._per_row()[name][..., at, :] for part, at in parts], length)
            for name in self._per_row()
        }
        # Left of its beginning a row repeats its first token, which no sampling minds.
        ids = [part.input_ids[at] for part, at in parts]
        first = torch.cat([_first_tokens(part, at) for part, at in parts])
        self.input_ids = torch.where(per_row["attention_mask"] > 0, _aligned(ids, length), first)
        self.kwargs |= per_row
        self.rows = [part.rows[place] for part, at in parts for place in at]


def prefill(model: Any, inputs: dict[str, Any], rows: list[Row], **settings: Any) -> Batch:
    """Read the prompts and images of `rows` and say their first tokens.

    Parameters
    ----------
    inputs : dict
        The processor's, padded on the left.
    settings
        For `generate`: sampling.
    """
    batch: Batch = model.generate(
        **inputs,
        **settings,
        use_cache=True,  # a checkpoint that was saved while in training may say otherwise
        max_new_tokens=max(row.limit for row in rows),
        custom_generate=_prefill,
        rows=rows,
    )
    return batch


def _prefill(
    model: Any,
    input_ids: Any,
    logits_processor: Any,
    stopping_criteria: Any,
    generation_config: Any,
    rows: list[Row],
    ends: frozenset[int],
    **kwargs: Any,
) -> Batch:
    inputs = model.prepare_inputs_for_generation(input_ids, is_first_iteration=True, **kwargs)
    batch = Batch(
        model, rows, input_ids, kwargs, logits_processor, bool(generation_config.do_sample)
    )
    batch._say(inputs, ends)
    batch.kwargs = _lasting(batch.kwargs, batch._inputs())
    if batch.kwargs.get("attention_mask") is None:  # left out where there is no padding
        batch.kwargs["attention_mask"] = torch.ones_like(batch.input_ids)
    if batch.can_gather():
        let_grow(batch.kwargs["past_key_values"])
    return batch


def _pick(scores: Any, sample: bool) -> Any:
    if not sample:
        return scores.argmax(dim=-1)
    return torch.multinomial(scores.softmax(dim=-1), num_samples=1).squeeze(1)


def _logprobs(rows: list[Row], logits: Any, tokens: Any) -> list[float | None]:
    """What the model gave each token, before temperature; None for rows that did not ask."""
    asked = [row.job.request.logprobs for row in rows]
    if not any(asked):
        return [None] * len(rows)
    given = logits.log_softmax(dim=-1).gather(1, tokens[:, None]).squeeze(1).tolist()
    return [value if wanted else None for value, wanted in zip(given, asked, strict=True)]


def _lasting(kwargs: dict[str, Any], inputs: dict[str, Any]) -> dict[str, Any]:
    """What later steps need of the model's inputs: those of the second."""
    done = ONLY_AT_FIRST if "position_ids" in kwargs else ()
    return {k: value for k, value in kwargs.items() if k in inputs and k not in done}


def _aligned(parts: Sequence[Tensor], length: int) -> Tensor:
    """Tensors of (…, rows, tokens) as one, their last tokens side by side, zeros before."""
    padded = [
        torch.nn.functional.pad(part, (length - part.shape[-1], 0))  # a negative one cuts
        for part in parts
    ]
    return torch.cat(padded, dim=-2)


def _first_tokens(batch: Batch, rows: list[int]) -> Tensor:
    """The first token of each row's prompt: (rows, 1)."""
    begin = batch.kwargs["attention_mask"][rows].argmax(dim=-1, keepdim=True)
    return batch.input_ids[rows].gather(1, begin)
