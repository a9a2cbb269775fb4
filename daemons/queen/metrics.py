"""Prometheus figures of the queen. What the state knows is read when asked for, not counted along."""

from collections import Counter as Tally
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from daemons.contracts.errors import Code
from daemons.queen.core.state import State
from daemons.queen.tasks import TaskRecord

_TTFT_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_BETWEEN_TOKENS_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)


class _StateCollector(Collector):
    """Gauges that are read from the state at each scrape."""

    def __init__(self, state: State) -> None:
        self._state = state

    def collect(self) -> Iterator[GaugeMetricFamily]:
        state = self._state
        waiting = GaugeMetricFamily("rbee_queue_depth", "Tasks that wait for a slot")
        waiting.add_metric([], len(state.queue))
        yield waiting
        yield _tallied("rbee_tasks", "Live tasks by state", "state", [t.state.value for t in state.tasks.values()])
        workers = [worker.row.state.value for worker in state.workers.values()]
        yield _tallied("rbee_workers", "Workers by state", "state", workers)
        yield _tallied("rbee_nodes", "Nodes by status", "status", [n.status.value for n in state.nodes.values()])
        yield from self._devices()

    def _devices(self) -> Iterator[GaugeMetricFamily]:
        labels = ["node", "backend", "device"]
        free = GaugeMetricFamily("rbee_device_memory_free_bytes", "Free memory of a device", labels=labels)
        total = GaugeMetricFamily("rbee_device_memory_total_bytes", "Memory of a device", labels=labels)
        for node in self._state.nodes.values():
            for device in node.sample.devices if node.sample else []:
                names = [node.name, device.backend.value, str(device.index)]
                free.add_metric(names, device.memory_free)
                total.add_metric(names, device.memory_total)
        yield free
        yield total


def _tallied(name: str, text: str, label: str, values: list[str]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=[label])
    for value, count in sorted(Tally(values).items()):
        family.add_metric([value], count)
    return family


class Metrics:
    """Counters and histograms, in a registry of their own."""

    def __init__(self, state: State) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_StateCollector(state))
        self._ended = Counter(
            "rbee_tasks_ended", "Ended tasks by state and error code", ["state", "code"], registry=self.registry
        )
        self._refused = Counter(
            "rbee_tasks_refused", "Tasks refused at the door, by error code", ["code"], registry=self.registry
        )
        self._tokens = Counter("rbee_tokens", "Tokens relayed to clients", registry=self.registry)
        self._prompt_tokens = Counter("rbee_prompt_tokens", "Prompt tokens of completed tasks", registry=self.registry)
        self._ttft = Histogram(
            "rbee_time_to_first_token_seconds",
            "From the arrival of a task to its first token",
            buckets=_TTFT_BUCKETS,
            registry=self.registry,
        )
        self._between = Histogram(
            "rbee_inter_token_seconds",
            "Mean time between the tokens of a completed task",
            buckets=_BETWEEN_TOKENS_BUCKETS,
            registry=self.registry,
        )

    def refused(self, code: Code) -> None:
        self._refused.labels(code.value).inc()

    def task_ended(self, record: TaskRecord) -> None:
        """Count a task that has ended; its row is final."""
        if record.starts_worker:
            return
        row = record.row
        self._ended.labels(row.state.value, row.error["code"] if row.error else "").inc()
        self._tokens.inc(row.tokens)
        if record.first_token_at is not None:
            self._ttft.observe(record.first_token_at - record.created)
        if record.done is not None:
            self._prompt_tokens.inc(record.done.usage.prompt_tokens)
            if row.tokens > 1:
                self._between.observe(record.done.timings.generation_ms / 1000 / (row.tokens - 1))
