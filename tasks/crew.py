"""The crew: the workers of a run, each with an engine of its own, and which shard goes to which.

    with muster(job) as crew:
        receipt = crew.process(shard)

`work.runner` says where they are: ``thread`` (this process), ``process`` (a child for each GPU,
`tasks.children`) or ``ray`` (an actor for each GPU of a cluster, `tasks.ray_actors`). The unit of
work is `process_shard` in all three, so the rows are the same. A worker that dies, or whose engine
breaks, is replaced, and the shard goes on with what the output does not hold yet.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, count

from loaders.families import takes_time_to_load
from pagemill.errors import EngineError, Stopped, UsageError, WorkerLost
from pagemill.ledger import Ledger
from pagemill.settings import Settings
from tasks.gauges import Report, together
from tasks.hand import STOP_SECONDS, Hand, LocalHand, MakeHand
from tasks.job import Job
from tasks.receipt import Receipt
from tasks.shard import Shard
from tasks.worker import Worker, more_drawn, slots

log = logging.getLogger("pagemill.crew")

TRIES = 3
"""Workers that may die, or engines break, over one shard before it is given up."""
BREAKS = 2 * TRIES
"""Engines that may break at one place while no shard is finished there: it is the GPU, then."""


@dataclass
class _Post:
    """A worker's place: who holds it, who makes the next one, what those before have done."""

    make: Callable[[], Hand]
    loads: bool  # an engine, which a fresh worker would load anew
    hand: Hand | None = None
    latest: Report | None = None
    before: list[Report] = field(default_factory=list)
    stillborn: int = 0  # in a row
    breaks: int = 0  # of engines, since a shard was finished
    broken: bool = False  # its engine is, or cannot be loaded: nobody takes its place
    lock: threading.Lock = field(default_factory=threading.Lock)

    def holder(self) -> Hand | None:
        """Who holds it; waits while a fresh worker is put in the place of a dead one."""
        with self.lock:
            return self.hand

    def fill(self) -> None:
        """Start a worker; a place may be dying still, with a host that is not known to be lost."""
        for tries_left in reversed(range(TRIES)):
            try:
                hand = self.make()
                try:
                    self.latest = hand.report()
                except BaseException:
                    hand.close()
                    raise
                self.hand = hand
                return
            except WorkerLost:
                if not tries_left:
                    raise

    def leave(self) -> None:
        """Let the worker go, for good; one that is just being started is waited for."""
        with self.lock:
            hand, self.hand = self.hand, None
            if hand is not None:
                hand.close()

    def look(self) -> list[Report]:
        """The reports of this place's workers, the dead ones' included."""
        hand = self.hand
        if hand is not None:
            try:
                self.latest = hand.report()
            except Exception as error:  # whatever it is, it must not keep the worker its place
                if self.latest and hand.loaded and isinstance(error, WorkerLost):
                    # It may have died before it said so.
                    self.latest = dataclasses.replace(self.latest, loads=1)
        return [*self.before, *([self.latest] if self.latest else [])]

    def dismiss(self, hand: Hand, error: Exception) -> None:
        """Let a worker go; the first to notice puts a fresh one in its place.

        Not where that would change nothing, nor after `TRIES` that died while they loaded their
        engine, or `BREAKS` whose engine broke.
        """
        with self.lock:
            if self.hand is not hand:
                return
            self.breaks += isinstance(error, EngineError)
            self.broken = not self.is_mended_by_another(hand, error) or self.breaks == BREAKS
            self.before = [dataclasses.replace(report, loading=None) for report in self.look()]
            self.latest = self.hand = None
            hand.stop()
            hand.close()
            self.stillborn = 0 if hand.loaded else self.stillborn + 1
            if not self.broken and self.stillborn < TRIES:
                self.fill()

    def is_mended_by_another(self, hand: Hand, error: Exception) -> bool:
        """Whether another worker in the place of this one may do what it could not."""
        broke = isinstance(error, EngineError)
        return isinstance(error, WorkerLost) or (broke and self.loads and hand.renews)


