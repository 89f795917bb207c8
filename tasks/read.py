"""Read a page: ask the engine for every output, climb the retry ladder where it fails.

The ladder: as asked → once more, hotter (a loop under greedy decoding repeats itself) → turned
by 90, 180 and 270 degrees, where `render.turned` says so (a page that lies on its side is what a
model loops on) → the PDF's own text layer (`Status.FALLBACK`, decided where the row is made).
Every step is recorded in the row's `attempts`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
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
TURNS = (90, 180, 270)
"""Degrees clockwise of the attempts after it, where the settings want them."""


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
    rotation : int
        Degrees clockwise that the page was turned for what was kept.
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
    rotation: int = 0

    @property
    def whole(self) -> bool:
        """Ended by the model, not cut off."""
        return self.finish_reason == "stop"


def read_page(
    submit: Submit,
    page: PageImage,
    outputs: dict[str, Output],
    key: str,
    confidence: bool,
    turned: bool = False,
) -> dict[str, Future[Answer]]:
    """Ask for every output of a page at once, and where `confidence` how sure the model is.

    Where `turned`, a page on which the model loops is asked about on its sides and head as well.

    The futures raise `EngineError` when the engine itself fails; all that concerns this page
    alone is in the `Answer`.
    """
    requests = {
        name: Request((page.image,), o.prompt, o.max_new_tokens, o.temperature, key, confidence)
        for name, o in outputs.items()
    }
    turns = TURNS if turned else ()
    return {name: _Attempts(submit, request, turns).future for name, request in requests.items()}


class _Attempts:
    """The ladder of one output. Each step starts when the one before ends, in its thread."""

    def __init__(self, submit: Submit, request: Request, turns: Iterable[int]) -> None:
        self.future: Future[Answer] = Future()
        self._ask = submit
        self._asked = self._request = request
        self._turn = 0
        self._steps = deque([(0, HOTTER), *((turn, request.temperature) for turn in turns)])
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
        if completion.finish_reason == "stop":
            self._keep(completion, self._turn)
        elif completion.finish_reason != "loop" and self._first is None:
            self._keep(completion)
        else:
            self._first = self._first or completion
            self._note(completion.finish_reason)
            self._climb(self._first)

    def _climb(self, first: Completion) -> None:
        """The next attempt; where none ended well, the first, as asked, is the one to keep."""
        if not self._steps:
            self._keep(first)
            return
        self._turn, temperature = self._steps.popleft()
        images = self._asked.images
        if self._turn:
            images = tuple(image.rotate(-self._turn, expand=True) for image in images)
        self._request = replace(self._asked, images=images, temperature=temperature)
        self._submit()

    def _keep(self, completion: Completion, turn: int = 0) -> None:
        kept = self._spent
        kept.rotation = turn
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
        turned = f" turned {self._turn}" if self._turn else ""
        self._spent.attempts.append(f"t={self._request.temperature:g}{turned}: {outcome}")
