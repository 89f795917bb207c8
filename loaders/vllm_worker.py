"""What vLLM's workers are asked for beyond their own interface. Imported in their processes."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
from typing import Any

OWNER = "PAGEMILL_ENGINE_OWNER"
"""Environment variable: the process that loads the model."""


def end_with_owner() -> None:
    """Kill this process, and vLLM's engine process above it, when who loads the model is gone.

    vLLM does not notice when that one is killed: its engine would hold the GPU for ever.
    """
    owner, above = int(os.environ.get(OWNER, os.getpid())), os.getppid()
    if owner == os.getpid() or not hasattr(os, "pidfd_open"):
        return

    def wait() -> None:
        with contextlib.suppress(ProcessLookupError):  # it is gone already
            select.select([os.pidfd_open(owner)], [], [])
        if above not in (owner, 1):
            with contextlib.suppress(ProcessLookupError):
                os.kill(above, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, name="owner", daemon=True).start()


end_with_owner()  # at import, for there is no earlier moment at which vLLM calls us


class WeighingWorker:
    """Mixed into a worker through vLLM's ``worker_extension_cls``."""

    model_runner: Any

    def weight_bytes(self) -> int:
        """Bytes of this worker's weights as they are held; shared ones once."""
        model = self.model_runner.model
        held = {id(part): part.nbytes for part in (*model.parameters(), *model.buffers())}
        return sum(held.values())
