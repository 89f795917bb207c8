"""Settings are checked once, at the edge, and what is wrong is said in one line."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from pagemill.config import CONFIGS, PROJECT, load_settings, parse_overrides
from pagemill.errors import UsageError
from pagemill.settings import Settings

SHIPPED = sorted(CONFIGS.glob("*.yaml"))


def refused(*config: str | Path, **overrides: Any) -> str:
    """The message of the `UsageError` that these settings give."""
    dotted = {key.replace("__", "."): value for key, value in overrides.items()}
    with pytest.raises(UsageError) as caught:
        load_settings(*config, dotted)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A copy of the default config, to spoil."""
    return Path(shutil.copy(CONFIGS / "local.yaml", tmp_path / "mine.yaml"))


# -- the configs that ship -----------------------------------------------------------------


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_config_loads_by_path_and_by_name(path: Path) -> None:
    settings = load_settings(path)
    assert settings == load_settings(path.stem) == load_settings(path.name)
    assert set(settings.outputs) == {"text", "caption"}
    assert all(output.temperature == 0 for output in settings.outputs.values())
    assert settings.model.trust_remote_code is False


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_config_begins_with_what_it_is_for(path: Path) -> None:
    assert path.read_text(encoding="utf-8").startswith("# For ")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_config_names_a_loader_that_exists(path: Path) -> None:
    names = {"llama-4-maverick", "gemma-3-27b", "internvl3-78b", "pixtral-large", "qwen2.5-vl-72b"}
    assert load_settings(path).model.name in names


def test_the_default_config_is_local_and_its_model_is_there() -> None:
    settings = load_settings()
    assert settings == load_settings("local")
    assert settings.model.device == "cpu"
    assert Path(settings.model.id) == PROJECT / "models" / "pagereader-19m"
    assert (Path(settings.model.id) / "config.json").is_file()


def test_settings_survive_json() -> None:
    settings = load_settings()
    assert Settings.model_validate_json(settings.model_dump_json()) == settings


# -- what is refused -----------------------------------------------------------------------


def test_an_unknown_config_is_refused_with_the_names_that_exist() -> None:
    message = refused("nonsense")
    assert "no config 'nonsense'" in message
    for path in SHIPPED:
        assert path.stem in message


def test_a_misspelt_key_is_refused_with_the_nearest_one(config: Path) -> None:
    config.write_text(config.read_text().replace("max_pages:", "max_page:"))
    message = refused(config)
    assert str(config) in message
    assert "unknown setting 'limits.max_page' (did you mean 'max_pages'?)" in message


def test_a_key_like_no_other_is_refused_with_all_that_exist(config: Path) -> None:
    config.write_text(config.read_text() + "\nzzz: 1\n")
    message = refused(config)
    assert "unknown setting 'zzz' (known: model, outputs, render," in message


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("limits__max_pages", 0, "greater than or equal to 1"),
        ("limits__max_pages", "many", "valid integer"),
        ("limits__max_pages", 200_000, "limits.max_pages is above limits.max_declared_pages"),
        ("model__framework", "tensorflow", "'sglang', 'openai' or 'echo'"),
        ("model__quantization", "3bit", "'none', '4bit', '8bit' or 'awq'"),
        ("model__max_memory_gb", 0, "greater than or equal to 1"),
        ("render__renderer", "ghostscript", "'auto', 'pdfium' or 'poppler'"),
        ("render__blank_ink", 1, "less than 1"),
        ("render__max_pixels", 10**12, "less than or equal to 100000000"),
        ("limits__memory_mb", 10**20, "less than or equal to 16777216"),
        ("work__shards_in_flight", 10**20, "less than or equal to 1000"),
        ("outputs__text__prompt", "", "at least 1 character"),
        ("outputs__text__temperature", -1, "greater than or equal to 0"),
        ("outputs", {}, "name at least one output"),
        ("select__include", "*.pdf", "valid list"),
        ("work", None, "valid dictionary"),
    ],
)
def test_a_wrong_value_is_refused_with_its_key_and_what_is_allowed(
    key: str, value: Any, allowed: str
) -> None:
    message = refused("local", **{key: value})
    assert "local.yaml" in message and allowed in message
    assert key.replace("__", ".") in message


