"""A worker that counts what its vision tower sees."""

from __future__ import annotations

from typing import Any

from loaders.vllm_worker import WeighingWorker


class CountingWorker(WeighingWorker):
    """For ``worker_extension_cls``."""

    seen = 0

    def begin_to_count(self) -> None:
        """From now on, without what was tried while loading."""
        model = self.model_runner.model
        embed = model.embed_multimodal

        def count(**inputs: Any) -> Any:
            embeddings = embed(**inputs)
            self.seen += len(embeddings)
            return embeddings

        model.embed_multimodal = count

    def images_seen(self) -> int:
        return self.seen
