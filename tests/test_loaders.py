"""The loaders on the shipped model, for real: reading, batching, quantization, refusals."""

from __future__ import annotations

import gc
import importlib.util
import json
import shutil
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw, ImageFont

from loaders.engine import Completion, Request, RequestError
from loaders.pictures import for_model
from loaders.support import quantization_name
from loaders.vlm_loader import (
    Gemma3Loader,
    InferenceFramework,
    InternVL3Loader,
    Llama4MaverickLoader,
    PixtralLargeLoader,
    QuantizationType,
    Qwen25VLLoader,
    VLMConfig,
    VLMLoader,
    create_vlm_loader,
)
from pagemill.errors import EngineError, ErrorKind, UsageError
from pagemill.recipe import model_identity
from pagemill.settings import Model

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

MODEL = str(Path(__file__).resolve().parents[1] / "models" / "pagereader-19m")
PROMPT = "Transcribe the text of this page."
LINES = [
    "The mill stands by the river,",
    "and its wheel turns all day.",
    "Twelve sacks of flour were sold",
    "in the month of October 1974.",
]
SECONDS = 120
pytestmark = pytest.mark.usefixtures("one_thread")


def config(**changes: Any) -> VLMConfig:
    arguments: dict[str, Any] = {
        "model_id": MODEL,
        "quantization": QuantizationType.NONE,
        "framework": InferenceFramework.TRANSFORMERS,
        "device": "cpu",
        "trust_remote_code": False,
        "batch_size": 4,
    }
    return VLMConfig(**{**arguments, **changes})


def page(lines: list[str]) -> Image.Image:
    image = Image.new("RGB", (448, 56 + 28 * len(lines)), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(20)
    for number, line in enumerate(lines):
        draw.text((28, 28 + 28 * number), line, "black", font)
    return image


def errors(text: str, truth: str) -> float:
    """Share of the characters that are wrong."""
    distances = list(range(len(truth) + 1))
    for i, char in enumerate(text, 1):
        diagonal, distances[0] = distances[0], i
        for j, other in enumerate(truth, 1):
            diagonal, distances[j] = (
                distances[j],
                min(distances[j] + 1, distances[j - 1] + 1, diagonal + (char != other)),
            )
    return distances[-1] / len(truth)


def flat(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture(scope="module")
def loader() -> Iterator[VLMLoader]:
    with create_vlm_loader("qwen25vl", config()) as loader:
        yield loader


def read(loader: VLMLoader, *requests: Request) -> list[Completion]:
    engine: Any = loader.engine
    with engine._wake:  # so that they are gathered together, however busy the machine is
        futures = [engine.submit(request) for request in requests]
    return [future.result(SECONDS) for future in futures]


# --- reading ---------------------------------------------------------------------------------


def test_the_shipped_model_reads_a_page(loader: VLMLoader) -> None:
    text = loader.generate([page(LINES)], PROMPT, temperature=0)
    assert errors(flat(text), " ".join(LINES)) < 0.05


def test_a_batch_says_what_its_pages_say_alone(loader: VLMLoader) -> None:
    pages = [page(LINES), page(LINES[:1]), page(LINES[2:] * 2)]
    alone = [loader.generate([image], PROMPT, 200, 0) for image in pages]
    together = read(loader, *(Request((image,), PROMPT, 200) for image in pages))
    assert [answer.text for answer in together] == alone


def test_a_large_page_says_what_a_bare_generate_says(loader: VLMLoader) -> None:
    from transformers import AutoModelForImageTextToText

    plain = AutoModelForImageTextToText.from_pretrained(MODEL, dtype=torch.float32).eval()
    image = page(LINES * 8)  # of 2,176 patches
    request = Request((image,), PROMPT, 40)
    (answer,) = read(loader, request)
    inputs = loader.engine._inputs([request])  # type: ignore[attr-defined]
    with torch.inference_mode():
        ids = plain.generate(**inputs, max_new_tokens=40, do_sample=False)
    said = ids[0, inputs["input_ids"].shape[1] :]
    tokenizer = loader.engine._processor.tokenizer  # type: ignore[attr-defined]
    assert answer.text == tokenizer.decode(said, skip_special_tokens=True).strip()


def test_a_completion_counts_its_own_tokens_and_shares_the_time(loader: VLMLoader) -> None:
    engine = loader.engine
    before = engine.busy_seconds
    short, long = read(
        loader, *(Request((page(lines),), PROMPT, 200) for lines in (LINES[:1], LINES))
    )
    assert short.finish_reason == long.finish_reason == "stop"
    assert 0 < short.completion_tokens < long.completion_tokens < 200
    # 28 × 28 pixels are a token, and the template adds the same to both.
    assert long.prompt_tokens - short.prompt_tokens == 16 * 3
    spent = engine.busy_seconds - before
    assert short.seconds + long.seconds == pytest.approx(spent, rel=0.2)


def test_the_token_cap_is_kept_for_each_row(loader: VLMLoader) -> None:
    first, second = read(
        loader, Request((page(LINES),), PROMPT, 8), Request((page(LINES),), PROMPT, 12)
    )
    assert (first.finish_reason, first.completion_tokens) == ("length", 8)
    assert (second.finish_reason, second.completion_tokens) == ("length", 12)
    assert second.text.startswith(first.text)


def test_confidence_comes_where_asked(loader: VLMLoader) -> None:
    sharp, noisy, silent = read(
        loader,
        Request((page(LINES[:2]),), PROMPT, 40, logprobs=True),
        Request((Image.effect_noise((448, 112), 90),), PROMPT, 40, logprobs=True),
        Request((page(LINES[:1]),), PROMPT, 40),
    )
    assert sharp.mean_logprob is not None
    assert sharp.min_logprob is not None
    assert noisy.mean_logprob is not None
    assert noisy.mean_logprob < sharp.mean_logprob <= 0
    assert sharp.min_logprob <= sharp.mean_logprob
    assert (silent.mean_logprob, silent.min_logprob) == (None, None)


def test_sampling_repeats_itself_after_a_reload() -> None:
    texts = []
    for _ in range(2):
        with create_vlm_loader("auto", config()) as loader:
            texts.append(loader.generate([page(LINES[:1])], PROMPT, 40, temperature=1.5))
    assert texts[0] == texts[1]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "F"])
