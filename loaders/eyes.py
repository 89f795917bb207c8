"""Images are encoded once for all that is asked of them.

    eyes = Eyes(model)
    with eyes.on(visit):
        model.generate(…)

transformers' models look at images in `get_image_features`. What it gives is kept with the visit
while further requests about the same images are waiting.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from loaders.visits import Visit

LOOK = "get_image_features"


class Eyes:
    """Wraps a model's `get_image_features`; a model without has each image encoded anew."""

    def __init__(self, model: Any) -> None:
        self._visit: Visit | None = None
        self._looks: Counter[str] = Counter()
        for module in model.modules():
            if hasattr(module, LOOK):
                setattr(
                    module, LOOK, self._remembering(type(module).__name__, getattr(module, LOOK))
                )

    @contextmanager
    def on(self, visit: Visit | None) -> Iterator[None]:
        """Let the model see the images of `visit`, and nothing else, meanwhile."""
        self._visit, self._looks = visit, Counter()
        try:
            yield
        finally:
            self._visit = None

    def _remembering(self, name: str, look: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(look)  # transformers reads its signature
        def remembered(*arguments: Any, **settings: Any) -> Any:
            visit = self._visit
            if visit is None:
                return look(*arguments, **settings)
            key = (name, self._looks[name])  # some look at one image after the other
            self._looks[name] += 1
            seen = visit.features.get(key)
            if seen is None:
                seen = look(*arguments, **settings)
                if visit.guests > 1:
                    visit.features[key] = seen
            return seen

        return remembered
