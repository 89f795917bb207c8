"""Process a shard: fetch → render → read → rows → one conditional commit.

The stages overlap: the next documents are fetched and pages are drawn in other processes while
the engine reads. What is between them is bounded by the engine's capacity (`tasks.window`), so
memory does not grow with the document, the shard or the job.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import TypeVar

from pagemill.document import Failure, PageFailure, PageImage, SourceObject
from pagemill.errors import EngineError, ErrorKind
from pagemill.ledger import DocumentRows
from pagemill.parts import Row
from pagemill.printable import printable
from pagemill.schema import Status
from tasks.fetch import Fetched, fetch
from tasks.plan import Item, Reason, Shard
from tasks.read import Answer, read_page
from tasks.receipt import Receipt
from tasks.render import Opened, render
from tasks.rows import RowMaker, beyond_limit, out_of_range
from tasks.trust import Trust
from tasks.window import Answers, Window
from tasks.worker import Worker

FETCH_AHEAD = 4
"""Documents fetched while the ones before them are drawn."""

DOCUMENT_SUFFIXES = (
    *(".pdf", ".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".gif", ".bmp", ".jp2", ".j2k"),
    *(".avif", ".heic", ".heif", ".jfif", ".pbm", ".pgm", ".ppm", ".pnm"),
)
"""Names that promise a document. What else is not one was not meant to be: `skipped`."""
FOREIGN = (ErrorKind.NOT_A_DOCUMENT, ErrorKind.UNSUPPORTED)

log = logging.getLogger("pagemill.process")
T = TypeVar("T")
R = TypeVar("R")


def process_shard(worker: Worker, shard: Shard) -> Receipt:
    """Read the documents of a shard and commit their rows.

    Documents are committed as soon as `work.part_pages` rows are complete, so that a crash
    costs no more than that.

    Raises
    ------
    StorageError, EngineError
        The shard cannot go on. What is complete is committed; the next run does the rest.
    Stopped
        The worker was asked to stop; likewise.
    """
    worker.drawing.enter(worker.check_stop)
    return _ShardRun(worker, shard).run()


@dataclass
class _Document:
    """A document whose pages are being read."""

    item: Item
    maker: RowMaker
    page_count: int
    rows: dict[int, Row] = field(default_factory=dict)
    staged: set[int] = field(default_factory=set)
    trust: Trust | None = None
    reading: set[int] = field(default_factory=set)
    drawn: bool = False

    def result(self) -> DocumentRows:
        rows = [self.rows[number] for number in sorted(self.rows)]
        return DocumentRows(self.item.source.uri, rows, self.item.seen, self.item.pages)


class _ShardRun:
    def __init__(self, worker: Worker, shard: Shard) -> None:
        self.worker = worker
        self.shard = shard
        self.settings = worker.job.settings
        self.window = Window(worker)
        self.began, self.fed_before = time.monotonic(), worker.fed()
        self.complete: list[DocumentRows] = []
        self.claims: dict[str, str] = {}
        self.waiting: list[tuple[Item, RowMaker, Future[list[Row]]]] = []
        self.totals: Counter[str] = Counter()
        self.pages: Counter[str] = Counter()

    def run(self) -> Receipt:
        try:
            self._draw()
            self.window.wait_until(self.window.is_empty)
            self._take_copies()
        except BaseException as error:
            self._give_up(error)
            raise
        self._commit()
        return self._receipt()

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
            if item.pages is not None and source.etag != item.source.etag:
                item = replace(item, pages=None)  # it changed after the plan: read all of it
            maker = self._maker(item, source, fetched.sha256)
            if not self._has_twin(item, maker, fetched.sha256):
                self._read(item, maker, fetched)

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
        claim = "\0".join((sha256, *passwords))
        twin = self.worker.claim(claim)
        if twin is not None:
            self.waiting.append((item, maker, twin))
            return True
        self.claims[item.source.uri] = claim
        return False

    def _read(self, item: Item, maker: RowMaker, fetched: Fetched) -> None:
        staged = self._staged(maker, item)
        pages = render(
            fetched.file,
            self.settings,
            only=self._pages(item),
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
            trust = Trust(self.settings) if "text" in self.settings.outputs else None
            document = _Document(item, maker, opened.page_count, dict(staged), set(staged), trust)
            self._skip_unwanted(document)
            for page in pages:
                assert isinstance(page, PageImage | PageFailure)
                self._read_page(document, page)
                self.window.settle()
                if trust and trust.is_waiting:
                    self.window.wait_until(lambda: not trust.is_waiting)
                if self.window.over:
                    self._leave_unread(document, self.window.over)
                    break
        document.drawn = True
        self._complete_if_whole(document)

    def _pages(self, item: Item) -> Collection[int] | None:
        """The pages to draw, where that is not all of them."""
        if item.pages is None and self.settings.select.pages:
            return self.settings.select.page_range(self.settings.limits.max_pages)
        return item.pages

    def _skip_unwanted(self, document: _Document) -> None:
        limit, count = self.settings.limits.max_pages, document.page_count
        wanted = document.item.pages or range(1, count + 1)
        chosen = document.item.pages or self.settings.select.page_range(count)
        beyond = [n for n in wanted if n > limit]
        outside = [n for n in wanted if n <= limit and n not in chosen]
        skipped = document.maker.skipped_pages(beyond, count, beyond_limit(limit, count))
        skipped += document.maker.skipped_pages(
            outside, count, out_of_range(self.settings.select.pages or "")
        )
        for row in skipped:
            self._add_row(document, row)

    def _leave_unread(self, document: _Document, late: Failure) -> None:
        """The pages that there is no time for: those to be read again keep the rows they have."""
        item, maker, count = document.item, document.maker, document.page_count
        known = document.rows.keys() | document.reading
        unread = {n for n in item.pages or range(1, count + 1) if n <= count} - known
        rows = [maker.failed_page(PageFailure(number, late), count) for number in sorted(unread)]
        if item.pages is not None:
            there = self.worker.ledger.rows(item.source.uri)
            rows = [maker.tried(row) for row in there if row["page_number"] in unread]
        for row in rows:
            self._add_row(document, row)

    def _fail(self, item: Item, maker: RowMaker, failure: Failure) -> None:
        if item.pages is not None:
            self._keep(item, maker, failure)
            return
        row = maker.failed_document(failure, self._failed_as(failure.kind, item.source.uri))
        self._count(row)
        self._complete(DocumentRows(item.source.uri, [row], item.seen))

    def _failed_as(self, kind: str, uri: str) -> Status:
        """Failed, or skipped where what is no document is not called one either."""
        if kind not in FOREIGN:
            return Status.FAILED
        policy = self.settings.select.foreign
        suffix = PurePosixPath(uri).suffix.lower()
        unnamed = policy == "by_name" and suffix not in DOCUMENT_SUFFIXES
        return Status.SKIPPED if unnamed or policy == "skipped" else Status.FAILED

    def _keep(self, item: Item, maker: RowMaker, failure: Failure) -> None:
        """A document that cannot be read this time does not lose the rows that it has."""
        log.warning("%s: not read again: %s", printable(item.source.uri), failure.message)
        pages = set(item.pages or ())
        there = self.worker.ledger.rows(item.source.uri)
        rows = [maker.tried(row) for row in there if row["page_number"] in pages]
        self._complete(DocumentRows(item.source.uri, rows, item.seen, item.pages))

    # -- one page --------------------------------------------------------------------------

    def _read_page(self, document: _Document, page: PageImage | PageFailure) -> None:
        """Ask the engine for a page, or make its row where nothing is to be asked."""
        maker, count = document.maker, document.page_count
        if isinstance(page, PageFailure):
            return self._add_row(document, maker.failed_page(page, count))
        facts, trust = page.facts, document.trust
        if page.blank:
            return self._add_row(document, maker.read(facts, {}, count, None))
        layer = trust.layer(page) if trust else None
        outputs = self.settings.outputs
        if layer is not None:
            outputs = {name: output for name, output in outputs.items() if name != "text"}
            if not outputs:
                return self._add_row(document, maker.read(facts, {}, count, None, layer))
        key = f"{self.shard.number} {document.item.source.uri} {page.number}"

        def ask() -> dict[str, Future[Answer]]:
            confidence, turned = self.settings.model.confidence, self.settings.render.turned
            return read_page(self.worker.submit, page, outputs, key, confidence, turned)

        def finish(answers: Answers) -> None:  # holds the facts, not the picture
            if trust and "text" in answers:
                trust.compare(facts, answers["text"])
            self._add_row(document, maker.read(facts, answers, count, self.worker.engine(), layer))
            document.reading.remove(facts.number)
            self._complete_if_whole(document)

        document.reading.add(facts.number)
        self.window.read(key, ask, finish)

    def _add_row(self, document: _Document, row: Row) -> None:
        document.rows[row["page_number"]] = row
        self._count(row)
        self._stage(document, row["page_number"])

    # -- long documents --------------------------------------------------------------------

    def _staged(self, maker: RowMaker, item: Item) -> dict[int, Row]:
        if item.pages is not None or maker.sha256 is None:
            return {}
        found = self.worker.ledger.staged(maker.sha256)
        return {row["page_number"]: row for row in maker.adopt(list(found.values()))}

    def _stage(self, document: _Document, number: int) -> None:
        """Stage a range of a long document as soon as its last page has a row."""
        size, count = self.settings.work.part_pages, document.page_count
        if count <= size or document.item.pages is not None or document.maker.sha256 is None:
            return
        first = (number - 1) // size * size + 1
        pages = range(first, min(first + size, count + 1))
        if all(n in document.rows for n in pages) and not document.staged.issuperset(pages):
            rows = [document.rows[n] for n in pages]
            self.worker.ledger.stage(document.maker.sha256, pages[0], pages[-1], rows)
            document.staged.update(pages)

    # -- whole documents -------------------------------------------------------------------

    def _complete_if_whole(self, document: _Document) -> None:
        if document.drawn and not document.reading:
            self._complete(document.result())

    def _complete_copy(self, item: Item, maker: RowMaker, rows: list[Row]) -> None:
        copies = maker.copies(rows)
        for row in copies:
            if row.get("error_kind") in FOREIGN:
                row["status"] = self._failed_as(row["error_kind"], item.source.uri)
            self._count(row)
        self._complete(DocumentRows(item.source.uri, copies, item.seen), copied=True)

    def _complete(self, document: DocumentRows, copied: bool = False) -> None:
        self.totals["documents"] += 1
        self.totals["copied"] += copied
        self.worker.meter.count_document()
        self.complete.append(document)
        if document.uri in self.claims:
            self.worker.fulfil(self.claims[document.uri], document.rows)
        if sum(len(d.rows) for d in self.complete) >= self.settings.work.part_pages:
            self._commit()

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

    def _commit(self) -> None:
        batch, self.complete = self.complete, []
        if not batch:
            return
        ledger = self.worker.ledger
        part = self.shard.part
        self.totals["committed"] += (
            ledger.commit_into(part, batch) if part else ledger.commit(batch)
        )
        for document in batch:
            sha256 = document.rows[0]["document_sha256"] if document.rows else None
            if len(document.rows) > self.settings.work.part_pages and sha256:
                ledger.unstage(sha256)
            if document.uri in self.claims:
                self.worker.drop(self.claims.pop(document.uri))

    def _give_up(self, error: BaseException) -> None:
        """Keep what is complete, let go of the rest."""
        with contextlib.suppress(Exception):  # an engine that is broken may not like it
            self.window.abort()
        if isinstance(error, EngineError):
            # What failed just before the engine was found broken was not the pages' fault.
            self.complete = [d for d in self.complete if not _has_model_failure(d)]
        with contextlib.suppress(Exception):  # the first error is the one to report
            self._commit()
        for sha256 in self.claims.values():
            self.worker.drop(sha256, error)

    # -- counting --------------------------------------------------------------------------

    def _count(self, row: Row) -> None:
        self.pages[row["status"]] += 1
        self.worker.meter.count(row)
        for name in ("prompt_tokens", "completion_tokens", "gpu_seconds", "render_seconds"):
            self.totals[name] += row[name]

    def _receipt(self) -> Receipt:
        totals, fed = self.totals, self.worker.fed() - self.fed_before
        return Receipt(
            shard=self.shard.number,
            documents=totals["documents"],
            copied=totals["copied"],
            committed=totals["committed"],
            pages={str(status): number for status, number in self.pages.items()},
            prompt_tokens=totals["prompt_tokens"],
            completion_tokens=totals["completion_tokens"],
            gpu_seconds=float(totals["gpu_seconds"]),
            render_seconds=float(totals["render_seconds"]),
            seconds=time.monotonic() - self.began,
            idle=fed.idle_share if fed.seconds else None,
            hungry=fed.hungry_share if fed.seconds else None,
        )


def _has_model_failure(document: DocumentRows) -> bool:
    return any(row.get("error_kind") == ErrorKind.MODEL_FAILED for row in document.rows)


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
