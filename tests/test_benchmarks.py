"""The benchmark of GPUs, on the stand-in engine: that it runs and says what it must."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from benchmarks.limits import limits
from benchmarks.order import in_order_of
from benchmarks.pages import VOCABULARY, write_documents, write_shapes

PROJECT = Path(__file__).resolve().parents[1]
SAMPLES = PROJECT / "samples"


def measure(*words: str) -> subprocess.CompletedProcess[str]:
    """`benchmarks/gpu.py` on four pages."""
    small = ["--framework", "echo", "--small", "--pages", "4", "--documents", str(SAMPLES)]
    return subprocess.run(
        [sys.executable, "benchmarks/gpu.py", *words, "--laps", "engine,files", *small],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
    )


@pytest.fixture(scope="module")
def measured() -> list[subprocess.CompletedProcess[str]]:
    """Engine and visit; the engine again, with the pipeline in a process: side by side."""
    commands = [("engine", "visit"), ("engine", "--set", "work.runner=process")]
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda words: measure(*words), commands))


def test_engine_and_visit_give_their_lines(
    measured: list[subprocess.CompletedProcess[str]],
) -> None:
    done = measured[0]
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    engine, visit = (line for line in lines if "benchmark" in line)
    assert engine["pages"] == visit["pages"] == 4
    assert engine["pipeline_over_engine"] > 0
    bare, pipeline = engine["laps"]
    assert (bare["side"], bare["finish"]) == ("engine", {"stop": 4})
    assert (pipeline["side"], pipeline["balanced"], sum(pipeline["rows"].values())) == (
        "files",
        True,
        4,
    )


def test_the_pipeline_is_measured_in_a_process_of_its_own_too(
    measured: list[subprocess.CompletedProcess[str]],
) -> None:
    done = measured[1]
    assert done.returncode == 0, done.stderr
    _, pipeline = json.loads(done.stdout.splitlines()[-1])["laps"]
    assert (pipeline["balanced"], sum(pipeline["rows"].values())) == (True, 4)
    assert "worker" in pipeline["memory_gb"]


def test_what_was_measured_is_told_when_time_is_up() -> None:
    laps = ",".join(["engine", *["files"] * 50])
    command = [sys.executable, "-u", "benchmarks/gpu.py", "engine", "--laps", laps]
    small = ["--framework", "echo", "--small", "--pages", "4", "--documents", str(SAMPLES)]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    with subprocess.Popen(
        [*command, *small], cwd=PROJECT, stdout=subprocess.PIPE, text=True, env=environment
    ) as run:
        assert run.stdout
        for line in run.stdout:
            if line.startswith('{"side": "files"'):
                run.terminate()
                break
        rest = [json.loads(line) for line in run.stdout if line.startswith("{")]
    (told,) = (line for line in rest if "benchmark" in line)
    assert run.returncode == 143
    assert told["cut_off"] is True
    assert 2 <= len(told["laps"]) < 51
    assert told["pipeline_over_engine"] > 0


def test_no_two_pages_look_the_same(tmp_path: Path) -> None:
    from benchmarks.pages import draw_all
    from pagemill.config import load_settings

    folder = write_documents(tmp_path / "pages", 30, SAMPLES)
    images = draw_all(folder, load_settings("local", {"render.max_pixels": 401_408}), threads=1)
    blank = 30 - len(images)
    assert blank < 10
    assert len({image.tobytes() for image in images}) == len(images)


def test_every_id_of_the_7b_shapes_is_a_word(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    folder = write_shapes(tmp_path / "7b")
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == VOCABULARY
    assert tokenizer.decode([VOCABULARY - 1]) == f"<unused{VOCABULARY - 1}>"
    config = json.loads((folder / "config.json").read_text())
    assert config["text_config"]["vocab_size"] == VOCABULARY
    assert tokenizer.token_to_id("<|image_pad|>") == config["image_token_id"]


def test_a_page_of_the_7b_model_takes_about_two_operations_a_weight_and_token(
    tmp_path: Path,
) -> None:
    folder = write_shapes(tmp_path / "7b")
    limit = limits(folder, pixels=1.3e6, prompt_tokens=1000, output_tokens=100, batch=100)
    language = 2 * 6.53e9 * 1000  # the layers, without embedding and head
    assert limit.prefill == pytest.approx(language, rel=0.05)
    assert limit.decode == pytest.approx(2 * 7.07e9 * 100, rel=0.05)
    assert limit.decode_bytes > 7.07e9 * 2


def test_scaling_reads_the_same_pages_with_one_worker_and_with_two() -> None:
    command = [sys.executable, "benchmarks/scaling.py", "-c", "benchmarks/echo.yaml"]
    small = ["--set", "work.shard_documents=1", "--set", "render.max_pixels=50176"]
    done = subprocess.run(
        [*command, *small, "--pages", "16", "--documents", str(SAMPLES)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    one, two = result["runs"]
    assert [sum(report["pages"]["ok"] for report in run["reports"]) for run in (one, two)] == [
        16
    ] * 2
    assert [report["loads"] for report in two["reports"]] == [1, 1]
    assert result["scaling"] == pytest.approx(
        two["pages_per_second"] / one["pages_per_second"], rel=1e-3
    )


def test_a_rate_of_one_worker_is_told_when_time_is_up() -> None:
    command = [sys.executable, "-u", "benchmarks/scaling.py", "-c", "benchmarks/echo.yaml"]
    slow = ["--set", "model.options.delay=0.2", "--set", "model.batch_size=1"]
    small = ["--set", "work.shard_documents=1", "--set", "render.max_pixels=50176"]
    with subprocess.Popen(
        [*command, *slow, *small, "--pages", "16", "--documents", str(SAMPLES)],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
    ) as run:
        assert run.stdout
        first = json.loads(next(line for line in run.stdout if line.startswith("{")))
        next(line for line in run.stdout if "now for the clock" in line)  # of two workers
        run.terminate()
        told = [json.loads(line) for line in run.stdout if line.startswith("{")]
    assert run.returncode == 143
    (line,) = told
    assert (line["cut_off"], line["runs"]) == (True, [first])
    assert first["workers"] == 1 and first["pages_per_second"] > 0
    assert "scaling" not in line


@pytest.mark.parametrize(
    "true, read, ordered",
    [
        ("a b c", "a b c", "a b c"),
        ("x y 1 2 3 4", "x 1 3 y 2 4", "x 1 3 y 2 4"),
        ("x y 1 2 3 4", "X 1 3 y 2 4", "x 1 3 y 2 4"),
        ("x y 1 2", "nothing of it", "x y 1 2"),
        ("a a b a", "b a a a", "b a a a"),
        ("a b", "", "a b"),
        ("", "a b", ""),
    ],
)
def test_the_true_words_are_put_where_they_were_read(true: str, read: str, ordered: str) -> None:
    assert in_order_of(true, read) == ordered
    assert sorted(in_order_of(true, read).split()) == sorted(true.split())
