"""The shape of the project: imports point one way, importing does nothing, help is instant."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

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


def _loaded_after(statement: str) -> list[str]:
    code = f"import sys; {statement}; print(*[m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


MODULES = ["loaders", "loaders.vlm_loader", "loaders.fast_vision", "pagemill", "flows.cli"]


@pytest.mark.parametrize("module", MODULES)
def test_importing_loads_nothing_heavy(module: str) -> None:
    assert _loaded_after(f"import {module}") == []


def test_the_loaders_work_without_the_pipelines_packages() -> None:
    code = (
        "import sys, loaders.vllm_engine, loaders.support; "
        "print(*[m for m in ('pydantic', 'yaml', 'prefect', 'httpx', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_render_child_imports_nothing_of_the_pipeline() -> None:
    code = (
        "import sys, tasks.render_child; heavy = 'pydantic', 'pyarrow', 'prefect', 'torch'; "
        "print(*[m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_only_the_package_index_is_needed() -> None:
    for name in ("pyproject.toml", "Makefile", "constraints/cpu.txt", ".ci/run"):
        text = (PROJECT / name).read_text(encoding="utf-8")
        assert "index-url" not in text
        assert "find-links" not in text
