"""The worker's figures for Prometheus, and its rate of tokens."""

import time
from collections import deque
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_TTFT_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_TOKEN_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 5)

RATE_WINDOW_S = 10.0


class WorkerMetrics:
    """All metrics of one worker in a registry of their own. Times in seconds."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "rbee_worker_requests", "requests by how they ended", ["outcome"], registry=self.registry
        )
        self.generated = Counter("rbee_worker_generated_tokens", "tokens sampled", registry=self.registry)
        self.prompt = Counter("rbee_worker_prompt_tokens", "tokens of prompts", registry=self.registry)
        self.cached = Counter(
            "rbee_worker_cached_prompt_tokens", "tokens of prompts that were not computed again", registry=self.registry
        )
        self.ttft = Histogram(
            "rbee_worker_ttft_seconds", "arrival to first token", buckets=_TTFT_BUCKETS, registry=self.registry
        )
        self.inter_token = Histogram(
            "rbee_worker_inter_token_seconds", "between two tokens", buckets=_TOKEN_BUCKETS, registry=self.registry
        )
        self.slots = Gauge("rbee_worker_slots", "slots by use", ["use"], registry=self.registry)
        self.kv_cells = Gauge("rbee_worker_kv_cells", "cells of the KV cache by use", ["use"], registry=self.registry)
        self.load_seconds = Gauge("rbee_worker_load_seconds", "how long the model took to load", registry=self.registry)


class RateMeter:
    """Tokens per second over the last ten seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counts: deque[tuple[float, int]] = deque()
        self.total = 0

    def add(self, count: int) -> None:
        self.total += count
        self._counts.append((self._clock(), count))
        self._forget()

    @property
    def per_second(self) -> float:
        self._forget()
        if not self._counts:
            return 0.0
        seconds = max(1.0, self._clock() - self._counts[0][0])
        return sum(count for _, count in self._counts) / seconds

    def _forget(self) -> None:
        oldest = self._clock() - RATE_WINDOW_S
        while self._counts and self._counts[0][0] < oldest:
            self._counts.popleft()
