"""Between the event loop and the engine's thread: who has a slot, which events go to whom, what state the worker is in.

The engine hands its events over once per step; they are delivered here, on the loop, to the streams that wait for them.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextvars import Context, copy_context
from dataclasses import dataclass, field

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.workers import WorkerState
from daemons.kit.logs import get_logger
from daemons.worker.engine.backend import Backend
from daemons.worker.engine.engine import Engine
from daemons.worker.engine.request import (
    LAST_EVENTS,
    Embedded,
    EmbedRequest,
    EngineDied,
    Event,
    Failed,
    Finished,
    GenerateRequest,
    Loaded,
    LoadFailed,
    LoadProgress,
    PromptProgress,
    Started,
    Token,
)
from daemons.worker.metrics import RateMeter, WorkerMetrics
from daemons.worker.requests import RequestReader

RequestEvent = Started | PromptProgress | Token | Finished | Embedded | Failed

REMEMBERED_IDS = 4096
"""Ended requests that a late DELETE still finds."""

BUSY_RETRY_S = 1.0


@dataclass(slots=True, eq=False)
class Ticket:
    """One request that has a slot, as its handler sees it: the events that came and were not yet taken."""

    id: str
    context: Context = field(default_factory=copy_context)
    """What the handler has bound for log lines: its request id."""

    waiting: list[RequestEvent] = field(default_factory=list)
    last_token_at: float = 0.0
    _wake: "asyncio.Future[None] | None" = None

    async def take(self) -> list[RequestEvent]:
        """All events since the last call, at least one. Only one task may wait."""
        if not self.waiting:
            self._wake = asyncio.get_running_loop().create_future()
            try:
                await self._wake
            finally:
                self._wake = None
        events, self.waiting = self.waiting, []
        return events

    def feed(self, event: RequestEvent) -> None:
        self.waiting.append(event)
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)


class Bridge:
    """The event loop's side of one engine. Create and use it on the loop only."""

    def __init__(self, backend: Backend, *, slots: int, batch: int, metrics: WorkerMetrics | None = None) -> None:
        self.backend = backend
        self.slots = slots
        self.metrics = metrics or WorkerMetrics()
        self.rate = RateMeter()
        self.progress = 0.0
        self.load_ms = 0.0
        self.failure: RbeeError | None = None
        self.last_active_at = time.time()
        self.requests_total = 0
        self.on_end: Callable[[], None] = lambda: None
        self._loop = asyncio.get_running_loop()
        self._engine = Engine(backend, slots=slots, batch=batch, sink=self._hand_over)
        self._reader: RequestReader | None = None
        self._draining = False
        self._tickets: dict[str, Ticket] = {}
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._changed = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    # -- state ---------------------------------------------------------------------------------------------------

    @property
    def state(self) -> WorkerState:
        if self.failure is not None:
            return WorkerState.FAILED
        if self._draining:
            return WorkerState.DRAINING
        if self._reader is None:
            return WorkerState.LOADING
        return WorkerState.BUSY if self._tickets else WorkerState.IDLE

    @property
    def slots_busy(self) -> int:
        return len(self._tickets)

    @property
    def loaded(self) -> bool:
        return self._reader is not None and self.failure is None

    def reader(self) -> RequestReader:
        """Raises RbeeError: MODEL_LOADING, DRAINING, ENGINE_FAILED or the reason why loading failed."""
        if self.failure is not None:
            raise self.failure
        if self._reader is None:
            raise RbeeError(
                Code.MODEL_LOADING,
                f"the model is being loaded: {self.progress:.0%}",
                details={"progress": self.progress, "retry_after_s": BUSY_RETRY_S},
            )
        return self._reader

    @property
    def kv_used(self) -> int:
        return self._engine.kv_used

    async def states(self) -> AsyncIterator[WorkerState]:
        """The state now, and again after each change of it or of the load progress."""
        while True:
            changed = self._changed
            yield self.state
            await changed.wait()

    def _announce(self) -> None:
        """Wake everybody who follows `states`."""
        self._changed.set()
        self._changed = asyncio.Event()

    # -- life ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._engine.start()

    def begin_drain(self) -> None:
        """Refuse new requests from now on."""
        self._draining = True
        self._announce()

    async def until_idle(self) -> None:
        await self._idle.wait()

    async def stop(self, patience_s: float) -> bool:
        """End the engine; open requests fail with DRAINING. False when the thread did not end in time."""
        self._draining = True
        self._engine.stop()
        ended = await asyncio.to_thread(self._engine.join, patience_s)
        self._fail_rest(Code.DRAINING, "the worker is stopping")
        return ended

    # -- requests ------------------------------------------------------------------------------------------------

    def submit(self, request: GenerateRequest | EmbedRequest) -> Ticket:
        """Take a slot. Raises RbeeError: ALL_SLOTS_BUSY, DRAINING, MODEL_LOADING, INVALID_REQUEST (id in use)."""
        if self._draining:
            raise RbeeError(Code.DRAINING, "the worker is stopping and takes no new work")
        self.reader()
        if request.id in self._tickets:
            raise RbeeError(Code.INVALID_REQUEST, f"a request with the id {request.id!r} is running")
        if len(self._tickets) >= self.slots:
            raise RbeeError(
                Code.ALL_SLOTS_BUSY,
                f"{len(self._tickets)} of {self.slots} slots are busy",
                details={
                    "slots_total": self.slots,
                    "slots_busy": len(self._tickets),
                    "retry_after_s": BUSY_RETRY_S,
                },
            )
        ticket = self._tickets[request.id] = Ticket(request.id)
        self.requests_total += 1
        self.last_active_at = time.time()
        self._idle.clear()
        self._engine.submit(request)
        if len(self._tickets) == 1:
            self._announce()
        return ticket

    def cancel(self, id: str) -> bool:
        """Ask for the end of a request; False for an id that was never seen here."""
        if id in self._tickets:
            self._engine.cancel(id)
            return True
        return id in self._ended

    # -- events --------------------------------------------------------------------------------------------------

    def _hand_over(self, events: list[Event]) -> None:
        """Called by the engine's thread."""
        try:
            self._loop.call_soon_threadsafe(self._deliver, events)
        except RuntimeError:
            pass  # the loop is closed: nobody is left to be told

    def _deliver(self, events: list[Event]) -> None:
        now = time.monotonic()
        tokens = 0
        for event in events:
            match event:
                case Token():
                    tokens += 1
                    self._deliver_token(event, now)
                case Started() | PromptProgress() | Finished() | Embedded() | Failed():
                    self._deliver_to_ticket(event)
                case _:
                    self._deliver_to_worker(event)
        if tokens:
            self.rate.add(tokens)
            self.metrics.generated.inc(tokens)
            self.last_active_at = time.time()

    def _deliver_token(self, event: Token, now: float) -> None:
        ticket = self._tickets.get(event.id)
        if ticket is None:
            return
        if ticket.last_token_at:
            self.metrics.inter_token.observe(now - ticket.last_token_at)
        ticket.last_token_at = now
        ticket.feed(event)

    def _deliver_to_ticket(self, event: Started | PromptProgress | Finished | Embedded | Failed) -> None:
        ticket = self._tickets.get(event.id)
        if ticket is None:
            return
        if isinstance(event, LAST_EVENTS):
            self._close(event)
        ticket.feed(event)

    def _fail_rest(self, code: Code, message: str) -> None:
        """Answer those that the engine did not: what came to its mailbox after its end is read by nobody."""
        for id in list(self._tickets):
            self._deliver_to_ticket(Failed(id, code, message))

    def _close(self, event: Finished | Embedded | Failed) -> None:
        """The request has ended: its slot is free."""
        ticket = self._tickets.pop(event.id)
        self._ended[event.id] = None
        while len(self._ended) > REMEMBERED_IDS:
            self._ended.popitem(last=False)
        self.last_active_at = time.time()
        ticket.context.run(_log_end, event)
        if isinstance(event, Finished):
            self.metrics.requests.labels(event.reason.value).inc()
            self.metrics.prompt.inc(event.usage.prompt_tokens)
            self.metrics.cached.inc(event.usage.cached_tokens)
            if event.usage.completion_tokens:
                self.metrics.ttft.observe(event.timings.ttft_ms / 1000)
        else:
            self.metrics.requests.labels(event.code.value if isinstance(event, Failed) else "embedded").inc()
        if not self._tickets:
            self._idle.set()
            self._announce()

    def _deliver_to_worker(self, event: LoadProgress | Loaded | LoadFailed | EngineDied) -> None:
        match event:
            case LoadProgress():
                self.progress = event.fraction
            case Loaded():
                self.progress, self.load_ms = 1.0, event.load_ms
                self.metrics.load_seconds.set(event.load_ms / 1000)
                self._reader = RequestReader(self.backend, self.backend.info)
            case LoadFailed(code=Code.CANCELLED):
                return  # it was stopped with the worker
            case LoadFailed():
                self.failure = RbeeError(event.code, event.message, details=event.details)
            case EngineDied():
                self.failure = RbeeError(Code.ENGINE_FAILED, f"the engine failed: {event.message}")
                self._fail_rest(self.failure.code, self.failure.message)
        self._announce()
        if self.failure is not None:
            self.on_end()


def _log_end(event: Finished | Embedded | Failed) -> None:
    """Also of a request whose reader has gone: when its slot was free again is what one asks the log then."""
    if isinstance(event, Failed):
        tokens = event.usage.completion_tokens if event.usage else 0
        get_logger().warning(event.message, id=event.id, code=event.code.value, tokens=tokens)
    elif isinstance(event, Finished):
        get_logger().info(
            "generated",
            id=event.id,
            reason=event.reason.value,
            prompt_tokens=event.usage.prompt_tokens,
            cached_tokens=event.usage.cached_tokens,
            tokens=event.usage.completion_tokens,
            ttft_ms=round(event.timings.ttft_ms, 1),
            tokens_per_second=round(event.timings.tokens_per_second, 1),
        )
