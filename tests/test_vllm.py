"""vLLM for real, on a CPU: `make test-vllm`, in an environment of its own; skipped elsewhere."""

from __future__ import annotations

import copy
import gc
import importlib.util
import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw, ImageFont

pytest.importorskip("vllm._version", exc_type=ImportError)

from loaders.engine import Completion, Request, RequestError
from loaders.torchvision_repair import repair_torchvision
from loaders.vlm_loader import VLMConfig, VLMLoader, create_vlm_loader
from pagemill.errors import EngineError

PROJECT = Path(__file__).resolve().parents[1]
MODEL = str(PROJECT / "models" / "pagereader-19m")
PROMPT = "Transcribe the text of this page."
LINES = ["The mill stands by the river,", "and its wheel turns all day."]
SECONDS = 300
SETTINGS = {
    # vLLM's engine is a fresh process: it finds here what repairs its torchvision, and `loaders`.
    "PYTHONPATH": f"{PROJECT / 'tests' / 'vllm_site'}:{PROJECT}",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    # What `loaders.memory.keep_freed_memory` does for a process of our own; ten times faster.
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "8000000000",
    "MALLOC_TOP_PAD_": "67108864",
}


@pytest.fixture(scope="module", autouse=True)
def environment() -> Iterator[None]:
    repair_torchvision()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SETTINGS.items():
            patch.setenv(name, value)
        yield


def config(**changes: Any) -> VLMConfig:
    arguments: dict[str, Any] = {
        "model_id": MODEL,
        "quantization": "none",
        "framework": "vllm",
        "device": "cpu",
        "trust_remote_code": False,
        "batch_size": 4,
        "options": {"max_model_len": 2048, "enforce_eager": True},
    }
    return VLMConfig(**{**arguments, **changes})


