"""Names that somebody else chose: whole in the rows, harmless wherever a person looks."""

from __future__ import annotations

import json
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from helpers import echo_settings, make_pdf, run, table, write_config

from pagemill.printable import printable

HOSTILE = {
    "a newline": "in\nvoice: 100 documents, all read.pdf",
    "a carriage return": "a\rb.pdf",
    "an escape that clears the terminal": "\x1b[2J\x1b[1;1H\x1b]0;owned\x07.pdf",
    "a bidi override": "invoice\u202efdp.exe.pdf",
    "invisible characters": "in\u200bvo\u2066ice.pdf",
    "a tab and a backspace": "a\t\b\b\bz.pdf",
    "markup": "<img src=x onerror=alert(1)>[x](javascript:y)`|.pdf",
    "a glob": "*[a]?{b}.pdf",
    "a query": "a?b#c%20d%2F..%2Fe.pdf",
    "an option": "--set model.id=x.pdf",
    "a shell": "$(touch x);`id`&& a.pdf",
    "255 bytes": "ü" * 125 + "a.pdf",
    "spaces at both ends": "  a  .pdf  ",
    "a composed and a decomposed letter": unicodedata.normalize("NFD", "é.pdf"),
    "quotes": "a'b\"c\\d.pdf",
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for number, name in enumerate(HOSTILE.values()):
        make_pdf(folder / "x.tmp", words=f"{number}").rename(folder / name)
    deep = folder.joinpath(*["d" * 200] * 5)  # over a thousand bytes
    deep.mkdir(parents=True)
    make_pdf(deep / "deep.pdf")
    (folder / "\x1b[31mbroken\n.pdf").write_bytes(b"%PDF-1.4 \x1b[31m \x07 broken")
    return folder


def test_every_name_is_whole_in_its_row(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    how = echo_settings(tmp_path)
    run(source, out, how)
    rows = table(out)
    found = {row["source_uri"].removeprefix(f"file://{source}/") for row in rows}
    assert set(HOSTILE.values()) <= found
    assert len(found) == len(HOSTILE) + 2 and any(len(uri) > 1000 for uri in found)
    assert sum(row["status"] == "ok" for row in rows) == len(HOSTILE) + 1
    run(source, out, how)
    assert len(table(out)) == len(rows)  # and found again under the same name


def test_nothing_outside_the_output_is_written(source: Path, tmp_path: Path) -> None:
    before = {path for path in tmp_path.rglob("*") if "out" not in path.parts}
    run(source, tmp_path / "out", echo_settings(tmp_path))
    after = {
        path for path in tmp_path.rglob("*") if (tmp_path / "out") not in [path, *path.parents]
    }
    assert {path.name for path in after - before} <= {"echo.yaml"}


@pytest.mark.parametrize(
    "arguments",
    [["plan", "SOURCE", "OUT"], ["status", "OUT"], ["show", "OUT"], ["check", "OUT"]],
    ids=lambda arguments: arguments[0],
)
def test_what_is_printed_is_harmless(arguments: list[str], source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "out", echo_settings(tmp_path))
    places = {"SOURCE": str(source), "OUT": str(tmp_path / "out")}
    words = [places.get(word, word) for word in arguments]
    config = ["-c", str(write_config(tmp_path))] if arguments[0] == "plan" else []
    command = [sys.executable, "-c", "from flows.cli import main; main()", *words, *config]
    done = subprocess.run(command, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    printed = (done.stdout + done.stderr).decode()
    assert printed.strip() and harmless(printed)


def harmless(text: str) -> bool:
    return all(c == "\n" or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co") for c in text)


def test_json_is_json_whatever_the_names(source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "out", echo_settings(tmp_path))
    words = ["show", str(tmp_path / "out"), "--json"]
    command = [sys.executable, "-c", "from flows.cli import main; main()", *words]
    done = subprocess.run(command, capture_output=True, timeout=300, check=True)
    shown = json.loads(done.stdout)
    assert len(shown) > 1


def test_what_a_document_says_of_itself_is_harmless_in_its_row(
    source: Path, tmp_path: Path
) -> None:
    run(source, tmp_path / "out", echo_settings(tmp_path))
    (row,) = [row for row in table(tmp_path / "out") if row["status"] == "failed"]
    assert harmless(row["error_message"]) and "\n" not in row["error_message"]


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_name_is_one_line_without_tricks(name: str) -> None:
    assert "\n" not in printable(name) and harmless(printable(name))