def test_images_of_any_mode_are_read(mode: str) -> None:
    grey = page(LINES[:1]).convert("L")
    image = grey.convert("I").point(lambda v: v * 257).convert(mode) if mode == "I;16" else None
    seen = for_model(image or grey.convert(mode))
    assert seen.mode == "RGB"
    assert seen.getpixel((1, 1)) == (255, 255, 255)
    assert min(seen.convert("L").tobytes()) < 90


def test_transparent_is_white_and_long_strips_are_padded(loader: VLMLoader) -> None:
    assert for_model(Image.new("RGBA", (4, 4), (0, 0, 0, 0))).getpixel((0, 0)) == (255,) * 3
    for size in ((3000, 1), (1, 3000), (1, 1)):
        assert isinstance(loader.generate([Image.new("RGB", size)], PROMPT, 4, 0), str)


def test_a_loop_is_stopped_and_cut(loader: VLMLoader) -> None:
    # The model is made to say one thing for ever: a rendered loop would depend on its mood.
    def insist(_: Any, __: Any, outputs: Any) -> None:
        outputs.logits[..., 300] += 1e6

    hook = loader.engine._model.register_forward_hook(insist)  # type: ignore[attr-defined]
    try:
        (answer,) = read(loader, Request((page(LINES[:1]),), PROMPT, 1000))
    finally:
        hook.remove()
    assert answer.finish_reason == "loop"
    assert 300 <= answer.completion_tokens < 400
    assert len(answer.text) < 20


