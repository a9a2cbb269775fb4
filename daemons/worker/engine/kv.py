"""Which tokens each sequence holds in the KV cache. Bookkeeping only: no llama.cpp, no I/O.

Each slot is one sequence with cells of its own, as many as its context has tokens. Attention then reads one sequence's
cells and not all slots' (llama.cpp's unified layout, where eight requests cost each other 5 % at 1,000 cells and more
with every further one). Every change made here is made in llama.cpp's memory by the caller, in the same order.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Prefix:
    """The first `length` tokens of a prompt are already in the cells of sequence `source`."""

    source: int
    length: int


NOTHING_CACHED = Prefix(source=-1, length=0)

KEEP_SHARE = 0.5
"""A slot whose cache shares less than this with a new prompt is worth more as a cache than as a place for it."""


def common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """How many tokens two sequences share at their start."""
    limit = min(len(left), len(right))
    if left[:limit] == right[:limit]:
        return limit
    low, high = 0, limit  # bisection on slice equality: comparing slices in C beats a Python loop on long prompts
    while high - low > 1:
        middle = (low + high) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle
    return low


class KvCache:
    """Tokens per sequence id (0 to `sequences` - 1), at most `cells` in each."""

    def __init__(self, sequences: int, cells: int) -> None:
        self.cells = cells
        self._tokens: list[list[int]] = [[] for _ in range(sequences)]
        self._last_used = [0] * sequences
        self._tick = 0

    @property
    def used(self) -> int:
        """Cells that hold a token, over all sequences."""
        return sum(map(len, self._tokens))

    def length(self, sequence: int) -> int:
        return len(self._tokens[sequence])

    def tokens(self, sequence: int) -> list[int]:
        """A copy of what the sequence holds, in order of position."""
        return list(self._tokens[sequence])

    def touch(self, sequence: int) -> None:
        """Mark the sequence as the most recently used."""
        self._tick += 1
        self._last_used[sequence] = self._tick

    def append(self, sequence: int, tokens: Sequence[int]) -> None:
        """The tokens were decoded behind what the sequence holds. Raises ValueError when it has no cells for them."""
        held = self._tokens[sequence]
        if len(held) + len(tokens) > self.cells:
            raise ValueError(f"sequence {sequence} holds {len(held)} of {self.cells} cells, {len(tokens)} more needed")
        held.extend(tokens)

    def truncate(self, sequence: int, length: int) -> None:
        """Keep the first `length` tokens of the sequence."""
        del self._tokens[sequence][length:]

    def copy(self, source: int, target: int, length: int) -> None:
        """Replace what `target` holds by the first `length` tokens of `source`."""
        if length > len(self._tokens[source]):
            raise ValueError(f"sequence {source} holds {len(self._tokens[source])} tokens, {length} asked for")
        self._tokens[target] = self._tokens[source][:length]

    def best_prefix(self, prompt: Sequence[int], among: Sequence[int]) -> Prefix:
        """The sequence of `among` that holds most of the start of `prompt`; the first of equals.

        At least the last token of the prompt is never counted: its logits must be computed.
        """
        wanted = list(prompt[:-1])
        best = NOTHING_CACHED
        for sequence in among:
            length = common_prefix(self._tokens[sequence], wanted)
            if length > best.length:
                best = Prefix(sequence, length)
        return best

    def choose_slot(self, prompt: Sequence[int], free: Sequence[int]) -> int:
        """The free sequence to put `prompt` in.

        One that mostly holds it already; else the first empty one (llama.cpp computes neighbours together); else the
        least recently used.
        """
        own = self.best_prefix(prompt, free)
        if own.length and own.length >= KEEP_SHARE * len(self._tokens[own.source]):
            return own.source
        empty = [sequence for sequence in free if not self._tokens[sequence]]
        return min(empty) if empty else min(free, key=lambda sequence: self._last_used[sequence])
