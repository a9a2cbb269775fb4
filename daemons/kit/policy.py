"""Every time limit and retry of rbee, once. All are settings: section ``[policy]``, variables ``RBEE_POLICY_…``.

Names end in their unit: ``_s`` seconds, ``_ms`` milliseconds, ``_bytes`` bytes.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from daemons.kit.restarts import RestartRule

Seconds = float


@dataclass(frozen=True, slots=True)
class Retry:
    """Tries and the waits between them: ``first_s``, then times ``factor``, at most ``longest_s``, jittered."""

    tries: int
    first_s: Seconds
    factor: float = 2.0
    longest_s: Seconds = 60.0

    def waits(self, jitter: float = 0.5, source: random.Random | None = None) -> Iterator[Seconds]:
        """The ``tries - 1`` waits between the tries, each times a random factor in ``1 ± jitter``."""
        draw = source or random
        wait = self.first_s
        for _ in range(self.tries - 1):
            yield min(wait, self.longest_s) * draw.uniform(1.0 - jitter, 1.0 + jitter)
            wait *= self.factor


class Policy(BaseModel):
    """Time limits, retries and sizes. Field descriptions are what ``rbee config show`` prints."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    http_timeout_s: float = Field(default=5.0, gt=0, description="one try of an HTTP request to a daemon")
    http_tries: int = Field(default=5, ge=1, description="tries of an HTTP request to a daemon")
    http_first_wait_s: float = Field(default=0.2, ge=0, description="wait after the first of them, doubling")
    busy_tries: int = Field(default=3, ge=0, description="retries of the keeper when the queue is full")
    busy_first_wait_s: float = Field(default=1.0, ge=0, description="wait before the first of them, doubling")
    jitter: float = Field(default=0.5, ge=0, lt=1, description="each wait is times 1 ± this")
    daemon_start_s: float = Field(default=30.0, gt=0, description="a daemon answers after its start within")
    worker_http_s: float = Field(default=30.0, gt=0, description="a worker's HTTP is up within")
    load_base_s: float = Field(default=300.0, gt=0, description="a model is loaded within this …")
    load_per_gib_s: float = Field(default=20.0, ge=0, description="… plus this for each GiB of the file")
    inference_stall_s: float = Field(default=60.0, gt=0, description="longest time without a token or prompt progress")
    health_interval_s: float = Field(default=30.0, gt=0, description="between two health checks of a worker")
    health_failures: int = Field(default=3, ge=1, description="failed checks in a row until a worker is unhealthy")
    telemetry_interval_s: float = Field(default=1.0, gt=0, description="between two samples of a node")
    node_stale_s: float = Field(default=3.0, gt=0, description="without a sample a node gets no new work after")
    node_unreachable_s: float = Field(default=10.0, gt=0, description="without a sample a node is unreachable after")
    idle_worker_s: float = Field(default=300.0, ge=-1, description="an idle worker is stopped after; -1 never")
    orphan_grace_s: float = Field(default=300.0, ge=0, description="a worker without its hive ends after")
    drain_s: float = Field(default=30.0, ge=0, description="running requests may go on after a stop is asked for")
    term_s: float = Field(default=5.0, gt=0, description="between SIGTERM and SIGKILL")
    restart_first_s: float = Field(default=1.0, ge=0, description="wait before a restart after a crash, doubling …")
    restart_longest_s: float = Field(default=60.0, ge=0, description="… up to this")
    restart_crashes: int = Field(default=5, ge=1, description="with so many crashes it is not started again …")
    restart_window_s: float = Field(default=600.0, gt=0, description="… when they came within this")
    queue_wait_s: float = Field(default=600.0, gt=0, description="longest time that a task waits to be placed")
    event_keep_s: float = Field(default=600.0, ge=0, description="events of an ended task are kept for")
    event_keep_bytes: int = Field(default=4 * 2**20, ge=4096, description="events kept per task")
    ping_s: float = Field(default=15.0, gt=0, description="a silent event stream sends a comment each")
    max_body_bytes: int = Field(default=8 * 2**20, ge=1024, description="largest request body")
    request_read_s: float = Field(
        default=30.0, gt=0, description="a request's headers arrive within this, then its body"
    )
    bad_requests: int = Field(default=50, ge=1, description="bad requests of one client …")
    bad_requests_window_s: float = Field(default=10.0, gt=0, description="… within this are too many")
    backup_s: float = Field(default=86_400.0, gt=0, description="between two backups of a database that is open")
    history_days: float = Field(default=30.0, gt=0, description="history is kept for")

    @property
    def http_retry(self) -> Retry:
        return Retry(self.http_tries, self.http_first_wait_s)

    @property
    def busy_retry(self) -> Retry:
        return Retry(self.busy_tries + 1, self.busy_first_wait_s)

    @property
    def restart_rule(self) -> RestartRule:
        return RestartRule(self.restart_first_s, self.restart_longest_s, self.restart_crashes, self.restart_window_s)

    def load_limit_s(self, file_bytes: int) -> Seconds:
        """How long a model file of so many bytes may take to load."""
        return self.load_base_s + self.load_per_gib_s * file_bytes / 2**30
