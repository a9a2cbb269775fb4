"""The engine over the fake backend: order of events, ends, failures, cancels, and memory that matches the books."""

import threading
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from daemons.contracts.errors import Code, RbeeError
from daemons.worker.engine.backend import DecodeStatus, Span
from daemons.worker.engine.engine import Engine
from daemons.worker.engine.request import (
    LAST_EVENTS,
    Embedded,
    EmbedRequest,
    EngineDied,
    Failed,
    Finished,
    FinishReason,
    GenerateRequest,
    LoadFailed,
    LoadProgress,
    PromptProgress,
    SamplingParams,
    Started,
    Token,
)
from daemons.worker.engine.runner import unit
from tests.support.engine_driver import EngineDriver
from tests.support.fake_backend import EOS, FakeBackend, fake_tokens

GREEDY = SamplingParams(temperature=0.0)


def request(id: str, prompt: str = "hello", **options: object) -> GenerateRequest:
    values: dict[str, object] = {"max_tokens": 8, "sampling": GREEDY, **options}
    return GenerateRequest(id=id, tokens=fake_tokens(prompt), **values)  # type: ignore[arg-type]


def assert_clean(driver: EngineDriver, backend: FakeBackend) -> None:
    """No sampler is open, and llama.cpp's memory holds what the books say."""
    assert backend.open_samplers == 0
    assert driver.engine._runner is not None
    scheduler = driver.engine._runner.scheduler
    assert not scheduler.running
    for slot in range(scheduler.slots):
        assert backend.memory[slot] == scheduler.kv.tokens(slot)


def test_load_progress_rises_to_one_and_then_the_model_is_loaded() -> None:
    with EngineDriver(FakeBackend()).loaded_context() as driver:
        shares = [event.fraction for event in driver.events if isinstance(event, LoadProgress)]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_failed_load_ends_the_thread_with_its_reason() -> None:
    error = RbeeError(Code.MODEL_INVALID, "not a model", details={"bytes": 3})
    driver = EngineDriver(FakeBackend(load_error=error))
    with driver:
        failed = driver.until(lambda: next((e for e in driver.events if isinstance(e, LoadFailed)), None))
        assert driver.engine.join(5)
    assert failed == LoadFailed(Code.MODEL_INVALID, "not a model", {"bytes": 3})


def test_stop_ends_a_load() -> None:
    gate = threading.Event()
    backend = FakeBackend(load_gate=gate)
    driver = EngineDriver(backend)
    with driver:
        driver.until(lambda: next((e for e in driver.events if isinstance(e, LoadProgress)), None))
        driver.engine.stop()
        gate.set()
    assert backend.closed


def test_tokens_come_in_order_between_start_and_end() -> None:
    backend = FakeBackend(reply="honey")
    with EngineDriver(backend).loaded_context() as driver:
        driver.run(request("a", max_tokens=50))
        events = driver.of("a")
        assert isinstance(events[0], Started)
        assert events[0].prompt_tokens == 5
        assert [event.index for event in driver.tokens("a")] == list(range(6))
        assert driver.text("a") == "honey"
        assert driver.tokens("a")[-1].token == EOS
        end = events[-1]
        assert isinstance(end, Finished)
        assert end.reason is FinishReason.STOP
        assert (end.usage.prompt_tokens, end.usage.completion_tokens) == (5, 6)
        assert end.timings.ttft_ms >= end.timings.prompt_ms >= 0
        assert_clean(driver, backend)


def test_limit_ends_a_generation() -> None:
    with EngineDriver(FakeBackend(reply="x" * 99)).loaded_context() as driver:
        driver.run(request("a", max_tokens=7))
        end = driver.end("a")
        assert isinstance(end, Finished)
        assert end.reason is FinishReason.LENGTH
        assert driver.text("a") == "x" * 7


