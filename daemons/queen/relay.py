"""One generation on one worker, relayed into the task's events as it comes.

The hot path: of a token nothing is decoded, nothing is awaited but the next one.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass

from pydantic import ValidationError

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.events import Done, EventType
from daemons.contracts.inference import Generation, InferenceRequest
from daemons.contracts.routes import WORKER_CANCEL, WORKER_INFER
from daemons.kit.client import REQUEST_ID_HEADER, DaemonClient, Event
from daemons.kit.deadline import deadline_header
from daemons.queen.core.events import RelayEnd
from daemons.queen.task_events import TaskEvents

_TOKEN = EventType.TOKEN.value
_REFUSALS = frozenset({Code.ALL_SLOTS_BUSY, Code.DRAINING, Code.MODEL_LOADING})
_LOSSES = frozenset(
    {
        Code.UPSTREAM_LOST,
        Code.WORKER_CRASHED,
        Code.HIVE_BAD_RESPONSE,
        # Another worker has the address now, and knows neither our key nor the request.
        Code.INVALID_API_KEY,
        Code.ROUTE_NOT_FOUND,
    }
)
_TAIL_S = 0.25
"""How long the connection may stay open after the end event; one that is read to its end is used again."""

_CANCEL_S = 1.0


@dataclass(frozen=True, slots=True)
class RelayJob:
    """What is sent to the worker. `deadline` is unix seconds. `worker_id` is for sentences."""

    task_id: str
    worker_id: str
    request: Generation
    max_tokens: int
    request_id: str
    deadline: float | None
    stall_s: float

    def body(self) -> InferenceRequest:
        """The generation without what only the queen needs to know; it was validated when the task came in."""
        fields = {name: getattr(self.request, name) for name in Generation.model_fields}
        return InferenceRequest.model_construct(id=self.task_id, **fields)

    def headers(self) -> dict[str, str]:
        request_id = {REQUEST_ID_HEADER: self.request_id} if self.request_id else {}
        return {**request_id, **deadline_header(self.deadline)}


@dataclass(frozen=True, slots=True)
class RelayOutcome:
    """How a relay ended: the worker's own end event (`done`), or why there is none."""

    how: RelayEnd
    tokens: int
    done: Done | None = None
    raw_done: str = ""
    error: RbeeError | None = None


