"""One visit for all that is asked of a page."""

from __future__ import annotations

import weakref
from concurrent.futures import Future

from PIL import Image

from loaders.engine import Completion, Request
from loaders.visits import Visits

PAGE, OTHER = Image.new("RGB", (8, 8)), Image.new("RGB", (8, 8))
START, IMAGE, CELL = 1, 2, 3
TEXT, CAPTION = [START, IMAGE, 10, 11, 12], [START, IMAGE, 10, 20]
PREPARED = {"prompt_token_ids": [START, CELL, CELL, CELL, 10, 11, 12], "pixels": object()}


def test_requests_about_the_same_images_share_a_visit() -> None:
    visits = Visits()
    text, caption = Request((PAGE,), "text"), Request((PAGE,), "caption")
    other = Request((OTHER,), "text")
    for request in (text, caption, other):
        visits.enter(request)
    assert visits.of(text) is visits.of(caption)
    assert visits.of(text) is not visits.of(other)
    visits.leave(text)
    assert visits.of(caption).guests == 1


def test_the_last_guest_takes_the_images_along() -> None:
    visits = Visits()
    request = Request((PAGE,), "text")
    visits.enter(request)
    first = visits.of(request)
    visits.leave(request)
    visits.enter(request)
    assert visits.of(request) is not first
    assert visits.of(request).name != first.name


def test_an_answer_that_is_kept_keeps_no_page() -> None:
    visits = Visits()
    future: Future[Completion] = Future()
    page = Image.new("RGB", (8, 8))
    visits.share(Request((page,), "text"), lambda _: future)
    future.set_result(Completion("read", 1, 1, "stop", 0.1))
    kept = weakref.ref(page)
    del page
    assert kept() is None


def test_requests_without_images_share_nothing() -> None:
    visits = Visits()
    request = Request((), "read")
    visits.enter(request)
    visit = visits.of(request)
    visit.keep([1], {"prompt_token_ids": [1]})
    assert visits.of(request) is not visit
    assert visit.prompt_for([1]) is None


def test_a_later_prompt_takes_over_what_was_prepared() -> None:
    visits = Visits()
    request = Request((PAGE,), "text")
    visits.enter(request)
    visit = visits.of(request)
    assert visit.prompt_for(TEXT) is None
    visit.keep(TEXT, PREPARED)
    ready = visit.prompt_for(CAPTION)
    assert ready is not None
    assert ready["prompt_token_ids"] == [START, CELL, CELL, CELL, 10, 20]
    assert ready["pixels"] is PREPARED["pixels"]
    assert PREPARED["prompt_token_ids"] == [START, CELL, CELL, CELL, 10, 11, 12]
    again = visit.prompt_for(TEXT)
    assert again is not None
    assert again["prompt_token_ids"] == PREPARED["prompt_token_ids"]


def test_a_prompt_that_differs_before_the_image_is_prepared_by_itself() -> None:
    visits = Visits()
    request = Request((PAGE,), "text")
    visits.enter(request)
    visit = visits.of(request)
    visit.keep(TEXT, PREPARED)
    assert visit.prompt_for([START, 9, IMAGE, 10]) is None
