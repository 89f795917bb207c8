"""Process a shard: fetch → render → read → rows → one conditional commit.

The stages overlap: the next documents are fetched and pages are drawn in other processes while
the engine reads. What is between them is bounded by the engine's capacity (`tasks.window`), so
memory does not grow with the document, the shard or the job.
"""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

from pagemill.document import Failure, PageFailure, PageImage, SourceObject
from pagemill.errors import ErrorKind
from pagemill.ledger import DocumentRows
from pagemill.parts import Row
from pagemill.printable import printable
from tasks.fetch import Fetched, fetch
from tasks.foreign import FOREIGN, failed_or_skipped
from tasks.open_document import OpenDocument, pages_to_draw, staged_rows
from tasks.read import Answer, read_page
from tasks.receipt import Receipt
from tasks.render import Opened, render
from tasks.rows import RowMaker
from tasks.shard import Item, Reason, Shard
from tasks.trust import Trust
from tasks.window import Answers, Window
from tasks.worker import Worker
from tasks.write import Writer

FETCH_AHEAD = 4
"""Documents fetched while the ones before them are drawn."""

log = logging.getLogger("pagemill.process")
T = TypeVar("T")
R = TypeVar("R")


def process_shard(worker: Worker, shard: Shard) -> Receipt:
    """Read the documents of a shard and commit their rows; the caller has called `worker.enter`.

    Documents are committed as soon as `work.part_pages` rows are complete, so that a crash
    costs no more than that.

    Raises
    ------
    StorageError, EngineError
        The shard cannot go on. What is complete is committed; the next run does the rest.
    Stopped
        The worker was asked to stop; likewise.
    """
    try:
        return _ShardRun(worker, shard).run()
    finally:
        worker.shards.leave()


