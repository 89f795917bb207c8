"""A worker that says what its model is like, and counts what its vision tower sees."""

from __future__ import annotations

from typing import Any

from loaders.vllm_worker import WeighingWorker


class ProbingWorker(WeighingWorker):
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

    def quantized(self) -> tuple[dict[str, bool], dict[str, bool]]:
        """Linear layers, and whether they are: those outside the language model, those inside."""
        from vllm.model_executor.layers.linear import LinearBase, UnquantizedLinearMethod

        layers = {
            name: not isinstance(layer.quant_method, UnquantizedLinearMethod)
            for name, layer in self.model_runner.model.named_modules()
            if isinstance(layer, LinearBase)
        }
        language = {n: layers[n] for n in layers if n.startswith("language_model.")}
        return {n: layers[n] for n in layers if n not in language}, language
