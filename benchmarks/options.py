"""Options that several benchmarks have, with the same name and meaning in each.

@click.command()
@options.documents
@options.append
def main(documents: Path | None, append: bool) -> None: ...
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import click

from benchmarks.common import CORPUS

append = click.option(
    "--append", is_flag=True, help="Add each JSON line to benchmarks/results.jsonl."
)
chosen = click.option(
    "--set", "chosen", multiple=True, metavar="KEY=VALUE", help="As for `pagemill run`."
)
config = click.option("-c", "--config", default="local", show_default=True)
corpus = click.option(
    "--corpus", type=Path, default=CORPUS, show_default=True, help="Documents, manifest, score.py."
)
documents = click.option(
    "--documents",
    type=Path,
    help="A folder of PDFs; by default the corpus's digital English ones, else samples/.",
)
label = click.option("--label", default="", help="A name for this line of results.")
tesseract = click.option(
    "--tesseract", is_flag=True, help="Let tesseract read the same documents as well."
)
_READER = (
    click.option(
        "--model", default="7b", show_default=True, help="7b, 7b-awq, trained, or a folder."
    ),
    click.option("--device", default="cuda", show_default=True),
    click.option("--tokens", default=400, show_default=True, help="Of an answer, at most."),
    click.option("--batch-size", default=128, show_default=True, help="Pages read at once."),
    documents,
    click.option("--small", is_flag=True, help="Tiny pictures: only to see that it works."),
)


def reader(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the fields of `pages.Reader`."""
    return reduce(lambda made, option: option(made), reversed(_READER), command)
