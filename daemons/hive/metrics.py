"""The hive's figures for Prometheus: counters that are kept, gauges that are read when somebody asks."""

from collections import Counter as Tally
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from daemons.contracts.telemetry import HiveTelemetry
from daemons.contracts.workers import WorkerExit, WorkerState

State = Callable[[], HiveTelemetry | None]


class Metrics:
    """One registry for one hive; `state` gives the newest telemetry."""

    def __init__(self, state: State) -> None:
        self.registry = CollectorRegistry()
        self._spawns = Counter(
            "rbee_hive_spawns", "Workers asked for, by how that went (started, or an error code).", ["outcome"],
            registry=self.registry,
        )  # fmt: skip
        self._exits = Counter(
            "rbee_hive_worker_exits", "Workers that ended, by reason.", ["reason"], registry=self.registry
        )
        self._crashes = Counter(
            "rbee_hive_worker_crashes", "Workers that ended without being asked to, by error code.", ["code"],
            registry=self.registry,
        )  # fmt: skip
        self.registry.register(_Gauges(state))

    def spawned(self, outcome: str) -> None:
        self._spawns.labels(outcome).inc()

    def exited(self, exit_: WorkerExit) -> None:
        self._exits.labels(exit_.reason.value).inc()
        if exit_.error is not None:
            self._crashes.labels(str(exit_.error["code"])).inc()


class _Gauges(Collector):
    def __init__(self, state: State) -> None:
        self._state = state

    def collect(self) -> Iterator[GaugeMetricFamily]:
        state = self._state()
        if state is None:
            return
        yield _workers(state)
        yield from _devices(state)


def _workers(state: HiveTelemetry) -> GaugeMetricFamily:
    family = GaugeMetricFamily("rbee_hive_workers", "Workers by state.", labels=["state"])
    tally = Tally(row.state for row in state.workers)
    for worker_state in WorkerState:
        family.add_metric([worker_state.value], tally[worker_state])
    return family


def _devices(state: HiveTelemetry) -> Iterator[GaugeMetricFamily]:
    labels = ["backend", "device"]
    total = GaugeMetricFamily("rbee_hive_device_memory_total_bytes", "Memory of a device.", labels=labels)
    free = GaugeMetricFamily("rbee_hive_device_memory_free_bytes", "Memory that new work may take.", labels=labels)
    threads = GaugeMetricFamily("rbee_hive_device_threads_free", "Cores not handed out to workers.", labels=labels)
    for device in state.devices:
        key = [device.backend.value, str(device.index)]
        total.add_metric(key, device.memory_total)
        free.add_metric(key, device.memory_free)
        if device.cores:
            threads.add_metric(key, device.threads_free)
    yield from (total, free, threads)
