"""Who runs and what each step computes. Pure: requests in, batches out; no llama.cpp, clock or thread.

A slot has cells for a whole context, so an admitted request can always run to its last token and nothing is ever
preempted. Each step first takes one token of every generating sequence, then as many tokens of prompts, oldest request
first, as the rest of the batch has room for.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from daemons.contracts.errors import Code, RbeeError
from daemons.worker.engine.backend import Span
from daemons.worker.engine.kv import NOTHING_CACHED, KvCache, Prefix
from daemons.worker.engine.request import EmbedRequest, GenerateRequest

SHORTEST_COPY = 16
COPY_SHARE = 256


@dataclass(slots=True, eq=False)
class Running:
    """A request in a slot. `ceiling`: tokens it may generate; `cached`: tokens of its prompt taken from the cache."""

    request: GenerateRequest | EmbedRequest
    slot: int
    ceiling: int
    cached: int = 0
    generated: int = 0
    last_token: int = -1


@dataclass(frozen=True, slots=True)
class Admission:
    """A slot is taken. llama.cpp's memory must follow: keep `prefix.length` tokens of the slot when it is the prefix's
    source itself; else empty it and copy them from the source.
    """

    running: Running
    prefix: Prefix


@dataclass(frozen=True, slots=True)
class Work:
    """One span of a batch and whom it belongs to."""

    running: Running
    span: Span


@dataclass(slots=True)
class Scheduler:
    """Slots 0 to `slots` - 1 of `ctx` tokens each; batches of at most `batch` tokens."""

    slots: int
    ctx: int
    batch: int
    kv: KvCache = field(init=False)
    running: dict[str, Running] = field(init=False, default_factory=dict)
    _free: list[int] = field(init=False)

    def __post_init__(self) -> None:
        if self.batch < self.slots:
            raise RbeeError(
                Code.CONFIG_INVALID,
                f"a batch of {self.batch} tokens cannot serve {self.slots} slots: each needs one token per step",
                details={"batch": self.batch, "slots": self.slots},
            )
        self.kv = KvCache(self.slots, self.ctx)
        self._free = list(range(self.slots))

    @property
    def slots_busy(self) -> int:
        return len(self.running)

    def admit(self, request: GenerateRequest, reusable: Callable[[int, int], bool]) -> Admission:
        """Give the request a slot; `reusable` tells whether llama.cpp can go on from (sequence, length).

        Raises RbeeError and changes nothing: CONTEXT_OVERFLOW, ALL_SLOTS_BUSY, INVALID_REQUEST.
        """
        prompt = request.tokens
        self._check_length(len(prompt))
        self._check_slot(request.id)
        slot = self.kv.choose_slot(prompt if request.cache_prompt else (), self._free)
        prefix = self._prefix(request, slot, reusable)
        running = Running(request, slot, min(request.max_tokens, self.ctx - len(prompt)), cached=prefix.length)
        return self._place(running, prefix)

    def admit_embedding(self, request: EmbedRequest) -> Admission:
        """Give the request a slot, emptied. Raises as `admit`."""
        for tokens in request.inputs:
            self._check_length(len(tokens), answer=0)
        self._check_slot(request.id)
        return self._place(Running(request, self.kv.choose_slot((), self._free), 0), NOTHING_CACHED)

    def forget_prefix(self, running: Running) -> None:
        """llama.cpp could not keep the prefix after all: the whole prompt is computed."""
        self.kv.truncate(running.slot, 0)
        running.cached = 0

    def generating(self) -> list[Work]:
        """First half of a step: the last token of every sequence that has begun its answer."""
        return _in_slot_order(
            Work(running, Span(running.slot, self.kv.length(running.slot), (running.last_token,), True))
            for running in self.running.values()
            if running.generated
        )

    def prompts(self, room: int) -> list[Work]:
        """Second half of a step: at most `room` tokens of prompts, oldest request first."""
        work: list[Work] = []
        for running in self.running.values():
            request = running.request
            if room <= 0 or running.generated or isinstance(request, EmbedRequest):
                continue
            done = self.kv.length(running.slot)
            chunk = request.tokens[done : done + room]
            work.append(Work(running, Span(running.slot, done, chunk, done + len(chunk) == len(request.tokens))))
            room -= len(chunk)
        return _in_slot_order(work)

    def decoded(self, work: Iterable[Work]) -> None:
        """The spans are in llama.cpp's memory now."""
        for item in work:
            self.kv.append(item.span.sequence, item.span.tokens)

    def sampled(self, running: Running, token: int) -> bool:
        """One more token of the sequence; True when it was the last that it may generate."""
        running.last_token = token
        running.generated += 1
        return running.generated >= running.ceiling

    def embeddings(self) -> list[Running]:
        """Embedding requests in their slots, oldest first."""
        return [running for running in self.running.values() if isinstance(running.request, EmbedRequest)]

    def finish(self, id: str, *, keep: bool) -> Running:
        """Free the slot; `keep` leaves its tokens in the KV cache for later requests."""
        running = self.running.pop(id)
        if not keep:
            self.kv.truncate(running.slot, 0)
        self.kv.touch(running.slot)
        self._free.append(running.slot)
        return running

    def _check_length(self, tokens: int, *, answer: int = 1) -> None:
        if not tokens:
            raise RbeeError(Code.INVALID_REQUEST, "the prompt is empty: 0 tokens", details={"prompt_tokens": 0})
        if tokens + answer > self.ctx:
            raise RbeeError(
                Code.CONTEXT_OVERFLOW,
                f"the prompt has {tokens} tokens, the context {self.ctx}"
                + (f" ({answer} of them is needed for the answer)" if answer else ""),
                details={"prompt_tokens": tokens, "ctx": self.ctx},
            )

    def _check_slot(self, id: str) -> None:
        if id in self.running:
            raise RbeeError(Code.INVALID_REQUEST, f"request {id} is running already", details={"id": id})
        if not self._free:
            raise RbeeError(
                Code.ALL_SLOTS_BUSY,
                f"{self.slots_busy} of {self.slots} slots are busy",
                details={"slots_total": self.slots, "slots_busy": self.slots_busy},
            )

    def _prefix(self, request: GenerateRequest, slot: int, reusable: Callable[[int, int], bool]) -> Prefix:
        """The best prefix that llama.cpp can go on from, of `slot` itself when that is as good as any."""
        if not request.cache_prompt:
            return NOTHING_CACHED
        candidates = [slot, *(other for other in range(self.slots) if other != slot)]
        while candidates:
            best = self.kv.best_prefix(request.tokens, candidates)
            worth_it = best.source == slot or best.length >= self._shortest_copy
            if best.length and worth_it and reusable(best.source, best.length):
                return best
            candidates.remove(best.source) if best.length else candidates.clear()
        return NOTHING_CACHED

    @property
    def _shortest_copy(self) -> int:
        """Tokens from which a copy pays: it moves a whole context's cells, as slow as computing 1/256 of its tokens."""
        return max(SHORTEST_COPY, self.ctx // COPY_SHARE)

    def _place(self, running: Running, prefix: Prefix) -> Admission:
        slot = running.slot
        if prefix.source == slot:
            self.kv.truncate(slot, prefix.length)
        elif prefix.length:
            self.kv.copy(prefix.source, slot, prefix.length)
        else:
            self.kv.truncate(slot, 0)
        self._free.remove(slot)
        self.running[running.request.id] = running
        return Admission(running, prefix)


def _in_slot_order(work: Iterable[Work]) -> list[Work]:
    """llama.cpp computes sequences together only where their numbers follow each other and the lengths are alike.

    For the same reason prompts and single tokens are decoded apart: mixed, the first token of each prompt is computed
    with the single ones and the rest later.
    """
    return sorted(work, key=lambda item: item.running.slot)


def halves(work: Sequence[Work]) -> tuple[list[Work], list[Work]]:
    """Split a batch of at least two tokens in two of about equal size; a cut span keeps its output at its end."""
    middle = sum(len(item.span.tokens) for item in work) // 2
    left: list[Work] = []
    right: list[Work] = []
    for item in work:
        span, size = item.span, len(item.span.tokens)
        cut = max(0, min(size, middle))
        middle -= size
        if cut:
            left.append(
                Work(item.running, Span(span.sequence, span.position, span.tokens[:cut], span.output and cut == size))
            )
        if cut < size:
            right.append(Work(item.running, Span(span.sequence, span.position + cut, span.tokens[cut:], span.output)))
    return left, right
