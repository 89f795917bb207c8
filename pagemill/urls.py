"""URLs of sources and outputs: what they begin with, their fsspec file system, no keys in them."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

from pagemill.errors import UsageError
from pagemill.s3 import s3_filesystem
from pagemill.s3_errors import scrub
from pagemill.settings import StorageOptions

if TYPE_CHECKING:
    from fsspec.spec import AbstractFileSystem

T = TypeVar("T")

_EXTRAS = {"gs": "gs", "gcs": "gs", "az": "az", "abfs": "az", "abfss": "az"}
"""The extra of this package that a protocol needs."""
_SIGNED = re.compile(
    r"[?&](x-amz-\w+|x-goog-\w+|awsaccesskeyid|signature|sig|access_token|api_key)=", re.IGNORECASE
)


def protocol(url: str) -> str:
    """``file``, ``s3``, ``https`` …: what a URL begins with; a plain path is ``file``."""
    match = re.match(r"([a-zA-Z][a-zA-Z0-9+.-]+)://", url)
    name = match[1].lower() if match else "file"
    return {"local": "file", "s3a": "s3"}.get(name, name)


def local_path(url: str) -> str:
    """The absolute path of a plain path, ``~/…`` or ``file://…``, taken as it is spelt."""
    return os.path.abspath(os.path.expanduser(re.sub(r"^(file|local)://", "", url)))


def filesystem(url: str, options: StorageOptions) -> tuple[AbstractFileSystem, str]:
    """The fsspec file system of a URL, and the path in it.

    Raises
    ------
    UsageError
        Keys in the URL, an unknown protocol, or one that needs another package.
    """
    import fsspec

    name = protocol(url)
    if name not in ("file", "s3") and "::" in url:
        raise UsageError(f"{name}://…: chained URLs (::) are not read: unpack it first")
    refuse_secrets(url, options)
    if name == "file":
        return fsspec.filesystem("file"), local_path(url)
    if name == "s3":
        return s3_filesystem(options), url.split("://", 1)[1]
    try:
        fs = fsspec.filesystem(name, use_listings_cache=False, **_access(name, options))
    except ImportError as error:
        extra = _EXTRAS.get(name)
        remedy = f"pip install 'pagemill[{extra}]'" if extra else scrub(str(error))
        raise UsageError(f"{url}: {name}:// needs another package: {remedy}") from None
    except ValueError:
        known = "a path, s3://, gs://, az://, https://"
        raise UsageError(f"{url}: {name}:// is unknown: use {known} or another of fsspec") from None
    return fs, fs._strip_protocol(url)


def _access(name: str, options: StorageOptions) -> dict[str, Any]:
    """Whose keys another storage's client takes; the rest it reads from the environment."""
    if _EXTRAS.get(name) == "gs":
        anonymous = {"token": "anon"} if options.anonymous else {}
        return {"requester_pays": options.requester_pays, **anonymous}
    if _EXTRAS.get(name) == "az" and options.anonymous:
        return {"anon": True}
    return {}


def within(seconds: float, call: Callable[[], T]) -> T:
    """What `call` returns, if it does in time; a call that hangs is left to itself.

    Raises
    ------
    TimeoutError
        It did not.
    """
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(call())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, name="pagemill-call", daemon=True).start()
    try:
        return done.result(seconds)
    except TimeoutError:
        if done.done():
            raise
        raise TimeoutError(f"no answer in {seconds:.0f} s") from None


def refuse_secrets(url: str, options: StorageOptions) -> None:
    """Raise `UsageError` for a URL with keys in it: they would land in rows and logs."""
    for each in (url, options.endpoint_url or ""):
        name = protocol(each)
        authority = each.partition("://")[2].partition("/")[0]
        user, at, _ = authority.rpartition("@")
        if name == "file" or authority.startswith("arn:"):
            continue
        # A secret may hold a slash, and then the @ is not in the authority: look at the colon.
        password = ":" in user or re.search(r":(?!\d*$)", authority.removeprefix(user + at))
        if password or (at and name == "s3") or (name.startswith("http") and _SIGNED.search(each)):
            raise UsageError(
                f"{name}://***: the URL contains keys, which would land in rows and logs: leave "
                "them out and set AWS_ACCESS_KEY_ID and so on, or storage.profile"
            )
