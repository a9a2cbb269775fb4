"""Many short tasks at a steady rate, and what each of them cost beside its own generation."""

import json
import threading
import time
from dataclasses import dataclass
from typing import Any

import httpx

from daemons.contracts import routes
from tests.support.harness_http import Api

_STRETCHES = 5


@dataclass(frozen=True, slots=True)
class Run:
    """One task as its client saw it (seconds from its request on), its `done` event, and its row."""

    first_token_s: float
    whole_s: float
    done: dict[str, Any]
    row: dict[str, Any]

    @property
    def waited_s(self) -> float:
        """Until a slot was free for it."""
        return float(self.row["started_at"] - self.row["created_at"])

    @property
    def added_ms(self) -> float:
        """The client's time without the wait for a slot and without the worker's own time."""
        return (self.whole_s - self.waited_s) * 1000 - float(self.done["duration_ms"])

    @property
    def added_to_first_ms(self) -> float:
        """The same up to the first token."""
        return (self.first_token_s - self.waited_s) * 1000 - float(self.done["timings"]["ttft_ms"])


@dataclass(frozen=True, slots=True)
class Load:
    """Everything that was asked for, and how long all of it took."""

    runs: list[Run]
    seconds: float

    def added_ms(self, share: float) -> float:
        return _quantile([run.added_ms for run in self.runs], share)

    @property
    def calmest(self) -> "Load":
        """The best of five stretches, by its 99th percentile.

        Whoever else uses this machine only adds to what is measured here, and never for the whole time alike.
        """
        runs = sorted(self.runs, key=lambda run: float(run.row["created_at"]))
        size = len(runs) // _STRETCHES
        stretches = [Load(runs[start : start + size], self.seconds) for start in range(0, size * _STRETCHES, size)]
        return min(stretches, key=lambda stretch: stretch.added_ms(0.99))

    def __str__(self) -> str:
        first = [run.added_to_first_ms for run in self.runs]
        own = [float(run.done["duration_ms"]) for run in self.runs]
        return (
            f"{len(self.runs)} tasks in {self.seconds:.1f} s; the queen added {self.added_ms(0.5):.1f} ms"
            f" (p99 {self.added_ms(0.99):.1f}, in the calmest fifth {self.calmest.added_ms(0.99):.1f}, most"
            f" {self.added_ms(1.0):.1f}) to {_quantile(own, 0.5):.1f} ms of the"
            f" worker's own, and {_quantile(first, 0.5):.1f} ms (p99 {_quantile(first, 0.99):.1f}) to the first token"
        )


def under_load(queen: Api, model: str, count: int, tokens: int, *, connections: int, per_s: float) -> Load:
    """Run `count` tasks, one after the other on each connection, at most `per_s` new ones a second.

    Paced, because what is measured is the queen and not how clients and worker share two cores with it.
    """
    numbers, lock = iter(range(count)), threading.Lock()
    seen: list[tuple[str, float, float, dict[str, Any]]] = []
    began = time.monotonic()

    def work() -> None:
        headers = {"Authorization": f"Bearer {queen.key}"}
        with httpx.Client(base_url=queen.url, headers=headers, timeout=60.0, trust_env=False, verify=False) as client:
            while True:
                with lock:
                    number = next(numbers, None)
                if number is None:
                    return
                time.sleep(max(0.0, began + number / per_s - time.monotonic()))
                body = {"model": model, "prompt": f"Story {number}:", "max_tokens": tokens, "ignore_eos": True}
                result = _run(client, body)
                with lock:
                    seen.append(result)

    threads = [threading.Thread(target=work, name=f"load-{number}") for number in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.monotonic() - began
    assert len(seen) == count, f"{count - len(seen)} of {count} tasks failed"
    rows = {row["id"]: row for row in queen.call(routes.TASK_LIST, query={"limit": 10 * count}).json()["tasks"]}
    return Load([Run(first, whole, done, rows[id]) for id, first, whole, done in seen], seconds)


def _run(client: httpx.Client, body: dict[str, Any]) -> tuple[str, float, float, dict[str, Any]]:
    """(id, seconds to the first token, seconds to the end, data of `done`) of one attached task."""
    sent, first, text = time.monotonic(), 0.0, b""
    with client.stream("POST", routes.TASK_CREATE.path, json=body) as response:
        assert response.status_code == 200, response.read()
        for chunk in response.iter_raw():
            text += chunk
            if not first and b"event: token" in text:
                first = time.monotonic() - sent
        id = response.headers["X-Task-Id"]
    whole = time.monotonic() - sent
    end = text.rpartition(b"event: ")[2]
    assert end.startswith(b"done"), end
    return id, first, whole, json.loads(end.partition(b"data: ")[2])


def _quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
