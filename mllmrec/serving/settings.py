"""What the service allows, and how it forms batches."""

from __future__ import annotations

from dataclasses import dataclass

TOKEN = "MLLMREC_SERVE_TOKEN"  # the environment variable that holds the token


@dataclass(frozen=True)
class Limits:
    """What one request may ask for, and how long it may take. A request beyond a limit is refused with its status."""

    max_body_kb: int = 256  # 413
    max_history: int = 1000  # item ids; 422
    max_candidates: int = 1000  # item ids; 422
    max_k: int = 1000  # items in an answer; 422
    timeout_seconds: float = 30.0  # 504


@dataclass(frozen=True)
class Batching:
    """How requests wait, and which of them are ranked together."""

    max_batch: int = 16  # requests ranked together
    max_wait_ms: float = 5.0  # how long the first request of a batch waits for others
    queue: int = 128  # requests that may wait; 429 for more
    kept: int = 1000  # rankings kept for requests that ask the same again; 0 for none