def test_abort_ends_a_row_and_leaves_the_others(loader: VLMLoader) -> None:
    started = threading.Event()
    model = loader.engine._model  # type: ignore[attr-defined]
    hook = model.register_forward_hook(lambda *_: started.set())
    doomed = loader.engine.submit(Request((page(LINES * 6),), PROMPT, 1500, key="doomed"))
    assert started.wait(SECONDS)
    hook.remove()
    loader.engine.abort("doomed")
    answer = doomed.result(SECONDS)
    assert answer.finish_reason == "aborted"
    assert answer.completion_tokens < 300
    assert read(loader, Request((page(LINES[:1]),), PROMPT, 100))[0].finish_reason == "stop"


def test_memory_that_runs_out_halves_the_batch(loader: VLMLoader) -> None:
    sizes: list[int] = []

    def cramped(_: Any, __: Any, inputs: dict[str, Any]) -> None:
        rows, tokens = inputs["input_ids"].shape
        sizes.append(rows)
        if rows > 1 and tokens == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")

    model = loader.engine._model  # type: ignore[attr-defined]
    hook = model.register_forward_pre_hook(cramped, with_kwargs=True)
    try:
        answers = read(loader, *(Request((page(LINES[:1]),), PROMPT, 10) for _ in range(4)))
    finally:
        hook.remove()
    assert {answer.finish_reason for answer in answers} == {"length"}
    one = [1] * 10
    assert sizes == [1, 1, 1, 1, 4, 1, 1, 2, *one, *one, 1, 1, 2, *one, *one]


def test_a_page_without_room_beside_others_waits_for_them(loader: VLMLoader) -> None:
    engine: Any = loader.engine
    begun: list[int] = []

    def cramped(_: Any, __: Any, inputs: dict[str, Any]) -> None:
        if inputs["input_ids"].shape[1] > 1:
            begun.append(len(engine._running) - sum(job.future.done() for job in engine._running))
            if begun[-1] > 2 and len(begun) == 3:
                raise torch.OutOfMemoryError("CUDA out of memory")

    hook = engine._model.register_forward_pre_hook(cramped, with_kwargs=True)
    try:
        lengths = (2, 4, 6, 8)
        answers = read(loader, *(Request((page(LINES[:1]),), PROMPT, n) for n in lengths))
    finally:
        hook.remove()
    assert [answer.completion_tokens for answer in answers] == list(lengths)
    assert begun == [4, 4, 4, 3, 2], "the third page was tried again when the first had ended"


def test_a_special_token_in_the_prompt_is_refused(loader: VLMLoader) -> None:
    future = loader.engine.submit(Request((page(LINES),), "What is <|image_pad|> here?"))
    error = future.exception(0)
    assert isinstance(error, RequestError)
    assert error.kind is ErrorKind.MODEL_FAILED
    assert "<|image_pad|>" in str(error)
    with pytest.raises(RuntimeError, match="special token"):
        loader.generate([page(LINES)], "[<|im_end|>]")


def test_a_page_beyond_the_context_fails_with_the_remedy(
    loader: VLMLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader.engine, "_context", 50)
    with pytest.raises(RuntimeError, match=r"the model holds 50: lower render\.max_pixels"):
        loader.generate([page(LINES)], PROMPT)


# --- loading and unloading -------------------------------------------------------------------


def test_generate_needs_a_loaded_model() -> None:
    loader = create_vlm_loader("qwen25vl", config())
    with pytest.raises(RuntimeError, match=r"no model is loaded: call load\(\) first"):
        loader.generate([page(LINES)], PROMPT)
    with pytest.raises(RuntimeError, match="no model is loaded"):
        _ = loader.engine
    loader.unload()


def test_load_twice_loads_once_and_unload_frees_the_model() -> None:
    loader = create_vlm_loader("qwen25vl", config())
    loader.load()
    engine = loader.engine
    loader.load()
    assert loader.engine is engine
    model = weakref.ref(engine._model)  # type: ignore[attr-defined]
    loader.generate([page(LINES[:1])], PROMPT, 4)
    loader.unload()
    loader.unload()
    gc.collect()
    assert model() is None
    with pytest.raises(EngineError):
        engine.submit(Request((), "still there?"))
    loader.load()
    assert loader.generate([page(LINES[:1])], PROMPT, 4)
    loader.unload()


