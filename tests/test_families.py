"""Five families on their real classes and processors: reading, batches, quantization, refusals."""

from __future__ import annotations

import gc
import json
import math
import shutil
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from loaders.engine import Completion, Request
from loaders.support import quantization_name
from loaders.vlm_loader import InferenceFramework, QuantizationType, VLMConfig, VLMLoader
from loaders.vlm_loader import create_vlm_loader as create
from pagemill.settings import Model
from tests.tiny import FAMILIES, build

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

NAMES = {
    "llama4": "llama4-maverick",
    "gemma3": "gemma3",
    "internvl3": "internvl3",
    "pixtral": "pixtral",
    "qwen25vl": "qwen25vl",
    "mllama": "auto",
}
CLASSES = {
    "llama4": "Llama4ForConditionalGeneration",
    "gemma3": "Gemma3ForConditionalGeneration",
    "internvl3": "InternVLForConditionalGeneration",
    "pixtral": "LlavaForConditionalGeneration",
    "qwen25vl": "Qwen2_5_VLForConditionalGeneration",
    "mllama": "MllamaForConditionalGeneration",
}
IMAGE_TOKENS = {
    "llama4": ("<|image|>", "<|patch|>", "<|tile_x_separator|>"),
    "gemma3": ("<start_of_image>", "<image_soft_token>"),
    "internvl3": ("<IMG_CONTEXT>", "<img>", "<video>"),
    "pixtral": ("[IMG]", "[IMG_BREAK]"),
    "qwen25vl": ("<|image_pad|>", "<|vision_start|>"),
    "mllama": ("<|image|>",),
}
EYES = ("visual", "vision_tower", "vision_model")
QUANTIZED = {"Linear4bit", "Linear8bitLt"}
DENSE = ("gemma3", "internvl3", "pixtral", "qwen25vl")
SECONDS = 300

pytestmark = pytest.mark.usefixtures("one_thread")
family = pytest.mark.parametrize("family", NAMES)
dense = pytest.mark.parametrize("family", DENSE)


@pytest.fixture
def load(tiny: Callable[[str], Path]) -> Iterator[Callable[..., VLMLoader]]:
    """Loads the tiny checkpoint of a family; unloaded when the test ends."""
    loaded: list[VLMLoader] = []

    def load(family: str, **changes: Any) -> VLMLoader:
        loaded.append(create(NAMES[family], config(tiny(family), **changes)))
        loaded[-1].load()
        return loaded[-1]

    yield load
    for loader in loaded:
        loader.unload()


def config(folder: Path, **changes: Any) -> VLMConfig:
    arguments: dict[str, Any] = {
        "model_id": str(folder),
        "quantization": QuantizationType.NONE,
        "framework": InferenceFramework.TRANSFORMERS,
        "device": "cpu",
        "trust_remote_code": False,
        "batch_size": 4,
    }
    return VLMConfig(**{**arguments, **changes})


def picture(number: int, size: tuple[int, int] = (120, 90)) -> Image.Image:
    image = Image.new("RGB", size, ("white", "navy", "gold", "gray")[number % 4])
    draw = ImageDraw.Draw(image)
    draw.text((5, 5), f"page {number}", "black")
    draw.rectangle((5 * number, 30, 5 * number + 30, 70), (number * 40 % 255, 90, 10))
    return image


def model_of(loader: VLMLoader) -> Any:
    return loader.engine._model  # type: ignore[attr-defined]


def read(loader: VLMLoader, *requests: Request) -> list[Completion]:
    engine: Any = loader.engine
    with engine._wake:  # so that they are gathered together
        futures = [engine.submit(request) for request in requests]
    return [future.result(SECONDS) for future in futures]


def refusal(family: str, folder: Path, **changes: Any) -> str:
    with pytest.raises(RuntimeError) as caught:
        create(NAMES[family], config(folder, **changes)).load()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- reading ---------------------------------------------------------------------------------


