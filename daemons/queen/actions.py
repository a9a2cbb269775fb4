"""The effects that do I/O: spawn and follow a worker, evict one, relay a task. Each comes back as one event."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import structlog

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.events import EventType, Narration
from daemons.contracts.ids import new_request_id
from daemons.contracts.routes import HIVE_SPAWN, HIVE_WORKER_EXITS, HIVE_WORKER_SHUTDOWN, WORKER_PROGRESS
from daemons.contracts.workers import (
    HiveWorker,
    ShutdownRequest,
    SpawnedWorker,
    WorkerExit,
    WorkerExitList,
    WorkerExitQuery,
)
from daemons.kit.client import REQUEST_ID_HEADER, DaemonClient, Peer, error_in, until_end
from daemons.kit.deadline import deadline_header
from daemons.kit.logs import REQUEST_ID_KEY, get_logger
from daemons.kit.policy import Policy
from daemons.queen.audience import Audience
from daemons.queen.core.effects import EvictWorker, SpawnWorker
from daemons.queen.core.events import (
    Event,
    RelayEnd,
    RelayEnded,
    SpawnAnswered,
    WorkerEvicted,
    WorkerLoaded,
)
from daemons.queen.core.state import State
from daemons.queen.nodes import NodeWatcher
from daemons.queen.relay import Relay, unfinished
from daemons.queen.store import QueenStore
from daemons.queen.tasks import TaskRecord

_EXIT_OF_LOAD_S = 6.0
"""The hive waits up to 4 s for a worker that is just dying."""

_EXIT_OF_RELAY_S = 1.0
_STOP_MARGIN_S = 15.0
_LOAD_MARGIN_S = 10.0
"""The hive ends a load that takes too long; only if it does not, we give up a little later."""


class WorkerClients:
    """One client per worker, so that connections are kept alive between tasks; one that is not known gets none kept."""

    def __init__(self, policy: Policy, known: Callable[[str], bool]) -> None:
        self._policy = policy
        self._known = known
        self._clients: dict[str, DaemonClient] = {}
        self._users: Counter[DaemonClient] = Counter()

    @asynccontextmanager
    async def use(self, worker: HiveWorker) -> AsyncIterator[DaemonClient]:
        """The worker's client; it stays open for as long as somebody uses it."""
        client = self._clients.get(worker.id)
        if client is None:
            peer = Peer(worker.url, worker.key, f"worker {worker.id}", Code.WORKER_CRASHED)
            client = DaemonClient(peer, self._policy)
            if self._known(worker.id):
                self._clients[worker.id] = client  # else nobody would say when it is to be retired
        self._users[client] += 1
        try:
            yield client
        finally:
            self._users[client] -= 1
            await self._close_unused(client)

    async def retire(self, worker_id: str) -> None:
        """The worker is gone; streams that still come from it are read to their end."""
        client = self._clients.pop(worker_id, None)
        if client is not None:
            await self._close_unused(client)

    async def _close_unused(self, client: DaemonClient) -> None:
        if not self._users[client] and client not in self._clients.values():
            del self._users[client]
            try:
                await client.close()
            except Exception as error:
                get_logger().error("a client was not closed", peer=client.peer.name, exc_info=error)

    async def close(self) -> None:
        for worker_id in list(self._clients):
            await self.retire(worker_id)


