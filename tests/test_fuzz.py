"""The short form of benchmarks/fuzz.py: damaged files, made here, through the whole job."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import psutil
import pytest
from documents import children
from helpers import echo_settings, run, table

from benchmarks.fuzz import WAYS, made_here, write_damaged

FILES = 120


@pytest.mark.parametrize("seed", [20, 26])
def test_every_damaged_file_has_rows_and_nothing_is_left(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    names = write_damaged(tmp_path / "in", FILES, seed, corpus=None)
    limits = {"limits__seconds_per_page": 3, "limits__max_pages": 3, "select__foreign": "failed"}
    descriptors = psutil.Process().num_fds()
    balance = run(tmp_path / "in", tmp_path / "out", echo_settings(tmp_path, **limits))
    rows = table(tmp_path / "out")
    assert balance.balanced and len(names) == FILES
    assert {row["source_uri"].rsplit("/", 1)[-1] for row in rows} == set(names)
    assert all(row["error_message"] for row in rows if row["status"] in ("failed", "skipped"))
    assert {row["status"] for row in rows} >= {"ok", "failed"}
    assert children() == [] and list(temporary.iterdir()) == []
    assert psutil.Process().num_fds() <= descriptors + 5  # the fork server's, of the first run


def test_equal_seeds_make_equal_files(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        write_damaged(tmp_path / folder, 30, seed=7, corpus=None)
    one, two = (
        {path.name: path.read_bytes() for path in (tmp_path / folder).iterdir()}
        for folder in ("one", "two")
    )
    assert one == two


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_every_way_of_damage_changes_something_and_takes_anything(way: object) -> None:
    assert callable(way)
    choose = random.Random(1)
    for _, data in made_here():
        assert any(way(data, b"other", choose) != data for _ in range(20))
    assert isinstance(way(b"", b"", choose), bytes)
