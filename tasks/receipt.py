"""The receipt of a shard."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Receipt:
    """What a shard did: small, and all that travels back through the orchestrator.

    Attributes
    ----------
    shard : int
    documents, copied : int
        Documents with rows; those of them that are copies of equal ones.
    committed : int
        Documents committed. Fewer than `documents` where another run was faster.
    pages : dict
        Rows by status.
    prompt_tokens, completion_tokens : int
    gpu_seconds, render_seconds : float
    seconds : float
        From beginning to end.
    idle, hungry : float or None
        Shares of the time between the worker's last requests before and in this shard that the
        engine was idle or not full; other shards in flight feed it, too.
    """

    shard: int
    documents: int
    copied: int
    committed: int
    pages: dict[str, int]
    prompt_tokens: int
    completion_tokens: int
    gpu_seconds: float
    render_seconds: float
    seconds: float
    idle: float | None
    hungry: float | None
