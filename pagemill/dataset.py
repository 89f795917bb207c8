"""The rows, for readers: a pyarrow dataset, which Polars and DuckDB take as it is.

rows = pagemill.open_dataset("out/demo")
rows.to_table(columns=["source_uri", "page_number", "text"])
polars.scan_pyarrow_dataset(rows)
duckdb.sql("SELECT status, count(*) FROM rows GROUP BY status")
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds

from pagemill.ledger import open_ledger
from pagemill.parts import read_schema
from pagemill.settings import StorageOptions
from pagemill.storage import Storage
from pagemill.urls import filesystem


def open_dataset(out: str, recipe: str | None = None, **storage: Any) -> ds.Dataset:
    """The current rows of a recipe: one for each page, typed, read when they are asked for.

    Parameters
    ----------
    out : str
        The folder or ``s3://`` URL that `pagemill run` or `pagemill merge` wrote to.
    recipe : str, optional
        The recipe's name or fingerprint; not needed where OUT holds but one.
    **storage
        As under ``storage:`` in a config, such as ``endpoint_url``, ``profile``, ``anonymous``.

    Returns
    -------
    pyarrow.dataset.Dataset
        With all columns of this version, and those that a later one has added to the newest
        part; a column that an older part does not have is null in its rows. The list of parts
        is that of now: open it again to see what is committed later.

    Raises
    ------
    UsageError
        OUT holds no such recipe, or several and none was named.
    StorageError
        OUT cannot be read.
    """
    options = StorageOptions(**storage)
    place = Storage(out, options)
    ledger = open_ledger(place, recipe)
    parts = ledger.parts()
    schema = ledger.written_schema()
    if parts:
        newest = read_schema(place, parts[-1])
        schema = pa.unify_schemas([schema, newest]).with_metadata(schema.metadata)
    fs, root = filesystem(place.url, options)
    paths = [f"{root.rstrip('/')}/{entry.path}" for entry in parts]
    return ds.dataset(paths, schema=schema, format="parquet", filesystem=fs)
