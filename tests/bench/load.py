"""Load generator: opens N event streams at once over plain sockets and prints what came, as one line of JSON.

A process of its own, so that it can be put on another core than the server. It does little per token: it counts events
and looks at the clock; whether the answer is complete is checked by the runner.
"""

import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Target:
    """Where to send requests and how they look. `body` has the prompt under `prompt` and gets a seed per stream."""

    url: str
    path: str
    key: str = ""
    body: dict[str, Any] = field(default_factory=dict)
    id_field: str = ""


@dataclass(frozen=True)
class Result:
    """What one batch of streams took. `ttft_ms` and `events` have one entry per stream."""

    seconds: float
    ttft_ms: list[float]
    events: list[int]
    tail: str


def request_bytes(target: Target, number: int, prompts: list[str]) -> bytes:
    """One HTTP request; every stream has a prompt and a seed of its own."""
    body = {**target.body, "prompt": prompts[number % len(prompts)], "seed": 1000 + number}
    if target.id_field:
        body[target.id_field] = f"bench-{time.monotonic_ns():x}-{number}"
    payload = json.dumps(body).encode()
    parts = urlsplit(target.url)
    head = (
        f"POST {target.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nAccept: text/event-stream\r\nContent-Length: {len(payload)}\r\n"
        f"Authorization: Bearer {target.key or 'none'}\r\n\r\n"
    )
    return head.encode() + payload


async def one_stream(target: Target, number: int, prompts: list[str]) -> tuple[float, int, bytes]:
    """Send one request and read to the end: (ms to the first token, data events, last bytes)."""
    parts = urlsplit(target.url)
    started = time.perf_counter()
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(request_bytes(target, number, prompts))
    first, events, tail = 0.0, 0, b""
    marker = b"event: token" if target.id_field or target.path.startswith("/v2") else b"data: "
    while chunk := await reader.read(65536):
        found = chunk.count(marker)
        if found and not first:
            first = time.perf_counter()
        events += found
        tail = (tail + chunk)[-2000:]
    writer.close()
    return (first - started) * 1000, events, tail


async def measure(target: Target, streams: int, prompts: list[str]) -> Result:
    """`streams` requests at once, from the first byte sent to the last one read."""
    started = time.perf_counter()
    rows = await asyncio.gather(*(one_stream(target, number, prompts) for number in range(streams)))
    seconds = time.perf_counter() - started
    return Result(
        seconds, [row[0] for row in rows], [row[1] for row in rows], rows[0][2].decode("utf-8", errors="replace")
    )


def main() -> None:
    """Read `{"target", "streams", "prompts"}` from stdin, print the result."""
    job = json.load(sys.stdin)
    result = asyncio.run(measure(Target(**job["target"]), job["streams"], job["prompts"]))
    json.dump(asdict(result), sys.stdout)


if __name__ == "__main__":
    main()
