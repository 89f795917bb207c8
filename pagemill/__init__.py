"""pagemill: documents in, one balanced Parquet table of OCR text and captions out.

The nouns that every other package shares live here; this package imports none of
`loaders`, `tasks` and `flows`, and importing it does no work.
"""

__version__ = "0.1.0"
