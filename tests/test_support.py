"""The table of what goes together: complete, and what refuses is what it says."""

from __future__ import annotations

import importlib.util
from itertools import product
from pathlib import Path

import pytest

from loaders.errors import LoadError
from loaders.families import FAMILIES
from loaders.support import SUPPORT, quantization_name, refuse_pair, scheme_of, support_table
from loaders.vlm_loader import FRAMEWORKS, InferenceFramework, QuantizationType, VLMConfig
from pagemill.settings import Model


def refusal(framework: str, quantization: str, family: str, own: str = "none") -> str | None:
    """What a loader says before it loads, or None."""
    config = VLMConfig("org/model", quantization, framework)  # type: ignore[arg-type]
    try:
        refuse_pair(config, FAMILIES[family], own)
    except LoadError as error:
        return str(error)
    return None


@pytest.fixture(autouse=True)
def everything_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)


def test_every_pair_has_a_row_and_every_framework_a_file() -> None:
    assert set(SUPPORT) == set(product(InferenceFramework, QuantizationType))
    assert set(FRAMEWORKS) == set(InferenceFramework)
    for place in FRAMEWORKS.values():
        assert (Path(__file__).parents[1] / f"{place.split(':')[0].replace('.', '/')}.py").exists()


@pytest.mark.parametrize("framework", list(InferenceFramework))
@pytest.mark.parametrize("quantization", list(QuantizationType))
def test_the_table_says_what_the_loaders_do(
    framework: InferenceFramework, quantization: QuantizationType
) -> None:
    row = next(
        line
        for line in support_table().splitlines()
        if line.startswith(f"| `{framework}` | `{quantization}` |")
    )
    cells = dict(zip(FAMILIES, row.strip("| ").split(" | ")[4:], strict=True))
    own = "awq" if quantization == "awq" else "none"
    for family, cell in cells.items():
        message = refusal(framework, quantization, family, own)
        if cell == "yes":
            assert message is None
        else:
            assert message is not None
            assert message.endswith(cell.removeprefix("no: "))


@pytest.mark.parametrize(
    ("framework", "quantization", "family", "message"),
    [
        ("transformers", "4bit", "llama4", "most of the weights, would stay unquantized; load "),
        ("transformers", "8bit", "llama4", "Instruct-FP8 with quantization: none"),
        ("vllm", "8bit", "llama4", "quantizing it while loading is untried; load meta-llama/"),
        ("sglang", "4bit", "pixtral", "only Gemma 3 and Qwen2.5-VL while loading; use framework:"),
        ("sglang", "none", "internvl3", "sglang cannot load it: SGLang knows InternVL3 only in"),
    ],
)
def test_a_pair_that_does_not_exist_says_what_to_use(
    framework: str, quantization: str, family: str, message: str
) -> None:
    said = refusal(framework, quantization, family)
    assert said is not None
    assert said.startswith("org/model: ")
    assert message in said


@pytest.mark.parametrize("framework", list(InferenceFramework))
def test_a_checkpoints_own_quantization_decides(framework: str) -> None:
    assert "not quantized with AWQ (its own: none); give" in str(
        refusal(framework, "awq", "gemma3")
    )
    assert "is quantized already (gptq); use quantization: none" in str(
        refusal(framework, "4bit", "gemma3", "gptq")
    )
    assert refusal(framework, "4bit", "qwen25vl", "bnb-nf4") is None
    assert refusal(framework, "none", "qwen25vl", "gptq") is None
    assert refusal("transformers", "none", "llama4", "fp8") is None


def test_what_must_be_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "bitsandbytes is not installed; pip install bitsandbytes" in str(
        refusal("transformers", "8bit", "gemma3")
    )
    assert "gptqmodel is not installed; pip install gptqmodel" in str(
        refusal("transformers", "none", "gemma3", "awq")
    )
    assert refusal("vllm", "awq", "gemma3", "awq") is None  # vLLM brings its own


def test_schemes_have_their_real_names() -> None:
    assert scheme_of("transformers", "8bit", "none") == "bnb-int8"
    assert scheme_of("vllm", "8bit", "none") == "fp8-per-channel"
    assert scheme_of("vllm", "8bit", "bnb-int8") == "bnb-int8"
    assert scheme_of("sglang", "8bit", "none") == "fp8"
    assert scheme_of("vllm", "none", "none") == "none"
    model = Model(name="auto", id="org/m", framework="openai", quantization="awq")
    assert quantization_name(model) == "awq"
