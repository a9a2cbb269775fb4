"""Admission, batches and slots: budgets hold, nothing is lost, running requests never wait for a prompt."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemons.contracts.errors import Code, RbeeError
from daemons.worker.engine.backend import Span
from daemons.worker.engine.kv import Prefix
from daemons.worker.engine.request import EmbedRequest, GenerateRequest
from daemons.worker.engine.scheduler import SHORTEST_COPY, Running, Scheduler, Work, halves


def request(id: str, tokens: tuple[int, ...], max_tokens: int = 4, *, cache: bool = True) -> GenerateRequest:
    return GenerateRequest(id=id, tokens=tokens, max_tokens=max_tokens, cache_prompt=cache)


def always(_sequence: int, _length: int) -> bool:
    return True


def compute(scheduler: Scheduler, work: list[Work]) -> list[Work]:
    """The batch is decoded, and every sample is token 7."""
    scheduler.decoded(work)
    for item in work:
        if item.span.output and scheduler.sampled(item.running, 7):
            scheduler.finish(item.running.request.id, keep=True)
    return work


def run_step(scheduler: Scheduler) -> list[Work]:
    """Both halves of a step."""
    generating = compute(scheduler, scheduler.generating())
    return generating + compute(scheduler, scheduler.prompts(scheduler.batch - len(generating)))


def test_batch_smaller_than_the_slots_is_refused() -> None:
    with pytest.raises(RbeeError) as caught:
        Scheduler(slots=8, ctx=64, batch=4)
    assert caught.value.code is Code.CONFIG_INVALID


def test_prompt_longer_than_the_context_is_refused_with_both_numbers() -> None:
    scheduler = Scheduler(slots=1, ctx=8, batch=8)
    with pytest.raises(RbeeError) as caught:
        scheduler.admit(request("a", (1,) * 8), always)
    assert caught.value.code is Code.CONTEXT_OVERFLOW
    assert caught.value.details == {"prompt_tokens": 8, "ctx": 8}
    assert scheduler.slots_busy == 0
    scheduler.admit(request("a", (1,) * 7), always)


def test_answer_ends_at_the_context() -> None:
    scheduler = Scheduler(slots=1, ctx=8, batch=8)
    running = scheduler.admit(request("a", (1,) * 5, max_tokens=100), always).running
    assert running.ceiling == 3


def test_all_slots_busy_tells_total_and_busy() -> None:
    scheduler = Scheduler(slots=2, ctx=32, batch=8)
    scheduler.admit(request("a", (1,)), always)
    scheduler.admit(request("b", (1,)), always)
    with pytest.raises(RbeeError) as caught:
        scheduler.admit(request("c", (1,)), always)
    assert caught.value.code is Code.ALL_SLOTS_BUSY
    assert caught.value.details["slots_total"] == caught.value.details["slots_busy"] == 2


def test_long_prompt_never_stops_a_running_sequence() -> None:
    scheduler = Scheduler(slots=2, ctx=200, batch=16)
    scheduler.admit(request("short", (1, 2), max_tokens=50), always)
    run_step(scheduler)
    scheduler.admit(request("long", tuple(range(100)), max_tokens=5), always)
    for _ in range(6):
        work = run_step(scheduler)
        assert [len(item.span.tokens) for item in work if item.running.request.id == "short"] == [1]
        assert sum(len(item.span.tokens) for item in work) == 16


def test_prompts_are_computed_oldest_first_and_share_a_batch() -> None:
    scheduler = Scheduler(slots=3, ctx=64, batch=16)
    scheduler.admit(request("a", (1,) * 20), always)
    scheduler.admit(request("b", (2,) * 5), always)
    scheduler.admit(request("c", (3,) * 5), always)
    first, second = run_step(scheduler), run_step(scheduler)
    assert [(item.running.request.id, len(item.span.tokens), item.span.output) for item in first] == [("a", 16, False)]
    assert [(item.running.request.id, len(item.span.tokens), item.span.output) for item in second] == [
        ("a", 4, True),
        ("b", 5, True),
        ("c", 5, True),
    ]


def test_conversation_goes_on_in_its_own_slot() -> None:
    scheduler = Scheduler(slots=2, ctx=64, batch=32)
    slot = scheduler.admit(request("a", tuple(range(10)), max_tokens=2), always).running.slot
    run_step(scheduler)
    run_step(scheduler)
    admission = scheduler.admit(request("b", (*range(10), 7, 8, 9)), always)
    assert admission.prefix == Prefix(slot, 11)
    assert admission.running.slot == slot
    assert admission.running.cached == 11


def test_prefix_is_copied_from_a_running_sequence() -> None:
    scheduler = Scheduler(slots=2, ctx=64, batch=32)
    first = scheduler.admit(request("a", tuple(range(30)), max_tokens=20), always).running
    run_step(scheduler)
    admission = scheduler.admit(request("b", (*range(28), 50, 51)), always)
    assert admission.prefix == Prefix(first.slot, 28)
    assert admission.running.slot != first.slot
    assert scheduler.kv.tokens(admission.running.slot) == list(range(28))
    assert scheduler.prompts(32)[0].span.tokens == (50, 51)


def test_slots_of_a_batch_are_in_order() -> None:
    scheduler = Scheduler(slots=3, ctx=64, batch=32)
    for id in ("a", "b", "c"):
        scheduler.admit(request(id, (ord(id),), max_tokens=9), always)
    run_step(scheduler)
    scheduler.finish("a", keep=False)
    scheduler.admit(request("d", (1, 2, 3)), always)  # the youngest, in slot 0
    assert [item.span.sequence for item in run_step(scheduler)] == [1, 2, 0]
    assert [item.span.sequence for item in scheduler.generating()] == [0, 1, 2]


@pytest.mark.parametrize("cache", [True, False])
def test_prefix_that_llama_cannot_go_on_from_is_computed_again(cache: bool) -> None:
    scheduler = Scheduler(slots=1, ctx=64, batch=32)
    scheduler.admit(request("a", tuple(range(10)), max_tokens=1), always)
    run_step(scheduler)
    admission = scheduler.admit(request("b", (*range(10), 11), cache=cache), lambda _s, _n: not cache)
    assert admission.prefix.length == 0
    assert len(scheduler.prompts(32)[0].span.tokens) == 11


def test_forgotten_prefix_is_computed() -> None:
    scheduler = Scheduler(slots=1, ctx=64, batch=32)
    scheduler.admit(request("a", tuple(range(10)), max_tokens=1), always)
    run_step(scheduler)
    running = scheduler.admit(request("b", (*range(10), 50)), always).running
    assert running.cached == 10
    scheduler.forget_prefix(running)
    assert running.cached == 0
    assert len(scheduler.prompts(32)[0].span.tokens) == 11


def test_short_prefix_is_not_worth_a_copy() -> None:
    scheduler = Scheduler(slots=2, ctx=64, batch=32)
    scheduler.admit(request("a", tuple(range(20)), max_tokens=20), always)
    run_step(scheduler)
    assert scheduler.admit(request("b", (*range(SHORTEST_COPY - 1), 99)), always).prefix.length == 0
    scheduler.finish("b", keep=False)
    assert scheduler.admit(request("c", (*range(SHORTEST_COPY), 99)), always).prefix.length == SHORTEST_COPY


def test_finish_without_keep_empties_the_slot() -> None:
    scheduler = Scheduler(slots=1, ctx=64, batch=32)
    scheduler.admit(request("a", (1, 2, 3)), always)
    run_step(scheduler)
    scheduler.finish("a", keep=False)
    assert scheduler.kv.used == 0


def test_embedding_takes_a_slot_and_no_part_of_the_batch() -> None:
    scheduler = Scheduler(slots=2, ctx=16, batch=8)
    scheduler.admit_embedding(EmbedRequest(id="e", inputs=((1, 2), (3,) * 16)))
    assert scheduler.generating() == scheduler.prompts(8) == []
    assert [running.request.id for running in scheduler.embeddings()] == ["e"]
    assert scheduler.slots_busy == 1
    with pytest.raises(RbeeError) as caught:
        scheduler.admit_embedding(EmbedRequest(id="f", inputs=((3,) * 17,)))
    assert caught.value.code is Code.CONTEXT_OVERFLOW


def test_same_id_twice_is_refused() -> None:
    scheduler = Scheduler(slots=2, ctx=16, batch=8)
    scheduler.admit(request("a", (1,)), always)
    with pytest.raises(RbeeError, match="running already"):
        scheduler.admit(request("a", (1,)), always)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5).filter(lambda sizes: sum(sizes) > 1))
def test_halves_keep_every_token_its_place_and_its_output(sizes: list[int]) -> None:
    owners = [Running(request(str(index), (1,)), index, 1) for index in range(len(sizes))]
    work = [
        Work(owner, Span(owner.slot, 100, tuple(range(size)), owner.slot % 2 == 0))
        for owner, size in zip(owners, sizes, strict=True)
    ]

    def rows(part: list[Work]) -> list[tuple[int, int, int]]:
        return [
            (item.span.sequence, item.span.position + offset, token)
            for item in part
            for offset, token in enumerate(item.span.tokens)
        ]

    left, right = halves(work)
    assert rows(left) + rows(right) == rows(work)
    assert left
    assert right
    outputs = [item.span.sequence for item in [*left, *right] if item.span.output]
    assert outputs == [item.span.sequence for item in work if item.span.output]


# -- the whole life of many requests ------------------------------------------------------------------------------

CTX = 24


def slot_of(running: Running) -> int:
    return running.slot


@dataclass(frozen=True)
class Plan:
    """One request of a simulation: when it comes, and after how many steps it is cancelled."""

    prompt: tuple[int, ...]
    max_tokens: int
    cache: bool
    comes: int
    cancelled: int | None


@dataclass
class Simulation:
    """Steps a scheduler through many requests and checks after each step what must always hold."""

    scheduler: Scheduler
    plans: list[Plan]
    ends: dict[str, int] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    cancels: dict[str, int] = field(default_factory=dict)

    def run(self) -> None:
        waiting = {str(index): plan for index, plan in enumerate(self.plans)}
        self.ends, self.tokens = dict.fromkeys(waiting, 0), dict.fromkeys(waiting, 0)
        for step in range(2000):
            for id in [id for id, plan in waiting.items() if plan.comes <= step]:
                if self.admitted_or_refused(id, waiting[id], step):
                    del waiting[id]
            for id in [id for id, when in self.cancels.items() if when <= step and id in self.scheduler.running]:
                self.end(id)
            self.step()
            if not waiting and not self.scheduler.running:
                return
        raise AssertionError(f"still running after 2000 steps: {self.scheduler.running}")

    def admitted_or_refused(self, id: str, plan: Plan, step: int) -> bool:
        """False: all slots are busy, it comes again."""
        try:
            running = self.scheduler.admit(request(id, plan.prompt, plan.max_tokens, cache=plan.cache), always).running
        except RbeeError as error:
            if error.code is Code.CONTEXT_OVERFLOW:
                assert len(plan.prompt) >= CTX
            else:
                assert error.code is Code.ALL_SLOTS_BUSY
                assert len(self.scheduler.running) == self.scheduler.slots
                return False
            self.ends[id] += 1
            return True
        assert plan.cache or running.cached == 0
        assert self.scheduler.kv.tokens(running.slot) == list(plan.prompt[: running.cached])
        if plan.cancelled is not None:
            self.cancels[id] = step + plan.cancelled
        return True

    def step(self) -> None:
        expected = sorted((r for r in self.scheduler.running.values() if r.generated), key=slot_of)
        generating = self.scheduler.generating()
        assert [item.running for item in generating] == expected
        self.compute(generating)
        prompts = self.scheduler.prompts(self.scheduler.batch - len(generating))
        assert generating or prompts or not self.scheduler.running, "something runs, but the step is empty"
        assert sum(len(item.span.tokens) for item in [*generating, *prompts]) <= self.scheduler.batch
        self.compute(prompts)

    def compute(self, work: list[Work]) -> None:
        for item in work:
            assert item.span.position == self.scheduler.kv.length(item.span.sequence)
        self.scheduler.decoded(work)
        assert all(self.scheduler.kv.length(slot) <= CTX for slot in range(self.scheduler.slots))
        for item in work:
            if item.span.output:
                self.sample(item.running)

    def sample(self, running: Running) -> None:
        id = running.request.id
        self.tokens[id] += 1
        assert self.tokens[id] == running.generated + 1
        if self.scheduler.sampled(running, 1):
            plan = self.plans[int(id)]
            held = self.scheduler.kv.tokens(running.slot)
            assert held == [*plan.prompt, *[1] * (running.generated - 1)]
            assert running.generated == min(plan.max_tokens, CTX - len(plan.prompt))
            self.end(id)

    def end(self, id: str) -> None:
        self.scheduler.finish(id, keep=self.plans[int(id)].cache)
        self.ends[id] += 1


PLANS = st.lists(
    st.builds(
        Plan,
        prompt=st.lists(st.integers(0, 2), min_size=1, max_size=30).map(tuple),
        max_tokens=st.integers(1, 12),
        cache=st.booleans(),
        comes=st.integers(0, 6),
        cancelled=st.one_of(st.none(), st.integers(0, 15)),
    ),
    max_size=14,
)


@settings(max_examples=200, deadline=None)
@given(PLANS, st.integers(1, 4), st.integers(4, 20))
def test_many_requests_on_few_slots(plans: list[Plan], slots: int, batch: int) -> None:
    """No slot leaks, no token is lost or doubled, no budget is exceeded, every request ends exactly once."""
    scheduler = Scheduler(slots=slots, ctx=CTX, batch=batch)
    simulation = Simulation(scheduler, plans)
    simulation.run()
    assert scheduler.slots_busy == 0
    assert all(ends == 1 for ends in simulation.ends.values())
    for index in range(slots):  # every slot can be had again
        scheduler.admit(request(f"again{index}", (1,), 1), always)
