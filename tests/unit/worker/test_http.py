"""The worker's routes on a real socket, over the fake backend."""

import asyncio
import json
import threading
import time
from collections.abc import Sequence

import pytest

from daemons.contracts import routes
from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.events import EventType
from daemons.contracts.routes import Daemon
from daemons.contracts.workers import Ready, WorkerState
from daemons.kit.client import until_end
from daemons.kit.deadline import DEADLINE_HEADER
from daemons.worker.bridge import Bridge
from daemons.worker.engine.backend import DecodeStatus, Span
from tests.support.fake_backend import FakeBackend, fake_tokens
from tests.support.worker_service import end, running_worker


async def test_tokens_come_in_order_and_end_with_one_done() -> None:
    async with running_worker(FakeBackend(reply="honey")) as worker:
        events = await worker.events(max_tokens=20)
        assert [event.type for event in events] == [EventType.TOKEN] * 6 + [EventType.DONE]
        assert [event.data["index"] for event in events[:-1]] == list(range(6))
        assert "".join(event.data["token"] for event in events[:-1]) == "honey"
        done = events[-1].data
        assert done["done"] is True
        assert done["total_tokens"] == 6
        assert done["finish_reason"] == "stop"
        assert done["usage"] == {"prompt_tokens": 6, "completion_tokens": 6, "cached_tokens": 0}
        assert done["duration_ms"] >= done["timings"]["ttft_ms"] >= 0


async def test_first_token_is_read_before_the_last_is_generated() -> None:
    gate = threading.Semaphore(1)
    async with running_worker(FakeBackend(reply="honey", gate=gate)) as worker:
        body = {"id": "r-1", "prompt": "x", "max_tokens": 20}
        async with worker.client.stream(routes.WORKER_INFER, body=body) as events:
            first = await anext(events)
            assert first.data == {"token": "h", "index": 0}
            assert (await worker.stats()).state is WorkerState.BUSY
            gate.release(50)
            rest = [event async for event in until_end(events, "the worker")]
        assert rest[-1].type == EventType.DONE
        assert (await worker.until(WorkerState.IDLE)).slots_available == 4


async def test_text_is_escaped_json() -> None:
    reply = 'a "quote" \\ and\nnewline\x01 🐝'
    async with running_worker(FakeBackend(reply=reply)) as worker:
        assert await worker.text(max_tokens=99) == reply


async def test_log_probabilities_are_sent_when_asked_for() -> None:
    async with running_worker(FakeBackend(reply="ok")) as worker:
        events = await worker.events(logprobs=2)
        logprobs = events[0].data["logprobs"]
        assert logprobs["id"] == fake_tokens("o")[0]
        assert logprobs["logprob"] == -0.5
        assert logprobs["top"][0]["token"] == "o"
        assert len(logprobs["top"]) == 2


async def test_messages_are_rendered_by_the_models_template() -> None:
    backend = FakeBackend(reply="ok")
    async with running_worker(backend) as worker:
        body = {"prompt": None, "messages": [{"role": "user", "content": "hi"}]}
        await worker.events(**body)
        first = backend.batches[0][0]
        assert tuple(first.tokens)[1:] == fake_tokens("<user>hi\n<assistant>")


async def test_all_wrong_fields_are_named_at_once() -> None:
    async with running_worker(FakeBackend()) as worker:
        error = await worker.refusal(max_tokens=0, temperature=9, nonsense=True)
        assert error.code is Code.INVALID_REQUEST
        assert {row["field"] for row in error.details["fields"]} == {"max_tokens", "temperature", "nonsense"}


async def test_prompt_over_the_context_is_refused_with_both_numbers() -> None:
    async with running_worker(FakeBackend(ctx=32)) as worker:
        error = await worker.refusal(prompt="x" * 40)
        assert error.code is Code.CONTEXT_OVERFLOW
        assert error.details == {"prompt_tokens": 41, "ctx": 32}
        assert (await worker.stats()).slots_available == 4


async def test_all_slots_busy_says_how_many_and_when_to_come_again() -> None:
    gate = threading.Semaphore(0)
    async with running_worker(FakeBackend(slots=1, reply="x" * 9, gate=gate), slots=1) as worker:
        body = {"id": "r-0", "prompt": "x"}
        gate.release(1)
        async with worker.client.stream(routes.WORKER_INFER, body=body) as events:
            await anext(events)
            error = await worker.refusal(id="r-1")
            assert error.code is Code.ALL_SLOTS_BUSY
            assert (error.details["slots_total"], error.details["slots_busy"]) == (1, 1)
            assert error.retry_after == 1.0
            assert (await worker.refusal(id="r-0")).code is Code.INVALID_REQUEST
            gate.release(50)