def test_one_hand_over_per_step() -> None:
    with EngineDriver(FakeBackend(reply="abcdef")).loaded_context() as driver:
        driver.run(*(request(f"r{n}", f"{n}") for n in range(4)))
        both = [batch for batch in driver.batches if {e.id for e in batch if isinstance(e, Token)} >= {"r0", "r3"}]
        assert both
        for batch in driver.batches:
            seen = [event.id for event in batch if isinstance(event, Token)]
            assert len(seen) == len(set(seen))


def test_stop_string_over_several_tokens() -> None:
    backend = FakeBackend(reply="the bees END of it")
    with EngineDriver(backend).loaded_context() as driver:
        driver.run(request("a", max_tokens=50, stop=("END",)))
        end = driver.end("a")
        assert driver.text("a") == "the bees "
        assert isinstance(end, Finished)
        assert end.reason is FinishReason.STOP
        assert end.usage.completion_tokens == len("the bees END")
        assert_clean(driver, backend)


def test_held_back_text_comes_out_at_the_end() -> None:
    with EngineDriver(FakeBackend(reply="the E")).loaded_context() as driver:
        driver.run(request("eos", max_tokens=50, stop=("END",)), request("limit", max_tokens=5, stop=("END",)))
        assert driver.text("eos") == driver.text("limit") == "the E"


def test_characters_over_several_tokens_are_whole() -> None:
    with EngineDriver(FakeBackend(reply="a🐝é")).loaded_context() as driver:
        driver.run(request("a", max_tokens=50))
        assert driver.text("a") == "a🐝é"
        assert [event.text for event in driver.tokens("a")].count("🐝") == 1


def test_progress_of_a_long_prompt_is_told() -> None:
    """Not of one that is computed in one go: its first token tells as much."""
    with EngineDriver(FakeBackend(ctx=512, reply="xy"), batch=64).loaded_context() as driver:
        driver.run(request("long", "a" * 150, max_tokens=2), request("short", "b" * 5, max_tokens=2))
        told = [event for event in driver.of("long") if isinstance(event, PromptProgress)]
        assert [event.total for event in told] == [150] * len(told)
        assert [event.done for event in told] == sorted({event.done for event in told})
        assert len(told) >= 2
        assert told[-1].done < 150
        assert not [event for event in driver.of("short") if isinstance(event, PromptProgress)]


def test_prompt_chunks_are_short_on_a_slow_machine_while_others_wait() -> None:
    now = 0.0

    def slow(batch: Sequence[Span]) -> None:
        nonlocal now
        now += sum(len(span.tokens) for span in batch) / 32  # tokens per second

    gate = threading.Semaphore(0)
    backend = FakeBackend(ctx=512, reply="x" * 200, fail=slow, gate=gate)
    with EngineDriver(backend, batch=64, clock=lambda: now).loaded_context() as driver:
        driver.submit(request("first", "a" * 100, max_tokens=60))
        gate.release(3)
        driver.first("first", Token)
        driver.submit(request("second", "b" * 100, max_tokens=2))
        gate.release(99)
        driver.end("first")
        driver.end("second")
    chunks = [len(span.tokens) for batch in backend.batches for span in batch if len(span.tokens) > 1]
    assert chunks[:2] == [64, 36]  # nobody waits
    assert chunks[2:] == [16] * 6 + [4]  # the shortest, half a second each
    assert sum(chunks) == 200


def test_too_long_prompt_fails_alone_with_both_numbers() -> None:
    backend = FakeBackend(ctx=32, reply="ok")
    with EngineDriver(backend).loaded_context() as driver:
        driver.run(request("a", "x" * 40), request("b"))
        assert driver.failed("a").code is Code.CONTEXT_OVERFLOW
        assert driver.failed("a").details == {"prompt_tokens": 40, "ctx": 32}
        assert isinstance(driver.end("b"), Finished)
        assert_clean(driver, backend)


