"""Which pages of a document need not be read, because the PDF's own text is believed."""

from __future__ import annotations

from pagemill.document import PageFacts, PageImage
from pagemill.settings import Settings
from tasks.layer import agree, why_unsound
from tasks.read import Answer

_PATIENCE = 3
"""Pages that the model may leave unfinished before the layer is given up."""


class Trust:
    """One document's: none without ``render.text_layer: prefer`` and the output ``text``, and none
    before a sample.

    The first `render.layer_sample` pages with a sound layer are read by the model as well; where
    both say the same words, the layers of further pages are taken as they are. One page that
    says something else, and this document's pages all go to the model.
    """

    def __init__(self, settings: Settings) -> None:
        self._on = settings.render.text_layer == "prefer" and "text" in settings.outputs
        self._to_sample = settings.render.layer_sample
        self._vain = 0
        self._asked: set[int] = set()

    @property
    def is_waiting(self) -> bool:
        """Whether the next page should wait for the answer of a sampled one."""
        return bool(self._asked)

    def layer(self, page: PageImage) -> str | None:
        """The text of a page that is not to be read, or None."""
        if not self._on or why_unsound(page.layer, page.layer_fit):
            return None
        if self._to_sample:
            self._asked.add(page.number)
            return None
        return page.layer

    def compare(self, page: PageFacts, answer: Answer) -> None:
        """Learn from a sampled page."""
        if page.number not in self._asked:
            return
        self._asked.remove(page.number)
        if answer.whole and answer.text is not None and page.layer:
            self._to_sample -= 1
            self._on = self._on and agree(page.layer, answer.text)
        else:
            self._vain += 1
            self._on = self._on and self._vain < _PATIENCE
