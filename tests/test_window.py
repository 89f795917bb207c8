"""Pages with the engine: a slow one holds nobody up, and no more pictures than the engine needs."""

from __future__ import annotations

import threading
import time
import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from helpers import echo_settings, look, make_pdf, process, run, table

from loaders.echo import EchoEngine
from loaders.engine import Completion, Request
from pagemill.errors import Stopped
from tasks.crew import muster
from tasks.hand import LocalHand
from tasks.job import open_job
from tasks.room import Room
from tasks.window import Window
from tasks.worker import Worker, slots

CAPACITY = 4
"""Of the engine of `echo_settings`."""


class Held:
    """Keeps back what is asked about one page, until every other request has come."""

    def __init__(self, others: int) -> None:
        self.others = others
        self.kept: list[tuple[EchoEngine, Request, Future[Completion]]] = []
        self.pictures: list[weakref.ref[Any]] = []
        self.most = 0

    def submit(self, engine: EchoEngine, request: Request) -> Future[Completion]:
        self.pictures = [ref for ref in self.pictures if ref() is not None]
        if not any(ref() is request.images[0] for ref in self.pictures):
            self.pictures.append(weakref.ref(request.images[0]))
        self.most = max(self.most, len(self.pictures))
        if "long" in request.key and request.key.endswith(".pdf 1"):
            future: Future[Completion] = Future()
            self.kept.append((engine, request, future))
            return future
        self.others -= 1
        answer = SUBMIT(engine, request)
        if not self.others:
            for kept in self.kept:
                _answer(*kept)
        return answer


SUBMIT = EchoEngine.submit


def _answer(engine: EchoEngine, request: Request, future: Future[Completion]) -> None:
    SUBMIT(engine, request).add_done_callback(lambda done: future.set_result(done.result()))


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Held:
    holder = Held(others=2 * 39)
    monkeypatch.setattr(EchoEngine, "submit", lambda self, request: holder.submit(self, request))
    return holder


def test_a_slow_page_holds_no_other_up(tmp_path: Path, held: Held) -> None:
    source = tmp_path / "in"
    source.mkdir()
    make_pdf(source / "long.pdf", 40)
    balance = run(source, tmp_path / "out", echo_settings(tmp_path))
    assert held.others == 0 and len(held.kept) == 2
    assert [r["page_number"] for r in table(tmp_path / "out")] == list(range(1, 41))
    assert balance.balanced


def test_no_more_pictures_are_held_than_the_engine_needs(tmp_path: Path, held: Held) -> None:
    source = tmp_path / "in"
    source.mkdir()
    make_pdf(source / "long.pdf", 20)
    for number in range(20):
        make_pdf(source / f"short-{number}.pdf")
    settings = echo_settings(tmp_path, work__shard_documents=7)
    worker, plan = look(source, tmp_path / "out", settings)
    worker.ledger.prepare(worker.job.recipe)
    with ThreadPoolExecutor(len(plan.shards)) as shards:
        receipts = list(shards.map(lambda shard: process(worker, shard), plan.shards))
    assert len(receipts) == 3 and sum(r.pages["ok"] for r in receipts) == 40
    # Twice the capacity, the batch whose answers the engine is just giving out, and the page that
    # each shard has just drawn.
    assert CAPACITY < held.most <= 3 * CAPACITY + len(plan.shards)


def test_a_slow_page_at_the_end_of_a_shard_does_not_keep_the_next_shard(
    tmp_path: Path, held: Held
) -> None:
    source = tmp_path / "in"
    source.mkdir()
    make_pdf(source / "long.pdf", 4)  # its first page is answered when all others are asked about
    for number in range(36):
        make_pdf(source / f"short-{number:02}.pdf")
    settings = echo_settings(tmp_path, work__shard_documents=10, work__shards_in_flight=1)
    worker, plan = look(source, tmp_path / "out", settings)
    with muster(worker.job, worker, None) as crew, ThreadPoolExecutor(crew.slots) as pool:
        worker.ledger.prepare(worker.job.recipe)
        receipts = list(pool.map(crew.process, plan.shards))
    assert [r.documents for r in receipts] == [10, 10, 10, 7]
    assert held.others == 0