def test_close_ends_a_running_page_soon() -> None:
    loader = create_vlm_loader("qwen25vl", config())
    loader.load()
    running = loader.engine.submit(Request((page(LINES * 6),), PROMPT, 1500))
    while not running.running():
        time.sleep(0.001)
    loader.unload()
    assert isinstance(running.exception(SECONDS), EngineError)


def test_quantization_makes_the_weights_smaller(loader: VLMLoader) -> None:
    pytest.importorskip("bitsandbytes")
    full = loader.engine.weight_bytes  # type: ignore[attr-defined]
    for kind, share in ((QuantizationType.FOUR_BIT, 0.6), (QuantizationType.EIGHT_BIT, 0.7)):
        with create_vlm_loader("qwen25vl", config(quantization=kind)) as small:
            assert small.engine.weight_bytes < share * full  # type: ignore[attr-defined]
            assert _types(small) >= {"Linear4bit" if "4" in kind else "Linear8bitLt"}
            assert not _types(small, "model.visual") & {"Linear4bit", "Linear8bitLt"}
            text = small.generate([page(LINES)], PROMPT, 100, 0)
            assert errors(flat(text), " ".join(LINES)) < 0.2


def _types(loader: VLMLoader, below: str = "") -> set[str]:
    modules = loader.engine._model.named_modules()  # type: ignore[attr-defined]
    return {type(module).__name__ for name, module in modules if name.startswith(below)}


# --- names and refusals ----------------------------------------------------------------------

NAMES = {
    "llama-4-maverick": Llama4MaverickLoader,
    "llama4-maverick": Llama4MaverickLoader,
    "gemma-3-27b": Gemma3Loader,
    "gemma3": Gemma3Loader,
    "internvl3-78b": InternVL3Loader,
    "internvl3": InternVL3Loader,
    "pixtral-large": PixtralLargeLoader,
    "pixtral": PixtralLargeLoader,
    "qwen2.5-vl-72b": Qwen25VLLoader,
    "qwen25vl": Qwen25VLLoader,
}


def test_every_name_has_its_loader() -> None:
    for name, kind in NAMES.items():
        assert type(create_vlm_loader(name, config())) is kind
        assert type(create_vlm_loader(f" {name.upper().replace('-', '_')}", config())) is kind


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="no loader is named 'gpt'") as caught:
        create_vlm_loader("gpt", config())
    assert all(name in str(caught.value) for name in (*NAMES, "auto"))


def test_the_config_keeps_its_documented_fields_and_defaults() -> None:
    made = VLMConfig("some/model", QuantizationType.AWQ, InferenceFramework.VLLM)
    assert (made.max_memory_gb, made.device, made.trust_remote_code) == (None, "cuda", True)
    assert VLMConfig("some/model", "4bit", "sglang").quantization is QuantizationType.FOUR_BIT
    with pytest.raises(TypeError, match="abstract"):
        VLMLoader(made)  # type: ignore[abstract]


def refusal(name: str = "auto", **changes: Any) -> str:
    loader = create_vlm_loader(name, config(**changes))
    with pytest.raises(RuntimeError) as caught:
        loader.load()
    message = str(caught.value)
    assert "\n" not in message
    return message


def checkpoint(folder: Path, **content: Any) -> str:
    (folder / "config.json").write_text(json.dumps(content), encoding="utf-8")
    return str(folder)


@pytest.mark.parametrize("framework", ["vllm", "sglang"])
def test_a_framework_that_is_not_installed_is_named(framework: str) -> None:
    if importlib.util.find_spec(framework):
        pytest.skip(f"{framework} is installed")
    message = refusal(framework=framework)
    assert f"{framework} is not installed completely" in message
    assert f"pip install 'pagemill[{framework}]'" in message


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    assert refusal(model_id=str(tmp_path / "gone")).startswith(f"{tmp_path}/gone: no such folder")
    assert "no config.json in it" in refusal(model_id=str(tmp_path))
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    assert "not a readable model config" in refusal(model_id=str(tmp_path))


