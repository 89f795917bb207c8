"""The recipe: everything that decides what the text will be, and its fingerprint.

Two runs with equal fingerprints would write equal rows, so the second skips what the first
has done. Where the model lies, what framework runs it, how many GPUs and which software
versions are recorded in the rows; they are not part of the recipe.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pagemill.errors import UsageError
from pagemill.settings import Model, Settings

VERSION = 1
"""Raised when this software changes in a way that makes other text of the same recipe."""

_CONFIGS = ("config.json", "params.json")
"""Of Hugging Face's format and of Mistral's own."""
_IDENTITY_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "merges.txt")


@dataclass(frozen=True)
class Recipe:
    """What decides the text.

    Attributes
    ----------
    model_id : str
        Hub id, or the name of the local folder. For people; not part of the fingerprint.
    model_revision : str
        Hub commit, or ``sha256:…`` of a local folder's weights and configs.
    quantization : str
        The scheme's real name: ``none``, ``bnb-nf4``, ``awq``, …
    outputs : dict
        Output name → prompt, max_new_tokens, temperature.
    render : dict
        Size, renderer, blank threshold, use of text layers.
    """

    model_id: str
    model_revision: str
    quantization: str
    outputs: dict[str, Any]
    render: dict[str, Any]

    def canonical(self) -> dict[str, Any]:
        """What is hashed: plain data, without the model's name."""
        return {
            "version": VERSION,
            "model": self.model_revision,
            "quantization": self.quantization,
            "outputs": self.outputs,
            "render": self.render,
        }

    @property
    def fingerprint(self) -> str:
        """First 8 hex digits of the sha256 of the canonical JSON."""
        text = json.dumps(self.canonical(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    @property
    def name(self) -> str:
        """``<model>-<fingerprint>``, safe as a folder's name."""
        model = re.sub(r"[^a-z0-9.]+", "-", self.model_id.rsplit("/", 1)[-1].lower()).strip("-.")
        return f"{model or 'model'}-{self.fingerprint}"


def make_recipe(settings: Settings, quantization: str) -> Recipe:
    """The recipe of these settings.

    Parameters
    ----------
    settings : Settings
    quantization : str
        The scheme's real name, which only the loader of the model knows.

    Raises
    ------
    UsageError
        The model's folder or hub commit cannot be found.
    """
    model_id, revision = model_identity(settings.model)
    return Recipe(
        model_id=model_id,
        model_revision=revision,
        quantization=quantization,
        outputs={name: output.model_dump() for name, output in settings.outputs.items()},
        render=settings.render.model_dump(mode="json"),
    )


def model_identity(model: Model) -> tuple[str, str]:
    """Name and exact version of a model: what its weights are, not where they lie."""
    if model.framework == "echo":
        told = {name: value for name, value in model.options.items() if name != "delay"}
        return "echo", f"echo:{json.dumps(told, sort_keys=True)}"
    if model.framework == "openai":
        # What serves the endpoint is not ours to look at: whoever knows it names the revision.
        return model.id, model.revision or f"endpoint:{model.id}"
    if model.id.startswith(("/", "~")):
        return _folder_identity(Path(model.id).expanduser())
    if re.fullmatch(r"[0-9a-f]{40}", model.revision or ""):
        return model.id, str(model.revision)
    return model.id, _hub_commit(model)


def _folder_identity(folder: Path) -> tuple[str, str]:
    files = sorted({f for pattern in _IDENTITY_FILES for f in folder.glob(pattern)})
    if not any(f.name in _CONFIGS for f in files):
        raise UsageError(
            f"model.id: no model in {folder} (no {' or '.join(_CONFIGS)}): give the folder of a "
            "saved model, or a hub id"
        )
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest.update(
                f"{file.name}\0{hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode()
            )
    return folder.name, f"sha256:{digest.hexdigest()}"


def _hub_commit(model: Model) -> str:
    try:
        from huggingface_hub import HfApi, try_to_load_from_cache
    except ImportError:
        raise UsageError(
            f"model.id: {model.id} is a hub id; install the framework's extra, such as "
            "pip install 'pagemill[transformers]'"
        ) from None
    try:
        return str(HfApi().model_info(model.id, revision=model.revision, timeout=20).sha)
    except Exception as error:
        cached = try_to_load_from_cache(model.id, "config.json", revision=model.revision)
        if isinstance(cached, str):
            return Path(cached).parent.name
        raise UsageError(
            f"model.id: the commit of {model.id} cannot be looked up "
            f"({type(error).__name__}): pin model.revision to a 40-digit commit, or name a local "
            "folder (./, ../ or /)"
        ) from None
