"""The row: one page, as a table of columns.

A column is one line of `COLUMNS`; the outputs of the recipe (text, caption, …) are added as
columns of their own. The Arrow schema, the README's table and the checks are made from here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import pyarrow as pa

SCHEMA_VERSION = "2"
"""Of the columns; 2 added what the engine weighs and how sure it was. Older parts stay readable."""


class Column(NamedTuple):
    """A column of the table: its name, Arrow type, whether it is never null, and what it says."""

    name: str
    type: pa.DataType
    required: bool
    meaning: str


_TEXT, _INT, _REAL = pa.string(), pa.int64(), pa.float64()
_TIME = pa.timestamp("us", tz="UTC")

BEFORE_OUTPUTS: tuple[Column, ...] = (
    Column("source_uri", _TEXT, True, "where the document lies; key, with page_number"),
    Column("source_etag", _TEXT, True, "the storage's version mark of the bytes that were read"),
    Column("source_size", _INT, True, "bytes"),
    Column("source_modified", _TIME, False, "when the storage says it was last written"),
    Column("document_sha256", _TEXT, False, "of the bytes; null where they could not be read"),
    Column("page_number", pa.int32(), False, "from 1; null where the document cannot be opened"),
    Column("page_count", pa.int32(), False, "pages of the document"),
)
AFTER_OUTPUTS: tuple[Column, ...] = (
    Column("status", _TEXT, True, "ok, blank, fallback, partial, failed or skipped"),
    Column("error_kind", _TEXT, False, "why not: one of a closed set"),
    Column("error_message", _TEXT, False, "why not, in words"),
    Column("decided_by", _TEXT, False, "the limit or renderer that decided a failure"),
    Column("copied_from", _TEXT, False, "source_uri of the equal document that was read"),
    Column("text_source", _TEXT, False, "model or text_layer"),
    Column("rotation", pa.int16(), False, "degrees clockwise that the page was turned to be read"),
    Column("width", pa.int32(), False, "pixels of the image that was read"),
    Column("height", pa.int32(), False, "pixels of the image that was read"),
    Column("tries", pa.int16(), True, "runs that have tried this page"),
    Column("prompt_tokens", _INT, True, "tokens given to the model, images included"),
    Column("completion_tokens", _INT, True, "tokens that the model wrote"),
    Column("gpu_seconds", _REAL, True, "this page's share of the engine's time"),
    Column("render_seconds", _REAL, True, "time to draw the page"),
    Column("model_id", _TEXT, True, "the model"),
    Column("model_revision", _TEXT, True, "hub commit, or sha256 of a local folder"),
    Column("quantization", _TEXT, True, "the scheme's real name, such as bnb-nf4"),
    Column("framework", _TEXT, True, "what ran the model"),
    Column("framework_version", _TEXT, False, "null where the model was not needed"),
    Column("engine_load_seconds", _REAL, False, "time that the model took to load, once a run"),
    Column("engine_weight_gb", _REAL, False, "what its loaded weights take, 10⁹ bytes"),
    Column("pagemill_version", _TEXT, True, "version of this software"),
    Column("run_id", _TEXT, True, "the run that wrote this row"),
    Column("processed_at", _TIME, True, "when the row was made"),
)
PER_OUTPUT: tuple[tuple[str, pa.DataType, str], ...] = (
    ("finish_reason", _TEXT, "per output: stop, length (cut off), loop (cut off) or error"),
    (
        "attempts",
        pa.list_(pa.field("element", _TEXT)),
        "per output: what was tried before, and how it ended",
    ),
    ("mean_logprob", _REAL, "per output: how sure the model was: 0 is certain, -1 is 37 % a token"),
    ("min_logprob", _REAL, "per output: of the token that it was least sure of"),
)
RESERVED = frozenset(
    [c.name for c in BEFORE_OUTPUTS + AFTER_OUTPUTS] + [name for name, _, _ in PER_OUTPUT]
)

KEY_COLUMNS = (
    "source_uri",
    "source_etag",
    "source_size",
    "source_modified",
    "document_sha256",
    "page_number",
    "page_count",
    "status",
    "error_kind",
    "decided_by",
    "tries",
    "processed_at",
)
"""What planning reads of a committed part: everything but the bulk."""


def row_schema(outputs: Iterable[str]) -> pa.Schema:
    """The Arrow schema of a recipe whose outputs have these names.

    Column descriptions are field metadata (``description``); the schema metadata has
    ``pagemill_schema`` (the version; columns are only ever added).
    """
    # Whatever their order in the config, which is no part of the recipe.
    outputs = sorted(outputs, key=lambda name: (name != "text", name != "caption", name))
    columns = list(BEFORE_OUTPUTS)
    columns += [Column(n, _TEXT, False, f"the model's answer to the prompt {n!r}") for n in outputs]
    columns += AFTER_OUTPUTS
    for name, kind, meaning in PER_OUTPUT:
        columns.append(Column(name, pa.struct([(n, kind) for n in outputs]), False, meaning))
    fields = [
        pa.field(c.name, c.type, nullable=not c.required, metadata={"description": c.meaning})
        for c in columns
    ]
    return pa.schema(fields, metadata={"pagemill_schema": SCHEMA_VERSION})
