"""Requests in their slots: taking them in, computing a step for all of them, ending each exactly once.

Everything here happens on the engine's thread. What is to be told lies in `events` until the engine hands it over.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from daemons.contracts.errors import Code, RbeeError
from daemons.worker.engine.backend import Backend, DecodeStatus, Sampler, SamplingFailed, Span
from daemons.worker.engine.detokenizer import Detokenizer
from daemons.worker.engine.request import (
    Embedded,
    EmbedRequest,
    Event,
    Failed,
    Finished,
    FinishReason,
    GenerateRequest,
    PromptProgress,
    Started,
    Timings,
    Token,
    Usage,
)
from daemons.worker.engine.scheduler import Admission, Running, Scheduler, Work, halves

PROMPT_TURN_S = 0.25
"""About how long running answers wait at most for a chunk of somebody's prompt; slow machines take smaller chunks."""

LONE_TURN_S = 5.0
"""About how long a chunk takes when nobody waits for it: progress is told, and a cancellation seen, that often."""

FIRST_CHUNK = 64
"""Tokens of the very first chunk, from which the speed is learnt."""

SHORTEST_CHUNK = 16
"""Tokens of a prompt that are computed in one turn at least: fewer would take nearly as long."""

FATAL_FAILURES = 3
"""Steps in a row in which nothing could be decoded, even one token at a time, before the engine gives up."""


class EngineBroken(Exception):
    """llama.cpp decodes nothing any more; not the fault of one request."""


@dataclass(slots=True, eq=False)
class Generation:
    """What is kept for one request beside its place in the scheduler; times in monotonic seconds."""

    request: GenerateRequest
    sampler: Sampler
    text: Detokenizer
    arrived: float
    started: float
    first_token: float = 0.0


@dataclass(slots=True, eq=False)
class Embedding:
    """Progress of one embedding request: which input, how far in it, the sum so far, the vectors done."""

    request: EmbedRequest
    index: int
    offset: int
    total: list[float]
    vectors: list[list[float]]


def unit(vector: Sequence[float]) -> list[float]:
    """The vector scaled to length 1 (L2); zeros stay zeros."""
    norm = math.sqrt(math.fsum(value * value for value in vector))
    return [value / norm for value in vector] if norm else list(vector)