def test_workers_that_wait_for_a_slow_page_each_take_further_shards(
    tmp_path: Path, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for number in range(40):  # the first two are answered when all others are asked about
        make_pdf(source / f"{'long' if number < 2 else 'short'}-{number:02}.pdf")
    held.others = 2 * 38
    settings = echo_settings(tmp_path, work__shard_documents=1, work__shards_in_flight=1)
    worker, plan = look(source, tmp_path / "out", settings)
    worker.ledger.prepare(worker.job.recipe)
    hands = [partial(LocalHand, Worker(worker.job, name)) for name in ("one", "two")]
    monkeypatch.setattr("tasks.crew._makers", lambda *_: hands)
    with muster(worker.job, worker, None) as crew, ThreadPoolExecutor(crew.slots) as pool:
        receipts = list(pool.map(crew.process, plan.shards))
        reports = crew.reports()
    assert len(receipts) == 40
    assert all(report.documents > 1 for report in reports)


def test_a_worker_takes_no_more_shards_than_may_drain(tmp_path: Path) -> None:
    settings = echo_settings(tmp_path)
    worker = Worker(open_job(str(tmp_path), str(tmp_path / "out"), settings))
    for _ in range(slots(settings)):
        worker.enter()
        worker.drawing.leave()  # all of it is drawn
    worker.stop.set()
    with pytest.raises(Stopped):
        worker.enter()
    worker.shards.leave()
    worker.enter()


def test_a_few_shards_go_to_as_many_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(LocalHand):
        def enter(self) -> None:
            time.sleep(0.3)
            super().enter()

    source = tmp_path / "in"
    source.mkdir()
    for number in range(2):
        make_pdf(source / f"{number}.pdf")
    worker, plan = look(source, tmp_path / "out", echo_settings(tmp_path, work__shard_documents=1))
    worker.ledger.prepare(worker.job.recipe)
    hands = [partial(hand, Worker(worker.job, "")) for hand in (LocalHand, Slow)]
    monkeypatch.setattr("tasks.crew._makers", lambda *_: hands)
    with muster(worker.job, worker, None) as crew, ThreadPoolExecutor(crew.slots) as pool:
        list(pool.map(crew.process, plan.shards))
        assert [report.documents for report in crew.reports()] == [1, 1]


def test_further_places_are_given_one_by_one_while_there_is_need(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("NEED_SECONDS", "LOOK_SECONDS"):
        monkeypatch.setattr(f"tasks.room.{name}", 0.001)
    need = True
    room = Room(1, extra=2, need=lambda: need)
    for _ in range(3):
        room.enter(lambda: None)
    with pytest.raises(Stopped):
        room.enter(_stop)
    room.leave()  # of the further places
    need = False
    with pytest.raises(Stopped):
        room.enter(_stop)
    room.leave()
    with pytest.raises(Stopped):
        room.enter(_stop)
    room.leave()
    room.enter(_never)


def test_places_are_given_in_the_order_in_which_they_are_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tasks.room.LOOK_SECONDS", 60)
    room = Room(1)
    entered: list[int] = []
    room.enter(_never)

    def wait(number: int) -> None:
        room.enter(_never)
        entered.append(number)
        room.leave()

    threads = [threading.Thread(target=wait, args=(number,)) for number in range(3)]
    for count, thread in enumerate(threads, 1):
        thread.start()
        while len(room._waiting) < count:
            time.sleep(0.001)
    room.leave()
    for thread in threads:
        thread.join(30)
    assert entered == [0, 1, 2]


def test_who_is_busy_meanwhile_lets_others_go_ahead() -> None:
    room, busy, done = Room(1), threading.Event(), threading.Event()
    room.enter(_never)

    def meanwhile() -> None:
        busy.set()
        done.wait(30)

    slow = threading.Thread(target=room.enter, args=(meanwhile,))
    slow.start()
    assert busy.wait(30)
    room.leave()
    room.enter(_never)
    done.set()
    room.leave()
    slow.join(30)
    assert not slow.is_alive()


def test_who_stops_waiting_is_in_nobodys_way() -> None:
    room = Room(1)
    room.enter(_never)
    with pytest.raises(Stopped):
        room.enter(_stop)
    room.leave()
    room.enter(_never)


def _stop() -> None:
    raise Stopped("stopped")


def _never() -> None:
    raise AssertionError("there was a place")


def test_a_page_that_cannot_be_asked_about_gives_its_place_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask() -> Any:
        raise MemoryError

    folder = tmp_path / "in"
    folder.mkdir()
    how = echo_settings(tmp_path)
    worker = Worker(open_job(str(folder), str(tmp_path / "out"), how))
    window, places = Window(worker), 2 * how.model.batch_size
    monkeypatch.setattr(window, "settle", _never)  # it would wait for one
    for _ in range(places + 1):  # one too many, were places lost
        with pytest.raises(MemoryError):
            window.read("a page", ask, lambda _: None)
    assert window.is_empty()