async def test_last_slot_goes_to_one_of_two() -> None:
    async with running_worker(FakeBackend(slots=1, reply="ok"), slots=1) as worker:
        for _ in range(20):
            ends = await asyncio.gather(
                worker.events(id="a", prompt="x"), worker.events(id="b", prompt="y"), return_exceptions=True
            )
            refused = [end for end in ends if isinstance(end, RbeeError)]
            assert all(error.code is Code.ALL_SLOTS_BUSY for error in refused)
            assert len(refused) <= 1
            assert (await worker.until(WorkerState.IDLE)).slots_available == 1


@pytest.fixture
def cancels(monkeypatch: pytest.MonkeyPatch) -> "asyncio.Queue[str]":
    """Ids whose cancelling was asked for inside the worker, in order."""
    seen: asyncio.Queue[str] = asyncio.Queue()
    cancel = Bridge.cancel

    def noticed(bridge: Bridge, id: str) -> bool:
        found = cancel(bridge, id)
        seen.put_nowait(id)
        return found

    monkeypatch.setattr(Bridge, "cancel", noticed)
    return seen


async def test_client_that_leaves_frees_its_slot_before_the_next_decode(cancels: "asyncio.Queue[str]") -> None:
    gate = threading.Semaphore(2)
    backend = FakeBackend(reply="x" * 200, gate=gate)
    async with running_worker(backend) as worker:
        body = {"id": "r-1", "prompt": "x", "max_tokens": 200}
        async with worker.client.stream(routes.WORKER_INFER, body=body) as events:
            await anext(events)
            await anext(events)
        left = time.monotonic()
        assert await asyncio.wait_for(cancels.get(), 5) == "r-1"
        assert time.monotonic() - left < 1.0
        gate.release(1)  # lets the decode end that was running
        await worker.until(WorkerState.IDLE)
        assert len(backend.batches) == 3
        assert backend.open_samplers == 0


@pytest.mark.parametrize("route", [routes.WORKER_INFER, routes.WORKER_EMBED], ids=["inference", "embeddings"])
async def test_client_that_leaves_before_the_first_result_frees_its_slot(
    route: routes.Route, cancels: "asyncio.Queue[str]"
) -> None:
    gate = threading.Semaphore(0)
    body = {"id": "r-1", "prompt": "hello"} if route is routes.WORKER_INFER else {"input": ["hello", "again"]}
    async with running_worker(FakeBackend(slots=1, reply="x" * 50, gate=gate), slots=1) as worker:
        asking = asyncio.create_task(worker.client.call(route, body=body))
        await worker.until(WorkerState.BUSY)
        asking.cancel()
        await asyncio.wait_for(cancels.get(), 5)
        gate.release(1)
        await worker.until(WorkerState.IDLE)


async def test_delete_cancels_and_may_be_repeated() -> None:
    gate = threading.Semaphore(1)
    async with running_worker(FakeBackend(reply="x" * 200, gate=gate)) as worker:
        body = {"id": "r-1", "prompt": "x", "max_tokens": 200}
        async with worker.client.stream(routes.WORKER_INFER, body=body) as events:
            await anext(events)
            await worker.client.call(routes.WORKER_CANCEL, path={"id": "r-1"})
            gate.release(1)
            rest = [event async for event in until_end(events, "the worker")]
        assert rest[-1].data["finish_reason"] == "cancelled"
        await worker.client.call(routes.WORKER_CANCEL, path={"id": "r-1"})
        with pytest.raises(RbeeError) as caught:
            await worker.client.call(routes.WORKER_CANCEL, path={"id": "r-2"})
        assert caught.value.code is Code.TASK_NOT_FOUND


async def test_deadline_in_the_header_ends_the_stream_with_an_error() -> None:
    gate = threading.Semaphore(1)
    async with running_worker(FakeBackend(reply="x" * 200, gate=gate)) as worker:
        headers = {DEADLINE_HEADER: f"{time.time() + 0.3:.3f}"}
        body = {"id": "r-1", "prompt": "x", "max_tokens": 200}
        async with worker.client.stream(routes.WORKER_INFER, body=body, headers=headers) as events:
            await anext(events)
            await asyncio.sleep(0.35)
            gate.release(5)
            rest = [event async for event in until_end(events, "the worker")]
        assert rest[-1].type == EventType.ERROR
        assert rest[-1].data["code"] == Code.DEADLINE_EXCEEDED
        assert (await worker.stats()).slots_available == 4


async def test_error_of_a_running_generation_carries_the_request_id() -> None:
    def fail(batch: Sequence[Span]) -> DecodeStatus | None:
        return DecodeStatus.FAILED if batch[0].position > 6 else None

    async with running_worker(FakeBackend(reply="x" * 9, fail=fail)) as worker:
        body = {"id": "r-1", "prompt": "hello"}
        headers = {"X-Request-Id": "req-abc123"}
        async with worker.client.stream(routes.WORKER_INFER, body=body, headers=headers) as events:
            last = [event async for event in until_end(events, "the worker")][-1]
        assert last.data["code"] == Code.ENGINE_FAILED
        assert last.data["request_id"] == "req-abc123"
        assert await worker.text(id="r-2", prompt="y", max_tokens=2) == "xx"


