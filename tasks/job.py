"""The job: what all shards of a run share."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import uuid4

from loaders.support import quantization_name
from pagemill.errors import UsageError
from pagemill.ledger import Ledger
from pagemill.recipe import Recipe, make_recipe
from pagemill.settings import Settings
from pagemill.storage import Storage


@dataclass(frozen=True)
class Job:
    """What all shards of a run share, as plain data without secrets.

    Attributes
    ----------
    source, out : str
        URLs or paths as the user gave them. No source: what `select.redo` names of the rows.
    settings : Settings
    recipe : Recipe
    run_id : str
    """

    source: str | None
    out: str
    settings: Settings
    recipe: Recipe
    run_id: str

    def open_ledger(self) -> Ledger:
        """The ledger of this job's recipe, through a storage client of this process."""
        storage = Storage(self.out, self.settings.storage)
        return Ledger(storage, self.recipe.name, self.settings.outputs)


def open_job(source: str | None, out: str, settings: Settings) -> Job:
    """A job under a new run id.

    Raises
    ------
    UsageError
        The model named by the settings cannot be found; or there is no source, and nothing
        to do again.
    """
    if source is None and not settings.select.redo:
        raise UsageError("without SOURCE, say which pages to read again: select.redo")
    recipe = make_recipe(settings, quantization_name(settings.model))
    run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{uuid4().hex[:6]}"
    return Job(source, out, settings, recipe, run_id)
