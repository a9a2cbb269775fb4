"""The books of the KV cache: every sequence holds what was put in it, and never more than its cells."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from daemons.worker.engine.kv import NOTHING_CACHED, KvCache, Prefix, common_prefix

SEQUENCES = 4
CELLS = 20
TOKENS = st.lists(st.integers(0, 3), max_size=12)


@given(TOKENS, TOKENS, TOKENS)
def test_common_prefix_is_what_a_loop_finds(head: list[int], left: list[int], right: list[int]) -> None:
    a, b = head + left, head + right
    expected = 0
    while expected < min(len(a), len(b)) and a[expected] == b[expected]:
        expected += 1
    assert common_prefix(a, b) == expected


class KvMachine(RuleBasedStateMachine):
    """The books against plain lists."""

    def __init__(self) -> None:
        super().__init__()
        self.kv = KvCache(SEQUENCES, CELLS)
        self.model: list[list[int]] = [[] for _ in range(SEQUENCES)]

    @rule(sequence=st.integers(0, SEQUENCES - 1), tokens=TOKENS)
    def append(self, sequence: int, tokens: list[int]) -> None:
        if len(self.model[sequence]) + len(tokens) > CELLS:
            with pytest.raises(ValueError, match="more needed"):
                self.kv.append(sequence, tokens)
            return
        self.kv.append(sequence, tokens)
        self.model[sequence] += tokens

    @rule(sequence=st.integers(0, SEQUENCES - 1), length=st.integers(0, 20))
    def truncate(self, sequence: int, length: int) -> None:
        self.kv.truncate(sequence, length)
        del self.model[sequence][length:]

    @rule(source=st.integers(0, SEQUENCES - 1), into=st.integers(0, SEQUENCES - 1), share=st.floats(0, 1))
    def copy(self, source: int, into: int, share: float) -> None:
        length = int(share * len(self.model[source]))
        self.kv.copy(source, into, length)
        self.model[into] = self.model[source][:length]

    @rule(prompt=TOKENS.filter(bool))
    def longest_prefix_is_found(self, prompt: list[int]) -> None:
        best = self.kv.best_prefix(prompt, range(SEQUENCES))
        lengths = [common_prefix(held, prompt[:-1]) for held in self.model]
        assert best.length == max(lengths)
        assert best == NOTHING_CACHED if not best.length else lengths.index(best.length) == best.source

    @invariant()
    def books_match(self) -> None:
        assert [self.kv.tokens(sequence) for sequence in range(SEQUENCES)] == self.model
        assert self.kv.used == sum(map(len, self.model))
        assert all(self.kv.length(sequence) <= CELLS for sequence in range(SEQUENCES))


TestKvMachine = KvMachine.TestCase


def test_copy_needs_a_long_enough_source() -> None:
    kv = KvCache(2, 10)
    kv.append(0, [1, 2])
    with pytest.raises(ValueError, match="3 asked for"):
        kv.copy(0, 1, 3)


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


def test_empty_slots_come_first_then_the_least_recently_used() -> None:
    kv = KvCache(4, 30)
    for sequence in (2, 0, 1):
        kv.append(sequence, [sequence] * 10)
        kv.touch(sequence)
    assert kv.choose_slot([9, 9], [0, 1, 2, 3]) == 3
    assert kv.choose_slot([9, 9], [0, 1, 2]) == 2
    assert KvCache(3, 8).choose_slot([9], [2, 1]) == 1
