"""What can go wrong, as two closed sets.

*This document's* errors are `ErrorKind`s: they become rows and the batch goes on.
*Everybody's* errors (storage, model, configuration) are exceptions: they stop the shard or
the run, never become a row, and end the process with a documented exit code.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

EXIT_CODES: dict[int, str] = {
    0: "every selected page has a row and none failed",
    1: "the table does not balance: `pagemill check OUT` names the documents",
    2: "wrong usage: an option, a config, a URL or a model path; nothing was started",
    3: "finished and balanced, but some pages failed; their rows say why",
    4: "storage failed; what is committed stays, the next run does the rest",
    5: "the model could not be loaded, or broke again and again; the next run does the rest",
    6: "the orchestrator (the Prefect API) could not be started or reached",
    7: "another run works on the same recipe (`work.when_busy: stop`); nothing was started",
    130: "stopped by Ctrl-C or SIGTERM; what is committed stays, the next run goes on",
}


class PagemillError(Exception):
    """An error that stops the work. Its message names what happened, where and the remedy."""

    exit_code: ClassVar[int] = 1


class Unbalanced(PagemillError):
    """Pages are missing, double or unaccounted for."""

    exit_code = 1


class UsageError(PagemillError):
    """A setting, URL or path that cannot be right."""

    exit_code = 2


class StorageError(PagemillError):
    """The source or the output cannot be listed, read or written."""

    exit_code = 4


class EngineError(PagemillError):
    """The model cannot be loaded or has stopped answering."""

    exit_code = 5


class WorkerLost(PagemillError):
    """A worker process has died, or its host is gone."""

    exit_code = 5


class Busy(PagemillError):
    """Another run works on the same recipe, and this one was told not to wait."""

    exit_code = 7


class OrchestratorError(PagemillError):
    """The Prefect API cannot be started or reached."""

    exit_code = 6


class Stopped(PagemillError):
    """The user asked the run to stop."""

    exit_code = 130


class ErrorKind(StrEnum):
    """Why a page or a document has no text: the `error_kind` column."""

    EMPTY = "empty"
    NOT_A_DOCUMENT = "not_a_document"
    UNSUPPORTED = "unsupported"
    CORRUPT = "corrupt"
    ENCRYPTED = "encrypted"
    TOO_LARGE = "too_large"
    RENDER_FAILED = "render_failed"
    TIME_OUT = "time_out"
    OUT_OF_MEMORY = "out_of_memory"
    UNREADABLE = "unreadable"
    MODEL_FAILED = "model_failed"
    OTHER_SCRIPT = "other_script"
    NOT_SELECTED = "not_selected"


@dataclass(frozen=True)
class ErrorFacts:
    """What is to be known of one `ErrorKind`.

    Attributes
    ----------
    transient : bool
        Worth another try as it is (up to `MAX_TRIES` runs). A permanent error is tried again
        only when what decided it (the row's `decided_by`) has changed.
    meaning, remedy : str
        For people: the error table of the README is made from these.
    """

    transient: bool
    meaning: str
    remedy: str


MAX_TRIES = 3
"""Runs that may try a page that failed with a transient error."""

ERRORS: dict[ErrorKind, ErrorFacts] = {
    ErrorKind.EMPTY: ErrorFacts(False, "the object has no bytes", "upload it again"),
    ErrorKind.NOT_A_DOCUMENT: ErrorFacts(
        False, "the content is neither a PDF nor an image", "exclude it, or convert it to PDF"
    ),
    ErrorKind.UNSUPPORTED: ErrorFacts(
        False, "a known format that is not read", "convert it to PDF or to a common image format"
    ),
    ErrorKind.CORRUPT: ErrorFacts(
        False, "no renderer can open the document", "replace it with an intact copy"
    ),
    ErrorKind.ENCRYPTED: ErrorFacts(
        False, "the document needs a password", "say under `passwords:` where it is"
    ),
    ErrorKind.TOO_LARGE: ErrorFacts(
        False, "over the limit that `decided_by` names", "raise that limit under `limits:`"
    ),
    ErrorKind.RENDER_FAILED: ErrorFacts(
        False, "the page cannot be drawn", "install poppler-utils for the second renderer"
    ),
    ErrorKind.TIME_OUT: ErrorFacts(
        True,
        "drawing or reading took longer than allowed",
        "raise the limit that `decided_by` names",
    ),
    ErrorKind.OUT_OF_MEMORY: ErrorFacts(
        True, "drawing or reading took more memory than allowed", "raise `limits.memory_mb`"
    ),
    ErrorKind.UNREADABLE: ErrorFacts(
        True, "this object alone cannot be read (forbidden, archived, gone)", "check its access"
    ),
    ErrorKind.MODEL_FAILED: ErrorFacts(
        True,
        "the model gave no usable answer for this page",
        "look at `attempts`; try another model",
    ),
    ErrorKind.OTHER_SCRIPT: ErrorFacts(
        False, "the model says that it does not read this page's script", "choose one that does"
    ),
    ErrorKind.NOT_SELECTED: ErrorFacts(
        False, "the page is not among those asked for", "widen `select.pages`"
    ),
}
