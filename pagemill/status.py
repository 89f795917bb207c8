"""What became of a page: the `status` column."""

from __future__ import annotations

from enum import StrEnum


class Status(StrEnum):
    """Of a page, or of a document that has none."""

    OK = "ok"
    BLANK = "blank"
    FALLBACK = "fallback"
    PARTIAL = "partial"
    FAILED = "failed"
    SKIPPED = "skipped"


STATUS_MEANING: dict[Status, str] = {
    Status.OK: "every output is there and whole",
    Status.BLANK: "nothing on the page; no model time spent",
    Status.FALLBACK: "the model failed; `text` is the PDF's own text layer",
    Status.PARTIAL: "an output is missing or cut off (`finish_reason`), or the file is damaged",
    Status.FAILED: "no output; `error_kind` and `error_message` say why",
    Status.SKIPPED: "in scope but not read, with the reason",
}