class Actions:
    """What effects do. Reads the state, never changes it."""

    def __init__(
        self,
        state: State,
        watchers: Mapping[str, NodeWatcher],
        policy: Policy,
        store: QueenStore,
        audience: Audience,
        *,
        post: Callable[[Event], None],
        now: Callable[[], float],
    ) -> None:
        self.clients = WorkerClients(policy, lambda worker_id: worker_id in state.workers)
        self._state = state
        self._watchers = watchers
        self._policy = policy
        self._store = store
        self._audience = audience
        self._post = post
        self._now = now

    async def spawn(self, effect: SpawnWorker, deadline: float | None = None) -> Event:
        """Have a worker started and follow its load. `deadline` (unix seconds): when nobody needs it any more.

        Raises RbeeError with the hive's word on why it failed.
        """
        hive = self._watchers[effect.node].client
        request_id = structlog.contextvars.get_contextvars().get(REQUEST_ID_KEY) or new_request_id()
        spawned = await hive.get(
            HIVE_SPAWN,
            SpawnedWorker,
            body=effect.request,
            headers={REQUEST_ID_HEADER: str(request_id), **deadline_header(deadline)},
            timeout_s=3 * self._policy.worker_http_s,
            tries=1,  # when the hive is gone, its watcher is asked to find or start it
        )
        worker = HiveWorker.model_validate(spawned.model_dump(exclude={"narration"}))
        for narration in spawned.narration:
            self._audience.tell_load(effect.load_id, narration)
        self._post(SpawnAnswered(self._now(), effect.load_id, worker))
        await self._follow_load(effect, worker)
        return WorkerLoaded(self._now(), effect.load_id)

    async def _follow_load(self, effect: SpawnWorker, worker: HiveWorker) -> None:
        began = self._now()
        try:
            async with asyncio.timeout(self._policy.load_limit_s(worker.memory_bytes) + _LOAD_MARGIN_S):
                await self._read_progress(effect.load_id, worker)
        except TimeoutError:
            raise RbeeError(
                Code.LOADING_TIMEOUT,
                f"worker {worker.id} did not load {worker.model_ref} within {self._now() - began:.0f} s",
                details={"worker": worker.id, "seconds": round(self._now() - began, 1)},
            ) from None
        except RbeeError as error:
            raise await self._why_not_loaded(effect.node, worker, error) from error
        text = f"{worker.model_ref} is loaded: {worker.slots_total} slots of {worker.ctx} tokens"
        seconds = round(self._now() - began, 3)
        fields = {"slots": worker.slots_total, "ctx": worker.ctx, "seconds": seconds}
        narration = Narration(actor=f"worker {worker.id}", text=f"{text}, after {seconds:.1f} s", fields=fields)
        self._audience.tell_load(effect.load_id, narration)

    async def _read_progress(self, load_id: int, worker: HiveWorker) -> None:
        # One try: the worker's socket was bound before it ran, so nobody answers there only when it has ended.
        async with self.clients.use(worker) as client, client.stream(WORKER_PROGRESS, tries=1) as events:
            async for event in until_end(events, client.peer.name):
                if event.type == EventType.PROGRESS:
                    self._audience.pass_on_load(load_id, event.type, event.raw)
                failure = error_in(event)
                if failure is not None:
                    raise failure

    async def _why_not_loaded(self, node: str, worker: HiveWorker, seen: RbeeError) -> RbeeError:
        """The hive saw the process end, and knows its last log lines."""
        found = await self.exit_of(node, worker.id, _EXIT_OF_LOAD_S)
        if found is not None and found.error is not None:
            failure = RbeeError.from_dict(found.error)
            self._store.crashed(time.time(), node, worker.id, worker.model_ref, None, failure)
            return failure
        if found is None and seen.code not in (Code.UPSTREAM_LOST, Code.WORKER_CRASHED, Code.DRAINING):
            return seen
        how = f": {found.how}" if found is not None else ""
        return RbeeError(
            Code.WORKER_START_FAILED,
            f"worker {worker.id} ended before {worker.model_ref} was loaded{how} ({seen.message})",
            details={"worker": worker.id, "model": worker.model_ref},
        )

    async def exit_of(self, node: str, worker_id: str, limit_s: float) -> WorkerExit | None:
        """How a worker ended, as its hive saw it; None when it lives or the hive does not answer."""
        try:
            answer = await self._watchers[node].client.get(
                HIVE_WORKER_EXITS, WorkerExitList, query=WorkerExitQuery(id=worker_id), timeout_s=limit_s, tries=1
            )
        except RbeeError:
            return None
        return answer.exits[0] if answer.exits else None

    async def stop_worker(self, node: str, request: ShutdownRequest) -> HiveWorker:
        """Drain and end a worker; returns when it is gone. Raises RbeeError."""
        policy = self._policy
        drain_s = policy.drain_s if request.drain_s is None else request.drain_s
        return await self._watchers[node].client.get(
            HIVE_WORKER_SHUTDOWN, HiveWorker, body=request, timeout_s=drain_s + policy.term_s + _STOP_MARGIN_S
        )

    async def evict(self, effect: EvictWorker) -> Event:
        """End an idle worker."""
        try:
            await self.stop_worker(effect.node, ShutdownRequest(id=effect.worker_id))
        except RbeeError as error:
            if error.code is not Code.WORKER_NOT_FOUND:  # else it is gone already, which is what was wanted
                raise
        return WorkerEvicted(self._now(), effect.worker_id)

    async def relay(self, record: TaskRecord, relay: Relay, worker: HiveWorker, node: str) -> Event:
        """Relay a task's generation to its end."""
        async with self.clients.use(worker) as client:
            outcome = await relay.run(client)
        record.done, record.raw_done = outcome.done, outcome.raw_done
        error = outcome.error
        if outcome.how is RelayEnd.LOST and error is not None:
            error = await self._explained(node, worker, record, error)
        elif error is not None and error.code is Code.DEADLINE_EXCEEDED:
            error = record.late()  # the worker's clock was faster than ours; the sentence is the same
        if outcome.done is not None:
            self._tell_figures(record, worker)
        return RelayEnded(self._now(), record.id, outcome.how, outcome.tokens, error)

    async def _explained(self, node: str, worker: HiveWorker, record: TaskRecord, error: RbeeError) -> RbeeError:
        """The loss with how the process ended, and noted among the crashes."""
        found = await self.exit_of(node, worker.id, _EXIT_OF_RELAY_S)
        if found is not None:
            # That its connection broke explains nothing: the details keep it, the sentence tells how the process ended.
            done, asked = error.details["tokens_done"], error.details["tokens_asked"]
            details = {**error.details, "exit": found.how}
            code = RbeeError.from_dict(found.error).code if found.error else error.code
            error = unfinished(code, f"worker {worker.id} was lost", done, asked, found.how, details)
        self._store.crashed(time.time(), node, worker.id, worker.model_ref, record.id, error)
        return error

    def _tell_figures(self, record: TaskRecord, worker: HiveWorker) -> None:
        assert record.done is not None
        usage, timings = record.done.usage, record.done.timings
        text = (
            f"{usage.completion_tokens} tokens in {timings.generation_ms / 1000:.2f} s"
            f" ({timings.tokens_per_second:.1f} tok/s), first after {timings.ttft_ms:.0f} ms;"
            f" {usage.cached_tokens} of {usage.prompt_tokens} prompt tokens were known"
        )
        self._audience.say(
            record,
            f"worker {worker.id}",
            text,
            tokens=usage.completion_tokens,
            tokens_per_second=timings.tokens_per_second,
            ttft_ms=timings.ttft_ms,
            cached_tokens=usage.cached_tokens,
            prompt_tokens=usage.prompt_tokens,
        )