def test_mistrals_own_format_is_for_vllm_and_has_an_identity(tmp_path: Path) -> None:
    (tmp_path / "params.json").write_text("{}")
    message = refusal("pixtral", model_id=str(tmp_path))
    assert "in Mistral's own format (params.json), which only vLLM reads: use framework: vllm" in (
        message
    )
    model = Model(name="pixtral", id=str(tmp_path), framework="vllm")
    assert quantization_name(model) == "none"
    name, before = model_identity(model)
    (tmp_path / "consolidated.safetensors").write_bytes(b"weights")
    assert (name, model_identity(model)[1] == before) == (tmp_path.name, False)
    (tmp_path / "params.json").unlink()
    with pytest.raises(UsageError, match=r"\(no config.json or params.json\)"):
        model_identity(model)


def test_a_hub_that_cannot_be_reached_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    message = refusal(model_id="nobody/no-such-model")
    assert message.startswith("nobody/no-such-model: its config.json cannot be had from the hub")
    assert "or give the folder of a downloaded model" in message


def test_weights_that_are_missing_are_named(tmp_path: Path) -> None:
    for name in Path(MODEL).iterdir():
        if name.suffix != ".safetensors" and "index" not in name.name:
            (tmp_path / name.name).write_bytes(name.read_bytes())
    message = refusal(model_id=str(tmp_path))
    assert message.startswith(f"{tmp_path}: its files cannot be had")
    assert "safetensors" in message


def test_a_checkpoint_without_some_weights_is_not_filled_by_chance(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for file in Path(MODEL).iterdir():
        if "index" in file.name:
            continue
        (tmp_path / file.name).write_bytes(file.read_bytes())
    whole = {k: v for f in sorted(tmp_path.glob("*.safetensors")) for k, v in load_file(f).items()}
    for file in tmp_path.glob("*.safetensors"):
        file.unlink()
    del whole["visual.blocks.0.mlp.up_proj.weight"]
    save_file(whole, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert refusal(model_id=str(tmp_path)).endswith(
        "1 of its weights are missing, such as model.visual.blocks.0.mlp.up_proj.weight: "
        "download it again, or use another checkpoint"
    )


def copy_of_the_model(folder: Path, **changes: Any) -> Path:
    """The shipped model with other values in its config."""
    shutil.copytree(MODEL, folder, dirs_exist_ok=True)
    content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**content, **changes}), encoding="utf-8")
    return folder


def test_a_model_that_follows_no_instructions_is_refused(tmp_path: Path) -> None:
    (copy_of_the_model(tmp_path) / "chat_template.jinja").unlink()
    message = refusal(model_id=str(tmp_path))
    assert "no chat template, so it is not a model that follows instructions" in message


