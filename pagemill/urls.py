"""URLs of sources and outputs: what they begin with, their fsspec file system, no keys in them."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

from pagemill.azure import Azure, split_azure
from pagemill.errors import UsageError
from pagemill.s3 import S3, s3_filesystem, split_s3
from pagemill.s3_errors import scrub
from pagemill.settings import StorageOptions

if TYPE_CHECKING:
    from fsspec.spec import AbstractFileSystem

T = TypeVar("T")

ObjectStore = S3 | Azure
"""Storages whose objects are listed and read by their own clients, not through fsspec."""

_STORES: dict[str, type[ObjectStore]] = {"s3": S3, "az": Azure}
_ALIASES = {"local": "file", "s3a": "s3", "gcs": "gs", "abfs": "az", "abfss": "az"}
_SIGNED = re.compile(
    r"[?&](x-amz-\w+|x-goog-\w+|awsaccesskeyid|signature|sig|access_token|api_key)=", re.IGNORECASE
)


def protocol(url: str) -> str:
    """``file``, ``s3``, ``https`` …: what a URL begins with; a plain path is ``file``."""
    match = re.match(r"([a-zA-Z][a-zA-Z0-9+.-]+)://", url)
    name = match[1].lower() if match else "file"
    return _ALIASES.get(name, name)


def local_path(url: str) -> str:
    """The absolute path of a plain path, ``~/…`` or ``file://…``, taken as it is spelt."""
    path = re.sub(r"^(file|local)://", "", url)
    if not path:  # abspath would say: the working directory
        raise UsageError("a path is empty: name a folder (is a variable unset?)")
    return os.path.abspath(os.path.expanduser(path))


def object_store(url: str, options: StorageOptions) -> ObjectStore | None:
    """The client of a URL's storage, if that is an object store."""
    store = _STORES.get(protocol(url))
    return store(options) if store else None


def split_object(url: str) -> tuple[str, str]:
    """Bucket and key of an object store's URL."""
    return split_azure(url) if protocol(url) == "az" else split_s3(url)


def canonical(url: str) -> str:
    """`url` as the uris of rows spell it: ``file:///…``, ``s3://…``, ``az://…``, ``gs://…``."""
    name = protocol(url)
    if name == "file":
        return f"file://{local_path(url)}"
    if name in _STORES:
        return f"{name}://{'/'.join(split_object(url))}"
    return f"{name}://{url.partition('://')[2]}"


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
        remedy = "pip install 'pagemill[gs]'" if name == "gs" else scrub(str(error))
        raise UsageError(f"{url}: {name}:// needs another package: {remedy}") from None
    except ValueError:
        known = "a path, s3://, gs://, az://, https://"
        raise UsageError(f"{url}: {name}:// is unknown: use {known} or another of fsspec") from None
    return fs, fs._strip_protocol(url)


def _access(name: str, options: StorageOptions) -> dict[str, Any]:
    """Whose keys another storage's client takes; the rest it reads from the environment."""
    if name != "gs":
        return {}
    anonymous = {"token": "anon"} if options.anonymous else {}
    return {"requester_pays": options.requester_pays, **anonymous}


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