class _ShardRun:
    def __init__(self, worker: Worker, shard: Shard) -> None:
        self.worker = worker
        self.shard = shard
        self.settings = worker.job.settings
        self.window = Window(worker)
        self.writer = Writer(worker, shard)
        self.waiting: list[tuple[Item, RowMaker, Future[list[Row]]]] = []

    def run(self) -> Receipt:
        try:
            self._draw()
            self.window.wait_until(self.window.is_empty)
            self._take_copies()
        except BaseException as error:
            with contextlib.suppress(Exception):  # an engine that is broken may not like it
                self.window.abort()
            self.writer.give_up(error)
            raise
        self.writer.commit()
        return self.writer.receipt()

    def _draw(self) -> None:
        try:
            with contextlib.closing(_ahead(self._fetch, self.shard.items)) as documents:
                for item, fetched in documents:
                    self._start(item, fetched)
        finally:
            self.worker.drawing.leave()  # the next shard begins while this one drains

    # -- one document ----------------------------------------------------------------------

    def _fetch(self, item: Item) -> tuple[Item, Fetched | Failure]:
        self.worker.check_stop()
        return item, fetch(item.source, self.settings, self.worker.check_stop)

    def _start(self, item: Item, fetched: Fetched | Failure) -> None:
        self.window.settle()
        if self.window.over and not isinstance(fetched, Failure):
            fetched.close()
            fetched = self.window.over
        if isinstance(fetched, Failure):
            self._fail(item, self._maker(item, item.source, None), fetched)
            return
        with fetched:
            source = fetched.source
            if item.pages is not None and self._has_changed(item, fetched):
                item = replace(item, pages=None, tries=1)  # read all of it
            maker = self._maker(item, source, fetched.sha256)
            if not self._has_twin(item, maker, fetched.sha256):
                self._read(item, maker, fetched)

    def _has_changed(self, item: Item, fetched: Fetched) -> bool:
        """Whether it is not what its rows are of; its storage may not have noticed."""
        known = self.worker.ledger.get(item.source.uri)
        same = known is not None and known.sha256 == fetched.sha256
        return not same or fetched.source.etag != item.source.etag

    def _maker(self, item: Item, source: SourceObject, sha256: str | None) -> RowMaker:
        job = self.worker.job
        framework = job.settings.model.framework
        return RowMaker(source, sha256, job.recipe, framework, job.run_id, item.tries)

    def _has_twin(self, item: Item, maker: RowMaker, sha256: str) -> bool:
        """Whether equal bytes have been read, or are being read, under any name."""
        if item.reason is Reason.RETRY:
            return False
        uri = self.worker.ledger.same_bytes(sha256, self.worker.deciders)
        rows = self.worker.ledger.rows(uri) if uri else []
        passwords = self.worker.passwords.of(item.source.uri)
        if passwords and any(r.get("error_kind") == ErrorKind.ENCRYPTED for r in rows):
            rows = []  # under that name there was none, or another
        # Looked at once more: another run may have replaced them in between.
        if rows and all(row["document_sha256"] == sha256 for row in rows):
            self._complete_copy(item, maker, rows)
            return True
        twin = self.writer.claim(item.source.uri, "\0".join((sha256, *passwords)))
        if twin is not None:
            self.waiting.append((item, maker, twin))
        return twin is not None

    def _read(self, item: Item, maker: RowMaker, fetched: Fetched) -> None:
        ledger = self.worker.ledger
        staged = staged_rows(ledger, maker, item, self.worker.deciders)
        pages = render(
            fetched.file,
            self.settings,
            only=pages_to_draw(item, self.settings),
            skip=staged,
            passwords=self.worker.passwords.of(item.source.uri),
            stop=self.worker.stop,
        )
        with contextlib.closing(pages):
            opened = next(pages)
            if isinstance(opened, Failure):
                self._fail(item, maker, opened)
                return
            assert isinstance(opened, Opened)
            trust = Trust(self.settings)
            count, rows = opened.page_count, dict(staged)
            if item.pages is not None and count != self._known_pages(item):
                # Another renderer, or version of it, counts otherwise: read all of it.
                return self._read(replace(item, pages=None), maker, fetched)
            document = OpenDocument(item, maker, count, ledger, self.settings, rows, trust)
            self._add_rows(document, document.unwanted())
            for page in pages:
                assert isinstance(page, PageImage | PageFailure)
                self._read_page(document, page)
                self.window.settle()
                if trust.is_waiting:
                    self.window.wait_until(lambda: not trust.is_waiting)
                if self.window.over:
                    self._add_rows(document, document.unread(self.window.over))
                    break
        document.drawn = True
        self._complete_if_whole(document)

    def _known_pages(self, item: Item) -> int | None:
        known = self.worker.ledger.get(item.source.uri)
        return known.page_count if known else None

    def _fail(self, item: Item, maker: RowMaker, failure: Failure) -> None:
        if item.pages is not None:
            self._keep(item, maker, failure)
            return
        status = failed_or_skipped(failure.kind, item.source.uri, self.settings.select)
        row = maker.failed_document(failure, status)
        self.writer.count(row)
        self.writer.add(DocumentRows(item.source.uri, [row], item.seen))

    def _keep(self, item: Item, maker: RowMaker, failure: Failure) -> None:
        """A document that cannot be read this time does not lose the rows that it has."""
        log.warning("%s: not read again: %s", printable(item.source.uri), failure.message)
        pages = set(item.pages or ())
        there = self.worker.ledger.rows(item.source.uri)
        rows = [maker.tried(row) for row in there if row["page_number"] in pages]
        self.writer.add(DocumentRows(item.source.uri, rows, item.seen, item.pages))

    # -- one page --------------------------------------------------------------------------

    def _read_page(self, document: OpenDocument, page: PageImage | PageFailure) -> None:
        """Ask the engine for a page, or make its row where nothing is to be asked."""
        maker, count = document.maker, document.page_count
        if isinstance(page, PageFailure):
            return self._add_row(document, maker.failed_page(page, count))
        facts, trust = page.facts, document.trust
        if page.blank:
            return self._add_row(document, maker.read(facts, {}, count, None))
        layer, outputs = trust.layer(page), self.settings.outputs
        if layer is not None:
            outputs = {name: output for name, output in outputs.items() if name != "text"}
            if not outputs:
                return self._add_row(document, maker.read(facts, {}, count, None, layer))
        # Of this run alone: two of a process share its engine, and may share their work.
        job, uri = self.worker.job, document.item.source.uri
        key = f"{job.run_id} {self.shard.number} {uri} {page.number}"

        def ask() -> dict[str, Future[Answer]]:
            confidence, turned = self.settings.model.confidence, self.settings.render.turned
            return read_page(self.worker.submit, page, outputs, key, confidence, turned)

        def finish(answers: Answers) -> None:  # holds the facts, not the picture
            if "text" in answers:
                trust.compare(facts, answers["text"])
            self._add_row(document, maker.read(facts, answers, count, self.worker.engine(), layer))
            document.reading.remove(facts.number)
            self._complete_if_whole(document)

        if self.window.read(key, ask, finish):
            document.reading.add(facts.number)

    def _add_row(self, document: OpenDocument, row: Row) -> None:
        self.writer.count(row)
        document.add(row)

    def _add_rows(self, document: OpenDocument, rows: list[Row]) -> None:
        for row in rows:
            self._add_row(document, row)

    # -- whole documents -------------------------------------------------------------------

    def _complete_if_whole(self, document: OpenDocument) -> None:
        if document.is_whole:
            self.writer.add(document.result())

    def _complete_copy(self, item: Item, maker: RowMaker, rows: list[Row]) -> None:
        copies = maker.copies(rows)
        for row in copies:
            if row.get("error_kind") in FOREIGN:  # its own name decides
                kind = row["error_kind"]
                row["status"] = failed_or_skipped(kind, item.source.uri, self.settings.select)
            self.writer.count(row)
        self.writer.add(DocumentRows(item.source.uri, copies, item.seen), copied=True)

    def _take_copies(self) -> None:
        # Last, when every document that another shard may wait for is done: no two can block
        # each other.
        for item, maker, twin in self.waiting:
            self._take_copy(item, maker, twin)

    def _take_copy(self, item: Item, maker: RowMaker, twin: Future[list[Row]]) -> None:
        self.window.wait_until(lambda: twin.done() or self.window.over)
        if self.window.over and not twin.done():
            self._fail(item, maker, self.window.over)
        else:
            self._complete_copy(item, maker, twin.result())


def _ahead(function: Callable[[T], R], items: Iterable[T]) -> Generator[R, None, None]:
    """``map`` that works `FETCH_AHEAD` items ahead of its reader."""
    with ThreadPoolExecutor(FETCH_AHEAD, thread_name_prefix="fetch") as pool:
        futures: deque[Future[R]] = deque()
        try:
            for item in items:
                futures.append(pool.submit(function, item))
                if len(futures) > FETCH_AHEAD:
                    yield futures.popleft().result()
            while futures:
                yield futures.popleft().result()
        finally:
            for future in futures:
                future.cancel()
