"""Read a page: ask the engine for every output, climb the retry ladder where it fails.

The ladder: as asked → turned back, where the answer is that the page is turned (`answers.TURNED`)
→ once more, hotter, where it looped (greedy decoding repeats itself) → turned by 90, 180 and 270
degrees, where `render.turned` says so and the model looped or was unsure → the PDF's own text layer
(`Status.FALLBACK`, decided where the row is made). Every step is recorded in the row's `attempts`.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple, TypeVar

from loaders.engine import Completion, Request, RequestError
from pagemill import answers
from pagemill.document import PageImage
from pagemill.errors import ErrorKind
from pagemill.settings import Output

F = TypeVar("F")
Submit = Callable[[Request], Future[Completion]]
"""`Engine.submit`."""

HOTTER = 0.4
"""Temperature of the second attempt, where the first looped."""
TURNS = (90, 180, 270)
"""Degrees clockwise of the attempts after it, where the settings want them."""
TURNED_BACK = 2
"""Times that a page is turned because the model says so: it may contradict itself."""
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
    turned_back : bool
        It was turned because the model says that the page is turned.
    prompt_tokens, completion_tokens, seconds
        Summed over all attempts: failed ones cost as well.
    error : ErrorKind or None
    message, decided_by : str or None
        As in a `Failure`.
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
    decided_by: str | None = None
    mean_logprob: float | None = None
    min_logprob: float | None = None
    rotation: int = 0
    turned_back: bool = False

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
    its head as well, and the surest answer is kept. A page of which the model says that it is
    turned is turned back in any case; what else is asked of it follows the text.

    The futures raise `EngineError` when the engine itself fails; all that concerns this page
    alone is in the `Answer`.
    """
    requests = {
        name: Request((page.image,), o.prompt, o.max_new_tokens, o.temperature, key, confidence)
        for name, o in outputs.items()
    }
    turns = TURNS if turned else ()
    first = "text" if "text" in requests else next(iter(requests), "")
    lead: _Attempts | None = None
    asked: dict[str, Future[Answer]] = {}
    for name in sorted(requests, key=lambda name: name != first):
        attempts = _Attempts(submit, requests[name], turns, lead)
        lead, asked[name] = lead or attempts, attempts.future
    return {name: asked[name] for name in requests}


class _Tried(NamedTuple):
    """An attempt that was not kept at once."""

    completion: Completion
    turn: int
    note: str

    @property
    def reads(self) -> bool:
        """Whether this says more than how the page lies."""
        return answers.says_only(self.completion.text) is None

    def rank(self) -> tuple[bool, float]:
        """Upright before turned, then the surest."""
        upright = not answers.turned(self.completion.text)
        return upright, self.completion.mean_logprob or 0.0


