"""AWQ under transformers, for real: `make test-awq`, in an environment of its own; else skipped.

vLLM reads AWQ by itself: `test_vllm.py`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import awq
import pytest
from test_families import NAMES, create, language_layers, model_of, picture
from test_families import config as family_config
from test_loaders import LINES, MODEL, PROMPT, config, flat, page

from loaders.engine import Completion, Request
from loaders.support import quantization_name
from loaders.torchvision_repair import repair_torchvision
from loaders.vlm_loader import create_vlm_loader
from pagemill.settings import Model

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("gptqmodel") is None, reason="gptqmodel is not installed"
    ),
    pytest.mark.usefixtures("one_thread"),
]


@pytest.fixture(scope="module", autouse=True)
def _torchvision() -> None:
    repair_torchvision()


def test_what_is_packed_is_what_the_library_unpacks() -> None:
    from gptqmodel.quantization.awq.utils.packing_utils import dequantize_gemm

    weight = torch.randn(96, 128, generator=torch.Generator().manual_seed(0))
    parts, restored = awq.pack(weight)
    theirs = dequantize_gemm(**parts, bits=awq.BITS, group_size=awq.GROUP)
    assert torch.allclose(theirs.t().float(), restored, rtol=1e-3)
    assert (restored - weight).abs().max() < (weight.max() - weight.min()) / 15


def test_the_shipped_model_in_awq_reads_and_weighs_less(tmp_path: Path) -> None:
    quantized, plain = awq.quantize(Path(MODEL), tmp_path)
    assert quantization_name(Model(name="auto", id=str(quantized))) == "awq"
    answers: dict[tuple[Path, str], Completion] = {}
    weights: dict[Path, int] = {}
    for folder, scheme in ((plain, "none"), (quantized, "awq"), (quantized, "none")):
        with create_vlm_loader(
            "qwen25vl", config(model_id=str(folder), quantization=scheme)
        ) as loader:
            request = Request((page(LINES),), PROMPT, 100, logprobs=True)
            answers[folder, scheme] = loader.engine.submit(request).result(300)
            weights[folder] = loader.engine.weight_bytes
    expected = answers[plain, "none"]
    assert flat(expected.text) == " ".join(LINES)
    for scheme in ("awq", "none"):
        answer = answers[quantized, scheme]
        assert answer.text == expected.text
        assert answer.mean_logprob == pytest.approx(expected.mean_logprob, abs=2e-3)
    assert weights[quantized] < 0.6 * weights[plain]


@pytest.mark.parametrize("family", ["gemma3", "internvl3", "pixtral", "qwen25vl"])
def test_a_family_in_awq_answers_as_with_the_weights_it_stands_for(
    family: str, tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    quantized, plain = awq.quantize(tiny(family), tmp_path)
    with create(NAMES[family], family_config(plain)) as loader:
        expected = loader.generate([picture(1)], "Read.", 4, 0)
        layers = set(language_layers(model_of(loader)))
    with create(NAMES[family], family_config(quantized, quantization="awq")) as loader:
        modules = model_of(loader).named_modules()
        assert {name for name, m in modules if type(m).__name__ == "AwqTorchLinear"} == layers
        assert loader.generate([picture(1)], "Read.", 4, 0) == expected
