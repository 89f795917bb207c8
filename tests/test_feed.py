"""Whether the engine had enough to do while there was work."""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest

from loaders.engine import Request
from tasks.feed import Feed


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def asked() -> list[Future[Any]]:
    return []


@pytest.fixture
def feed(clock: Clock, asked: list[Future[Any]]) -> Feed:
    def submit(_: Request) -> Future[Any]:
        asked.append(Future())
        return asked[-1]

    return Feed(SimpleNamespace(capacity=2, submit=submit), clock)  # type: ignore[arg-type]


REQUEST = Request((), "read")


def shares(feed: Feed) -> tuple[float, float]:
    fed = feed.so_far()
    return fed.idle_share, fed.hungry_share


def test_an_engine_that_always_holds_enough_is_never_hungry(
    feed: Feed, clock: Clock, asked: list[Future[Any]]
) -> None:
    for _ in range(3):
        feed.submit(REQUEST)
    clock.now += 10
    asked[0].set_result(None)
    clock.now += 10
    feed.submit(REQUEST)
    assert shares(feed) == (0, 0)


def test_it_is_hungry_below_its_capacity(
    feed: Feed, clock: Clock, asked: list[Future[Any]]
) -> None:
    clock.now += 5  # nothing yet
    feed.submit(REQUEST)
    clock.now += 5  # one of two
    feed.submit(REQUEST)
    clock.now += 30  # enough
    feed.submit(REQUEST)
    assert shares(feed) == pytest.approx((0.125, 0.25))


def test_what_it_holds_beyond_its_capacity_is_its_queue(
    feed: Feed, clock: Clock, asked: list[Future[Any]]
) -> None:
    for _ in range(5):
        feed.submit(REQUEST)
    clock.now += 10  # three wait
    asked[0].set_result(None)
    asked[1].set_result(None)
    clock.now += 30  # one waits
    feed.submit(REQUEST)
    assert (feed.so_far().queue, feed.longest) == ((3 * 10 + 1 * 30) / 40, 3)


def test_only_what_the_engine_has_begun_with_is_being_read(
    feed: Feed, asked: list[Future[Any]]
) -> None:
    feed.submit(REQUEST)
    feed.submit(Request((), "read", key="second"))
    assert feed.being_read() == set()
    asked[1].set_running_or_notify_cancel()
    assert feed.being_read() == {"second"}
    asked[1].set_result(None)
    assert feed.being_read() == set()


def test_draining_at_the_end_is_no_hunger(
    feed: Feed, clock: Clock, asked: list[Future[Any]]
) -> None:
    feed.submit(REQUEST)
    feed.submit(REQUEST)
    clock.now += 10
    feed.submit(REQUEST)
    for future in asked:
        clock.now += 10
        future.set_result(None)
    assert shares(feed) == (0, 0)


def test_what_is_refused_is_not_held(clock: Clock) -> None:
    def refuse(_: Request) -> Future[Any]:
        raise RuntimeError("closed")

    feed = Feed(SimpleNamespace(capacity=1, submit=refuse), clock)  # type: ignore[arg-type]
    for _ in range(2):
        with pytest.raises(RuntimeError, match="closed"):
            feed.submit(REQUEST)
        clock.now += 10
    assert shares(feed) == (1, 1)