class Runner:
    """Runs requests on a loaded backend, step by step. Raises EngineBroken from a step when nothing works any more."""

    def __init__(self, backend: Backend, scheduler: Scheduler, clock: Callable[[], float]) -> None:
        self.scheduler = scheduler
        self.events: list[Event] = []
        self._backend = backend
        self._clock = clock
        self._generations: dict[str, Generation] = {}
        self._embeddings: dict[str, Embedding] = {}
        self._failed_steps = 0
        self._prompt_rate = math.inf

    @property
    def busy(self) -> bool:
        """Whether any request has a slot."""
        return bool(self.scheduler.running)

    # -- beginnings ----------------------------------------------------------------------------------------------

    def admit(self, request: GenerateRequest) -> None:
        """Give the request a slot and prepare its memory, or refuse it."""
        now = self._clock()
        sampler: Sampler | None = None
        try:
            sampler = self._backend.sampler(request.sampling, request.tokens, ignore_eos=request.ignore_eos)
            admission = self.scheduler.admit(request, self._backend.reusable)
        except SamplingFailed as error:
            self._refuse(request.id, RbeeError(Code.INVALID_REQUEST, str(error)))
            return
        except RbeeError as error:
            if sampler:
                sampler.close()
            self._refuse(request.id, error)
            return
        self._prepare_memory(admission)
        arrived = now if request.arrived is None else request.arrived
        self._generations[request.id] = Generation(request, sampler, Detokenizer(request.stop), arrived, now)
        self.events.append(Started(request.id, len(request.tokens), admission.running.cached))

    def admit_embedding(self, request: EmbedRequest) -> None:
        """As `admit`."""
        try:
            admission = self.scheduler.admit_embedding(request)
        except RbeeError as error:
            self._refuse(request.id, error)
            return
        self._prepare_memory(admission)
        self._embeddings[request.id] = Embedding(request, 0, 0, [], [])
        self.events.append(Started(request.id, sum(map(len, request.inputs)), 0))

    def _refuse(self, id: str, error: RbeeError) -> None:
        self.events.append(Failed(id, error.code, error.message, error.details))

    def _prepare_memory(self, admission: Admission) -> None:
        """Make llama.cpp's memory what the scheduler's books say; a prefix that cannot be kept is computed again."""
        slot, prefix = admission.running.slot, admission.prefix
        if prefix.source == slot:
            kept = self._backend.truncate(slot, prefix.length)
        else:
            kept = self._backend.truncate(slot, 0)
            if prefix.length:
                kept = self._backend.copy(prefix.source, slot, prefix.length)
        if not kept:
            self._backend.truncate(slot, 0)
            self.scheduler.forget_prefix(admission.running)

    # -- ends ----------------------------------------------------------------------------------------------------

    def cancel(self, id: str) -> None:
        """End a request; an id that is not running has just ended."""
        if id in self._generations:
            self._end(self.scheduler.running[id], FinishReason.CANCELLED)
        elif id in self._embeddings:
            self._fail(id, Code.CANCELLED, "the request was cancelled")

    def expire(self) -> None:
        """Fail the requests whose deadline has passed."""
        now = self._clock()
        late = [
            id
            for id, running in self.scheduler.running.items()
            if running.request.deadline and now >= running.request.deadline
        ]
        for id in late:
            generated = self.scheduler.running[id].generated
            self._fail(id, Code.DEADLINE_EXCEEDED, f"the deadline passed after {generated} tokens")

    def _end(self, running: Running, reason: FinishReason) -> None:
        """The request ended as it should; its tokens stay in the KV cache for the next one, unless it forbade that."""
        generation = self._generations.pop(running.request.id)
        generation.sampler.close()
        usage = self._usage(running, generation)
        timings = self._timings(running, generation)
        self._free(running.request.id, keep=generation.request.cache_prompt)
        self.events.append(Finished(running.request.id, reason, usage, timings))

    def _fail(self, id: str, code: Code, message: str, **details: Any) -> None:
        """The request failed alone; nothing of it stays."""
        running = self.scheduler.running[id]
        usage: Usage | None = None
        generation = self._generations.pop(id, None)
        if generation:
            generation.sampler.close()
            usage = self._usage(running, generation)
            details["tokens_generated"] = running.generated
        self._embeddings.pop(id, None)
        self._free(id, keep=False)
        self.events.append(Failed(id, code, message, details, usage))

    def _free(self, id: str, *, keep: bool) -> None:
        slot = self.scheduler.finish(id, keep=keep).slot
        if not keep:
            self._backend.truncate(slot, 0)

    def fail_all(self, code: Code, message: str) -> None:
        """Answer every request that has a slot; the runner is not used any more afterwards."""
        self.events += [Failed(id, code, message) for id in self.scheduler.running]
        for generation in self._generations.values():
            generation.sampler.close()
        self._generations.clear()
        self._embeddings.clear()

    def _usage(self, running: Running, generation: Generation) -> Usage:
        return Usage(len(generation.request.tokens), running.generated, running.cached)

    def _timings(self, running: Running, generation: Generation) -> Timings:
        now = self._clock()
        first = generation.first_token or now
        seconds = now - first
        return Timings(
            queue_ms=(generation.started - generation.arrived) * 1000,
            prompt_ms=(first - generation.started) * 1000,
            generation_ms=seconds * 1000,
            ttft_ms=(first - generation.arrived) * 1000,
            tokens_per_second=(running.generated - 1) / seconds if running.generated > 1 and seconds > 0 else 0.0,
        )

    # -- one step ------------------------------------------------------------------------------------------------

    def generate(self) -> int:
        """Compute the next token of every sequence that has begun its answer; returns how many took part."""
        work = self.scheduler.generating()
        if work:
            self._step(work)
        return len(work)

    def prompts(self, generating: int) -> None:
        """Compute prompt chunks, in what `generating` sequences leave of the batch, and learn how fast that goes."""
        work = self.scheduler.prompts(self._prompt_room(generating))
        if not work:
            return
        started, size = self._clock(), sum(len(item.span.tokens) for item in work)
        self._step(work)
        seconds = self._clock() - started
        if size >= SHORTEST_CHUNK and seconds > 0:
            self._prompt_rate = size / seconds
        self._tell_progress(work)

    def _tell_progress(self, work: list[Work]) -> None:
        for item in work:
            request = item.running.request
            if not item.span.output and request.id in self._generations:
                done = self.scheduler.kv.length(item.running.slot)
                self.events.append(PromptProgress(request.id, done, len(self._generations[request.id].request.tokens)))

    def embed(self) -> None:
        """Compute a chunk of the oldest embedding request."""
        for running in self.scheduler.embeddings()[:1]:
            self._embed(running)

    def _step(self, work: list[Work]) -> None:
        if self._compute(work):
            self._failed_steps = 0
            return
        self._failed_steps += 1
        if self._failed_steps >= FATAL_FAILURES:
            raise EngineBroken(f"{self._failed_steps} steps in a row could not be decoded, not even token by token")

    def _prompt_room(self, generating: int) -> int:
        """Tokens of prompts in this step: what is left of the batch, at most what fits in one turn."""
        left = self.scheduler.batch - generating
        if math.isinf(self._prompt_rate):
            return min(left, FIRST_CHUNK)
        turn_s = PROMPT_TURN_S if generating else LONE_TURN_S
        return min(left, max(SHORTEST_CHUNK, int(self._prompt_rate * turn_s)))

    def _compute(self, work: list[Work]) -> bool:
        """Decode and sample; on failure the same in smaller parts, down to one token. False: nothing was decoded."""
        status = self._backend.decode([item.span for item in work])
        if status is DecodeStatus.OK:
            self.scheduler.decoded(work)
            self._sample(work)
            return True
        if status is DecodeStatus.FAILED:
            work = self._restored(work)
        if sum(len(item.span.tokens) for item in work) <= 1:
            for item in work:
                self._fail_decode(item.running)
            return False
        decoded = False
        for half in halves(work):
            still_there = [item for item in half if item.running.request.id in self.scheduler.running]
            if still_there:
                decoded |= self._compute(still_there)
        return decoded

    def _restored(self, work: list[Work]) -> list[Work]:
        """Take the sequences back to before the failed batch; those whose memory cannot do that fail here."""
        kept = []
        for item in work:
            if self._backend.truncate(item.span.sequence, item.span.position):
                kept.append(item)
            else:
                self._fail_decode(item.running)
        return kept

    def _fail_decode(self, running: Running) -> None:
        self._fail(
            running.request.id,
            Code.ENGINE_FAILED,
            f"llama.cpp could not decode token {self.scheduler.kv.length(running.slot)} of the sequence",
            position=self.scheduler.kv.length(running.slot),
        )

    def _sample(self, work: list[Work]) -> None:
        row = -1
        for item in work:
            row += len(item.span.tokens)
            if item.span.output:
                try:
                    self._sample_one(item.running, row)
                except SamplingFailed as error:
                    self._fail(item.running.request.id, Code.INVALID_REQUEST, str(error))

    def _sample_one(self, running: Running, row: int) -> None:
        id, index = running.request.id, running.generated
        generation = self._generations[id]
        token = generation.sampler.sample(row)
        if not index:
            generation.first_token = self._clock()
        event = Token(id, index, token, "")
        if generation.request.logprobs:
            event.logprobs = self._backend.logprobs(row, token, generation.request.logprobs)
        self.events.append(event)
        full = self.scheduler.sampled(running, token)
        if self._backend.is_end(token):
            event.text = generation.text.flush()
            self._end(running, FinishReason.STOP)
            return
        event.text = generation.text.feed(self._backend.piece(token))
        if generation.text.stopped:
            self._end(running, FinishReason.STOP)
        elif full:
            event.text += generation.text.flush()
            self._end(running, FinishReason.LENGTH)

    def _embed(self, running: Running) -> None:
        """One chunk of one embedding request; its slot's memory is emptied after each input."""
        id = running.request.id
        job = self._embeddings[id]
        tokens = job.request.inputs[job.index]
        size = self._backend.info.embedding_chunk
        vector = self._backend.embed(Span(running.slot, job.offset, tokens[job.offset : job.offset + size], False))
        if vector is None:
            self._fail(id, Code.ENGINE_FAILED, f"llama.cpp could not embed input {job.index}", input=job.index)
            return
        job.total = [a + b for a, b in zip(job.total, vector, strict=True)] if job.total else vector
        job.offset += size
        if job.offset < len(tokens):
            return
        job.vectors.append(unit(job.total))
        job.index, job.offset, job.total = job.index + 1, 0, []
        self._backend.truncate(running.slot, 0)
        if job.index == len(job.request.inputs):
            del self._embeddings[id]
            self._free(id, keep=False)
            self.events.append(Embedded(id, job.vectors, sum(map(len, job.request.inputs))))