def test_an_encoder_decoder_is_refused(tmp_path: Path) -> None:
    model = copy_of_the_model(tmp_path, is_encoder_decoder=True)
    message = refusal(model_id=str(model))
    assert "an encoder-decoder model, which cannot be batched here; use a model such as" in message


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (torch.OutOfMemoryError("full"), "the weights do not fit on cpu: use quantization: 4bit"),
        (ValueError("a\nb"), "transformers could not load it: ValueError: a b"),
    ],
)
def test_what_fails_inside_transformers_is_one_line(
    error: Exception, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr("loaders.transformers_model.read_weights", fail)
    assert words in refusal()


def test_a_config_that_is_no_object_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[]")
    assert "not a model config: expected a JSON object" in refusal(model_id=str(tmp_path))


def test_remote_code_without_a_pinned_revision_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def nothing(*_: Any) -> None:
        raise ValueError

    monkeypatch.setattr("loaders.transformers_engine.TransformersEngine.__init__", nothing)
    warning = "remote code is trusted but no revision is pinned; set revision to a commit"
    for changes, warned in (
        ({"trust_remote_code": True}, True),
        ({"trust_remote_code": True, "revision": "0" * 40}, False),
        ({"trust_remote_code": False}, False),
    ):
        caplog.clear()
        refusal(model_id="org/model", **changes)
        assert (warning in caplog.text) is warned


def test_a_checkpoint_of_another_family_is_refused() -> None:
    message = refusal("gemma3")
    assert "a qwen2_5_vl model, but gemma3 loads gemma3; use the name qwen25vl" in message


def test_checkpoints_that_transformers_cannot_load_name_their_replacement() -> None:
    assert "use OpenGVLab/InternVL3-78B-hf" in refusal(
        "internvl3", model_id="OpenGVLab/InternVL3-78B"
    )
    assert "use nintwentydo/Pixtral-Large-Instruct-2411" in refusal(
        "pixtral", model_id="mistralai/Pixtral-Large-Instruct-2411"
    )


def test_devices_and_dtypes_that_do_not_exist_are_refused() -> None:
    assert "use cuda, cuda:0 or cpu" in refusal(device="gpu")
    assert "use float32, bfloat16, float16" in refusal(dtype="int3")
    if not torch.cuda.is_available():
        assert "sees no GPU; use device: cpu" in refusal(device="cuda")


def test_awq_needs_a_checkpoint_quantized_with_it() -> None:
    message = refusal(quantization="awq")
    assert "the checkpoint is not quantized with AWQ (its own: none)" in message
    assert "use quantization: 4bit" in message


def test_a_quantized_checkpoint_is_not_quantized_again(tmp_path: Path) -> None:
    model = checkpoint(tmp_path, model_type="gemma3", quantization_config={"quant_method": "fp8"})
    message = refusal(model_id=model, quantization="4bit")
    assert "the checkpoint is quantized already (fp8); use quantization: none" in message


@pytest.mark.parametrize("name", ["llama4-maverick", "auto"])
@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
def test_llama_4_is_not_quantized_under_any_name(
    name: str, quantization: str, tmp_path: Path
) -> None:
    model = checkpoint(tmp_path, model_type="llama4")
    message = refusal(name, model_id=model, quantization=quantization)
    assert "most of the weights, would stay unquantized" in message
    assert "Llama-4-Maverick-17B-128E-Instruct-FP8 with quantization: none" in message


def test_a_model_over_its_memory_limit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from loaders import transformers_model

    real = transformers_model._placement
    monkeypatch.setattr(
        transformers_model,
        "_placement",
        lambda c: {**real(c), "max_memory": {"cpu": "20MiB"}, "offload_folder": str(tmp_path)},
    )
    message = refusal(max_memory_gb=1)
    assert "do not fit into max_memory_gb: 1; raise it" in message


def test_a_model_within_its_memory_limit_is_loaded() -> None:
    with create_vlm_loader("auto", config(max_memory_gb=2)) as loader:
        assert loader.generate([page(LINES[:1])], PROMPT, 4)


# --- the name of a quantization --------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "name"),
    [
        (None, "none"),
        ({"quant_method": "fp8"}, "fp8"),
        ({"quant_method": "awq", "bits": 4}, "awq"),
        ({"quant_method": "compressed-tensors"}, "compressed-tensors"),
        (
            {
                "quant_method": "bitsandbytes",
                "load_in_4bit": True,
                "bnb_4bit_quant_type": "nf4",
            },
            "bnb-nf4",
        ),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "bnb-int8"),
    ],
)
def test_the_checkpoints_own_quantization_has_a_name(
    tmp_path: Path, own: dict[str, Any] | None, name: str
) -> None:
    model = checkpoint(tmp_path, **({"quantization_config": own} if own else {}))
    assert quantization_name(Model(name="auto", id=model)) == name


def test_a_quantization_done_at_load_has_a_name() -> None:
    names = {"4bit": "bnb-nf4", "8bit": "bnb-int8", "awq": "awq"}
    for kind, name in names.items():
        assert quantization_name(Model(name="auto", id=MODEL, quantization=kind)) == name  # type: ignore[arg-type]
    assert quantization_name(Model(name="auto", id="echo", framework="echo")) == "none"
    with pytest.raises(UsageError, match="/gone: no such folder"):
        quantization_name(Model(name="auto", id="/gone"))
