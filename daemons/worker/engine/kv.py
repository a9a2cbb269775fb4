"""Which tokens each sequence holds in the one unified KV cache. Bookkeeping only: no llama.cpp, no I/O.

A cell holds one position and may belong to several sequences (a copied prefix costs nothing), so cells are counted by
reference. Every change made here is made in llama.cpp's memory by the caller, in the same order.
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
    """Tokens and cells per sequence id (0 to `sequences` - 1), in a cache of `cells` cells."""

    def __init__(self, sequences: int, cells: int) -> None:
        self.cells = cells
        self._tokens: list[list[int]] = [[] for _ in range(sequences)]
        self._cells: list[list[int]] = [[] for _ in range(sequences)]
        self._refs = [0] * cells
        self._free = list(range(cells - 1, -1, -1))
        self._last_used = [0] * sequences
        self._tick = 0

    @property
    def used(self) -> int:
        """Cells that belong to at least one sequence."""
        return self.cells - len(self._free)

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
        """The tokens were decoded behind what the sequence holds. Raises ValueError when there are not enough cells."""
        if len(tokens) > len(self._free):
            raise ValueError(f"{len(tokens)} cells needed, {len(self._free)} of {self.cells} free")
        self._tokens[sequence].extend(tokens)
        owned = self._cells[sequence]
        for _ in tokens:
            cell = self._free.pop()
            self._refs[cell] = 1
            owned.append(cell)

    def truncate(self, sequence: int, length: int) -> None:
        """Keep the first `length` tokens of the sequence."""
        owned = self._cells[sequence]
        for cell in owned[length:]:
            self._refs[cell] -= 1
            if not self._refs[cell]:
                self._free.append(cell)
        del owned[length:]
        del self._tokens[sequence][length:]

    def copy(self, source: int, target: int, length: int) -> None:
        """Share the first `length` cells of `source` with the empty sequence `target`."""
        if self._tokens[target]:
            raise ValueError(
                f"sequence {target} holds {len(self._tokens[target])} tokens; only an empty one is a target"
            )
        if length > len(self._tokens[source]):
            raise ValueError(f"sequence {source} holds {len(self._tokens[source])} tokens, {length} asked for")
        shared = self._cells[source][:length]
        for cell in shared:
            self._refs[cell] += 1
        self._cells[target] = shared
        self._tokens[target] = self._tokens[source][:length]

    def best_prefix(self, prompt: Sequence[int], among: Sequence[int]) -> Prefix:
        """The sequence of `among` that holds most of the start of `prompt`.

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
        """The free sequence to put `prompt` in: one that mostly holds it already, else the least recently used."""
        own = self.best_prefix(prompt, free)
        if own.length and own.length >= KEEP_SHARE * len(self._tokens[own.source]):
            return own.source
        return min(free, key=lambda sequence: (bool(self._tokens[sequence]), self._last_used[sequence]))

    def evictions(self, needed: int, idle: Sequence[int]) -> list[int] | None:
        """Idle sequences to empty, least recently used first, so that `needed` cells are free; None: not even then."""
        refs_gone: dict[int, int] = {}
        free = len(self._free)
        chosen: list[int] = []
        for sequence in sorted(idle, key=lambda sequence: self._last_used[sequence]):
            if free >= needed:
                break
            if not self._cells[sequence]:
                continue
            chosen.append(sequence)
            for cell in self._cells[sequence]:
                refs_gone[cell] = refs_gone.get(cell, 0) + 1
                free += refs_gone[cell] == self._refs[cell]
        return chosen if free >= needed else None