def test_no_free_slot_is_said_at_once() -> None:
    gate = threading.Semaphore(0)
    with EngineDriver(FakeBackend(slots=1, gate=gate, reply="ab"), slots=1).loaded_context() as driver:
        driver.submit(request("a"), request("b"))
        gate.release(100)
        assert driver.failed("b").code is Code.ALL_SLOTS_BUSY
        assert isinstance(driver.end("a"), Finished)


def test_cancel_frees_the_slot_before_the_next_decode() -> None:
    gate = threading.Semaphore(0)
    backend = FakeBackend(gate=gate, reply="x" * 200)
    with EngineDriver(backend).loaded_context() as driver:
        driver.submit(request("a", max_tokens=200))
        gate.release(3)
        driver.until(lambda: len(driver.tokens("a")) == 3)
        driver.engine.cancel("a")  # the engine waits in its fourth decode
        gate.release(1)
        end = driver.end("a")
        assert isinstance(end, Finished)
        assert end.reason is FinishReason.CANCELLED
        assert end.usage.completion_tokens == 4
        assert len(backend.batches) == 4
        driver.engine.cancel("a")
        driver.engine.cancel("never seen")
        gate.release(50)
        driver.run(request("b", max_tokens=2))
        assert_clean(driver, backend)


def test_deadline_ends_a_generation_between_steps() -> None:
    now = 100.0
    backend = FakeBackend(reply="x" * 50)
    driver = EngineDriver(backend, clock=lambda: now)
    gate = backend.gate = threading.Semaphore(0)
    with driver.loaded_context():
        driver.submit(request("a", max_tokens=40, deadline=105.0))
        gate.release(2)
        driver.until(lambda: len(driver.tokens("a")) == 2)
        now = 105.5
        gate.release(9)
        failed = driver.failed("a")
        assert failed.code is Code.DEADLINE_EXCEEDED
        assert failed.usage is not None
        assert failed.usage.completion_tokens == failed.details["tokens_generated"] == 3
        assert_clean(driver, backend)


def test_request_with_a_bad_grammar_fails_before_it_takes_a_slot() -> None:
    backend = FakeBackend(reply="ok")
    with EngineDriver(backend).loaded_context() as driver:
        driver.run(
            request("bad", sampling=SamplingParams(grammar="nonsense")),
            request("stuck", sampling=SamplingParams(grammar="root ::= stuck")),
            request("good"),
        )
        assert driver.failed("bad").code is driver.failed("stuck").code is Code.INVALID_REQUEST
        assert not any(isinstance(event, Started) for event in driver.of("bad"))
        assert isinstance(driver.end("good"), Finished)
        assert_clean(driver, backend)


def test_same_seed_gives_the_same_text_alone_and_beside_others() -> None:
    sampling = SamplingParams(temperature=1.0, seed=42)
    with EngineDriver(FakeBackend()).loaded_context() as driver:

        def seeded(id: str) -> GenerateRequest:
            return request(id, sampling=sampling, max_tokens=20, ignore_eos=True, cache_prompt=False)

        driver.run(seeded("alone"))
        driver.run(seeded("again"))
        others = [request(f"o{n}", "other", sampling=SamplingParams(seed=n), ignore_eos=True) for n in range(3)]
        driver.run(*others, seeded("shared"))
        assert driver.text("alone") == driver.text("again") == driver.text("shared")
        assert len(driver.text("alone")) == 20


def test_second_request_does_not_compute_the_shared_prefix() -> None:
    backend = FakeBackend(reply="ok")
    with EngineDriver(backend).loaded_context() as driver:
        driver.run(request("a", "x" * 100))
        before = len(backend.batches)
        driver.run(request("b", "x" * 100 + "y"))
        end = driver.end("b")
        assert isinstance(end, Finished)
        assert end.usage.cached_tokens == 100
        assert [len(span.tokens) for span in backend.batches[before]] == [1]
        driver.run(request("c", "x" * 100 + "z", cache_prompt=False))
        assert driver.first("c", Started).cached_tokens == 0
        assert_clean(driver, backend)


