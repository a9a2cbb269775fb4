"""Latencies of single requests: a repeated prefix, and a client that leaves."""

import json
import socket
import time
import urllib.request
from urllib.parse import urlsplit

from tests.bench.load import Target, request_bytes

PREFIX_WORDS = 1000


def _post(target: Target, prompt: str, **body: object) -> socket.socket:
    """A connection on which the request has been sent."""
    parts = urlsplit(target.url)
    connection = socket.create_connection((parts.hostname, parts.port or 80), timeout=120)
    changed = Target(target.url, target.path, target.key, {**target.body, **body}, target.id_field)
    connection.sendall(request_bytes(changed, 0, [prompt]))
    return connection


def _read_until(connection: socket.socket, marker: bytes) -> None:
    seen = b""
    while marker not in seen:
        chunk = connection.recv(65536)
        if not chunk:
            raise RuntimeError(f"the stream ended before {marker!r}: {seen[-500:]!r}")
        seen += chunk


def _first_token_ms(target: Target, prompt: str) -> float:
    started = time.perf_counter()
    with _post(target, prompt, cache_prompt=True, max_tokens=1) as connection:
        _read_until(connection, b"event: token")
        first = (time.perf_counter() - started) * 1000
        _read_until(connection, b"event: done")
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
    with _post(target, "The bees", max_tokens=900) as connection:
        _read_until(connection, b"event: token")
        started = time.perf_counter()
        for _ in range(10):
            _read_until(connection, b"event: token")
        step_ms = (time.perf_counter() - started) * 100
    closed = time.perf_counter()
    while True:
        stats = _stats(target)
        if stats["slots_available"] == stats["slots_total"]:
            return (time.perf_counter() - closed) * 1000, step_ms