@pytest.mark.parametrize("name", ["page_number", "status", "source_uri", "attempts", "tries"])
def test_an_output_named_like_a_column_is_refused(name: str) -> None:
    message = refused("local", outputs={name: {"prompt": "x"}})
    assert f"output '{name}': that column exists already, choose another name" in message


@pytest.mark.parametrize("name", ["Text", "1st", "a-b", "a b", "", "ü", "x" * 64])
def test_an_output_that_is_no_column_name_is_refused(name: str) -> None:
    assert "use a lower-case word" in refused("local", outputs={name: {"prompt": "x"}})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model: [", "not valid YAML"),
        ("just words", "expected keys such as model: and outputs:"),
        ("", "expected keys such as model: and outputs:"),
        ("- a\n- b\n", "expected keys such as model: and outputs:"),
        ("model: {name: a, id: b}\n", "outputs: Field required"),
        ("work:\n  workers: 1\n  workers: 2\n", "'workers' is there twice"),
        ("? [work]\n: 1\n", "a key is a word"),
        ("select: {modified_since: 2026-13-45}\n", "not valid YAML: month must be in 1..12"),
        ("a: " + "[" * 5000 + "]" * 5000, "nested too deep"),
    ],
)
def test_a_file_that_is_no_config_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    message = refused(path)
    assert str(path) in message and words in message


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes(b"\xff\xfe\x00")
    assert "not valid YAML" in refused(tmp_path / "mine.yaml")


# -- --set ---------------------------------------------------------------------------------


def test_overrides_are_yaml_and_reach_any_depth() -> None:
    pairs = ("limits.max_pages=5", "model.device=cuda", "select.include=['*.pdf']")
    settings = load_settings("local", parse_overrides((*pairs, "outputs.text.prompt=a=b")))
    assert (settings.limits.max_pages, settings.model.device) == (5, "cuda")
    assert settings.select.include == ["*.pdf"]
    assert settings.outputs["text"].prompt == "a=b"


def test_an_override_may_add_an_output_and_passes_options_through() -> None:
    pairs = ("outputs.summary.prompt=Sum it up.", "model.options.max_model_len=4096")
    settings = load_settings("local", parse_overrides(pairs))
    assert list(settings.outputs) == ["text", "caption", "summary"]
    assert settings.model.options == {"max_model_len": 4096}


@pytest.mark.parametrize("pair", ["limits.max_pages", "=5", "", "limits.max_pages:5"])
def test_an_override_without_key_or_value_is_refused(pair: str) -> None:
    with pytest.raises(UsageError, match="write key=value, such as limits"):
        parse_overrides((pair,))


def test_an_override_that_is_no_yaml_is_refused() -> None:
    for pair in ("select.include=[", "select.modified_since=2026-13-45"):
        with pytest.raises(UsageError, match="not valid YAML; quote it"):
            parse_overrides((pair,))


def test_a_mapping_may_be_merged_into_another_and_say_its_own(config: Path) -> None:
    whole = config.read_text(encoding="utf-8")
    config.write_text(f"{whole}\npasswords: {{<<: &a {{x: env:A, y: env:B}}, x: env:C}}\n")
    assert load_settings(config).passwords == {"x": "env:C", "y": "env:B"}


def test_an_override_below_a_value_is_refused() -> None:
    message = refused("local", model__device__index=1)
    assert "--set model.device.index: 'device' is a value, not a group of settings" in message


def test_an_override_with_a_misspelt_key_is_refused() -> None:
    assert "did you mean 'max_pages'?" in refused("local", limits__maxpages=1)


def test_a_relative_model_folder_counts_from_the_config_not_from_the_caller(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    assert load_settings(config).model.id == str(config.parent.parent / "models/pagereader-19m")
    assert load_settings(config, {"model.id": "org/name"}).model.id == "org/name"


@pytest.mark.parametrize("number", [0, -1, "two", None, 1.5])
def test_a_model_is_split_over_a_whole_number_of_gpus(number: object) -> None:
    split = {"model.framework": "vllm", "model.options": {"tensor_parallel_size": number}}
    with pytest.raises(UsageError, match=r"tensor_parallel_size.*is no number of GPUs"):
        load_settings(None, split)
