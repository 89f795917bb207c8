"""Make rows: from what was read, what failed, what was skipped and what is a copy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pagemill
from loaders.engine import Engine
from pagemill.document import Failure, PageFacts, PageFailure, SourceObject
from pagemill.errors import ErrorKind
from pagemill.parts import Row
from pagemill.recipe import Recipe
from pagemill.status import Status
from tasks.layer import why_garbage
from tasks.read import Answer


@dataclass(frozen=True)
class RowMaker:
    """Makes the rows of one document.

    Attributes
    ----------
    source : SourceObject
    sha256 : str or None
    recipe : Recipe
    framework : str
    run_id : str
    tries : int
        Runs that have tried this document's open pages, this one included.
    """

    source: SourceObject
    sha256: str | None
    recipe: Recipe
    framework: str
    run_id: str
    tries: int = 1

    def read(
        self,
        page: PageFacts,
        answers: dict[str, Answer],
        page_count: int,
        engine: Engine | None,
        layer: str | None = None,
    ) -> Row:
        """A page that was read; a blank one has no `answers` and needs no `engine`.

        `layer` is the PDF's own text where it was taken instead of an answer.
        """
        row = self._row(page.number, page_count)
        row.update(
            {name: answer.text for name, answer in answers.items()},
            width=page.width,
            height=page.height,
            rotation=next((a.rotation for a in answers.values() if a.rotation), 0),
            render_seconds=page.seconds,
            prompt_tokens=sum(a.prompt_tokens for a in answers.values()),
            completion_tokens=sum(a.completion_tokens for a in answers.values()),
            gpu_seconds=sum(a.seconds for a in answers.values()),
            finish_reason={name: a.finish_reason for name, a in answers.items()} or None,
            attempts={name: a.attempts for name, a in answers.items()} or None,
            text_source="model" if answers else None,
            **(_engine(engine) if engine else {}),
            **_outcome(answers, layer, page.damage),
        )
        text = answers.get("text")
        if layer is not None:
            row.update(text=layer, text_source="text_layer")
        if text and not text.whole and page.layer and not why_garbage(page.layer):
            answers = {**answers, "text": replace(text, mean_logprob=None, min_logprob=None)}
            row.update(text=page.layer, text_source="text_layer", status=Status.FALLBACK)
        return {**row, **_confidence(answers)}

    def failed_page(self, page: PageFailure, page_count: int) -> Row:
        """A page that could not be drawn."""
        row = self._row(page.number, page_count)
        row["render_seconds"] = page.seconds
        return {**row, **_failed(page.failure)}

    def failed_document(self, failure: Failure, status: Status = Status.FAILED) -> Row:
        """A document that could not be opened: one row, without a page number."""
        return {**self._row(None, None), **_failed(failure), "status": status}

    def skipped_pages(self, numbers: Iterable[int], page_count: int, failure: Failure) -> list[Row]:
        """Pages that are not read, for one reason."""
        skipped = {**_failed(failure), "status": Status.SKIPPED}
        return [{**self._row(number, page_count), **skipped} for number in numbers]

    def tried(self, row: Row) -> Row:
        """A committed row that was to be read again, but could not be this time."""
        return {**row, "tries": self.tries, "processed_at": datetime.now(UTC)}

    def copies(self, rows: list[Row]) -> list[Row]:
        """The rows of an equal document, as this one's: no tokens, no seconds.

        Rows of the same uri (it was touched, its bytes are the same) only get the new version
        marks of the storage.
        """
        return [self._copy(row) for row in rows]

    def adopt(self, rows: list[Row]) -> list[Row]:
        """Staged rows of these bytes, as this document's own.

        No committed row stands for what they cost, under whatever name they were read.
        """
        return [{**row, **self._source(), "copied_from": None} for row in rows]

    def _copy(self, row: Row) -> Row:
        origin = row.get("copied_from") or row["source_uri"]
        marks = {**self._source(), "run_id": self.run_id, "processed_at": datetime.now(UTC)}
        if row["source_uri"] == self.source.uri:
            return {**row, **marks}
        free = {
            "prompt_tokens": 0,
            "completion_tokens": 0,
            "gpu_seconds": 0.0,
            "render_seconds": 0.0,
        }
        copied_from = origin if origin != self.source.uri else None
        return {**row, **marks, **free, "copied_from": copied_from}

    def _source(self) -> dict[str, Any]:
        return {
            "source_uri": self.source.uri,
            "source_etag": self.source.etag,
            "source_size": self.source.size,
            "source_modified": self.source.modified,
        }

    def _row(self, number: int | None, page_count: int | None) -> Row:
        return {
            **self._source(),
            "document_sha256": self.sha256,
            "page_number": number,
            "page_count": page_count,
            "status": Status.FAILED,
            "tries": self.tries,
            "prompt_tokens": 0,
            "completion_tokens": 0,
            "gpu_seconds": 0.0,
            "render_seconds": 0.0,
            "model_id": self.recipe.model_id,
            "model_revision": self.recipe.model_revision,
            "quantization": self.recipe.quantization,
            "framework": self.framework,
            "pagemill_version": pagemill.__version__,
            "run_id": self.run_id,
            "processed_at": datetime.now(UTC),
        }


def beyond_limit(limit: int, page_count: int) -> Failure:
    """Why a page beyond `limits.max_pages` is skipped."""
    message = f"page beyond limits.max_pages ({limit} of {page_count} pages are read)"
    return Failure(ErrorKind.TOO_LARGE, message, f"max_pages={limit}")


def out_of_range(pages: str) -> Failure:
    """Why a page outside `select.pages` is skipped."""
    message = f"page outside select.pages ({pages})"
    return Failure(ErrorKind.NOT_SELECTED, message, f"pages={pages}")


def _failed(failure: Failure) -> dict[str, Any]:
    return {
        "status": Status.FAILED,
        "error_kind": failure.kind,
        "error_message": failure.message[:1000],
        "decided_by": failure.decided_by,
    }


def _engine(engine: Engine) -> dict[str, Any]:
    return {
        "framework_version": engine.version,
        "engine_load_seconds": round(engine.load_seconds, 3),
        "engine_weight_gb": engine.weight_bytes / 1e9 if engine.weight_bytes else None,
    }


def _confidence(answers: dict[str, Answer]) -> dict[str, Any]:
    """How sure the model was of each output; null where it was of none, or was not asked."""
    mean = {name: a.mean_logprob for name, a in answers.items() if a.mean_logprob is not None}
    least = {name: a.min_logprob for name, a in answers.items() if a.min_logprob is not None}
    return {"mean_logprob": mean or None, "min_logprob": least or None}


def _outcome(answers: dict[str, Answer], layer: str | None, damage: str | None) -> dict[str, Any]:
    """Status and error of a page, from what became of its outputs."""
    if not answers and layer is None:
        return {"status": Status.BLANK}
    errors = [a for a in answers.values() if a.error is not None]
    if answers and len(errors) == len(answers) and layer is None:
        kind = errors[0].error or ErrorKind.MODEL_FAILED
        message = errors[0].message or "the model failed"
        return _failed(Failure(kind, message, errors[0].decided_by))
    if errors or damage or not all(a.whole for a in answers.values()):
        why = next((a.message for a in answers.values() if a.message), damage)
        return {"status": Status.PARTIAL, "error_message": why}
    return {"status": Status.OK}