@family
def test_each_family_runs_on_its_own_class_and_sees_its_images(
    load: Callable[..., VLMLoader], family: str
) -> None:
    loader = load(family)
    assert type(model_of(loader)).__name__ == CLASSES[family]
    first, second = picture(1), picture(4, (90, 200))
    asked = [[], [first], [second], [first, second]]
    if family != "mllama":  # its cross-attention knows no order
        asked.append([second, first])
    answers = [loader.generate(images, "Read.", 16, 0) for images in asked]
    assert all(answers)
    assert len(set(answers)) == len(answers), answers


def read_both_ways(
    loader: VLMLoader, requests: list[Request]
) -> tuple[list[Completion], list[int]]:
    """Requests one by one and together, which must say the same; rows of each step together."""
    alone = [read(loader, request)[0] for request in requests]
    sizes: list[int] = []
    model_of(loader).register_forward_hook(lambda *a: sizes.append(len(a[-1].logits)))
    together = read(loader, *requests)
    assert [answer.text for answer in together] == [answer.text for answer in alone]
    assert [answer.prompt_tokens for answer in together] == [a.prompt_tokens for a in alone]
    return alone, sizes


@family
def test_a_batch_says_what_its_pages_say_alone(load: Callable[..., VLMLoader], family: str) -> None:
    loader = load(family)
    requests = [
        Request((picture(1),), "Read.", 17),
        Request((picture(2, (300, 80)),), "Describe this image of a mill by the river", 30),
        Request((picture(3, (60, 200)),), "Transcribe the text of this page.", 20),
        Request((picture(5),), "page", 24),
    ]
    _, sizes = read_both_ways(loader, requests)
    if family == "mllama":  # its cross-attention is neither joined nor cut
        assert set(sizes) == {4}
    else:
        assert sizes[:5] == [1, 1, 1, 1, 4], "pages are read one by one, and decoded together"
        assert sizes[4:] == sorted(sizes[4:], reverse=True)
        assert sizes[-1] == 1, "the batch did not shrink"


@family
def test_pages_take_the_places_of_those_that_end(
    load: Callable[..., VLMLoader], family: str
) -> None:
    loader = load(family, batch_size=2)
    words = "Transcribe the text of this page of a mill by the river"
    requests = [
        Request((picture(n, (60 + 50 * n, 90)),) * (n != 4), words[5 * n :], 9 + 7 * (n % 3))
        for n in range(7)
    ]
    alone, sizes = read_both_ways(loader, requests)
    if family != "mllama":
        steps = sum(answer.completion_tokens - 1 for answer in alone)
        assert len(sizes) < 7 + steps * 0.75, "places stayed empty"


def test_a_model_that_cannot_be_cut_is_found_out_by_its_first_page(
    load: Callable[..., VLMLoader],
) -> None:
    loader = load("mllama")
    sizes: list[int] = []
    model_of(loader).register_forward_hook(lambda *a: sizes.append(len(a[-1].logits)))
    answers = read(loader, *(Request((picture(n),), "Read.", 5 + n) for n in range(4)))
    alone = [read(loader, Request((picture(n),), "Read.", 5 + n))[0] for n in range(4)]
    assert [answer.text for answer in answers] == [answer.text for answer in alone]
    assert {1, 3} == set(sizes[: sizes.index(3) + 7]), "one alone, then the others together"


@pytest.mark.parametrize("family", FAMILIES)
def test_an_image_is_encoded_once_for_all_that_is_asked_of_it(
    load: Callable[..., VLMLoader], family: str
) -> None:
    loader = load(family, batch_size=2)
    model, image = model_of(loader), picture(1)
    eyes = next(m for name, m in model.named_modules() if name.endswith(EYES))
    looks: list[int] = []
    eyes.register_forward_hook(lambda *_: looks.append(1))
    requests = [Request((image,), words, 9) for words in ("Read.", "Describe this", "page")]
    alone = [read(loader, request)[0] for request in requests]
    assert len(looks) == 3, "a visit is over when its last answer is given"
    together = read(loader, *requests, Request((image.copy(),), "Read.", 9))
    assert len(looks) == 5, "once for the image, once for its copy"
    assert [answer.text for answer in together[:3]] == [answer.text for answer in alone]
    assert together[3].text == alone[0].text
    visits = loader.engine._visits  # type: ignore[attr-defined]
    assert visits._visits == {}