class Relay:
    """Runs once. `stop` may be called at any time; the outcome is then STOPPED, unless the worker was faster."""

    def __init__(
        self,
        job: RelayJob,
        events: TaskEvents,
        on_first_token: Callable[[], None] = lambda: None,
    ) -> None:
        self._job = job
        self._events = events
        self._on_first_token = on_first_token
        self._tokens = 0
        self._last_sign_at = 0.0
        self._end: Event | None = None
        self._why: RbeeError | None = None
        self._scope: asyncio.Timeout | None = None
        self._watch: asyncio.TimerHandle | None = None

    def stop(self, why: RbeeError) -> None:
        """Cancel the generation."""
        if self._why is None and self._end is None:
            self._why = why
            self._limit(0.0)

    async def run(self, client: DaemonClient) -> RelayOutcome:
        """Relay up to the end. Never raises, but for its own cancellation."""
        loop = asyncio.get_running_loop()
        self._last_sign_at = loop.time()
        self._watch = loop.call_later(self._job.stall_s, self._look_for_stall)
        failure: RbeeError | None = None
        try:
            async with asyncio.timeout(None) as self._scope:
                if self._why is None:
                    await self._read(client)
        except TimeoutError:
            pass  # stopped or stalled, or the connection stayed open after the end
        except RbeeError as error:
            failure = error
        finally:
            self._scope = None
            self._watch.cancel()
        if self._end is None and (self._why is not None or _is_stall(failure)):
            await self._cancel_on_worker(client)
        return self._outcome(failure)

    async def _read(self, client: DaemonClient) -> None:
        job = self._job
        opening = client.stream(WORKER_INFER, body=job.body(), headers=job.headers(), silence_s=job.stall_s, tries=1)
        async with opening as events:
            await self._pass_on(events)

    async def _pass_on(self, events: AsyncIterator[Event]) -> None:
        now = asyncio.get_running_loop().time
        add = self._events.add
        async for event in events:
            if event.type == _TOKEN:
                if not self._tokens:
                    self._on_first_token()
                self._tokens += 1
                self._last_sign_at = now()
                add(_TOKEN, event.raw)
            elif event.type == EventType.PROGRESS:
                self._last_sign_at = now()
                add(EventType.PROGRESS, event.raw)
            elif event.is_last:
                self._end = event
                self._limit(_TAIL_S)
        if self._end is None:
            raise RbeeError(Code.UPSTREAM_LOST, "the stream closed without its end event")

    def _limit(self, seconds: float) -> None:
        """Read on for at most so long; nothing is left to be limited once the stream is over, or about to be."""
        if self._scope is not None and not self._scope.expired():
            self._scope.reschedule(asyncio.get_running_loop().time() + seconds)

    def _look_for_stall(self) -> None:
        """One timer that looks back costs nothing per token, unlike one that is moved by each."""
        loop = asyncio.get_running_loop()
        left = self._last_sign_at + self._job.stall_s - loop.time()
        if left > 0:
            self._watch = loop.call_later(left, self._look_for_stall)
        else:
            self.stop(self._stalled())

    async def _cancel_on_worker(self, client: DaemonClient) -> None:
        """Closing the connection cancels, too; asking says it without delay and waits until it is known there."""
        try:
            await client.call(WORKER_CANCEL, path={"id": self._job.task_id}, tries=1, timeout_s=_CANCEL_S)
        except RbeeError:
            pass  # it is gone, or has ended by itself

    def _outcome(self, failure: RbeeError | None) -> RelayOutcome:
        if self._end is not None:
            return self._outcome_of_end(self._end)
        if self._why is not None:
            how = RelayEnd.FAILED if self._why.code is Code.INFERENCE_STALLED else RelayEnd.STOPPED
            return RelayOutcome(how, self._tokens, error=self._why)
        assert failure is not None
        if _is_stall(failure):
            return RelayOutcome(RelayEnd.FAILED, self._tokens, error=self._stalled())
        return self._classified(failure)

    def _outcome_of_end(self, end: Event) -> RelayOutcome:
        try:
            if end.type == EventType.ERROR:
                return self._classified(RbeeError.from_dict(end.data))
            done = Done.model_validate_json(end.raw)
        except (ValueError, ValidationError) as error:
            return self._lost(f"its end event cannot be read: {error}")
        return RelayOutcome(RelayEnd.DONE, self._tokens, done=done, raw_done=end.raw)

    def _classified(self, failure: RbeeError) -> RelayOutcome:
        if failure.code in _REFUSALS and not self._tokens:
            return RelayOutcome(RelayEnd.REFUSED, 0, error=failure)
        if failure.code in _LOSSES:
            return self._lost(failure.message)
        return RelayOutcome(RelayEnd.FAILED, self._tokens, error=failure)

    def _lost(self, cause: str) -> RelayOutcome:
        return RelayOutcome(
            RelayEnd.LOST, self._tokens, error=self._with_progress(Code.WORKER_CRASHED, "was lost", cause)
        )

    def _stalled(self) -> RbeeError:
        cause = f"no token and no prompt progress for {self._job.stall_s:g} s"
        return self._with_progress(Code.INFERENCE_STALLED, "stalled", cause)

    def _with_progress(self, code: Code, what: str, cause: str) -> RbeeError:
        done, asked = self._events.tokens if self._tokens else 0, self._job.max_tokens
        worker = self._job.worker_id
        return unfinished(code, f"worker {worker} {what}", done, asked, cause, {"worker": worker, "cause": cause})


def unfinished(code: Code, what: str, done: int, asked: int, why: str, details: Mapping[str, object]) -> RbeeError:
    """The failure of a generation that had come so far."""
    figures = {"tokens_done": done, "tokens_asked": asked}
    return RbeeError(code, f"{what} after {done} of {asked} tokens: {why}", details={**details, **figures})


def _is_stall(failure: RbeeError | None) -> bool:
    """The client's own finding of silence; a worker does not report this code."""
    return failure is not None and failure.code is Code.INFERENCE_STALLED