async def test_model_that_loads_is_told_and_refuses_work() -> None:
    gate = threading.Event()
    async with running_worker(FakeBackend(load_gate=gate, reply="ok"), loaded=False) as worker:
        ready = await worker.client.get(routes.WORKER_READY, Ready)
        assert (ready.ready, ready.state, ready.model_loaded) == (False, WorkerState.LOADING, False)
        assert ready.progress_url == "/v1/loading/progress"
        assert (await worker.refusal()).code is Code.MODEL_LOADING
        async with worker.client.stream(routes.WORKER_PROGRESS) as events:
            shares = [(await anext(events)).data["done"]]
            gate.set()
            rest = [event async for event in until_end(events, "the worker")]
        shares += [event.data["done"] for event in rest if event.type == EventType.PROGRESS]
        assert shares == sorted(shares)
        assert shares[-1] == 100.0
        assert [event.type for event in rest[-2:]] == [EventType.READY, EventType.DONE]
        ready = await worker.client.get(routes.WORKER_READY, Ready)
        assert (ready.ready, ready.state, ready.model_loaded, ready.progress_url) == (
            True,
            WorkerState.IDLE,
            True,
            None,
        )


async def test_progress_of_a_loaded_model_ends_at_once() -> None:
    async with running_worker(FakeBackend()) as worker, worker.client.stream(routes.WORKER_PROGRESS) as events:
        types = [event.type async for event in events]
        assert types == [EventType.PROGRESS, EventType.READY, EventType.DONE]


async def test_load_that_fails_ends_the_worker_with_its_reason() -> None:
    gate = threading.Event()
    error = RbeeError(Code.MODEL_INVALID, "not a model", details={"bytes": 3})
    async with running_worker(FakeBackend(load_gate=gate, load_error=error), loaded=False) as worker:
        async with worker.client.stream(routes.WORKER_PROGRESS) as events:
            await anext(events)
            gate.set()
            last = [event async for event in until_end(events, "the worker")][-1]
        assert last.type == EventType.ERROR
        assert last.data["code"] == Code.MODEL_INVALID
        with pytest.raises(RbeeError, match="not a model"):
            await worker.serving


async def test_worker_that_is_ended_while_it_loads_ends_well() -> None:
    gate = threading.Event()
    async with running_worker(FakeBackend(load_gate=gate), loaded=False) as worker:
        async with worker.client.stream(routes.WORKER_PROGRESS) as events:
            await anext(events)
            await end(worker.url)
            gate.set()
            last = [event async for event in until_end(events, "the worker")][-1]
        assert last.data["code"] == Code.DRAINING
        await worker.serving


async def test_engine_that_dies_ends_the_worker() -> None:
    def fail(_batch: Sequence[Span]) -> DecodeStatus | None:
        raise MemoryError("gone")

    async with running_worker(FakeBackend(fail=fail)) as worker:
        events = await worker.events()
        assert events[-1].type == EventType.ERROR
        with pytest.raises(RbeeError) as caught:
            await worker.serving
        assert caught.value.code is Code.ENGINE_FAILED


async def test_tokenize_and_detokenize() -> None:
    async with running_worker(FakeBackend()) as worker:
        answer = await worker.client.call(routes.WORKER_TOKENIZE, body={"text": "bée"})
        assert answer["tokens"] == list(fake_tokens("bée"))
        answer = await worker.client.call(routes.WORKER_TOKENIZE, body={"text": "b", "add_special": True})
        assert len(answer["tokens"]) == 2
        answer = await worker.client.call(routes.WORKER_DETOKENIZE, body={"tokens": list(fake_tokens("bée"))})
        assert answer["text"] == "bée"


