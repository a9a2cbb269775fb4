"""Load generator: opens N event streams at once and prints what came, as one line of JSON.

Over plain sockets, or, through a queen, with the keeper's own client. A process of its own, so that it can be put on
another core than the server. It does little per token: it counts events and looks at the clock; whether the answer is
complete is checked by the runner.
"""

import asyncio
import json
import os
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Target:
    """Where to send requests and how they look. `body` has the prompt under `prompt` and gets a seed per stream.

    With a `home` the keeper asks the queen of that state folder; `path`, `key` and `id_field` are of no use then.
    """

    url: str
    path: str
    key: str = ""
    body: dict[str, Any] = field(default_factory=dict)
    id_field: str = ""
    home: str = ""


@dataclass(frozen=True)
class Result:
    """What one batch of streams took. `ttft_ms` and `events` have one entry per stream."""

    seconds: float
    ttft_ms: list[float]
    events: list[int]
    tail: str


def body_of(target: Target, number: int, prompts: list[str]) -> dict[str, Any]:
    """Every stream has a prompt and a seed of its own."""
    return {**target.body, "prompt": prompts[number % len(prompts)], "seed": 1000 + number}


def request_bytes(target: Target, number: int, prompts: list[str]) -> bytes:
    """One HTTP request."""
    body = body_of(target, number, prompts)
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


async def measure_keeper(target: Target, streams: int, prompts: list[str]) -> Result:
    """As `measure`, with the use case behind `rbee infer`; times are the keeper's own, once it is connected."""
    # Only here: the process that uses sockets alone is to stay small.
    from daemons.contracts.events import Token
    from rbee_tui.keeper.infer import AnswerEvent, build_request, run_task
    from rbee_tui.keeper.installation import open_installation
    from rbee_tui.keeper.session import connect

    installation = open_installation(environ={**os.environ, "RBEE_HOME": target.home})
    counts = [0] * streams
    bodies = [body_of(target, number, prompts) for number in range(streams)]

    async with await connect(installation, lambda _narration: None) as session:

        async def ask(number: int) -> float:
            def count(event: AnswerEvent) -> None:
                counts[number] += isinstance(event, Token)

            fields = {name: value for name, value in bodies[number].items() if name != "model"}
            request = build_request(bodies[number]["model"], fields)
            return (await run_task(session, request, count, partials=Path(target.home))).ttft_ms

        started = time.perf_counter()
        firsts = await asyncio.gather(*(ask(number) for number in range(streams)))
        seconds = time.perf_counter() - started
    return Result(seconds, list(firsts), counts, "")


def main() -> None:
    """Read `{"target", "streams", "prompts"}` from stdin, print the result."""
    job = json.load(sys.stdin)
    target = Target(**job["target"])
    how = measure_keeper if target.home else measure
    result = asyncio.run(how(target, job["streams"], job["prompts"]))
    json.dump(asdict(result), sys.stdout)


if __name__ == "__main__":
    main()
