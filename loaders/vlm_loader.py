"""Loaders: a model's name and a `VLMConfig` in, a loaded model that reads images out.

    config = VLMConfig("models/pagereader-19m", QuantizationType.NONE,
                       InferenceFramework.TRANSFORMERS, device="cpu")
    with create_vlm_loader("qwen25vl", config) as loader:
        print(loader.generate([image], "Transcribe the text of this page.", temperature=0))

Family is data (`loaders.families`), framework is code (one file each, a row in `FRAMEWORKS`);
nothing heavy is imported before `load()`.
"""

from __future__ import annotations

import importlib
import itertools
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Self

from loaders.checkpoint import is_folder
from loaders.engine import Engine, Request, RequestError
from loaders.errors import LoadError, one_line
from loaders.families import FAMILIES, Family, family_names
from pagemill.errors import EngineError

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger("pagemill.loaders")

_calls = itertools.count()


class QuantizationType(StrEnum):
    """How the weights are held."""

    NONE = "none"
    FOUR_BIT = "4bit"
    EIGHT_BIT = "8bit"
    AWQ = "awq"


class InferenceFramework(StrEnum):
    """What runs the model."""

    SGLANG = "sglang"
    VLLM = "vllm"
    TRANSFORMERS = "transformers"


FRAMEWORKS: dict[InferenceFramework, str] = {
    InferenceFramework.SGLANG: "loaders.sglang_engine:SGLangEngine",
    InferenceFramework.TRANSFORMERS: "loaders.transformers_engine:TransformersEngine",
    InferenceFramework.VLLM: "loaders.vllm_engine:VLLMEngine",
}
"""Where each framework's engine is. It is called with (VLMConfig, Family), loads the model and
is an `Engine`; it raises RuntimeError with a one-line message when it cannot."""


@dataclass
class VLMConfig:
    """What to load and how.

    Attributes
    ----------
    model_id : str
        A hub id or the path of a folder.
    quantization : QuantizationType
    framework : InferenceFramework
    max_memory_gb : int, optional
        GiB that the weights may take on the device; a model that needs more is refused.
    device : str
        ``cuda``, ``cuda:1`` or ``cpu``.
    trust_remote_code : bool
        Run code that the checkpoint brings along. No family known by name needs it.
    revision : str, optional
        Hub commit.
    batch_size : int
        Requests that are read at once.
    dtype : str, optional
        ``float32``, ``bfloat16`` or ``float16``. By default float32 on a CPU; on a GPU bfloat16
        where it can, else float16.
    options : dict
        Passed to the framework as they are.
    """

    model_id: str
    quantization: QuantizationType
    framework: InferenceFramework
    max_memory_gb: int | None = None
    device: str = "cuda"
    trust_remote_code: bool = True
    revision: str | None = None
    batch_size: int = 8
    dtype: str | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.model_id = os.path.expanduser(self.model_id)
        self.quantization = QuantizationType(self.quantization)
        self.framework = InferenceFramework(self.framework)


class VLMLoader(ABC):
    """A model that can be loaded, asked and unloaded. A context manager, loaded inside."""

    def __init__(self, config: VLMConfig) -> None:
        self.config = config

    @property
    def engine(self) -> Engine:
        """The loaded model's engine seam. Raises RuntimeError if no model is loaded."""
        raise RuntimeError("no model is loaded: call load() first")

    @abstractmethod
    def load(self) -> None:
        """Load the model; nothing happens if it is loaded. Raises RuntimeError if it fails."""

    @abstractmethod
    def generate(
        self,
        images: list[Image],
        prompt: str,
        max_new_tokens: int = 512,
        temperature: float = 0.7,
    ) -> str:
        """The model's answer to one question about zero or more images.

        Parameters
        ----------
        images : list of PIL.Image.Image
            Of any mode and size.
        prompt : str
            Plain text.
        max_new_tokens : int
            512 by default.
        temperature : float
            0 is greedy; 0.7 by default.

        Raises
        ------
        RuntimeError
            No model is loaded, or it could not answer.
        """

    @abstractmethod
    def unload(self) -> None:
        """Free the memory. Twice is fine; `load` works again afterwards."""

    def __enter__(self) -> Self:
        self.load()
        return self

    def __exit__(self, *_: object) -> None:
        self.unload()