def test_recurrent_memory_goes_on_only_from_its_end() -> None:
    backend = FakeBackend(slots=1, partial=False, reply="ok")
    with EngineDriver(backend, slots=1).loaded_context() as driver:
        driver.run(request("a", "abcdef", max_tokens=1))
        driver.run(request("b", "abcdefgh", max_tokens=1))
        assert driver.first("b", Started).cached_tokens == 6
        driver.run(request("c", "abcd", max_tokens=1))
        assert driver.first("c", Started).cached_tokens == 0
        assert_clean(driver, backend)


def test_prefix_behind_a_sliding_window_is_computed_again() -> None:
    backend = FakeBackend(slots=1, window=8, reply="ok")
    with EngineDriver(backend, slots=1).loaded_context() as driver:
        driver.run(request("a", "a" * 40, max_tokens=1))
        driver.run(request("b", "a" * 20 + "b", max_tokens=1))
        assert driver.first("b", Started).cached_tokens == 0


def test_failed_batch_is_retried_in_smaller_ones() -> None:
    def fail(batch: Sequence[Span]) -> DecodeStatus | None:
        return DecodeStatus.FAILED if sum(len(span.tokens) for span in batch) > 4 else None

    backend = FakeBackend(fail=fail, reply="honey")
    with EngineDriver(backend).loaded_context() as driver:
        driver.run(request("a", "x" * 30, max_tokens=20), request("b", "y" * 7, max_tokens=20))
        assert driver.text("a") == driver.text("b") == "honey"
        assert_clean(driver, backend)


def test_request_that_cannot_be_decoded_fails_alone() -> None:
    poison = fake_tokens("!")[0]

    def fail(batch: Sequence[Span]) -> DecodeStatus | None:
        return DecodeStatus.FAILED if any(poison in span.tokens for span in batch) else None

    backend = FakeBackend(fail=fail, reply="ok")
    with EngineDriver(backend).loaded_context() as driver:
        driver.run(request("bad", "abc!def"), request("good", "abc"))
        failed = driver.failed("bad")
        assert failed.code is Code.ENGINE_FAILED
        assert failed.details["position"] == 3
        assert isinstance(driver.end("good"), Finished)
        assert driver.text("good") == "ok"
        assert_clean(driver, backend)


def test_engine_that_decodes_nothing_any_more_dies_and_answers_everybody() -> None:
    broken = threading.Event()

    def fail(_batch: Sequence[Span]) -> DecodeStatus | None:
        return DecodeStatus.FAILED if broken.is_set() else None

    backend = FakeBackend(fail=fail, reply="x" * 100)
    with EngineDriver(backend).loaded_context() as driver:
        driver.run(request("fine", max_tokens=2))
        broken.set()
        for n in range(3):
            driver.run(request(f"r{n}"))
            assert driver.failed(f"r{n}").code is Code.ENGINE_FAILED
        assert "3 steps in a row" in driver.died().message
        assert driver.engine.join(5)
    assert backend.closed
    assert backend.open_samplers == 0


def test_defect_in_the_backend_kills_the_engine_not_silently() -> None:
    def fail(_batch: Sequence[Span]) -> DecodeStatus | None:
        raise MemoryError("no memory")

    gate = threading.Semaphore(0)
    backend = FakeBackend(fail=fail, gate=gate)
    with EngineDriver(backend).loaded_context() as driver:
        driver.submit(request("a"), request("b", "other"))
        gate.release(5)
        assert driver.failed("a").code is driver.failed("b").code is Code.ENGINE_FAILED
        assert "MemoryError" in driver.died().message
    last = driver.events[-1]
    assert isinstance(last, EngineDied)