def page(lines: list[str]) -> Image.Image:
    image = Image.new("RGB", (448, 56 + 28 * len(lines)), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(20)
    for number, line in enumerate(lines):
        draw.text((28, 28 + 28 * number), line, "black", font)
    return image


def read(loader: VLMLoader, *requests: Request) -> list[Completion]:
    futures = [loader.engine.submit(request) for request in requests]
    return [future.result(SECONDS) for future in futures]


def note_cached(vllm: Any, patch: pytest.MonkeyPatch) -> list[int]:
    """Fills with what each request took from the prefix's cache, in tokens."""
    cached, generate = [], vllm.generate

    async def noting(*arguments: Any) -> Any:
        said = generate(*arguments)
        first = await anext(said)
        cached.append(first.num_cached_tokens)
        yield first
        async for output in said:
            yield output

    patch.setattr(vllm, "generate", noting)
    return cached


# --- the same answers as transformers gives -----------------------------------------------------


QUESTIONS = [
    Request((page(LINES[:1]),), PROMPT, 12),
    Request((page(LINES),), "Describe this image.", 12),
    Request((page(LINES * 2), page(LINES[1:])), "Read.", 12),
    Request((), "Read.", 12),
]


@pytest.mark.parametrize("family", ["llama4", "gemma3", "internvl3", "pixtral", "qwen25vl"])
def test_a_family_says_what_it_says_under_transformers(family: str, tmp_path: Path) -> None:
    from tests.tiny import build

    model = str(build(family, tmp_path / family, for_vllm=True))
    name = {"llama4": "llama4-maverick"}.get(family, family)
    plain = config(model_id=model, framework="transformers", options={})
    with create_vlm_loader(name, plain) as loader:
        expected = [read(loader, question)[0] for question in QUESTIONS]
    options = {"max_model_len": 1024, "enforce_eager": True}
    with create_vlm_loader(name, config(model_id=model, options=options)) as loader:
        answers = read(loader, *QUESTIONS)
    assert [a.prompt_tokens for a in answers] == [e.prompt_tokens for e in expected]
    assert [a.text for a in answers] == [e.text for e in expected]
    assert [a.completion_tokens for a in answers] == [e.completion_tokens for e in expected]
    assert len({e.text for e in expected}) > 1


def test_fast_inference_says_what_the_model_itself_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm import SamplingParams

    from loaders.fast_vision import FastVisionModel
    from tests.tiny import build

    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    model, processor = FastVisionModel.from_pretrained(
        str(build("qwen25vl", tmp_path / "qwen25vl", for_vllm=True)),
        max_seq_length=512,
        dtype="float32",
        load_in_16bit=True,
        fast_inference=True,
        gpu_memory_utilization=0.3,
    )
    image = page(LINES[:1])
    content = [{"type": "image"}, {"type": "text", "text": "Read."}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    greedy = SamplingParams(temperature=0, max_tokens=12)
    asked = {"prompt": text, "multi_modal_data": {"image": image}}
    (answer,) = model.fast_generate(asked, greedy)
    inputs = processor(text=[text], images=[image], return_tensors="pt")
    said = model.generate(**inputs, max_new_tokens=12, do_sample=False)
    assert list(answer.outputs[0].token_ids) == said[0, inputs["input_ids"].shape[1] :].tolist()
    model.vllm_engine.llm_engine.engine_core.shutdown()


def test_the_first_pages_do_not_wait_for_processors(tmp_path: Path) -> None:
    from vllm.transformers_utils.processor import cached_get_processor

    from tests.tiny import build

    model = str(build("qwen25vl", tmp_path / "qwen25vl", for_vllm=True))
    options = {"max_model_len": 1024, "enforce_eager": True}
    with create_vlm_loader("qwen25vl", config(model_id=model, options=options)) as loader:
        tokenizer = loader.engine._vllm.renderer.tokenizer  # type: ignore[attr-defined]
        assert copy.deepcopy(tokenizer) is tokenizer
        loaded = cached_get_processor.cache_info().misses
        answers = read(loader, *(Request((page([str(n)]),), PROMPT, 2) for n in range(8)))
        assert len(answers) == 8
        assert cached_get_processor.cache_info().misses == loaded


# --- the shipped model --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def loader(environment: None) -> Iterator[VLMLoader]:
    with create_vlm_loader("qwen25vl", config()) as loader:
        yield loader


def test_it_reads_a_page_and_says_how_sure_it_is(loader: VLMLoader) -> None:
    (sure,) = read(loader, Request((page(LINES),), PROMPT, 200, logprobs=True))
    assert sure.text.split() == " ".join(LINES).split()
    assert (sure.finish_reason, sure.prompt_tokens) == ("stop", 92)
    assert sure.mean_logprob is not None
    assert sure.min_logprob is not None
    assert -1 < sure.min_logprob < sure.mean_logprob < 0
    with create_vlm_loader("qwen25vl", config(framework="transformers", options={})) as other:
        (same,) = read(other, Request((page(LINES),), PROMPT, 200, logprobs=True))
    assert sure.text == same.text
    assert sure.mean_logprob == pytest.approx(same.mean_logprob, abs=1e-3)
    assert sure.min_logprob == pytest.approx(same.min_logprob, abs=1e-3)
    (plain,) = read(loader, Request((page(LINES),), PROMPT, 5))
    assert (plain.finish_reason, plain.completion_tokens) == ("length", 5)
    assert plain.mean_logprob is None
    assert loader.engine.version.startswith("vllm 0.")
    assert loader.engine.weight_bytes > 1e7  # type: ignore[attr-defined]


@pytest.mark.usefixtures("loader")
def test_the_room_of_a_prepared_page_is_there_for_the_next_one() -> None:
    def faults() -> int:
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
        bytearray(b"x") * (32 << 20)
        return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before

    faults()
    assert faults() < 100


def test_the_time_is_shared(loader: VLMLoader) -> None:
    before = loader.engine.busy_seconds
    answers = read(loader, *(Request((page(LINES),), PROMPT, 100) for _ in range(10)))
    spent = loader.engine.busy_seconds - before
    assert sum(answer.seconds for answer in answers) == pytest.approx(spent, rel=0.05)


def test_all_that_is_asked_of_a_page_is_one_visit(
    loader: VLMLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, other = page(LINES * 6), page(LINES * 6)
    questions = [Request((other,), prompt, 20) for prompt in (PROMPT, "Describe this image.")]
    expected = [read(loader, question)[0].text for question in questions]
    vllm: Any = loader.engine._vllm  # type: ignore[attr-defined]
    rendered = []
    render = vllm.renderer.render_cmpl_async

    async def count_render(*arguments: Any) -> Any:
        rendered.append(1)
        return await render(*arguments)

    monkeypatch.setattr(vllm.renderer, "render_cmpl_async", count_render)
    cached = note_cached(vllm, monkeypatch)
    together = [Request((image,), question.prompt, 20) for question in questions]
    assert [answer.text for answer in read(loader, *together)] == expected
    assert len(rendered) == 1
    assert sorted(cached)[0] == 0
    assert sorted(cached)[1] >= 128  # a whole block of the image's tokens


def test_an_image_is_seen_once_however_many_pages_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    images = [page([f"Page {number}.", *LINES * 12]) for number in range(12)]
    prompts = (PROMPT, "Describe this image.")
    asked = [Request((image,), prompt, 24) for image in images for prompt in prompts]
    options = {
        "max_model_len": 1024,
        "enforce_eager": True,
        "max_num_batched_tokens": 1024,  # two pages
        "worker_extension_cls": "tests.probing_worker.ProbingWorker",
    }
    with create_vlm_loader("qwen25vl", config(options=options)) as loader:
        engine: Any = loader.engine
        vllm = engine._vllm
        engine._on_loop(vllm.collective_rpc("begin_to_count"))
        cached = note_cached(vllm, monkeypatch)
        answers = read(loader, *asked)
        assert engine._on_loop(vllm.collective_rpc("images_seen")) == [len(images)]
    assert all(answer.text for answer in answers)
    whole = answers[0].prompt_tokens // 128 * 128
    assert sorted(cached) == [0] * len(images) + [whole] * len(images)


def test_what_is_submitted_later_may_end_earlier(loader: VLMLoader) -> None:
    order: list[str] = []
    done = threading.Event()

    def submit(name: str, lines: list[str], tokens: int) -> None:
        future = loader.engine.submit(Request((page(lines),), PROMPT, tokens))
        future.add_done_callback(lambda _: (order.append(name), len(order) == 4 and done.set()))

    submit("long", LINES * 8, 300)
    time.sleep(0.3)
    for number in range(3):
        submit(f"short {number}", LINES[:1], 4)
    assert done.wait(SECONDS)
    assert order[-1] == "long"


def test_abort_ends_a_page_with_what_was_said(loader: VLMLoader) -> None:
    engine = loader.engine
    doomed = engine.submit(Request((page(LINES * 8),), PROMPT, 1500, key="doomed"))
    while not doomed.running():
        time.sleep(0.01)
    time.sleep(0.3)
    engine.abort("doomed")
    answer = doomed.result(SECONDS)
    assert answer.finish_reason == "aborted"
    assert answer.completion_tokens < 1000
    assert read(loader, Request((page(LINES[:1]),), PROMPT, 50))[0].finish_reason == "stop"


def test_a_loop_is_stopped_and_cut(loader: VLMLoader, monkeypatch: pytest.MonkeyPatch) -> None:
    engine: Any = loader.engine
    params = engine._params

    def insist(request: Request) -> Any:
        made = params(request)
        made.logit_bias = {300: 100.0}
        return made

    monkeypatch.setattr(engine, "_params", insist)
    (answer,) = read(loader, Request((page(LINES[:1]),), PROMPT, 1500))
    assert answer.finish_reason == "loop"
    assert 300 <= answer.completion_tokens < 400
    assert len(answer.text) < 20


def test_requests_that_cannot_be_answered_fail_alone(loader: VLMLoader) -> None:
    special = loader.engine.submit(Request((page(LINES),), "What is <|image_pad|>?"))
    assert "the special token '<|image_pad|>'" in str(special.exception(SECONDS))
    long = loader.engine.submit(Request((), "word " * 4000))
    error = long.exception(SECONDS)
    assert isinstance(error, RequestError)
    assert "lower render.max_pixels, or raise options.max_model_len" in str(error)
    assert loader.generate([Image.new("RGB", (3000, 1))], PROMPT, 4, 0) is not None


def test_close_ends_what_runs_frees_and_loads_again() -> None:
    import psutil

    loader = create_vlm_loader("auto", config(max_memory_gb=2))
    loader.load()
    children = {child.pid for child in psutil.Process().children(recursive=True)}
    engine = loader.engine
    assert gc.get_freeze_count() > 100_000  # what no collection needs to go through
    running = engine.submit(Request((page(LINES * 8),), PROMPT, 1500))
    while not running.running():
        time.sleep(0.01)
    loader.unload()
    assert gc.get_freeze_count() == 0
    loader.unload()
    assert isinstance(running.exception(SECONDS), EngineError)
    with pytest.raises(EngineError, match="the engine is closed"):
        engine.submit(Request((), "still there?"))
    left = {child.pid for child in psutil.Process().children(recursive=True)}
    assert len(left) < len(children)
    loader.load()
    assert loader.generate([page(LINES[:1])], PROMPT, 50, 0) == LINES[0]
    loader.unload()


def test_an_engine_process_that_dies_is_an_engine_error() -> None:
    import psutil

    before = {child.pid for child in psutil.Process().children(recursive=True)}
    with create_vlm_loader("auto", config()) as loader:
        running = loader.engine.submit(Request((page(LINES * 8),), PROMPT, 1500))
        while not running.running():
            time.sleep(0.01)
        for child in psutil.Process().children(recursive=True):
            if child.pid not in before:
                child.kill()
        assert isinstance(running.exception(SECONDS), EngineError)
        with pytest.raises(EngineError, match="vLLM's engine process has died"):
            loader.engine.submit(Request((), "still there?"))


OWNER = f"""
import sys, time
sys.path[:0] = [{str(PROJECT)!r}, {str(PROJECT / "tests")!r}]
if __name__ == "__main__":
    from test_vllm import config, create_vlm_loader, repair_torchvision
    repair_torchvision()
    create_vlm_loader("auto", config()).load()
    print("loaded", flush=True)
    time.sleep({SECONDS})
"""


def test_its_processes_end_when_the_one_that_loads_the_model_is_killed(tmp_path: Path) -> None:
    import psutil

    script = tmp_path / "owner.py"
    script.write_text(OWNER)
    owner = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout
    assert owner.stdout.readline() == "loaded\n"
    children = psutil.Process(owner.pid).children(recursive=True)
    assert any("EngineCore" in child.name() for child in children)
    owner.kill()
    owner.wait()
    _, alive = psutil.wait_procs(children, timeout=60)
    assert alive == []


COMMAND = [sys.executable, "-c", "from flows.cli import main; main()"]


def command(tmp_path: Path, pages: list[list[str]], **work: Any) -> list[str]:
    """That runs the pipeline on pages of such lines."""
    (source := tmp_path / "in").mkdir()
    for number, lines in enumerate(pages):
        page(lines).save(source / f"{number}.png")
    model = {"name": "auto", "id": MODEL, "framework": "vllm", "device": "cpu", "batch_size": 4}
    options = {"max_model_len": 2048, "enforce_eager": True}
    wanted = {
        "model": {**model, "options": options},
        "outputs": {"text": {"prompt": PROMPT, "max_new_tokens": 300}},
        "render": {"max_dpi": 72, "multiple_of": 28},
        "work": work,
    }
    (tmp_path / "vllm.yaml").write_text(json.dumps(wanted))
    return [*COMMAND, "run", str(source), str(tmp_path / "out"), "-c", str(tmp_path / "vllm.yaml")]


@pytest.mark.parametrize("runner", ["thread", "process"])
def test_the_whole_pipeline_reads_with_it_and_leaves_nothing(runner: str, tmp_path: Path) -> None:
    pytest.importorskip("prefect", reason="the environment of `make test-vllm` has it")
    parquet = pytest.importorskip("pyarrow.parquet")
    (temporary := tmp_path / "tmp").mkdir()
    before = set(os.listdir("/dev/shm"))
    home = {"TMPDIR": str(temporary), "PREFECT_HOME": str(tmp_path / "prefect")}
    ran = subprocess.run(
        command(tmp_path, [LINES[:1]] * 3, runner=runner),
        env={**os.environ, **home},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    rows = parquet.read_table(next((tmp_path / "out").glob("recipe=*/pages"))).to_pylist()
    assert [row["text"] for row in rows] == [LINES[0]] * 3
    if runner == "process":  # of which nothing is left; else vLLM leaves sockets
        assert list(temporary.iterdir()) == []
    deadline = time.monotonic() + 60
    while (left := set(os.listdir("/dev/shm")) - before) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left


@pytest.mark.parametrize("runner", ["thread", "process"])
def test_a_run_goes_on_when_its_engine_process_is_killed(runner: str, tmp_path: Path) -> None:
    pytest.importorskip("prefect", reason="the environment of `make test-vllm` has it")
    parquet = pytest.importorskip("pyarrow.parquet")
    import psutil

    pages = [[f"Page {number}", *LINES] for number in range(12)]
    run = command(tmp_path, pages, runner=runner, part_pages=1, shard_documents=4)
    (temporary := tmp_path / "tmp").mkdir()
    home = {"TMPDIR": str(temporary), "PREFECT_HOME": str(tmp_path / "prefect")}
    ran = subprocess.Popen(run, env={**os.environ, **home}, stderr=subprocess.PIPE, text=True)
    while not list((tmp_path / "out").glob("recipe=*/pages/*.parquet")):
        assert ran.poll() is None
        time.sleep(0.02)
    family = psutil.Process(ran.pid).children(recursive=True)
    cores = [child for child in family if "EngineCore" in child.name()]
    for core in cores:
        core.kill()
    _, told = ran.communicate(timeout=2 * SECONDS)
    assert ran.returncode == 0, told
    assert len(cores) == 1
    (sheet,) = (tmp_path / "out").glob("recipe=*/runs/*.json")
    balance = json.loads(sheet.read_text())
    assert [worker["loads"] for worker in balance["workers"]] == [1, 1]
    rows = parquet.read_table(next((tmp_path / "out").glob("recipe=*/pages"))).to_pylist()
    said = {f"Page {number}\n{LINES[0]} {LINES[1]}" for number in range(12)}
    assert sorted(row["text"] for row in rows) == sorted(said)


@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
def test_quantized_it_still_reads(quantization: str) -> None:
    with create_vlm_loader("qwen25vl", config(quantization=quantization)) as loader:
        text = loader.generate([page(LINES)], PROMPT, 100, 0)
    assert len(set(text.split()) & set(" ".join(LINES).split())) > 8


@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
@pytest.mark.parametrize("family", ["gemma3", "internvl3", "pixtral", "qwen25vl"])
def test_a_quantized_family_answers_and_its_eyes_are_left_alone(
    family: str, quantization: str, tmp_path: Path
) -> None:
    from tests.tiny import build

    options = {
        "max_model_len": 1024,
        "enforce_eager": True,
        "worker_extension_cls": "tests.probing_worker.ProbingWorker",
    }
    model = str(build(family, tmp_path / family, for_vllm=True))
    changes = {"model_id": model, "quantization": quantization, "options": options}
    with create_vlm_loader(family, config(**changes)) as loader:
        (answer,) = read(loader, QUESTIONS[0])
        engine: Any = loader.engine
        ((eyes, language),) = engine._on_loop(engine._vllm.collective_rpc("quantized"))
    assert answer.completion_tokens > 0
    assert set(eyes.values()) == {False}
    assert set(language.values()) == {True}


def test_the_shipped_model_in_awq_reads(tmp_path: Path) -> None:
    import awq

    quantized, _ = awq.quantize(Path(MODEL), tmp_path)
    for quantization in ("awq", "none"):
        changes = {"model_id": str(quantized), "quantization": quantization}
        with create_vlm_loader("qwen25vl", config(**changes)) as loader:
            assert loader.generate([page(LINES)], PROMPT, 100, 0).split() == " ".join(LINES).split()


# --- refusals -----------------------------------------------------------------------------------


def refusal(name: str = "auto", **changes: Any) -> str:
    loader = create_vlm_loader(name, config(**changes))
    with pytest.raises(RuntimeError) as caught:
        loader.load()
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is not caught.value
    return str(caught.value)


def checkpoint(folder: Path, **content: Any) -> str:
    (folder / "config.json").write_text(json.dumps(content), encoding="utf-8")
    return str(folder)


def test_devices_it_cannot_use_are_refused() -> None:
    assert "runs on cpu; use framework: transformers" in refusal(device="cuda")
    assert "to choose a GPU set CUDA_VISIBLE_DEVICES" in refusal(device="cuda:1")


def test_bitsandbytes_needs_the_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if "bnb" in name else find(name, *a)
    )
    message = refusal(quantization="4bit")
    assert "reads bitsandbytes only through its plugin: pip install vllm-bnb-plugin" in message


def test_a_model_over_its_memory_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from loaders import vllm_config, vllm_engine

    monkeypatch.setattr(vllm_engine, "GIB", 1 << 20)
    monkeypatch.setattr(vllm_config, "_memory", lambda _: {})
    assert "above max_memory_gb: 1; raise it" in refusal(max_memory_gb=1)


def test_a_checkpoint_it_cannot_load_is_named(tmp_path: Path) -> None:
    message = refusal(model_id=checkpoint(tmp_path, model_type="gemma3"))
    assert message.startswith(str(tmp_path))
    assert "use OpenGVLab/InternVL3-78B-hf" in refusal(
        "internvl3", model_id="OpenGVLab/InternVL3-78B"
    )


def test_what_fails_in_its_own_process_points_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(PROJECT / "tests"))  # it then finds no `loaders`
    message = refusal()
    assert "vLLM's engine process could not load it; the lines above say why." in message
    assert "set options.max_model_len (8192 holds a page)" in message
    assert os.environ["VLLM_NO_USAGE_STATS"] == "1"


# --- Mistral's own format -----------------------------------------------------------------------

TINY_PIXTRAL = {
    **{"dim": 128, "n_layers": 2, "head_dim": 32, "hidden_dim": 256, "n_heads": 4},
    **{"n_kv_heads": 2, "norm_eps": 1e-5, "vocab_size": 131072, "rope_theta": 1e6},
    "max_position_embeddings": 2048,
    "vision_encoder": {
        **{"hidden_size": 64, "num_channels": 3, "image_size": 112, "patch_size": 16},
        **{"rope_theta": 1e4, "intermediate_size": 128, "num_hidden_layers": 2},
        **{"num_attention_heads": 4, "adapter_bias": True},
        **{"image_token_id": 10, "image_break_token_id": 12, "image_end_token_id": 13},
    },
}


def consolidated(folder: Path) -> str:
    """A tiny Pixtral as Mistral publishes them: real tokenizer and layout, random weights."""
    import mistral_common
    import torch
    from safetensors.torch import save_file

    data = Path(mistral_common.__file__).parent / "data"
    (folder / "tekken.json").write_bytes((data / "tekken_240911.json").read_bytes())
    (folder / "params.json").write_text(json.dumps(TINY_PIXTRAL))
    shapes: dict[str, tuple[int, ...]] = {
        "tok_embeddings.weight": (131072, 128),
        "output.weight": (131072, 128),
        "norm.weight": (128,),
        "vision_encoder.patch_conv.weight": (64, 3, 16, 16),
        "vision_encoder.ln_pre.weight": (64,),
        "vision_language_adapter.w_in.weight": (128, 64),
        "vision_language_adapter.w_in.bias": (128,),
        "vision_language_adapter.w_out.weight": (128, 128),
        "vision_language_adapter.w_out.bias": (128,),
    }
    blocks = {"layers.": (128, 64, 256), "vision_encoder.transformer.layers.": (64, 64, 128)}
    for prefix, (wide, keys, hidden) in blocks.items():
        for layer in (f"{prefix}{number}." for number in range(2)):
            shapes |= {f"{layer}attention.w{x}.weight": (wide, wide) for x in "qo"}
            shapes |= {f"{layer}attention.w{x}.weight": (keys, wide) for x in "kv"}
            shapes |= {f"{layer}feed_forward.w{x}.weight": (hidden, wide) for x in "13"}
            shapes |= {f"{layer}feed_forward.w2.weight": (wide, hidden)}
            shapes |= {f"{layer}{x}_norm.weight": (wide,) for x in ("attention", "ffn")}
    chance = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(s, generator=chance).bfloat16() / 4 for name, s in shapes.items()}
    save_file(weights, folder / "consolidated.safetensors")
    return str(folder)


def test_pixtral_in_mistrals_own_format_is_a_model_of_the_pipeline(tmp_path: Path) -> None:
    from loaders.resident import engine_for
    from loaders.support import quantization_name
    from pagemill.recipe import model_identity
    from pagemill.settings import Model

    options = {"max_model_len": 1024, "enforce_eager": True}
    model = Model(
        name="pixtral",
        id=consolidated(tmp_path),
        framework="vllm",
        device="cpu",
        batch_size=4,
        options=options,
    )
    assert quantization_name(model) == "none"
    assert model_identity(model)[1].startswith("sha256:")
    engine = engine_for(model)
    image, other = Image.effect_noise((100, 60), 50), Image.new("RGB", (100, 60), "red")
    requests = [Request((i,), "Read.", 4) for i in (image, other)] + [Request((), "[IMG].", 4)]
    seen, differently, plain = [engine.submit(each).result(SECONDS) for each in requests]
    engine.close()
    # A patch of 16 pixels is a token, a row of them ends with another: 7 × 4 + 4.
    assert seen.prompt_tokens - plain.prompt_tokens in range(28, 33)
    assert [a.completion_tokens for a in (seen, differently, plain)] == [4] * 3
    assert seen.text != differently.text
    assert "cannot be quantized to 4 bits while loading; use" in refusal(
        "pixtral", model_id=str(tmp_path), quantization="4bit"
    )
