"""A config: the YAML file that holds a run's settings, found by its name, read and checked once.

    settings = load_settings("configs/local.yaml", {"limits.max_pages": 5})

Ready ones lie in `configs/`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from pagemill.errors import UsageError
from pagemill.settings import Settings

PROJECT = Path(__file__).resolve().parents[1]
CONFIGS = PROJECT / "configs"
DEFAULT_CONFIG = "local"


def find_config(name: str) -> Path:
    """The config file for a path or for the name of one in `configs/`.

    Raises
    ------
    UsageError
        No such file; the message lists the names that exist.
    """
    for path in (Path(name), CONFIGS / name, CONFIGS / f"{name}.yaml"):
        if path.is_file():
            return path.resolve()
    known = ", ".join(sorted(p.stem for p in CONFIGS.glob("*.yaml")))
    raise UsageError(f"no config {name!r}: give the path of a YAML file or one of: {known}")


def load_settings(
    config: str | Path | None = None, overrides: Mapping[str, Any] | None = None
) -> Settings:
    """Read a config file, lay `overrides` over it, check the whole.

    Parameters
    ----------
    config : str or Path, optional
        A path, or a name in `configs/`; `configs/local.yaml` when left out.
    overrides : mapping of str to value, optional
        Dotted keys, such as ``{"model.device": "cuda"}``. A relative model folder is relative
        to the working directory here, and to the config file there.

    Raises
    ------
    UsageError
        The file is missing or not YAML, a key is unknown or a value is out of its range; the
        message names the file, the key and what is allowed.
    """
    path = find_config(str(config or DEFAULT_CONFIG))
    try:
        data = _parse(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise UsageError(
            f"{path}: expected keys such as model: and outputs:, see configs/local.yaml"
        )
    _resolve_model_path(data, path.parent)
    for key, value in (overrides or {}).items():
        _put(data, key, value)
    _resolve_model_path(data, Path.cwd())  # an override is written where the caller stands
    try:
        return Settings.model_validate(data)
    except ValidationError as error:
        raise UsageError(f"{path}: {_explain(error)}") from None


def parse_overrides(pairs: tuple[str, ...]) -> dict[str, Any]:
    """``("limits.max_pages=5",)`` as a mapping; values are YAML, so numbers are numbers."""
    overrides = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UsageError(f"--set {pair!r}: write key=value, such as limits.max_pages=5")
        try:
            overrides[key.strip()] = _parse(value)
        except ValueError:
            raise UsageError(f"--set {pair!r}: the value is not valid YAML; quote it") from None
    return overrides


class _Loader(yaml.SafeLoader):
    """What a mapping says twice is an error, not whatever comes last."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ValueError(f"a key is a word, not a list or a mapping, {key.start_mark}")
            if key.value in seen:
                raise ValueError(f"{key.value!r} is there twice, {key.start_mark}")
            seen.add(key.value)
        return node


def _parse(text: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None
    except RecursionError:
        raise ValueError("nested too deep") from None


def _put(data: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for key in parents:
        data = data.setdefault(key, {})
        if not isinstance(data, dict):
            raise UsageError(f"--set {dotted}: {key!r} is a value, not a group of settings")
    data[last] = value


def _resolve_model_path(data: dict[str, Any], folder: Path) -> None:
    """Make a relative model folder absolute."""
    model = data.get("model")
    if isinstance(model, dict) and str(model.get("id", "")).startswith(("./", "../")):
        model["id"] = str((folder / model["id"]).resolve())


def _explain(error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        where = ".".join(str(step) for step in problem["loc"])
        if problem["type"] == "extra_forbidden":
            lines.append(f"unknown setting {where!r}{_nearest(problem['loc'])}")
        else:
            message = problem["msg"].removeprefix("Value error, ")
            lines.append(f"{where}: {message}" if where else message)
    return "; ".join(lines)


def _nearest(location: tuple[int | str, ...]) -> str:
    import difflib

    part: Any = Settings
    for step in location[:-1]:
        field = getattr(part, "model_fields", {}).get(step)
        part = field.annotation if field else None
    names = list(getattr(part, "model_fields", {}))
    close = difflib.get_close_matches(str(location[-1]), names, n=1)
    return f" (did you mean {close[0]!r}?)" if close else f" (known: {', '.join(names)})"
