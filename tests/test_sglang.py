"""SGLang's engine, with a stand-in for its server: a real process that speaks its protocol.

SGLang itself needs a GPU and has not been run here. What is proved: the command that would be run,
the server's life (it ends with its parent, however that ends), and reading through it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from PIL import Image

from loaders import sglang_engine
from loaders.engine import Request
from loaders.errors import LoadError
from loaders.families import FAMILIES
from loaders.server import Server, free_port
from loaders.vlm_loader import VLMConfig, create_vlm_loader
from pagemill.errors import EngineError

TESTS = Path(__file__).parent
SECONDS = 300
LAUNCH = """
import json, os, signal, subprocess, sys, time
sys.path.insert(0, {tests!r})
flags = dict(zip(sys.argv[1::1], [*sys.argv[2::1], ""]))
if os.environ.get("SGLANG_FAILS"):
    sys.exit("torch.OutOfMemoryError: CUDA out of memory")
if os.environ.get("SGLANG_STUBBORN"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])  # a scheduler
print(json.dumps(sys.argv[1:]), child.pid, flush=True)
import chat_server
chat_server.serve(int(flags["--port"]), flags["--served-model-name"])
"""


@pytest.fixture(autouse=True)
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package named sglang whose launch_server is chat_server.py."""
    package = tmp_path / "site" / "sglang"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "launch_server.py").write_text(LAUNCH.format(tests=str(TESTS)))
    about = tmp_path / "site" / "sglang-0.5.23.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: sglang\nVersion: 0.5.23\n")
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setenv("PYTHONPATH", str(package.parent))


@pytest.fixture
def model(tmp_path: Path) -> str:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gemma3"}))
    return str(tmp_path)


def config(model: str, **changes: Any) -> VLMConfig:
    arguments: dict[str, Any] = {"trust_remote_code": False, "batch_size": 4}
    return VLMConfig(
        model, **{"quantization": "none", "framework": "sglang", **arguments, **changes}
    )


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def gone(pids: list[int], seconds: float = 30) -> bool:
    deadline = time.monotonic() + seconds
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not any(alive(pid) for pid in pids)


def test_it_serves_reads_and_ends_with_all_its_children(model: str) -> None:
    from chat_server import pixels

    image = Image.effect_noise((60, 40), 50).convert("RGB")
    loader = create_vlm_loader("gemma3", config(model))
    loader.load()
    engine: Any = loader.engine
    assert engine.version == "sglang 0.5.23"
    assert loader.generate([image], "look") == f"see {pixels(image)}"
    keeper = psutil.Process(engine._server._keeper.pid)
    pids = [keeper.pid, *(child.pid for child in keeper.children(recursive=True))]
    assert len(pids) == 3  # the keeper, the server, its scheduler
    loader.unload()
    loader.unload()
    assert gone(pids)
    with pytest.raises(EngineError, match="the engine is closed"):
        engine.submit(Request((), "still there?"))
    loader.load()
    assert loader.generate([], "look") == "see"
    loader.unload()


def test_it_dies_with_its_parent_even_when_it_will_not(tmp_path: Path) -> None:
    """The parent is killed outright, the server ignores SIGTERM."""
    port, keeper = free_port(), tmp_path / "keeper.py"
    keeper.write_text(
        "import sys; from loaders import server; server.GRACE = 1.0\n"
        "sys.exit(server.keep(int(sys.argv[1]), sys.argv[2:]))"
    )
    code = (
        "import sys, time; from pathlib import Path; from loaders import server\n"
        f"server.__file__ = {str(keeper)!r}\n"  # one that waits for a shorter time
        f"server = server.Server([sys.executable, '-m', 'sglang.launch_server', '--port', "
        f"'{port}', '--served-model-name', 'm'], "
        f"'http://127.0.0.1:{port}/health', Path({str(tmp_path / 'log')!r}))\n"
        "server.wait(60); print('ready', flush=True); time.sleep(600)"
    )
    path = f"{os.environ['PYTHONPATH']}:{TESTS.parent}"
    environment = {**os.environ, "PYTHONPATH": path, "SGLANG_STUBBORN": "1"}
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment, text=True
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == "ready\n"
    pids = [child.pid for child in psutil.Process(parent.pid).children(recursive=True)]
    assert len(pids) == 3
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    assert gone(pids)


