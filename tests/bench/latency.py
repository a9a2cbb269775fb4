"""Latencies of single requests: a repeated prefix, and a client that leaves."""

import json
import socket
import time
import urllib.request
from urllib.parse import urlsplit

from tests.bench.load import Target, request_bytes

PREFIX_WORDS = 1000


class _Stream:
    """An event stream of one request; what was read beyond a marker is kept for the next one."""

    def __init__(self, target: Target, prompt: str, **body: object) -> None:
        parts = urlsplit(target.url)
        changed = Target(target.url, target.path, target.key, {**target.body, **body}, target.id_field)
        self._seen = b""
        self._connection = socket.create_connection((parts.hostname, parts.port or 80), timeout=120)
        self._connection.sendall(request_bytes(changed, 0, [prompt]))

    def __enter__(self) -> "_Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def until(self, marker: bytes) -> None:
        """Read on until `marker` has come."""
        while marker not in self._seen:
            chunk = self._connection.recv(65536)
            if not chunk:
                raise RuntimeError(f"the stream ended before {marker!r}: {self._seen[-500:]!r}")
            self._seen += chunk
        self._seen = self._seen.partition(marker)[2]


def _first_token_ms(target: Target, prompt: str) -> float:
    started = time.perf_counter()
    with _Stream(target, prompt, cache_prompt=True, max_tokens=1) as stream:
        stream.until(b"event: token")
        first = (time.perf_counter() - started) * 1000
        stream.until(b"event: done")
    return first


def prefix_ttft_ms(target: Target, number: int) -> tuple[float, float]:
    """Milliseconds to the first token of two requests that share their first 1,000 words (at least as many tokens)."""
    shared = f"Chronicle {number}. " + " ".join(f"bee{(number * 31 + word) % 97}" for word in range(PREFIX_WORDS // 2))
    return _first_token_ms(target, shared + " First question?"), _first_token_ms(target, shared + " Another one?")


def _stats(target: Target) -> dict[str, object]:
    request = urllib.request.Request(f"{target.url}/v1/stats", headers={"Authorization": f"Bearer {target.key}"})
    with urllib.request.urlopen(request, timeout=5) as response:
        answer: dict[str, object] = json.load(response)
    return answer


def cancel_to_free_slot_ms(target: Target) -> tuple[float, float]:
    """(ms from closing the connection to the slot being free, ms per token just before)."""
    with _Stream(target, "The bees", max_tokens=900) as stream:
        stream.until(b"event: token")
        started = time.perf_counter()
        for _ in range(10):
            stream.until(b"event: token")
        step_ms = (time.perf_counter() - started) * 100
    closed = time.perf_counter()
    while True:
        stats = _stats(target)
        if stats["slots_available"] == stats["slots_total"]:
            return (time.perf_counter() - closed) * 1000, step_ms