@pytest.fixture
def readers(monkeypatch: pytest.MonkeyPatch) -> set[bool]:
    """Whether text was read on the main thread, where the event loop is."""
    seen: set[bool] = set()
    tokenize, piece = FakeBackend.tokenize, FakeBackend.piece

    def noted_tokenize(backend: FakeBackend, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        seen.add(threading.current_thread() is threading.main_thread())
        return tokenize(backend, text, add_special=add_special, parse_special=parse_special)

    def noted_piece(backend: FakeBackend, token: int) -> bytes:
        if threading.current_thread().name != "engine":
            seen.add(threading.current_thread() is threading.main_thread())
        return piece(backend, token)

    monkeypatch.setattr(FakeBackend, "tokenize", noted_tokenize)
    monkeypatch.setattr(FakeBackend, "piece", noted_piece)
    return seen


@pytest.mark.parametrize("size", [10, 20_000])
async def test_large_requests_are_read_beside_the_loop(readers: set[bool], size: int) -> None:
    template = "{{ 'tools: ' if tools }}{{ messages[0].content }}"
    async with running_worker(FakeBackend(reply="ok", chat_template=template)) as worker:
        tools = [{"type": "function", "function": {"name": "buzz", "description": "b" * size}}]
        await worker.events(prompt=None, messages=[{"role": "user", "content": "hi"}], tools=tools)
        assert readers == {size == 10}
        readers.clear()
        await worker.client.call(routes.WORKER_DETOKENIZE, body={"tokens": [5] * size})
        assert readers == {size == 10}


async def test_embeddings_are_unit_vectors() -> None:
    async with running_worker(FakeBackend()) as worker:
        answer = await worker.client.call(routes.WORKER_EMBED, body={"input": ["bee", "hive", "bee"]})
        first, second, third = answer["embeddings"]
        assert first == third != second
        assert sum(value * value for value in first) == pytest.approx(1.0)
        assert answer["tokens"] == 4 + 5 + 4
        with pytest.raises(RbeeError) as caught:
            await worker.client.call(routes.WORKER_EMBED, body={"input": ["x" * 999]})
        assert caught.value.code is Code.CONTEXT_OVERFLOW


async def test_stats_count_what_was_done() -> None:
    async with running_worker(FakeBackend(reply="honey")) as worker:
        before = time.time()
        await worker.events()
        stats = await worker.until(WorkerState.IDLE)
        assert (stats.requests_total, stats.tokens_generated_total) == (1, 6)
        assert stats.tokens_per_second > 0
        assert stats.last_active_at >= before
        assert (stats.ctx, stats.kv_cells_total) == (256, 1024)
        assert stats.kv_cells_used == 6 + 5


async def test_metrics_parse_and_count() -> None:
    from prometheus_client.parser import text_string_to_metric_families

    async with running_worker(FakeBackend(reply="honey")) as worker:
        await worker.events()
        text = await worker.client.call(routes.WORKER_METRICS)
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["rbee_worker_generated_tokens_total",] == 6
    assert samples["rbee_worker_requests_total", "stop"] == 1
    assert samples["rbee_worker_ttft_seconds_count",] == 1
    assert samples["rbee_worker_inter_token_seconds_count",] == 5
    assert samples["rbee_worker_slots", "free"] == 4


async def test_mistakes_of_many_people_do_not_shut_the_queen_out() -> None:
    async with running_worker(FakeBackend(reply="ok")) as worker:
        for _ in range(60):
            assert (await worker.refusal(max_tokens=0)).code is Code.INVALID_REQUEST
        assert await worker.text() == "ok"


async def test_every_route_but_health_needs_the_key() -> None:
    async with running_worker(FakeBackend(), loaded=False, key="another-key-0123456789") as worker:
        for route in routes.routes_of(Daemon.WORKER):
            path = {"id": "x"} if "{id}" in route.path else None
            if route.role is None:
                await worker.client.call(route)
                continue
            with pytest.raises(RbeeError) as caught:
                await worker.client.call(route, path=path, body={} if route.method == "POST" else None)
            assert caught.value.code is Code.INVALID_API_KEY


async def test_draining_worker_ends_what_runs_and_refuses_the_rest() -> None:
    gate = threading.Semaphore(1)
    async with running_worker(FakeBackend(reply="x" * 9, gate=gate)) as worker:
        body = {"id": "r-1", "prompt": "x"}
        async with worker.client.stream(routes.WORKER_INFER, body=body) as events:
            await anext(events)
            await worker.client.call(routes.WORKER_END, body={})
            await worker.until(WorkerState.DRAINING)
            assert (await worker.refusal(id="r-2")).code is Code.DRAINING
            gate.release(50)
            rest = [event async for event in until_end(events, "the worker")]
        assert rest[-1].type == EventType.DONE
        await worker.serving


async def test_what_outlives_the_drain_is_cut_with_an_error() -> None:
    gate = threading.Semaphore(1)
    async with running_worker(FakeBackend(reply="x" * 9, gate=gate)) as worker:
        body = {"id": "r-1", "prompt": "x"}
        async with worker.client.stream(routes.WORKER_INFER, body=body) as events:
            await anext(events)
            await end(worker.url)
            await worker.until(WorkerState.DRAINING)
            gate.release(1)
            rest = [event async for event in until_end(events, "the worker")]
        assert rest[-1].data["code"] == Code.DRAINING
        await worker.serving


async def test_events_are_one_line_of_json_each() -> None:
    async with running_worker(FakeBackend(reply="a\nb")) as worker:
        for event in await worker.events():
            assert "\n" not in event.raw
            json.loads(event.raw)
