"""FastVisionModel: the interface on four families, LoRA that learns, reading with the result."""

from __future__ import annotations

import importlib.util
import inspect
import json
import logging
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from PIL import Image, ImageDraw

from loaders.fast_vision import FastVisionModel
from loaders.vlm_loader import InferenceFramework, QuantizationType, VLMConfig, create_vlm_loader
from pagemill.config import load_settings
from tests.helpers import run, table, write_config

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("bitsandbytes")

FAMILIES = ("mllama", "qwen25vl", "pixtral", "gemma3", "internvl3")
PROMPT = "Transcribe the text of this page."
ANSWER = "The mill stands by the river, and its wheel turns all day."
load = FastVisionModel.from_pretrained

pytestmark = pytest.mark.usefixtures("one_thread")
family = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture
def qwen(tiny: Callable[[str], Path]) -> str:
    return str(tiny("qwen25vl"))


def without(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Make it look as if a package were not installed."""
    real = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *a: None if name == package else real(name, *a)
    )


def kinds(model: Any) -> set[str]:
    return {type(module).__name__ for module in model.modules()}


def pictures(count: int = 4) -> list[Image.Image]:
    images = []
    for number in range(count):
        image = Image.new("RGB", (150, 100), ("white", "navy", "gold", "gray")[number % 4])
        ImageDraw.Draw(image).text((10, 10 + 10 * number), f"page {number}", "red")
        images.append(image)
    return images


def conversation(image: Image.Image, answer: str = "") -> list[dict[str, Any]]:
    question = [{"type": "image", "image": image}, {"type": "text", "text": PROMPT}]
    turns = [{"role": "user", "content": question}]
    if answer:
        turns.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    return turns


def batch(processor: Any, images: list[Image.Image], answer: str = ANSWER) -> Any:
    """What a collator makes: answers with an end, the question and the padding unlabelled."""
    arguments: dict[str, Any] = {
        "tokenize": True,
        "return_dict": True,
        "return_tensors": "pt",
        "processor_kwargs": {"padding": True},
    }
    inputs = processor.apply_chat_template([conversation(i, answer) for i in images], **arguments)
    labels = inputs["input_ids"].clone()
    said = processor.tokenizer(answer, add_special_tokens=False)["input_ids"]
    for row in labels:
        start = next(i for i in range(len(row)) if row[i : i + len(said)].tolist() == said)
        row[:start] = -100
        row[start + len(said)] = processor.tokenizer.eos_token_id
        row[start + len(said) + 1 :] = -100
    # The model must say its own end token where the template's stands.
    inputs["input_ids"] = torch.where(labels >= 0, labels, inputs["input_ids"])
    return {**inputs, "labels": labels}


def train(model: Any, inputs: Any, steps: int, rate: float = 1e-2) -> list[float]:
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=rate)
    losses = []
    for _ in range(steps):
        loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def say(model: Any, processor: Any, image: Image.Image, tokens: int = 8) -> str:
    inputs = processor.apply_chat_template(
        [conversation(image)],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    ).to(model.device, dtype=model.dtype)
    with torch.inference_mode():
        out = model.generate(**inputs, max_new_tokens=tokens, do_sample=False)
    new = out[0, inputs["input_ids"].shape[1] :]
    return str(processor.tokenizer.decode(new, skip_special_tokens=True))


# --- the interface ---------------------------------------------------------------------------


def test_the_signature_shows_the_documented_defaults() -> None:
    parameters = inspect.signature(FastVisionModel.from_pretrained).parameters
    defaults = {name: p.default for name, p in parameters.items() if name != "kwargs"}
    assert defaults == {
        "model_name": "unsloth/Llama-3.2-11B-Vision-Instruct-bnb-4bit",
        "max_seq_length": 2048,
        "dtype": None,
        "load_in_4bit": True,
        "load_in_8bit": False,
        "load_in_16bit": False,
        "full_finetuning": False,
        "token": None,
        "device_map": "sequential",
        "trust_remote_code": False,
        "use_gradient_checkpointing": "unsloth",
        "fast_inference": False,
        "gpu_memory_utilization": 0.5,
    }
    assert parameters["kwargs"].kind is inspect.Parameter.VAR_KEYWORD
    lora = inspect.signature(FastVisionModel.get_peft_model).parameters
    assert [lora[name].default for name in ("r", "lora_alpha", "lora_dropout")] == [16, 16, 0]


def test_the_default_model_without_a_network_is_a_clear_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(RuntimeError) as caught:
        load()
    message = str(caught.value)
    assert message.startswith("unsloth/Llama-3.2-11B-Vision-Instruct-bnb-4bit: its config.json")
    assert "check the name, the network and HF_TOKEN, or give the folder" in message


@family
def test_a_model_comes_in_4_bits_with_its_processor_and_reads(
    tiny: Callable[[str], Path], family: str
) -> None:
    model, processor = load(str(tiny(family)))
    assert "Linear4bit" in kinds(model)
    assert "Linear8bitLt" not in kinds(model)
    eyes = [m for name, m in model.named_modules() if "vision" in name or "visual" in name]
    assert "Linear4bit" not in {type(module).__name__ for module in eyes}
    quantized = next(m for m in model.modules() if type(m).__name__ == "Linear4bit")
    assert quantized.weight.quant_state.quant_type == "nf4"
    assert quantized.weight.quant_state.nested
    assert quantized.compute_dtype is model.dtype is torch.bfloat16
    assert processor.tokenizer.padding_side == "left"
    assert not model.training
    assert model.max_seq_length == 2048
    assert isinstance(say(model, processor, pictures(1)[0]), str)


@pytest.mark.parametrize(
    ("flags", "kind"),
    [
        ({}, "Linear4bit"),
        ({"load_in_4bit": True}, "Linear4bit"),
        ({"load_in_8bit": True}, "Linear8bitLt"),
        ({"load_in_8bit": True, "load_in_4bit": False}, "Linear8bitLt"),
        ({"load_in_16bit": True}, None),
        ({"load_in_4bit": False}, None),
    ],
)
def test_an_explicit_flag_wins_over_the_default(
    qwen: str, flags: dict[str, bool], kind: str | None
) -> None:
    model, _ = load(qwen, **flags)
    assert kinds(model) & {"Linear4bit", "Linear8bitLt"} == ({kind} if kind else set())
    assert model.dtype is torch.bfloat16


@pytest.mark.parametrize("other", ["load_in_8bit", "load_in_16bit"])
def test_two_explicit_flags_are_an_error_that_says_so(qwen: str, other: str) -> None:
    with pytest.raises(ValueError, match=f"load_in_4bit and {other} are true: choose one"):
        load(qwen, load_in_4bit=True, **{other: True})
    with pytest.raises(ValueError, match=f"load_in_4bit and {other} are true: choose one"):
        load(qwen, 2048, None, True, **{other: True})


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("float32", "float32"),
        (torch.float32, "float32"),
        (torch.float16, "float16"),
        (None, "bfloat16"),
    ],
)
def test_dtype_is_a_float_of_torch_or_its_name(qwen: str, dtype: Any, expected: str) -> None:
    model, _ = load(qwen, load_in_16bit=True, dtype=dtype)
    assert str(model.dtype).removeprefix("torch.") == expected


def test_other_dtypes_and_devices_are_refused(qwen: str) -> None:
    with pytest.raises(ValueError, match="int8 is unknown: use bfloat16, float16, float32 or None"):
        load(qwen, dtype=torch.int8)
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match='sees no GPU; use device_map="sequential"'):
            load(qwen, device_map="cuda:0")
    assert load(qwen, device_map="auto")[0].device.type in ("cpu", "cuda")


def test_full_fine_tuning_turns_quantization_off_and_says_so(
    qwen: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "pagemill.loaders"):
        model, processor = load(qwen, full_finetuning=True)
        assert "full fine-tuning trains unquantized weights: load_in_4bit is off" in caplog.text
        assert "Linear4bit" not in kinds(model)
        assert model.training
        assert all(weight.requires_grad for weight in model.parameters())
        assert processor.tokenizer.padding_side == "right"
        assert FastVisionModel.get_peft_model(model) is model
    assert "get_peft_model has no effect" in caplog.text
    losses = train(model, batch(processor, pictures(2)), 4, 1e-3)
    assert losses[-1] < losses[0]


def test_a_quantization_config_wins_over_the_flags(qwen: str) -> None:
    from transformers import BitsAndBytesConfig

    model, _ = load(qwen, quantization_config=BitsAndBytesConfig(load_in_8bit=True))
    assert "Linear8bitLt" in kinds(model)
    with pytest.raises(ValueError, match="full_finetuning trains unquantized weights"):
        load(qwen, full_finetuning=True, quantization_config=BitsAndBytesConfig(load_in_8bit=True))


def test_a_checkpoint_that_is_quantized_already_is_kept(
    qwen: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "tiny-bnb-4bit"
    model, processor = load(qwen)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    with caplog.at_level(logging.WARNING, "pagemill.loaders"):
        assert "Linear4bit" in kinds(load(str(folder))[0])
        assert "Linear4bit" in kinds(load(str(folder), load_in_4bit=False)[0])
        assert caplog.text == ""
        again, _ = load(str(folder), load_in_8bit=True)
    assert "Linear8bitLt" not in kinds(again)
    assert "is quantized already (bnb-nf4): load_in_8bit is off" in caplog.text
    with pytest.raises(ValueError, match=r"is quantized \(bnb-nf4\).*give the 16-bit checkpoint"):
        load(str(folder), full_finetuning=True)


def test_a_checkpoint_quantized_otherwise_turns_the_flags_off(
    qwen: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without(monkeypatch, "gptqmodel")
    config = json.loads((Path(qwen) / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "awq", "bits": 4}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with (
        caplog.at_level(logging.WARNING, "pagemill.loaders"),
        pytest.raises(RuntimeError, match="gptqmodel is not installed; pip install gptqmodel"),
    ):
        load(str(tmp_path))
    assert "is quantized already (awq): load_in_4bit is off" in caplog.text


def test_without_bitsandbytes_the_flags_are_off_with_a_message(
    qwen: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, "bitsandbytes")
    with caplog.at_level(logging.WARNING, "pagemill.loaders"):
        model, _ = load(qwen)
    assert "Linear4bit" not in kinds(model)
    assert "load_in_4bit is off; pip install bitsandbytes" in caplog.text


def test_llama_4_is_not_quantized_while_loading(tiny: Callable[[str], Path]) -> None:
    with pytest.raises(RuntimeError, match="its experts, most of the weights, would stay"):
        load(str(tiny("llama4")))
    pytest.importorskip("peft")
    model, processor = load(str(tiny("llama4")), load_in_16bit=True)
    model = FastVisionModel.get_peft_model(model, r=8)
    losses = train(model, batch(processor, pictures(2)), 6)
    assert losses[-1] < 0.9 * losses[0], losses


def test_fast_inference_needs_vllm_and_fixed_weights(
    qwen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, "vllm")
    with pytest.raises(ImportError, match=r"needs vLLM: pip install 'pagemill\[vllm\]'"):
        load(qwen, fast_inference=True)
    with pytest.raises(NotImplementedError, match="does not go with full_finetuning"):
        load(qwen, fast_inference=True, full_finetuning=True)
    with pytest.raises(NotImplementedError, match="cannot load in 8 bits"):
        load(qwen, fast_inference=True, load_in_8bit=True)


def test_fast_inference_takes_the_same_weights(qwen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for vLLM, which notes its arguments; `test_vllm.py` has the real one."""
    vllm: Any = ModuleType("vllm")
    vllm.__spec__ = ModuleSpec("vllm", None)
    vllm.LLM = lambda model, **arguments: SimpleNamespace(generate=None, asked=(model, arguments))
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    model, _ = load(qwen, load_in_16bit=True, fast_inference=True, revision="abc", token="hf_x")
    name, arguments = model.vllm_engine.asked
    assert name == qwen
    assert (arguments["revision"], arguments["hf_token"]) == ("abc", "hf_x")
    assert (arguments["dtype"], arguments["quantization"]) == ("bfloat16", None)


def test_a_folder_may_be_in_the_home(qwen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(Path(qwen).parent))
    assert load(f"~/{Path(qwen).name}", load_in_16bit=True)[0] is not None


def test_remote_code_stays_off_unless_asked_for(
    qwen: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = json.loads((Path(qwen) / "config.json").read_text())
    for path in Path(qwen).iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config["auto_map"] = {"AutoConfig": "theirs.Config", "AutoModelForImageTextToText": "theirs.M"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "theirs.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert type(load(str(tmp_path))[0]).__name__ == "Qwen2_5_VLForConditionalGeneration"
    assert not (tmp_path / "ran").exists()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with caplog.at_level(logging.WARNING, "pagemill.loaders"), pytest.raises(RuntimeError):
        load("nobody/no-such-model", trust_remote_code=True)
    assert "remote code is trusted but no revision is pinned" in caplog.text


def test_training_and_reading_are_switched(qwen: str) -> None:
    model, processor = load(qwen, load_in_16bit=True)
    text = model.config.get_text_config()
    assert FastVisionModel.for_training(model) is model
    assert (model.training, model.is_gradient_checkpointing, text.use_cache) == (True, True, False)
    assert processor.tokenizer.padding_side == "right"
    assert FastVisionModel.for_inference(model) is model
    assert (model.training, model.is_gradient_checkpointing, text.use_cache) == (False, False, True)
    assert processor.tokenizer.padding_side == "left"
    FastVisionModel.for_training(model, use_gradient_checkpointing=False)
    assert not model.is_gradient_checkpointing
    sparing, _ = load(qwen, use_gradient_checkpointing=False)
    assert not FastVisionModel.for_training(sparing).is_gradient_checkpointing


# --- adapters --------------------------------------------------------------------------------


def adapted(model: Any) -> set[str]:
    return {
        name.removeprefix("base_model.model.")
        for name, module in model.named_modules()
        if hasattr(module, "lora_A")
    }


@pytest.mark.parametrize("r", [0, -1, 8.0, "16", True, None])
def test_a_bad_rank_is_a_type_error(r: Any) -> None:
    with pytest.raises(TypeError, match="must be a positive integer"):
        FastVisionModel.get_peft_model(None, r=r)


def test_adapters_are_added_once(qwen: str) -> None:
    pytest.importorskip("peft")
    model = FastVisionModel.get_peft_model(load(qwen)[0], r=4, loftq_config=None)
    with pytest.raises(RuntimeError, match="has LoRA adapters already"):
        FastVisionModel.get_peft_model(model)


@family
def test_flags_choose_what_is_adapted(tiny: Callable[[str], Path], family: str) -> None:
    pytest.importorskip("peft")

    def names(**flags: Any) -> set[str]:
        model, _ = load(str(tiny(family)), load_in_16bit=True)
        return adapted(FastVisionModel.get_peft_model(model, r=2, **flags))

    everything = names()
    language = names(finetune_vision_layers=False)
    vision = names(finetune_language_layers=False)
    attention = names(finetune_mlp_modules=False)
    mlp = names(finetune_attention_modules=False)
    assert language and vision and attention and mlp
    assert everything == language | vision == attention | mlp
    assert not language & vision and not attention & mlp
    assert all("language_model" in name for name in language)
    assert not [name for name in everything if "projector" in name or "lm_head" in name]
    assert {name.rpartition(".")[2] for name in names(target_modules=["q_proj", "v_proj"])} == {
        "q_proj",
        "v_proj",
    }
    with pytest.raises(ValueError, match="no layer is left to adapt"):
        names(finetune_attention_modules=False, finetune_mlp_modules=False)


@family
@pytest.mark.parametrize("flag", ["load_in_4bit", "load_in_8bit", "load_in_16bit"])
def test_a_few_steps_of_lora_lower_the_loss(
    tiny: Callable[[str], Path], family: str, flag: str
) -> None:
    pytest.importorskip("peft")
    model, processor = load(str(tiny(family)), **{flag: True})
    model = FastVisionModel.get_peft_model(model, r=8)
    assert model.training
    assert processor.tokenizer.padding_side == "right"
    assert model.get_base_model().is_gradient_checkpointing
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    losses = train(model, batch(processor, pictures(2)), 6)
    assert losses[-1] < 0.9 * losses[0], losses
    FastVisionModel.for_inference(model)
    assert processor.tokenizer.padding_side == "left"
    assert isinstance(say(model, processor, pictures(1)[0]), str)


# --- reading with the result -----------------------------------------------------------------


@pytest.mark.parametrize("flag", ["load_in_16bit", "load_in_4bit"])
def test_a_merged_folder_is_a_model_of_the_pipeline(qwen: str, tmp_path: Path, flag: str) -> None:
    pytest.importorskip("peft")
    model, processor = load(qwen, dtype="float32", **{flag: True})
    model = FastVisionModel.get_peft_model(model, r=16)
    losses = train(model, batch(processor, pictures()), 60)
    assert losses[-1] < 0.05, losses
    merged = tmp_path / "merged"
    model.merge_and_unload().save_pretrained(merged)
    processor.save_pretrained(merged)

    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    for number, image in enumerate(pictures()):
        image.save(source / f"{number}.png")
    config = write_config(
        tmp_path,
        model={
            "name": "qwen25vl",
            "id": str(merged),
            "framework": "transformers",
            "device": "cpu",
            "batch_size": 2,
        },
        outputs={"text": {"prompt": PROMPT, "max_new_tokens": 80, "temperature": 0}},
    )
    balance = run(source, out, load_settings(config, {}))
    assert balance.balanced
    rows = table(out)
    assert [row["text"] for row in rows] == [ANSWER] * 4
    assert {row["quantization"] for row in rows} == {"none" if "16" in flag else "bnb-nf4"}
    assert {row["model_id"] for row in rows} == {"merged"}


@family
def test_a_merged_folder_is_read_by_its_loader(
    tiny: Callable[[str], Path], family: str, tmp_path: Path
) -> None:
    pytest.importorskip("peft")
    model, processor = load(str(tiny(family)), load_in_16bit=True, dtype="float32")
    model = FastVisionModel.get_peft_model(model, r=4)
    train(model, batch(processor, pictures(2)), 3)
    merged = FastVisionModel.for_inference(model.merge_and_unload())
    merged.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    name = {"mllama": "auto"}.get(family, family)
    config = VLMConfig(
        str(tmp_path),
        QuantizationType.NONE,
        InferenceFramework.TRANSFORMERS,
        device="cpu",
        trust_remote_code=False,
    )
    image = pictures(1)[0]
    with create_vlm_loader(name, config) as loader:
        assert loader.generate([image], PROMPT, 8, 0) == say(merged, processor, image).strip()
