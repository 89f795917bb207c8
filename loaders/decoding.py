"""Decoding a static batch that shrinks: rows leave as they end.

`generate` of transformers decodes every row until the longest has ended. Here a row that ends is
cut out of the batch and its KV cache, and its answer delivered at once. On the default model
(fp32, CPU, one thread) eight pages of 97 to 1,500 tokens took 28 s instead of 41, four took 18
instead of 24, four of equal length the same; the tokens were equal. The prompt, the cache, the
positions and the sampling stay those of `generate`, which calls this as its `custom_generate`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from loaders.batching import Job
from loaders.engine import FinishReason
from loaders.loops import CHECK_EVERY, EXACT, EXACT_AT_CAP, find_loop

PER_ROW = ("attention_mask", "position_ids", "token_type_ids", "mm_token_type_ids")
"""Inputs of a decoding step with an entry for each row (the last two dimensions: row, token)."""
SHARED = ("input_ids", "past_key_values", "use_cache", "logits_to_keep")
ONLY_AT_FIRST = ("image_grid_thw", "video_grid_thw")
"""Serve to place the images' tokens, and transformers 5.17 hands them on for ever."""


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


def decode(
    model: Any,
    input_ids: Any,
    logits_processor: Any,
    stopping_criteria: Any,
    generation_config: Any,
    rows: list[Row],
    clock: Clock,
    ends: frozenset[int],
    deliver: Callable[[Row], None],
    **kwargs: Any,
) -> Any:
    """Decode `rows` until each has ended. For ``generate(custom_generate=decode)``.

    Parameters
    ----------
    rows : list of Row
        In the order of the batch.
    ends : frozenset of int
        Token ids that end an answer.
    deliver : callable
        Called with each row when it has ended.
    kwargs
        The model's inputs, as `generate` prepared them.
    """
    inputs = model.prepare_inputs_for_generation(input_ids, is_first_iteration=True, **kwargs)
    prefill = True
    while True:
        outputs = model(**inputs, return_dict=True)
        kwargs = model._update_model_kwargs_for_generation(
            outputs, kwargs, is_encoder_decoder=False
        )
        logits = outputs.logits[:, -1].float()
        del outputs, inputs  # the logits and the pixels of a prefill are large
        tokens = _pick(logits_processor(input_ids, logits), generation_config.do_sample)
        input_ids = torch.cat([input_ids, tokens[:, None]], dim=-1)
        said = list(zip(tokens.tolist(), _logprobs(rows, logits, tokens), strict=True))
        keep = _advance(rows, said, ends, deliver, clock, prefill)
        if not keep:
            return input_ids
        if len(keep) < len(rows) and _can_shrink(kwargs):
            rows = [rows[i] for i in keep]
            input_ids, kwargs = _cut(input_ids, kwargs, keep)
        inputs = model.prepare_inputs_for_generation(input_ids, next_sequence_length=1, **kwargs)
        if prefill:
            kwargs = _lasting(kwargs, inputs)
        prefill = False


def _advance(
    rows: list[Row],
    said: list[tuple[int, float | None]],
    ends: frozenset[int],
    deliver: Callable[[Row], None],
    clock: Clock,
    prefill: bool,
) -> list[int]:
    """Give each row that goes on its token; the places of those that still go on."""
    clock.share([row for row in rows if row.finish_reason is None], by_prompt=prefill)
    for row, (token, logprob) in zip(rows, said, strict=True):
        if row.finish_reason is None and not row.take(token, logprob, ends):
            deliver(row)
    return [place for place, row in enumerate(rows) if row.finish_reason is None]


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


def _can_shrink(kwargs: dict[str, Any]) -> bool:
    """No input of the model is tied to the batch's rows in a way that is not known here."""
    plain = (bool, int, float, str, type(None))
    known = {*PER_ROW, *SHARED, *(name for name in kwargs if isinstance(kwargs[name], plain))}
    return kwargs.keys() <= known and hasattr(kwargs.get("past_key_values"), "batch_select_indices")


def _cut(input_ids: Any, kwargs: dict[str, Any], keep: list[int]) -> tuple[Any, dict[str, Any]]:
    """The rows `keep` of everything that has one entry per row."""
    index = torch.tensor(keep, device=input_ids.device)
    kwargs["past_key_values"].batch_select_indices(index)
    rows = {
        name: value.index_select(-2, index.to(value.device))  # positions are (3 or 4, rows, length)
        for name in PER_ROW
        if (value := kwargs.get(name)) is not None
    }
    return input_ids[index], {**kwargs, **rows}
