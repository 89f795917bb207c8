"""Passwords: they open what they should, and are seen by nobody."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pikepdf
import psutil
import pytest
from documents import PDFIUM, drawn, pdf, settings, unlinked
from helpers import echo_settings, run, table
from pydantic import ValidationError

from pagemill.document import Failure, PageImage
from pagemill.errors import ErrorKind, UsageError
from tasks.drawers import security_handler
from tasks.job import open_job
from tasks.passwords import Passwords, password_mark
from tasks.render import render

SECRET = "Grüße von der Mühle"
ANY = {"*": "env:MILL_PASSWORD"}


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILL_PASSWORD", SECRET)


def locked(user: str = SECRET, owner: str = "owner", revision: int = 6, text: str = "in") -> bytes:
    out = io.BytesIO()
    with pikepdf.open(io.BytesIO(pdf(text, text))) as document:
        more: dict[str, Any] = {"aes": False, "metadata": False} if revision < 4 else {}
        encryption = pikepdf.Encryption(owner=owner, user=user, R=revision, **more)  # type: ignore[arg-type]
        document.save(out, encryption=encryption)
    return out.getvalue()


@pytest.mark.parametrize("revision", [3, 4, 6])
@pytest.mark.parametrize("right", ["user", "owner"])
def test_the_users_and_the_owners_password_open(revision: int, right: str) -> None:
    data = locked(user="user", owner="owner", revision=revision)
    opened, *pages = drawn(data, passwords=["wrong", right])
    assert opened.page_count == 2 and [page.layer for page in pages] == ["in", "in"]


def test_a_password_beyond_ascii_opens() -> None:
    assert drawn(locked(), passwords=[SECRET])[1].layer == "in"


def test_wrong_passwords_are_an_error_that_counts_them_and_names_none() -> None:
    (failure,) = drawn(locked(), passwords=["wrong one", "wrong two"])
    assert failure.kind is ErrorKind.ENCRYPTED
    assert "none of the 2" in failure.message and "wrong" not in failure.message


def test_a_document_that_needs_none_is_not_shown_any() -> None:
    assert drawn(pdf("open"), passwords=[SECRET])[1].layer == "open"


def test_poppler_is_not_asked_about_a_page_that_took_a_password() -> None:
    blank = locked(text="")
    with unlinked(blank) as file, closing(render(file, settings(), passwords=[SECRET])) as items:
        next(items)
        seen: set[str] = set()
        for page in items:
            assert isinstance(page, PageImage) and page.blank
            seen |= {word for p in psutil.process_iter() for word in words_of(p)}
    assert not any(SECRET in word for word in seen)


def words_of(process: psutil.Process) -> Iterator[str]:
    with suppress(psutil.Error):
        yield from process.cmdline()


def test_poppler_alone_says_that_it_needs_one() -> None:
    how = settings(render={"renderer": "poppler"})
    (failure,) = drawn(locked(), how, passwords=[SECRET])
    assert failure.kind is ErrorKind.ENCRYPTED


def test_a_handler_that_is_not_supported_is_named() -> None:
    data = locked(revision=3).replace(b"/Filter /Standard", b"/Filter /Mill.PKI")
    assert b"/Mill.PKI" in data
    (failure,) = drawn(data, PDFIUM)
    assert isinstance(failure, Failure) and failure.kind is ErrorKind.ENCRYPTED
    assert "Mill.PKI" in failure.message
    with unlinked(data) as file:
        file.flush()
        assert security_handler(file.fileno()) == "Mill.PKI"


# --- where they come from ------------------------------------------------------------------------


def test_globs_say_which_passwords_a_document_gets(tmp_path: Path) -> None:
    several = tmp_path / "passwords"
    several.write_text("one\ntwo\n\n")
    passwords = Passwords(
        settings(passwords={"*/contracts/*": f"file:{several}", "s3://*": "env:MILL_PASSWORD"})
    )
    assert passwords.of("s3://bucket/contracts/a.pdf") == ["one", "two", SECRET]
    assert passwords.of("s3://bucket/a.pdf") == [SECRET]
    assert passwords.of("file:///in/a.pdf") == []
    assert SECRET not in repr(passwords)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("env:NO_SUCH_VARIABLE", "NO_SUCH_VARIABLE is not set"),
        ("file:/no/such/file", "/no/such/file cannot be read"),
        ("file:/dev/null", "is empty"),
    ],
)
def test_a_password_that_cannot_be_had_is_a_usage_error(place: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Passwords(settings(passwords={"*": place}))


def test_a_password_itself_is_no_setting() -> None:
    with pytest.raises(ValidationError):
        settings(passwords={"*": "geheim"})


def test_other_places_make_another_mark_which_tells_nothing() -> None:
    marks = [password_mark(settings(passwords=p)) for p in ({}, ANY, {"*.pdf": "env:OTHER"})]
    assert marks[0] == "none" and len(set(marks)) == 3
    assert len(marks[1]) == 8 and SECRET not in marks[1]


# --- the whole job -------------------------------------------------------------------------------


def test_a_locked_document_is_read_once_its_password_is_known(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    (folder / "a.pdf").write_bytes(locked())
    run(folder, out, echo_settings(tmp_path))
    (row,) = table(out)
    assert (row["error_kind"], row["decided_by"]) == ("encrypted", "password=none")
    run(folder, out, echo_settings(tmp_path, passwords=ANY))
    assert [row["status"] for row in table(out)] == ["ok", "ok"]


def test_no_password_is_in_the_job_the_rows_or_any_file(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    (folder / "a.pdf").write_bytes(locked())
    (folder / "b.pdf").write_bytes(locked(user="another", owner="yet another"))
    how = echo_settings(tmp_path, passwords=ANY)
    balance = run(folder, out, how)
    rows: list[dict[str, Any]] = table(out)
    assert {row["status"] for row in rows} == {"ok", "failed"}
    assert SECRET not in repr((rows, balance, open_job(str(folder), str(out), how)))
    assert SECRET not in json.dumps(how.model_dump(mode="json"), ensure_ascii=False)
    files = [path for path in out.rglob("*") if path.is_file()]
    assert files and not any(SECRET.encode() in path.read_bytes() for path in files)


def test_passwords_are_no_part_of_the_recipe(tmp_path: Path) -> None:
    one, two = (echo_settings(tmp_path, **more) for more in ({}, {"passwords": ANY}))
    assert open_job("in", "out", one).recipe == open_job("in", "out", two).recipe


@pytest.mark.parametrize("runs", [1, 2])
def test_a_copy_with_a_password_is_read_beside_one_without(tmp_path: Path, runs: int) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    (folder / "known").mkdir(parents=True)
    how = echo_settings(tmp_path, passwords={"*/known/*": "env:MILL_PASSWORD"})
    data = locked()
    (folder / "a.pdf").write_bytes(data)
    if runs == 2:
        run(folder, out, how)
    (folder / "known" / "a.pdf").write_bytes(data)
    run(folder, out, how)
    found = {(row["source_uri"].split("/in/")[1], row["status"]) for row in table(out)}
    assert found == {("a.pdf", "failed"), ("known/a.pdf", "ok")}