@family
def test_a_page_says_what_a_bare_generate_says(
    load: Callable[..., VLMLoader], tiny: Callable[[str], Path], family: str
) -> None:
    from transformers import AutoModelForImageTextToText

    plain = AutoModelForImageTextToText.from_pretrained(tiny(family), dtype=torch.float32).eval()
    loader = load(family)
    requests = [
        Request((picture(number, (120 + 60 * number, 90)),), "Read. page line"[: 5 * number], 24)
        for number in (1, 2, 3, 5, 7, 8)
    ]
    engine: Any = loader.engine
    for request, answer in zip(requests, read(loader, *requests), strict=True):
        inputs = engine._inputs([request])
        ids = plain.generate(**inputs, max_new_tokens=24, do_sample=False)[0]
        said = ids[inputs["input_ids"].shape[1] :]
        text = engine._processor.tokenizer.decode(said, skip_special_tokens=True)
        assert answer.text == text.strip()


@family
def test_a_completion_says_how_sure_the_model_was_where_asked(
    load: Callable[..., VLMLoader], family: str
) -> None:
    loader = load(family)
    asked = Request((picture(1),), "Read.", 12, logprobs=True)
    sure, silent = read(loader, asked, Request((picture(2),), "Read.", 12))
    assert (silent.mean_logprob, silent.min_logprob) == (None, None)
    assert sure.mean_logprob is not None
    assert sure.min_logprob is not None
    model, inputs = model_of(loader), loader.engine._inputs([asked])  # type: ignore[attr-defined]
    said = model.generate(
        **inputs,
        max_new_tokens=sure.completion_tokens,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    true = [logits.float().log_softmax(-1).max().item() for logits in said.logits]
    assert sure.mean_logprob == pytest.approx(sum(true) / len(true), rel=1e-3)
    assert sure.min_logprob == pytest.approx(min(true), rel=1e-3)


@family
def test_a_prompt_with_the_familys_image_token_is_refused(
    load: Callable[..., VLMLoader], family: str
) -> None:
    loader = load(family)
    for token in IMAGE_TOKENS[family]:
        with pytest.raises(RuntimeError) as caught:
            loader.generate([picture(1)], f"What is {token}?")
        assert f"the prompt contains the special token {token!r}: reword it" in str(caught.value)
    assert loader.generate([picture(1)], "What is <image> or {{ bos_token }}?", 4, 0)


@family
@pytest.mark.parametrize("size", [(3000, 2), (2, 3000), (1, 1)])
def test_an_extreme_image_is_read(
    load: Callable[..., VLMLoader], family: str, size: tuple[int, int]
) -> None:
    assert isinstance(load(family).generate([Image.new("RGB", size, "red")], "Read.", 4, 0), str)


@family
def test_unload_frees_the_model_and_load_brings_it_back(
    load: Callable[..., VLMLoader], family: str
) -> None:
    loader = load(family)
    before = loader.generate([picture(1)], "Read.", 8, 0)
    model = weakref.ref(model_of(loader))
    loader.unload()
    gc.collect()
    assert model() is None
    loader.load()
    assert loader.generate([picture(1)], "Read.", 8, 0) == before


# --- quantization ----------------------------------------------------------------------------


def language_layers(model: Any) -> dict[str, Any]:
    """Every Linear of the language model's layers by name, of any precision."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and "language_model" in name and "layers" in name
    }


def held(modules: dict[str, Any]) -> int:
    return sum(module.weight.nbytes for module in modules.values())


@dense
@pytest.mark.parametrize(("quantization", "share"), [("4bit", 1 / 8), ("8bit", 1 / 4)])
def test_quantized_weights_are_an_eighth_or_a_quarter_and_the_eyes_stay(
    load: Callable[..., VLMLoader], family: str, quantization: str, share: float
) -> None:
    pytest.importorskip("bitsandbytes")
    full, small = load(family), load(family, quantization=quantization)
    layers = language_layers(model_of(small))
    assert len(layers) == 14
    assert {type(module).__name__ for module in layers.values()} <= QUANTIZED
    assert held(layers) == held(language_layers(model_of(full))) * share
    assert small.engine.weight_bytes < full.engine.weight_bytes * 0.7  # type: ignore[attr-defined]
    others = {
        type(module).__name__
        for name, module in model_of(small).named_modules()
        if name not in layers
    }
    assert not others & QUANTIZED, "the eyes, the bridge or the output layer were quantized"
    assert small.generate([picture(1)], "Read.", 8, 0)


@dense
@pytest.mark.parametrize(("quantization", "name"), [("4bit", "bnb-nf4"), ("8bit", "bnb-int8")])
def test_a_checkpoint_saved_quantized_is_recognised_and_read_as_it_is(
    load: Callable[..., VLMLoader], family: str, quantization: str, name: str, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    small = load(family, quantization=quantization)
    # Before the first forward, which repacks 4-bit weights on some CPUs.
    model_of(small).save_pretrained(tmp_path)
    small.engine._processor.save_pretrained(tmp_path)  # type: ignore[attr-defined]
    expected = small.generate([picture(1)], "Read.", 12, 0)
    assert quantization_name(Model(name="auto", id=str(tmp_path))) == name
    for asked in ("none", quantization):
        with create(NAMES[family], config(tmp_path, quantization=asked)) as again:
            layers = language_layers(model_of(again))
            assert {type(module).__name__ for module in layers.values()} <= QUANTIZED
            assert again.generate([picture(1)], "Read.", 12, 0) == expected
    other = "8bit" if quantization == "4bit" else "4bit"
    assert f"the checkpoint is quantized already ({name}); use quantization: none" in refusal(
        family, tmp_path, quantization=other
    )


@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
def test_llama_4_is_not_quantized_while_loading(
    tiny: Callable[[str], Path], quantization: str
) -> None:
    message = refusal("llama4", tiny("llama4"), quantization=quantization)
    assert "its experts, most of the weights, would stay unquantized" in message
    assert "load meta-llama/Llama-4-Maverick-17B-128E-Instruct-FP8" in message


def declare(folder: Path, source: Path, **declared: Any) -> Path:
    """A copy of a checkpoint that says it is quantized."""
    shutil.copytree(source, folder, dirs_exist_ok=True)
    path = folder / "config.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**content, "quantization_config": declared}), encoding="utf-8")
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_awq_is_recognised_and_asks_for_its_package(
    tiny: Callable[[str], Path],
    family: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    awq = declare(tmp_path, tiny(family), quant_method="awq", bits=4, group_size=32)
    assert quantization_name(Model(name="auto", id=str(awq))) == "awq"
    real = __import__("importlib.util").util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *a: None if name == "gptqmodel" else real(name, *a)
    )
    for quantization in ("awq", "none"):
        message = refusal(family, awq, quantization=quantization)
        assert "gptqmodel is not installed; pip install gptqmodel" in message
    assert "the checkpoint is quantized already (awq)" in refusal(family, awq, quantization="4bit")
    assert "the checkpoint is not quantized with AWQ (its own: none)" in refusal(
        family, tiny(family), quantization="awq"
    )


# --- names -----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_of_another_family_names_the_right_loader(
    tiny: Callable[[str], Path], family: str
) -> None:
    wrong = FAMILIES[FAMILIES.index(family) - 1]
    message = refusal(wrong, tiny(family))
    assert f"but {NAMES[wrong]} loads" in message
    assert f"use the name {NAMES[family]}, or a checkpoint such as" in message


@pytest.mark.parametrize("family", FAMILIES)
def test_the_generic_loader_reads_every_family(tiny: Callable[[str], Path], family: str) -> None:
    with create("auto", config(tiny(family))) as loader:
        assert type(model_of(loader)).__name__ == CLASSES[family]
        assert loader.generate([picture(1)], "Read.", 4, 0)


@pytest.mark.parametrize("family", NAMES)
def test_a_tiny_checkpoint_is_the_same_each_time(family: str, tmp_path: Path) -> None:
    first, second = build(family, tmp_path / "1"), build(family, tmp_path / "2")
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes(), path.name
    assert math.isclose((first / "model.safetensors").stat().st_size, 3e6, rel_tol=0.5)
