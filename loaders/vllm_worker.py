"""What vLLM's workers are asked for beyond their own interface. Imported in their processes."""

from __future__ import annotations

from typing import Any

from loaders.server import end_with_owner

# At import, for vLLM calls us at no earlier moment. Its engine does not notice when the process
# that loads the model is killed, and would hold the GPU for good.
end_with_owner()


class WeighingWorker:
    """Mixed into a worker through vLLM's ``worker_extension_cls``."""

    model_runner: Any

    def weight_bytes(self) -> int:
        """Bytes of this worker's weights as they are held; shared ones once."""
        model = self.model_runner.model
        held = {id(part): part.nbytes for part in (*model.parameters(), *model.buffers())}
        return sum(held.values())
