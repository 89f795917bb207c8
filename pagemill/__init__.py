"""pagemill: documents in, one balanced Parquet table of OCR text and captions out.

    pagemill.open_dataset("s3://bucket/pages")     the rows, as a pyarrow dataset

The nouns that every other package shares live here; this package imports none of
`loaders`, `tasks` and `flows`, and importing it does no work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pagemill.dataset import open_dataset

__all__ = ["__version__", "open_dataset"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name != "open_dataset":
        raise AttributeError(f"module 'pagemill' has no attribute {name!r}")
    from pagemill.dataset import open_dataset  # it imports pyarrow

    return open_dataset
