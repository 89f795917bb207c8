"""Read a page: ask the engine for every output, climb the retry ladder where it fails.

The ladder: as asked → once more, hotter, where it looped (greedy decoding repeats itself) → turned
by 90, 180 and 270 degrees, where `render.turned` says so and the model looped or was unsure → the
PDF's own text layer (`Status.FALLBACK`, decided where the row is made). Every step is recorded in
the row's `attempts`.
"""

from __future__ import annotations

from collections import deque
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
TURNS = (90, 180, 270)
"""Degrees clockwise of the attempts after it, where the settings want them."""
UNSURE = -0.25
"""Mean log-probability below which a page may lie on its side: the default model reads one page of
print upright with -0.04, on its head with -0.38, on its side with -1.37."""


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

    Where `turned`, a page on which the model loops or is unsure is asked about on its sides and on
    its head as well, and the surest answer is kept.

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

    def __init__(self, submit: Submit, request: Request, turns: tuple[int, ...]) -> None:
        self.future: Future[Answer] = Future()
        self._ask = submit
        self._asked = self._request = request
        self._turns, self._turn = turns, 0
        self._steps: deque[tuple[int, float]] | None = None
        self._tried: list[tuple[Completion, int, str]] = []
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
        outcome = self._why_not(completion)
        if outcome is None:
            self._keep(completion, self._turn)
        else:
            self._tried.append((completion, self._turn, self._note(outcome)))
            self._climb(looped=completion.finish_reason == "loop")

    def _why_not(self, completion: Completion) -> str | None:
        """Why another attempt should be made, if it should."""
        sure = completion.mean_logprob
        if completion.finish_reason == "stop":
            unsure = self._turns and sure is not None and sure < UNSURE
            return f"unsure ({sure:.2f})" if unsure else None
        cut_off = completion.finish_reason != "loop" and not self._tried
        return None if cut_off else completion.finish_reason

    def _climb(self, looped: bool) -> None:
        if self._steps is None:
            turned = [(turn, self._asked.temperature) for turn in self._turns]
            self._steps = deque([(0, HOTTER), *turned] if looped else turned)
        if not self._steps:
            self._settle()
            return
        self._turn, temperature = self._steps.popleft()
        images = self._asked.images
        if self._turn:
            images = tuple(image.rotate(-self._turn, expand=True) for image in images)
        self._request = replace(self._asked, images=images, temperature=temperature)
        self._submit()

    def _settle(self) -> None:
        """Keep the surest attempt that ended well; where none did, the first, as asked."""
        whole = [tried for tried in self._tried if tried[0].finish_reason == "stop"]
        kept = max(whole, key=lambda tried: tried[0].mean_logprob or 0.0, default=self._tried[0])
        if whole:
            self._tried.remove(kept)
        self._keep(kept[0], kept[1])

    def _keep(self, completion: Completion, turn: int) -> None:
        kept = self._spent
        kept.text, kept.finish_reason = completion.text, completion.finish_reason
        kept.mean_logprob, kept.min_logprob = completion.mean_logprob, completion.min_logprob
        kept.rotation = turn
        kept.attempts = [note for _, _, note in self._tried] + kept.attempts
        self.future.set_result(kept)

    def _give_up(self, error: RequestError) -> None:
        if self._tried:
            self._spent.attempts.append(self._note(f"error {error}"))
            self._settle()
            return
        self._spent.error, self._spent.message = error.kind, str(error)
        self.future.set_result(self._spent)

    def _note(self, outcome: str) -> str:
        turned = f" turned {self._turn}" if self._turn else ""
        return f"t={self._request.temperature:g}{turned}: {outcome}"