def test_stop_answers_who_is_running_and_who_waits() -> None:
    gate = threading.Semaphore(0)
    backend = FakeBackend(gate=gate, reply="x" * 90)
    driver = EngineDriver(backend)
    with driver.loaded_context():
        driver.submit(request("a", max_tokens=80))
        gate.release(1)
        driver.first("a", Token)
        driver.engine.stop()
        driver.submit(request("late"))
        gate.release(1)
    ends = {id: driver.end(id) for id in ("a", "late")}
    assert all(isinstance(end, Failed) and end.code is Code.DRAINING for end in ends.values())


def test_embeddings_are_unit_vectors_and_leave_nothing_behind() -> None:
    backend = FakeBackend(reply="ok")
    with EngineDriver(backend).loaded_context() as driver:
        inputs = (fake_tokens("one"), fake_tokens("a longer text of many tokens"), fake_tokens("one"))
        driver.run(EmbedRequest(id="e", inputs=inputs), request("g"))
        end = driver.end("e")
        assert isinstance(end, Embedded)
        assert end.tokens == sum(map(len, inputs))
        assert end.vectors[0] == end.vectors[2] != end.vectors[1]
        assert all(abs(sum(value * value for value in vector) - 1) < 1e-9 for vector in end.vectors)
        assert driver.text("g") == "ok"
        assert_clean(driver, backend)


def test_log_probabilities_come_with_the_tokens() -> None:
    with EngineDriver(FakeBackend(reply="ok")).loaded_context() as driver:
        driver.run(request("a", logprobs=3), request("b"))
        for event in driver.tokens("a"):
            assert event.logprobs is not None
            assert len(event.logprobs.top) == 3
        assert all(event.logprobs is None for event in driver.tokens("b"))


def test_unit_of_zeros_is_zeros() -> None:
    assert unit([0.0, 0.0]) == [0.0, 0.0]
    assert unit([3.0, 4.0]) == [0.6, 0.8]


def test_kv_use_is_readable_before_the_load() -> None:
    assert Engine(FakeBackend(), slots=1, batch=8, sink=lambda _: None).kv_used == 0


STORIES = st.lists(
    st.tuples(
        st.text(alphabet="ab", min_size=1, max_size=40),
        st.integers(1, 12),  # max_tokens
        st.booleans(),  # cache_prompt
        st.booleans(),  # cancelled
        st.booleans(),  # waits for the end of the one before
    ),
    max_size=12,
)


@settings(max_examples=40, deadline=None)
@given(STORIES, st.integers(1, 4), st.integers(0, 2**32))
def test_every_request_ends_exactly_once(
    stories: list[tuple[str, int, bool, bool, bool]], slots: int, fail_bits: int
) -> None:
    """Random requests, cancels and decode failures: one end each, and memory matches the books afterwards."""
    calls = iter(range(10**9))

    def fail(batch: Sequence[Span]) -> DecodeStatus | None:
        failing = fail_bits >> (next(calls) % 32) & 1 and sum(len(span.tokens) for span in batch) > 1
        return DecodeStatus.FAILED if failing else None

    backend = FakeBackend(slots=slots, ctx=32, fail=fail)
    with EngineDriver(backend, slots=slots, batch=16).loaded_context() as driver:
        for index, (prompt, limit, cache, cancelled, wait) in enumerate(stories):
            driver.submit(request(str(index), prompt, max_tokens=limit, cache_prompt=cache))
            if cancelled:
                driver.engine.cancel(str(index))
            if wait:
                driver.end(str(index))
        for index in range(len(stories)):
            driver.end(str(index))
        assert_clean(driver, backend)
    for index, (prompt, limit, *_) in enumerate(stories):
        events = driver.of(str(index))
        assert [isinstance(event, LAST_EVENTS) for event in events].count(True) == 1
        assert isinstance(events[-1], LAST_EVENTS)
        tokens = driver.tokens(str(index))
        assert [event.index for event in tokens] == list(range(len(tokens)))
        assert len(tokens) <= min(limit, 32 - len(prompt)) or len(prompt) >= 32
