"""Write a shard: its documents are counted, and committed whenever enough rows are complete."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from concurrent.futures import Future

from loaders.memory import trim
from pagemill.errors import EngineError, ErrorKind
from pagemill.ledger import DocumentRows
from pagemill.parts import Row
from tasks.receipt import Receipt
from tasks.shard import Shard
from tasks.worker import Worker


class Writer:
    """What a shard has to show. Used by one thread."""

    def __init__(self, worker: Worker, shard: Shard) -> None:
        self._worker, self._shard = worker, shard
        self._part_pages = worker.job.settings.work.part_pages
        self._began, self._fed_before = time.monotonic(), worker.fed()
        self._complete: list[DocumentRows] = []
        self._claims: dict[str, str] = {}
        self._totals: Counter[str] = Counter()
        self._pages: Counter[str] = Counter()

    def claim(self, uri: str, key: str) -> Future[list[Row]] | None:
        """None for the first to ask with this key, whose rows the others get by their futures."""
        twin = self._worker.twins.claim(key)
        if twin is None:
            self._claims[uri] = key
        return twin

    def count(self, row: Row) -> None:
        """Count a page's row, as soon as it is made."""
        self._pages[row["status"]] += 1
        self._worker.meter.count(row)
        for name in ("prompt_tokens", "completion_tokens", "gpu_seconds", "render_seconds"):
            self._totals[name] += row[name]

    def add(self, document: DocumentRows, copied: bool = False) -> None:
        """Take a document whose rows are complete.

        Raises
        ------
        StorageError
            It could not be committed.
        """
        self._totals["documents"] += 1
        self._totals["copied"] += copied
        self._worker.meter.count_document()
        self._complete.append(document)
        if document.uri in self._claims:
            self._worker.twins.fulfil(self._claims[document.uri], document.rows)
        if sum(len(d.rows) for d in self._complete) >= self._part_pages:
            self.commit()

    def commit(self) -> None:
        """Commit what is complete. Raises `StorageError`."""
        batch, self._complete = self._complete, []
        if not batch:
            return
        ledger, part = self._worker.ledger, self._shard.part
        self._totals["committed"] += (
            ledger.commit_into(part, batch) if part else ledger.commit(batch)
        )
        for document in batch:
            sha256 = document.rows[0]["document_sha256"] if document.rows else None
            if len(document.rows) > self._part_pages and sha256:
                ledger.unstage(sha256)
            if document.uri in self._claims:
                self._worker.twins.drop(self._claims.pop(document.uri))
        trim()

    def give_up(self, error: BaseException) -> None:
        """Keep what is complete, let go of the rest."""
        if isinstance(error, EngineError):
            # What failed just before the engine was found broken was not the pages' fault.
            self._complete = [d for d in self._complete if not _has_model_failure(d)]
        with contextlib.suppress(Exception):  # the first error is the one to report
            self.commit()
        for key in self._claims.values():
            self._worker.twins.drop(key, error)

    def receipt(self) -> Receipt:
        """What was done, once all is committed."""
        totals, fed = self._totals, self._worker.fed() - self._fed_before
        return Receipt(
            shard=self._shard.number,
            documents=totals["documents"],
            copied=totals["copied"],
            committed=totals["committed"],
            pages={str(status): number for status, number in self._pages.items()},
            prompt_tokens=totals["prompt_tokens"],
            completion_tokens=totals["completion_tokens"],
            gpu_seconds=float(totals["gpu_seconds"]),
            render_seconds=float(totals["render_seconds"]),
            seconds=time.monotonic() - self._began,
            idle=fed.idle_share if fed.seconds else None,
            hungry=fed.hungry_share if fed.seconds else None,
        )


def _has_model_failure(document: DocumentRows) -> bool:
    return any(row.get("error_kind") == ErrorKind.MODEL_FAILED for row in document.rows)