class EngineLoader(VLMLoader):
    """A loader of one family, on whichever framework the config names."""

    family: ClassVar[Family] = FAMILIES["auto"]
    _engine: Engine | None = None

    @property
    def engine(self) -> Engine:
        return self._engine if self._engine is not None else super().engine

    def load(self) -> None:
        if self._engine is None:
            self._engine = _open_engine(self.config, self.family)

    def generate(
        self,
        images: list[Image],
        prompt: str,
        max_new_tokens: int = 512,
        temperature: float = 0.7,
    ) -> str:
        key = f"generate-{next(_calls)}"
        request = Request(tuple(images), prompt, max_new_tokens, temperature, key)
        engine = self.engine
        try:
            return engine.submit(request).result().text
        except (RequestError, EngineError) as error:
            raise RuntimeError(f"{self.config.model_id}: {one_line(error)}") from error
        except BaseException:  # Ctrl-C: nobody waits for the answer any more
            engine.abort(key)
            raise

    def unload(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()


class Llama4MaverickLoader(EngineLoader):
    """Llama 4 Maverick."""

    family = FAMILIES["llama4"]


class Gemma3Loader(EngineLoader):
    """Gemma 3, of any size with a vision tower."""

    family = FAMILIES["gemma3"]


class InternVL3Loader(EngineLoader):
    """InternVL3 in the ``-hf`` format."""

    family = FAMILIES["internvl3"]


class PixtralLargeLoader(EngineLoader):
    """Pixtral Large, converted to Hugging Face's LLaVA format."""

    family = FAMILIES["pixtral"]


class Qwen25VLLoader(EngineLoader):
    """Qwen2.5-VL, of any size; the shipped pagereader-19m is one."""

    family = FAMILIES["qwen25vl"]


class GenericVLMLoader(EngineLoader):
    """Any other model that transformers knows as image-text-to-text."""

    family = FAMILIES["auto"]


LOADERS: tuple[type[EngineLoader], ...] = (
    Llama4MaverickLoader,
    Gemma3Loader,
    InternVL3Loader,
    PixtralLargeLoader,
    Qwen25VLLoader,
    GenericVLMLoader,
)


def create_vlm_loader(model_name: str, config: VLMConfig) -> VLMLoader:
    """The loader of that name. Case, underscores and spaces are forgiven.

    Raises
    ------
    ValueError
        No loader has that name; the message lists those that exist.
    """
    wanted = model_name.strip().lower().replace("_", "-").replace(" ", "-")
    for loader in LOADERS:
        if wanted in loader.family.names:
            return loader(config)
    raise ValueError(f"no loader is named {model_name!r}; use one of: {family_names()}")


def _open_engine(config: VLMConfig, family: Family) -> Engine:
    if config.trust_remote_code and config.revision is None and not is_folder(config.model_id):
        log.warning(
            "%s: remote code is trusted but no revision is pinned; set revision to a commit",
            config.model_id,
        )
    # OpenMP's idle threads spin by default, which starves the renderers beside them: seven times
    # slower on two busy cores. It is read once, when torch is first imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    module, name = FRAMEWORKS[config.framework].split(":")
    try:
        open_engine: Callable[[VLMConfig, Family], Engine] = getattr(
            importlib.import_module(module), name
        )
        return open_engine(config, family)
    except ImportError as error:
        raise LoadError(
            f"{config.model_id}: {config.framework.value} is not installed completely "
            f"({one_line(error)}); pip install 'pagemill[{config.framework.value}]'"
        ) from error
    except LoadError:
        raise
    except Exception as error:
        raise LoadError(
            f"{config.model_id}: {config.framework.value} could not load it: "
            f"{type(error).__name__}: {one_line(error)}"
        ) from error