def test_a_server_that_ends_says_its_last_words(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SGLANG_FAILS", "1")
    loader = create_vlm_loader("gemma3", config(model))
    with pytest.raises(RuntimeError) as caught:
        loader.load()
    assert str(caught.value) == (
        f"{model}: the server ended with code 1: torch.OutOfMemoryError: CUDA out of memory"
    )


def test_a_server_that_never_gets_ready_is_given_up(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import time; print('loading', flush=True); time.sleep(600)"]
    server = Server(command, f"http://127.0.0.1:{free_port()}/health", tmp_path / "log")
    try:
        while server.log.stat().st_size == 0:
            assert server.running
            time.sleep(0.05)
        with pytest.raises(LoadError, match=r"the server was not ready after 0\.5 s: loading"):
            server.wait(0.5)
    finally:
        server.stop()
    assert not server.running


def test_a_server_that_dies_is_an_engine_error(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from loaders import openai_engine

    monkeypatch.setattr(openai_engine, "FIRST_WAIT", 0.01)
    with create_vlm_loader("gemma3", config(model)) as loader:
        engine: Any = loader.engine
        order = json.dumps({"say": ["a"] * 99, "delay": 0.05})
        running = engine.submit(Request((), order))
        time.sleep(0.3)
        psutil.Process(engine._server._keeper.pid).children()[0].kill()
        assert isinstance(running.exception(SECONDS), EngineError)


# --- its arguments ------------------------------------------------------------------------------


def flags(config: VLMConfig, family: str = "gemma3", own: str = "none") -> str:
    command = sglang_engine._command(config, FAMILIES[family], own, 30000)
    assert command[1:3] == ["-m", "sglang.launch_server"]
    return " ".join(command[3:])


def test_the_command_says_what_the_config_says(monkeypatch: pytest.MonkeyPatch) -> None:
    made = flags(config("org/m", revision="abc", dtype="bfloat16", batch_size=32))
    assert "--model-path org/m --served-model-name org/m --host 127.0.0.1 --port 30000" in made
    assert "--revision abc --dtype bfloat16 --max-running-requests 32 --enable-multimodal" in made
    assert "trust" not in made
    assert "--trust-remote-code" in flags(config("org/m", trust_remote_code=True))
    assert "--enable-multimodal" in flags(config("org/m"), "llama4")
    assert "--enable-multimodal" not in flags(config("org/m"), "qwen25vl")
    options = {"context_length": 8192, "cuda_graph_bs": [1, 2], "skip_server_warmup": True}
    made = flags(config("org/m", device="cuda:1", options=options))
    assert "--base-gpu-id 1" in made
    assert made.endswith("--context-length 8192 --cuda-graph-bs 1 2 --skip-server-warmup")
    made = flags(config("org/m", options={"mm_process_config": {"image": {"max_pixels": 5}}}))
    assert made.endswith('--mm-process-config {"image": {"max_pixels": 5}}')


def test_quantization_is_asked_for_where_the_checkpoint_has_none() -> None:
    assert "--quantization bitsandbytes --load-format bitsandbytes" in flags(
        config("org/m", quantization="4bit")
    )
    assert "--quantization fp8" in flags(config("org/m", quantization="8bit"))
    assert "--quantization" not in flags(config("org/m", quantization="awq"), own="awq")


def test_its_memory_is_what_is_left_beside_the_reserve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        sys.modules,
        "pynvml",
        SimpleNamespace(
            nvmlInit=lambda: None,
            nvmlShutdown=lambda: None,
            nvmlDeviceGetHandleByIndex=lambda index: index,
            nvmlDeviceGetMemoryInfo=lambda _: SimpleNamespace(total=80 << 30),
        ),
    )
    assert "--mem-fraction-static 0.5" in flags(config("org/m", max_memory_gb=44))
    assert "--mem-fraction-static 0.95" in flags(config("org/m", max_memory_gb=200))
    with pytest.raises(LoadError, match="SGLang takes 4 GiB beside weights and KV cache; raise it"):
        flags(config("org/m", max_memory_gb=4))


def test_what_it_cannot_load_is_refused(model: str) -> None:
    def refusal(name: str, **changes: Any) -> str:
        with pytest.raises(RuntimeError) as caught:
            create_vlm_loader(name, config(**{"model": model, **changes})).load()
        return str(caught.value)

    assert "SGLang is run on CUDA only; use framework: transformers" in refusal(
        "gemma3", device="cpu"
    )
    assert "use the name gemma3" in refusal("qwen25vl")
    assert "use OpenGVLab/InternVL3-78B-hf" in refusal("internvl3", model="OpenGVLab/InternVL3-78B")
