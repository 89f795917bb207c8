"""An endpoint that speaks OpenAI's chat protocol: where it is, and how patient to be.

endpoint = endpoint_of("Qwen/Qwen2.5-VL-7B-Instruct", {"base_url": "http://gpu-host:8000/v1"})
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import httpx

from loaders.errors import LoadError

KEY_VARIABLE = "OPENAI_API_KEY"


@dataclass(frozen=True)
class Endpoint:
    """Where the model is, and how patient to be.

    Attributes
    ----------
    base_url : str
        Up to and with ``/v1``.
    model : str
        The name that it is served under.
    api_key_env : str
        The environment variable that holds the key, `OPENAI_API_KEY` by default.
    timeout : float
        Seconds for one try of one request, 600 by default: it may wait in the endpoint's queue.
    retries : int
        Further tries of a request, 6 by default: about a minute.
    stream : bool
        Read answers as they are said, so that loops are cut short. On by default.
    """

    base_url: str
    model: str
    api_key_env: str = KEY_VARIABLE
    timeout: float = 600
    retries: int = 6
    stream: bool = True

    def key(self) -> str | None:
        """The key, from the environment.

        Raises
        ------
        LoadError
            A variable was named, and it is not set; or what it holds cannot be sent.
        """
        key = os.environ.get(self.api_key_env, "").strip()  # secrets often end with a newline
        if not key and self.api_key_env != KEY_VARIABLE:
            raise LoadError(f"options.api_key_env: {self.api_key_env} is not set or empty")
        if not (key.isascii() and key.isprintable()):  # the client would show it in its error
            raise LoadError(f"{self.api_key_env} holds characters that no key has: set it anew")
        return key or None


def endpoint_of(model: str, options: Mapping[str, Any]) -> Endpoint:
    """The endpoint that a model's options describe.

    Raises
    ------
    LoadError
        An option is missing, unknown or of the wrong kind.
    """
    known = [field.name for field in fields(Endpoint)]
    for name in options:
        if "key" in name and name not in known:
            raise LoadError(
                f"options.{name}: keys are read from the environment only: set {KEY_VARIABLE}, "
                "or name another variable in options.api_key_env"
            )
        if name not in known:
            raise LoadError(f"options.{name} is unknown to openai; known: {', '.join(known)}")
    url = str(options.get("base_url", "")).rstrip("/")
    parts = _parts(url)
    if parts is None or parts.scheme not in ("http", "https") or not parts.host:
        raise LoadError(
            "options.base_url: give the endpoint's URL, such as http://gpu-host:8000/v1"
        )
    if parts.userinfo:
        raise LoadError(f"options.base_url: no user or password in a URL; set {KEY_VARIABLE}")
    if parts.query or parts.fragment:
        raise LoadError(
            f"options.base_url: nothing may follow ? or # in it; a key belongs in {KEY_VARIABLE}"
        )
    endpoint = Endpoint(**{"model": model, **options, "base_url": url})
    _check_kinds(endpoint)
    return endpoint


def _parts(url: str) -> httpx.URL | None:
    try:
        return httpx.URL(url)
    except httpx.InvalidURL:
        return None


def _check_kinds(endpoint: Endpoint) -> None:
    texts = isinstance(endpoint.model, str) and isinstance(endpoint.api_key_env, str)
    number = isinstance(endpoint.timeout, (int, float)) and endpoint.timeout > 0
    count = isinstance(endpoint.retries, int) and endpoint.retries >= 0
    if not texts or not number or not count or not isinstance(endpoint.stream, bool):
        raise LoadError(
            "options of openai: model and api_key_env are texts, timeout is a number of seconds "
            "above 0, retries a whole number from 0, stream true or false"
        )