class Crew:
    """The workers of a run. Thread-safe.

    Attributes
    ----------
    slots : int
        Shards that there is ever room for: those that are drawn, and those that drain.
    """

    def __init__(self, ledger: Ledger, posts: list[_Post], settings: Settings) -> None:
        self._ledger, self._posts = ledger, posts
        self._room: queue.SimpleQueue[tuple[_Post, Hand] | None] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self._at_work = 0
        self._counting = threading.Lock()
        self._untold: WorkerLost | None = None  # how one has died that no shard was with
        self._drawn = len(posts) * (settings.work.shards_in_flight + more_drawn(settings))
        self.slots = len(posts) * slots(settings)
        all_have = threading.Barrier(len(posts))
        for post in posts:
            threading.Thread(target=self._offer, args=(post, all_have), daemon=True).start()

    @property
    def appetite(self) -> int:
        """Shards that there is room for now: those at work, and those that may be drawn next."""
        return min(self.slots, self._at_work + self._drawn)

    def process(self, shard: Shard) -> Receipt:
        """Process a shard on the next free worker.

        Raises
        ------
        StorageError, EngineError, UsageError, Stopped
            As `process_shard`. An engine that cannot be loaded costs the worker; the shard goes
            to another one while there are any.
        WorkerLost, EngineError
            `TRIES` workers have died, or engines broken, over it; the message says what is left.
        """
        receipt, rest = self._finish(shard)
        return receipt if rest is shard else _with_lost(receipt, shard, rest, self._ledger)

    def _finish(self, shard: Shard) -> tuple[Receipt, Shard]:
        """The receipt of the worker that has finished it, and what that one was given of it."""
        lost = 0
        while True:
            post, hand = self._take()
            try:
                with self._working():
                    receipt = hand.process(shard)
                post.breaks = 0
                return receipt, shard
            except (WorkerLost, EngineError, UsageError, Stopped) as error:
                if self._stopped.is_set():
                    raise Stopped("stopped") from None
                let_go = isinstance(error, Stopped) and post.holder() is not hand
                if let_go or post.broken:  # another shard has told its error
                    shard = self._rest(shard)
                    continue
                if isinstance(error, Stopped):
                    raise
                # What dies while it loads is not the shard's fault.
                lost += post.is_mended_by_another(hand, error) and hand.loaded
                shard = self._after(error, post, hand, shard, last=lost == TRIES)

    def _after(self, error: Exception, post: _Post, hand: Hand, shard: Shard, last: bool) -> Shard:
        """Replace a worker, or do without; gives what is left of its shard."""
        self._dismiss(post, hand, error)
        rest = self._rest(shard)
        if last or not any(p.holder() for p in self._posts):
            raise type(error)(f"{error}; {_left(rest)}") from None
        log.warning("shard %d: %s; going on: %s", shard.number, error, _left(rest))
        return rest

    def reports(self) -> list[Report]:
        """What each worker has done so far; one that died has its own."""
        return [report for post in self._posts for report in post.look()]

    def totals(self) -> Report:
        """All reports as one."""
        return together(self.reports())

    def stop(self) -> None:
        """Ask all workers to stop; shards that are not finished end with `Stopped`."""
        self._stopped.set()
        self._room.put(None)
        # All at once: one that does not answer holds up no other.
        with ThreadPoolExecutor(len(self._posts)) as pool:
            for hand in [post.hand for post in self._posts]:
                if hand is not None:
                    pool.submit(hand.stop)

    def close(self) -> None:
        """Let all workers go, also those that are being started just now."""
        self._stopped.set()
        _leave(self._posts)

    # -- inside ----------------------------------------------------------------------------

    @contextlib.contextmanager
    def _working(self) -> Iterator[None]:
        with self._counting:
            self._at_work += 1
        try:
            yield
        finally:
            with self._counting:
                self._at_work -= 1

    def _offer(self, post: _Post, all_have: threading.Barrier) -> None:
        """Say each time that there is room for a shard with the worker at this place.

        For a second one only when all have said it once, or a few shards would go to fewer workers.
        """
        while hand := post.holder():
            try:
                hand.enter()
            except Stopped:
                if post.holder() is hand:
                    break
            except Exception as error:
                if self._stopped.is_set():
                    break
                if not isinstance(error, WorkerLost):
                    log.warning("a worker that cannot be asked is replaced: %r", error)
                lost = WorkerLost(str(error) or repr(error))
                if post.holder() is hand:  # else it was let go
                    self._untold = lost
                self._dismiss(post, hand, lost)
            else:
                self._room.put((post, hand))
                with contextlib.suppress(threading.BrokenBarrierError):
                    all_have.wait(STOP_SECONDS)
                all_have.abort()
        all_have.abort()
        if self._stopped.is_set() or not any(p.holder() for p in self._posts):
            self._room.put(None)

    def _take(self) -> tuple[_Post, Hand]:
        while True:
            room = self._room.get()
            current = room and room[0].holder() is room[1]
            # Only now: a fresh worker, that was waited for, has not heard of it.
            if room is None or self._stopped.is_set():
                self._room.put(None)  # the next in line is to be told, too
                if self._stopped.is_set():
                    raise Stopped("stopped")
                with self._counting:
                    untold, self._untold = self._untold, None
                raise untold or Stopped("no worker is left")
            if current:
                return room

    def _dismiss(self, post: _Post, hand: Hand, error: Exception) -> None:
        try:
            post.dismiss(hand, error)
        except Exception as error:  # whatever it is, the place is empty now, and that is seen
            log.warning("no worker takes its place: %s", error)

    def _rest(self, shard: Shard) -> Shard:
        self._ledger.refresh()
        return unfinished(shard, self._ledger)