class _Attempts:
    """The ladder of one output. Each step starts when the one before ends, in its thread.

    `lead` is the ladder of the page's text: where that turns the page back, this one follows.
    """

    def __init__(
        self, submit: Submit, request: Request, turns: tuple[int, ...], lead: _Attempts | None
    ) -> None:
        self.future: Future[Answer] = Future()
        self._ask, self._lead = submit, lead
        self._asked = self._request = request
        self._turns, self._turn = turns, 0
        self._turned_back = 0
        self._climbed = False
        self._tried: list[_Tried] = []
        self._spent = Answer(None, "error", [])
        self._submit()

    def _submit(self) -> None:
        try:
            request = self._request
            if self._turn:
                shown = (image.rotate(-self._turn, expand=True) for image in request.images)
                request = replace(request, images=tuple(shown))
            self._ask(request).add_done_callback(partial(self._hear, self._judge))
        except Exception as error:
            self.future.set_exception(error)

    def _hear(self, judge: Callable[[Future[F]], None], done: Future[F]) -> None:
        """Of what a callback raises nobody hears, and the page would be waited for for ever."""
        try:
            judge(done)
        except BaseException as error:
            self.future.set_exception(error)

    def _judge(self, done: Future[Completion]) -> None:
        error = done.exception()
        if error is None:
            self._count(done.result())
        elif isinstance(error, RequestError):
            self._give_up(error)
        else:
            self.future.set_exception(error)

    def _count(self, completion: Completion) -> None:
        spent, lead = self._spent, self._lead
        spent.prompt_tokens += completion.prompt_tokens
        spent.completion_tokens += completion.completion_tokens
        spent.seconds += completion.seconds
        if lead is None:
            self._weigh(completion)
        else:
            self._lead = None
            lead.future.add_done_callback(partial(self._hear, partial(self._follow, completion)))

    def _follow(self, completion: Completion, lead: Future[Answer]) -> None:
        """Ask again of the page as its text was read; where it was read as it is, leave it so."""
        text = None if lead.exception() else lead.result()
        if text is not None and text.whole:
            self._turned_back = TURNED_BACK
            if text.turned_back:
                self._try_again(
                    completion, f"its text was read turned {text.rotation}", text.rotation
                )
                return
        self._weigh(completion)

    def _weigh(self, completion: Completion) -> None:
        said = answers.turned(completion.text) if completion.finish_reason == "stop" else 0
        upright = (self._turn - said) % 360
        known = upright in {tried.turn for tried in self._tried}
        if said and not known and self._turned_back < TURNED_BACK:
            self._turned_back += 1
            self._try_again(completion, f"says turned by {said}", upright)
        elif outcome := self._why_not(completion, said):
            self._tried.append(_Tried(completion, self._turn, self._note(outcome)))
            if completion.finish_reason == "aborted":  # there is no time for more
                self._settle()
            else:
                self._climb(looped=completion.finish_reason == "loop")
        else:
            self._keep(completion, self._turn)

    def _why_not(self, completion: Completion, said: int) -> str | None:
        """Why another attempt should be made, if it should."""
        sure = completion.mean_logprob
        if completion.finish_reason != "stop":
            cut_off = completion.finish_reason != "loop" and not self._tried
            return None if cut_off else completion.finish_reason
        if refused := answers.says_only(completion.text):
            return f"says turned by {said}" if said else refused[0]
        unsure = self._turns and sure is not None and sure < UNSURE
        return f"unsure ({sure:.2f})" if unsure else None

    def _climb(self, looped: bool) -> None:
        hotter, self._climbed = looped and not self._climbed, True
        if hotter:
            self._show(self._turn, HOTTER)
            return
        known = {tried.turn for tried in self._tried}
        left = [turn for turn in self._turns if turn not in known]
        if left:
            self._show(left[0], self._asked.temperature)
        else:
            self._settle()

    def _try_again(self, completion: Completion, why: str, turn: int) -> None:
        self._tried.append(_Tried(completion, self._turn, self._note(why)))
        self._show(turn, self._asked.temperature)

    def _show(self, turn: int, temperature: float) -> None:
        """Ask about the page turned by this many degrees clockwise."""
        self._turn = turn
        self._request = replace(self._asked, temperature=temperature)
        self._submit()

    def _settle(self) -> None:
        """Keep the surest attempt that ended well; where none did, the first, as asked."""
        read = [tried for tried in self._tried if tried.reads]
        whole = [tried for tried in read if tried.completion.finish_reason == "stop"]
        kept = (read or self._tried)[0]
        if whole:
            kept = max(whole, key=_Tried.rank)
            self._tried.remove(kept)
        self._keep(kept.completion, kept.turn)

    def _keep(self, completion: Completion, turn: int) -> None:
        kept = self._spent
        kept.text, kept.finish_reason = completion.text, completion.finish_reason
        kept.mean_logprob, kept.min_logprob = completion.mean_logprob, completion.min_logprob
        kept.rotation, kept.turned_back = turn, bool(turn and self._turned_back)
        kept.attempts = [tried.note for tried in self._tried] + kept.attempts
        if refused := answers.says_only(completion.text):
            kept.text, kept.finish_reason = None, "error"
            kept.mean_logprob = kept.min_logprob = None
            kept.error, kept.message = refused
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
