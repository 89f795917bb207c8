"""The README: its tables are made from the code, its commands and lines of Python run.

`python tests/test_readme.py` writes the tables.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import yaml
from helpers import echo_settings, make_pdf, run

from benchmarks.summary import headlines, read_results
from loaders.support import support_table
from pagemill.config import CONFIGS, load_settings
from pagemill.errors import ERRORS, EXIT_CODES
from pagemill.schema import AFTER_OUTPUTS, BEFORE_OUTPUTS, PER_OUTPUT, row_schema
from pagemill.settings import Limits, Settings
from pagemill.status import STATUS_MEANING

PROJECT = Path(__file__).resolve().parents[1]
README = PROJECT / "README.md"


def _markdown(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _columns() -> str:
    schema = row_schema(["text"])
    kinds = {name: str(schema.field(name).type).split("<")[0] for name in schema.names}
    rows = [(f"`{c.name}`", kinds[c.name], c.meaning) for c in BEFORE_OUTPUTS]
    rows += [("`text`, `caption`, …", "string", "one column for each output of the config")]
    rows += [(f"`{c.name}`", kinds[c.name], c.meaning) for c in AFTER_OUTPUTS]
    rows += [(f"`{name}`", kinds[name], meaning) for name, _, meaning in PER_OUTPUT]
    return _markdown(("column", "type", "what it says"), rows)


def _configs() -> str:
    rows = []
    for path in sorted(CONFIGS.glob("*.yaml")):
        words = re.match(r"((?:#.*\n)+)", path.read_text(encoding="utf-8"))
        assert words, f"{path.name} begins with a comment that says what it is for"
        text = " ".join(line.lstrip("# ") for line in words[1].splitlines())
        rows.append((f"`{path.stem}`", re.split(r"(?<=[a-z\d)])[.:] ", text)[0]))
    return _markdown(("config", "for"), rows)


def _limits() -> str:
    rows = []
    for name, field in Limits.model_fields.items():
        default = "none" if field.default is None else f"{field.default:,}".replace(",", "\u2009")
        rows.append((f"`{name}`", default, str(field.description)))
    return _markdown(("`limits.`", "default", "bounds"), rows)


TABLES = {
    "limits": _limits,
    "columns": _columns,
    "statuses": lambda: _markdown(
        ("`status`", "meaning"), [(f"`{s}`", meaning) for s, meaning in STATUS_MEANING.items()]
    ),
    "errors": lambda: _markdown(
        ("`error_kind`", "", "meaning", "remedy"),
        [
            (f"`{k}`", "transient" if f.transient else "permanent", f.meaning, f.remedy)
            for k, f in ERRORS.items()
        ],
    ),
    "exits": lambda: _markdown(
        ("code", "meaning"), [(f"{code}", meaning) for code, meaning in EXIT_CODES.items()]
    ),
    "configs": _configs,
    "support": support_table,
    "measured": lambda: _markdown(("", "measured", "target"), headlines(read_results())),
}


def _with_table(text: str, name: str, table: str) -> str:
    pattern = rf"(<!-- table: {name} -->\n).*?(<!-- /table -->)"
    assert re.search(pattern, text, re.S), name
    return re.sub(pattern, lambda m: f"{m[1]}{table}\n{m[2]}", text, flags=re.S)


@pytest.mark.parametrize("name", TABLES)
def test_the_tables_say_what_the_code_does(name: str) -> None:
    text = README.read_text(encoding="utf-8")
    assert _with_table(text, name, TABLES[name]()) == text, "run: python tests/test_readme.py"


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), re.S)


def test_the_result_is_read_in_one_line_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "in"
    source.mkdir()
    make_pdf(source / "a.pdf", 3)
    run(source, tmp_path / "out/demo", echo_settings(tmp_path))
    recipe = next((tmp_path / "out/demo").glob("recipe=*")).name
    monkeypatch.chdir(tmp_path)
    lines = [line for block in _blocks("python") for line in block.splitlines() if line]
    assert len(lines) == 4
    for line in lines:
        statement, expression = line.replace("recipe=…", recipe).split("; ", 1)
        names: dict[str, object] = {}
        exec(statement, names)
        assert len(eval(expression, names)) == 3, line


def test_the_configs_shown_are_valid(tmp_path: Path) -> None:
    whole, *parts = map(yaml.safe_load, _blocks("yaml"))
    Settings.model_validate(whole)
    for part in parts:
        Settings.model_validate({**whole, **part})


def test_every_command_shown_exists() -> None:
    from flows.cli import main

    shown = set(re.findall(r"`pagemill (\w+)", README.read_text(encoding="utf-8")))
    assert shown == set(main.commands)
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", "\n".join(_blocks("sh")), re.M):
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_every_config_named_exists() -> None:
    for path in CONFIGS.glob("*.yaml"):
        assert load_settings(path.stem).outputs.keys() >= {"text", "caption"}


if __name__ == "__main__":
    text = README.read_text(encoding="utf-8")
    for name, table in TABLES.items():
        text = _with_table(text, name, table())
    README.write_text(text, encoding="utf-8")
    sys.exit(0)