def unfinished(shard: Shard, ledger: Ledger) -> Shard:
    """The documents of a shard whose rows are still those that the plan saw."""

    def untouched(uri: str, seen: str | None) -> bool:
        now = ledger.get(uri)
        return (now.version if now else None) == seen

    items = tuple(item for item in shard.items if untouched(item.source.uri, item.seen))
    return dataclasses.replace(shard, items=items)


def _with_lost(receipt: Receipt, shard: Shard, rest: Shard, ledger: Ledger) -> Receipt:
    """With what workers that were lost had committed; what it took is not known any more."""
    given = {item.source.uri for item in rest.items}
    uris = (item.source.uri for item in shard.items if item.source.uri not in given)
    before = [document for uri in uris if (document := ledger.get(uri)) is not None]
    pages = sum((Counter(document.statuses) for document in before), Counter(receipt.pages))
    return dataclasses.replace(
        receipt,
        documents=receipt.documents + len(before),
        committed=receipt.committed + len(before),
        pages=dict(pages),
    )


@contextlib.contextmanager
def muster(job: Job, worker: Worker, pages: int | None = None) -> Iterator[Crew]:
    """The crew that `work.runner` asks for. Its engines load while it takes work already.

    Parameters
    ----------
    job : Job
    worker : Worker
        This process's own, which ``thread`` works with.
    pages : int, optional
        About how many the run will read; a few are not worth compiling for.

    Raises
    ------
    UsageError, EngineError, WorkerLost
        No worker could be started; where some could, the run goes on with these.
    """
    with contextlib.ExitStack() as stack:
        makers = _makers(job, worker, stack)
        share = None if pages is None else -(-pages // len(makers))
        loads = takes_time_to_load(job.settings.model)
        posts = [_Post(partial(make, share), loads) for make in makers]
        stack.callback(_leave, posts)
        errors = _fill(posts)
        posts = [post for post in posts if post.hand is not None]
        if not posts:
            raise errors[0]
        for error in errors:
            log.warning("one worker less: %s", error)
        crew = Crew(worker.ledger, posts, job.settings)
        try:
            yield crew
        finally:
            crew.close()


def _makers(job: Job, worker: Worker, stack: contextlib.ExitStack) -> Sequence[MakeHand]:
    if job.settings.work.runner == "process":
        from tasks.children import child_makers

        return child_makers(job)
    if job.settings.work.runner == "ray":
        from tasks.ray_actors import actor_makers

        return stack.enter_context(actor_makers(job))
    workers = chain([worker], (Worker(job) for _ in count()))  # the next in place of a broken one
    return [lambda pages: LocalHand(next(workers), pages)]


def _fill(posts: list[_Post]) -> list[Exception]:
    """Start all workers at once; gives the errors of those that cannot be."""
    errors: list[Exception] = []

    def start(post: _Post) -> None:
        try:
            post.fill()
        except Exception as error:
            errors.append(error)

    with ThreadPoolExecutor(len(posts)) as pool:
        list(pool.map(start, posts))
    return errors


def _leave(posts: list[_Post]) -> None:
    """Let all workers go at once: one that is slow to end holds up no other."""
    with ThreadPoolExecutor(len(posts)) as pool:
        for post in posts:
            pool.submit(post.leave)


def _left(shard: Shard) -> str:
    uris = [item.source.uri for item in shard.items]
    more = f" and {len(uris) - 3} more" if len(uris) > 3 else ""
    return f"{len(uris)} of its documents are left: {', '.join(uris[:3])}{more}"
