"""Doing things at the same moment, and counting afterwards what is left of them."""

import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from prometheus_client.parser import text_string_to_metric_families

from daemons.contracts.routes import Route
from tests.support.harness import eventually
from tests.support.harness_http import Api

T = TypeVar("T")
AT_ONCE_WITHIN_S = 60.0


def at_once(acts: Sequence[Callable[[], T]]) -> list[T]:
    """Do everything at the same moment, each on a thread of its own; the results in the order of `acts`.

    Raises what one of them raised.
    """
    gate = threading.Barrier(len(acts))

    def run(act: Callable[[], T]) -> T:
        gate.wait(AT_ONCE_WITHIN_S)
        return act()

    with ThreadPoolExecutor(len(acts)) as pool:
        return list(pool.map(run, acts, timeout=AT_ONCE_WITHIN_S))


def figure(api: Api, route: Route, name: str, **labels: str) -> float:
    """Sum of one figure's samples with these labels, as `/metrics` has them now; 0 when there is none."""
    answer = api.call(route)
    assert answer.status_code == 200, answer.text
    return sum(
        sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def open_descriptors(pid: int) -> int:
    """What a process holds open, once that does not change from one look to the next."""
    seen: list[int] = []

    def settled() -> bool:
        seen.append(len(os.listdir(f"/proc/{pid}/fd")))
        return len(seen) > 3 and len(set(seen[-3:])) == 1

    eventually(settled, f"the descriptors of {pid} settle", within_s=10.0, every_s=0.2)
    return seen[-1]


def log_lines(home: Path, name: str) -> Iterator[dict[str, Any]]:
    """The lines of one log of a home (``queen``, ``hive``, or a worker's id), oldest first."""
    for line in (home / "logs" / f"{name}.log").read_text(encoding="utf-8").splitlines():
        yield json.loads(line)
