"""The doctor: what it sees of each framework, and what it says to do."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import settings_for
from test_openai import Chat

from flows.doctor import BROKEN, MISSING, OK, OPTIONAL, Finding, examine
from pagemill.config import PROJECT

MODEL = str(PROJECT / "models" / "pagereader-19m")


@pytest.fixture(scope="module")
def chat() -> Iterator[Chat]:
    chat = Chat()
    yield chat
    chat.stop()


def look(**model: Any) -> dict[str, Finding]:
    model = {"name": "auto", "id": MODEL, **model}
    return {finding.what: finding for finding in examine(settings_for(model=model))}


def test_an_endpoint_that_serves_the_model_needs_nothing_else(
    chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, "torch")
    found = look(framework="openai", id="reader", options={"base_url": chat.url})
    assert found["endpoint"] == Finding("endpoint", OK, f"{chat.url} serves reader")
    assert (found["torch"].state, found["GPU"].state) == (OPTIONAL, OPTIONAL)


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        ({"base_url": "http://127.0.0.1:9/v1"}, "check options.base_url and that the server runs"),
        ({}, "options.base_url: give the endpoint's URL"),
    ],
)
def test_an_endpoint_that_is_not_there_is_broken(options: dict[str, str], remedy: str) -> None:
    found = look(framework="openai", options=options)["endpoint"]
    assert found.state == BROKEN
    assert remedy in found.remedy


def test_an_endpoint_without_the_model_names_those_it_has(chat: Chat) -> None:
    found = look(framework="openai", id="another", options={"base_url": chat.url})["endpoint"]
    assert (found.state, found.remedy) == (
        BROKEN,
        f"{chat.url} does not serve 'another'; set options.model to one of: reader",
    )


@pytest.mark.parametrize("framework", ["vllm", "sglang", "transformers"])
def test_a_framework_that_is_missing_has_its_remedy(
    framework: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, framework)
    wanted, other = look(framework=framework)[framework], look(framework="echo")[framework]
    assert (wanted.state, other.state) == (MISSING, OPTIONAL)
    assert f"pip install 'pagemill[{framework}]'" in wanted.remedy
    assert "endpoint" not in look(framework=framework)


def without(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """As if the package were not installed."""
    version = importlib.metadata.version

    def none(name: str) -> str:
        if name == package:
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", none)


@pytest.mark.parametrize(
    ("runner", "remedy"),
    [("thread", "a run leaves 1 idle: --set work.runner=process"), ("process", "")],
)
def test_gpus_that_a_run_would_leave_idle_are_told(
    runner: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda n: f"GPU {n}")
    model = {"name": "auto", "id": MODEL, "framework": "vllm", "device": "cuda"}
    settings = settings_for(model=model, work={"runner": runner})
    (found,) = [finding for finding in examine(settings) if finding.what == "GPU"]
    assert (found.state, found.seen, found.remedy) == (OK, "GPU 0, GPU 1", remedy)
