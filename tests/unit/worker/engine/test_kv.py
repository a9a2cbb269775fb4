"""The books of the KV cache: cells are shared, counted by reference, and never lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from daemons.worker.engine.kv import KvCache, Prefix, common_prefix

SEQUENCES = 4
CELLS = 40
TOKENS = st.lists(st.integers(0, 3), max_size=12)


@given(TOKENS, TOKENS, TOKENS)
def test_common_prefix_is_what_a_loop_finds(head: list[int], left: list[int], right: list[int]) -> None:
    a, b = head + left, head + right
    expected = 0
    while expected < min(len(a), len(b)) and a[expected] == b[expected]:
        expected += 1
    assert common_prefix(a, b) == expected


class KvMachine(RuleBasedStateMachine):
    """The books against a model in which every cell is an object."""

    def __init__(self) -> None:
        super().__init__()
        self.kv = KvCache(SEQUENCES, CELLS)
        self.model: list[list[tuple[int, object]]] = [[] for _ in range(SEQUENCES)]

    @rule(sequence=st.integers(0, SEQUENCES - 1), tokens=TOKENS)
    def append(self, sequence: int, tokens: list[int]) -> None:
        if len(tokens) > CELLS - self.kv.used:
            with pytest.raises(ValueError, match="cells needed"):
                self.kv.append(sequence, tokens)
            return
        self.kv.append(sequence, tokens)
        self.model[sequence].extend((token, object()) for token in tokens)

    @rule(sequence=st.integers(0, SEQUENCES - 1), length=st.integers(0, 20))
    def truncate(self, sequence: int, length: int) -> None:
        self.kv.truncate(sequence, length)
        del self.model[sequence][length:]

    @precondition(lambda self: any(not held for held in self.model))
    @rule(source=st.integers(0, SEQUENCES - 1), share=st.floats(0, 1))
    def copy(self, source: int, share: float) -> None:
        target = next(index for index, held in enumerate(self.model) if not held)
        length = int(share * len(self.model[source]))
        self.kv.copy(source, target, length)
        self.model[target] = self.model[source][:length]

    @rule(needed=st.integers(0, CELLS), idle=st.sets(st.integers(0, SEQUENCES - 1)))
    def evictions_free_enough_and_no_more_than_needed(self, needed: int, idle: set[int]) -> None:
        chosen = self.kv.evictions(needed, sorted(idle))
        if chosen is None:
            chosen, enough = sorted(idle), False
        else:
            enough = True
        for sequence in chosen:
            self.truncate(sequence, 0)
        assert (CELLS - self.kv.used >= needed) is enough

    @invariant()
    def books_match(self) -> None:
        assert [self.kv.tokens(s) for s in range(SEQUENCES)] == [[token for token, _ in held] for held in self.model]
        assert self.kv.used == len({id(cell) for held in self.model for _, cell in held})


TestKvMachine = KvMachine.TestCase


def test_copy_needs_an_empty_target_and_a_long_enough_source() -> None:
    kv = KvCache(2, 10)
    kv.append(0, [1, 2])
    with pytest.raises(ValueError, match="3 asked for"):
        kv.copy(0, 1, 3)
    kv.append(1, [5])
    with pytest.raises(ValueError, match="only an empty one"):
        kv.copy(0, 1, 1)


def test_best_prefix_leaves_the_last_token_to_compute() -> None:
    kv = KvCache(2, 20)
    kv.append(0, [1, 2, 3])
    kv.append(1, [1, 2, 3, 4])
    assert kv.best_prefix([1, 2, 3, 4], [0, 1]) == Prefix(0, 3)
    assert kv.best_prefix([9], [0, 1]).length == 0


def test_slot_that_mostly_holds_the_prompt_is_continued() -> None:
    kv = KvCache(3, 60)
    kv.append(0, list(range(10)))
    kv.append(1, list(range(3)) + [99] * 10)
    kv.append(2, [50] * 4)
    assert kv.choose_slot([*range(10), 11], [0, 1, 2]) == 0


def test_slot_with_little_in_common_is_kept_as_a_cache() -> None:
    kv = KvCache(2, 60)
    kv.append(0, [1, 2, *range(100, 120)])
    kv.touch(0)
    assert kv.choose_slot([1, 2, 3, 4], [0, 1]) == 1
    kv.append(1, [7])
    kv.touch(1)
    assert kv.choose_slot([1, 2, 3, 4], [0, 1]) == 0


def test_least_recently_used_cache_is_evicted_first() -> None:
    kv = KvCache(3, 30)
    for sequence in (2, 0, 1):
        kv.append(sequence, [sequence] * 10)
        kv.touch(sequence)
    assert kv.evictions(5, [0, 1, 2]) == [2]
    assert kv.evictions(15, [0, 1, 2]) == [2, 0]
    assert kv.evictions(31, [0, 1, 2]) is None
