"""Read a page: ask the engine for every output, climb the retry ladder where it fails.

The ladder: as asked → once more, hotter (a loop under greedy decoding repeats itself) →
the PDF's own text layer (`Status.FALLBACK`, decided where the row is made). Every step is
recorded in the row's `attempts`.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace

from loaders.engine import Completion, Request, RequestError
from pagemill.document import PageImage
from pagemill.errors import ErrorKind
from pagemill.settings import Output

Submit = Callable[[Request], Future[Completion]]
"""`Engine.submit`."""

HOTTER = 0.4
"""Temperature of the second attempt, where the first looped."""


@dataclass
class Answer:
    """What became of one output of one page.

    Attributes
    ----------
    text : str or None
        None where every attempt failed.
    finish_reason : str
        Of the attempt that was kept: stop, length, loop, aborted or error.
    attempts : list of str
        Attempts that were not kept, each as ``t=<temperature>: <how it ended>``.
    prompt_tokens, completion_tokens, seconds
        Summed over all attempts: failed ones cost as well.
    error : ErrorKind or None
    message : str or None
    mean_logprob, min_logprob : float or None
        How sure the model was of what was kept, where it was asked.
    """

    text: str | None
    finish_reason: str
    attempts: list[str]
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    error: ErrorKind | None = None
    message: str | None = None
    mean_logprob: float | None = None
    min_logprob: float | None = None

    @property
    def whole(self) -> bool:
        """Ended by the model, not cut off."""
        return self.finish_reason == "stop"


def read_page(
    submit: Submit, page: PageImage, outputs: dict[str, Output], key: str, confidence: bool
) -> dict[str, Future[Answer]]:
    """Ask for every output of a page at once, and where `confidence` how sure the model is.

    The futures raise `EngineError` when the engine itself fails; all that concerns this page
    alone is in the `Answer`.
    """
    requests = {
        name: Request((page.image,), o.prompt, o.max_new_tokens, o.temperature, key, confidence)
        for name, o in outputs.items()
    }
    return {name: _Attempts(submit, request).future for name, request in requests.items()}


class _Attempts:
    """The ladder of one output. Each step starts when the one before ends, in its thread."""

    def __init__(self, submit: Submit, request: Request) -> None:
        self.future: Future[Answer] = Future()
        self._ask = submit
        self._request = request
        self._first: Completion | None = None
        self._spent = Answer(None, "error", [])
        self._submit()

    def _submit(self) -> None:
        try:
            self._ask(self._request).add_done_callback(self._judge)
        except Exception as error:
            self.future.set_exception(error)

    def _judge(self, done: Future[Completion]) -> None:
        error = done.exception()
        if error is None:
            self._weigh(done.result())
        elif isinstance(error, RequestError):
            self._give_up(error)
        else:
            self.future.set_exception(error)

    def _weigh(self, completion: Completion) -> None:
        spent = self._spent
        spent.prompt_tokens += completion.prompt_tokens
        spent.completion_tokens += completion.completion_tokens
        spent.seconds += completion.seconds
        if completion.finish_reason == "loop" and self._first is None:
            self._first = completion
            self._note(completion.finish_reason)
            self._request = replace(self._request, temperature=HOTTER)
            self._submit()
        elif completion.finish_reason == "stop" or self._first is None:
            self._keep(completion)
        else:  # neither attempt ended well: the first, as asked, is the one to keep
            self._note(completion.finish_reason)
            self._keep(self._first)

    def _keep(self, completion: Completion) -> None:
        kept = self._spent
        kept.text, kept.finish_reason = completion.text, completion.finish_reason
        kept.mean_logprob, kept.min_logprob = completion.mean_logprob, completion.min_logprob
        self.future.set_result(kept)

    def _give_up(self, error: RequestError) -> None:
        if self._first is not None:
            self._note(f"error {error}")
            self._keep(self._first)
            return
        self._spent.error, self._spent.message = error.kind, str(error)
        self.future.set_result(self._spent)

    def _note(self, outcome: str) -> None:
        self._spent.attempts.append(f"t={self._request.temperature:g}: {outcome}")
