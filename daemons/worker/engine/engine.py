"""The thread that owns the model: commands between two steps, decode, sample, one hand-over of events per step."""

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, TypeAlias

from daemons.contracts.errors import Code, RbeeError
from daemons.worker.engine.backend import Backend, DecodeStatus, Sampler, SamplingFailed, Span
from daemons.worker.engine.detokenizer import Detokenizer
from daemons.worker.engine.request import (
    Embedded,
    EmbedRequest,
    EngineDied,
    Event,
    Failed,
    Finished,
    FinishReason,
    GenerateRequest,
    Loaded,
    LoadFailed,
    LoadProgress,
    Started,
    Timings,
    Token,
    Usage,
)
from daemons.worker.engine.scheduler import Admission, Running, Scheduler, Work, halves

PROGRESS_STEP = 0.01
"""Load progress is told when it grew by this share at least."""

PROMPT_TURN_S = 1.0
"""About how long running answers wait at most for a chunk of somebody's prompt; slow machines take smaller chunks."""

SHORTEST_CHUNK = 16
"""Tokens of a prompt that are computed in one turn at least: fewer would take nearly as long."""

FATAL_FAILURES = 3
"""Steps in a row in which nothing could be decoded, even one token at a time, before the engine gives up."""


@dataclass(frozen=True, slots=True)
class Cancel:
    """End a request; unknown ids are ignored, since it may just have ended."""

    id: str


@dataclass(frozen=True, slots=True)
class Stop:
    """End the thread; open requests fail with DRAINING."""


Command: TypeAlias = GenerateRequest | EmbedRequest | Cancel | Stop


class EngineBroken(Exception):
    """llama.cpp decodes nothing any more; not the fault of one request."""


@dataclass(slots=True, eq=False)
class Generation:
    """What the engine keeps for one request beside its place in the scheduler; times in monotonic seconds."""

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


class Engine:
    """Continuous batching on one backend.

    `sink` gets lists of events, in order, from the engine's thread; it must be quick and must not raise.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        slots: int,
        batch: int,
        sink: Callable[[list[Event]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._backend = backend
        self._slots = slots
        self._batch = batch
        self._sink = sink
        self._clock = clock
        self._mailbox: SimpleQueue[Command] = SimpleQueue()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._events: list[Event] = []
        self._generations: dict[str, Generation] = {}
        self._embeddings: dict[str, Embedding] = {}
        self._scheduler: Scheduler | None = None
        self._failed_steps = 0
        self._prompt_rate = math.inf

    def start(self) -> None:
        """Begin to load; `Loaded` or `LoadFailed` will tell."""
        self._thread.start()

    def submit(self, request: GenerateRequest | EmbedRequest) -> None:
        """Thread-safe. First ``Started``, last exactly one of ``Finished``, ``Embedded`` and ``Failed``."""
        self._mailbox.put(request)

    def cancel(self, id: str) -> None:
        """Thread-safe. Takes effect before the next decode."""
        self._mailbox.put(Cancel(id))

    def stop(self) -> None:
        """Thread-safe. Ends the thread before its next decode, or the load at its next progress call."""
        self._stopping.set()
        self._mailbox.put(Stop())

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the thread; True when it has ended."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    @property
    def kv_used(self) -> int:
        """KV cells in use, caches of idle slots included. A snapshot, readable from any thread."""
        return self._scheduler.kv.used if self._scheduler else 0

    # -- the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            scheduler = self._load()
            if scheduler is not None:
                self._serve(scheduler)
        except Exception as error:  # whatever it was: every waiter is answered, then the owner is told
            message = f"{type(error).__name__}: {error}"
            self._fail_all(Code.ENGINE_FAILED, f"the engine failed: {message}")
            self._events.append(EngineDied(message))
        finally:
            self._flush()
            self._backend.close()

    def _load(self) -> Scheduler | None:
        started, told = self._clock(), 0.0

        def progress(fraction: float) -> bool:
            nonlocal told
            if fraction - told >= PROGRESS_STEP or (fraction >= 1.0 > told):
                told = fraction
                self._sink([LoadProgress(fraction)])
            return not self._stopping.is_set()

        try:
            self._backend.load(progress)
            info = self._backend.info
            self._scheduler = Scheduler(self._slots, info.ctx, self._batch)
        except RbeeError as error:
            self._events.append(LoadFailed(error.code, error.message, error.details))
            return None
        self._sink([Loaded((self._clock() - started) * 1000)])
        return self._scheduler

    def _serve(self, scheduler: Scheduler) -> None:
        while self._take_commands(scheduler):
            self._expire(scheduler)
            self._flush()
            generating = scheduler.generating()
            if generating:
                self._step(scheduler, generating)
                self._flush()
            self._step_prompts(scheduler, scheduler.prompts(self._prompt_room(len(generating))))
            for running in scheduler.embeddings()[:1]:
                self._embed(scheduler, running)
            self._flush()
        self._fail_all(Code.DRAINING, "the worker is stopping")

    def _flush(self) -> None:
        if self._events:
            events, self._events = self._events, []
            self._sink(events)

    def _take_commands(self, scheduler: Scheduler) -> bool:
        """Carry out what is in the mailbox, waiting for something when there is nothing to do; False: stop."""
        while not self._mailbox.empty() or not scheduler.running:
            command = self._mailbox.get()
            match command:
                case GenerateRequest():
                    self._admit(scheduler, command)
                case EmbedRequest():
                    self._admit_embedding(scheduler, command)
                case Cancel():
                    self._cancel(scheduler, command.id)
                case Stop():
                    return False
            self._flush()
        return True

    # -- beginnings ----------------------------------------------------------------------------------------------

    def _admit(self, scheduler: Scheduler, request: GenerateRequest) -> None:
        now = self._clock()
        sampler: Sampler | None = None
        try:
            sampler = self._backend.sampler(request.sampling, request.tokens, ignore_eos=request.ignore_eos)
            admission = scheduler.admit(request, self._backend.reusable)
        except SamplingFailed as error:
            self._refuse(request.id, RbeeError(Code.INVALID_REQUEST, str(error)))
            return
        except RbeeError as error:
            if sampler:
                sampler.close()
            self._refuse(request.id, error)
            return
        self._prepare_memory(scheduler, admission)
        arrived = now if request.arrived is None else request.arrived
        self._generations[request.id] = Generation(request, sampler, Detokenizer(request.stop), arrived, now)
        self._events.append(Started(request.id, len(request.tokens), admission.running.cached))

    def _admit_embedding(self, scheduler: Scheduler, request: EmbedRequest) -> None:
        try:
            admission = scheduler.admit_embedding(request)
        except RbeeError as error:
            self._refuse(request.id, error)
            return
        self._prepare_memory(scheduler, admission)
        self._embeddings[request.id] = Embedding(request, 0, 0, [], [])
        self._events.append(Started(request.id, sum(map(len, request.inputs)), 0))

    def _refuse(self, id: str, error: RbeeError) -> None:
        self._events.append(Failed(id, error.code, error.message, error.details))

    def _prepare_memory(self, scheduler: Scheduler, admission: Admission) -> None:
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
            scheduler.forget_prefix(admission.running)

    # -- ends ----------------------------------------------------------------------------------------------------

    def _cancel(self, scheduler: Scheduler, id: str) -> None:
        if id in self._generations:
            self._end(scheduler, scheduler.running[id], FinishReason.CANCELLED)
        elif id in self._embeddings:
            self._fail(scheduler, id, Code.CANCELLED, "the request was cancelled")

    def _expire(self, scheduler: Scheduler) -> None:
        now = self._clock()
        late = [
            id
            for id, running in scheduler.running.items()
            if running.request.deadline and now >= running.request.deadline
        ]
        for id in late:
            generated = scheduler.running[id].generated
            self._fail(scheduler, id, Code.DEADLINE_EXCEEDED, f"the deadline passed after {generated} tokens")

    def _end(self, scheduler: Scheduler, running: Running, reason: FinishReason) -> None:
        """The request ended as it should; its tokens stay in the KV cache for the next one, unless it forbade that."""
        generation = self._generations.pop(running.request.id)
        generation.sampler.close()
        usage = self._usage(running, generation)
        timings = self._timings(running, generation)
        self._free(scheduler, running.request.id, keep=generation.request.cache_prompt)
        self._events.append(Finished(running.request.id, reason, usage, timings))

    def _fail(self, scheduler: Scheduler, id: str, code: Code, message: str, **details: Any) -> None:
        """The request failed alone; nothing of it stays."""
        running = scheduler.running[id]
        usage: Usage | None = None
        generation = self._generations.pop(id, None)
        if generation:
            generation.sampler.close()
            usage = self._usage(running, generation)
            details["tokens_generated"] = running.generated
        self._embeddings.pop(id, None)
        self._free(scheduler, id, keep=False)
        self._events.append(Failed(id, code, message, details, usage))

    def _free(self, scheduler: Scheduler, id: str, *, keep: bool) -> None:
        slot = scheduler.finish(id, keep=keep).slot
        if not keep:
            self._backend.truncate(slot, 0)

    def _fail_all(self, code: Code, message: str) -> None:
        """Answer every request that is open or still in the mailbox."""
        if self._scheduler:
            for id in list(self._scheduler.running):
                self._events.append(Failed(id, code, message))
        for generation in self._generations.values():
            generation.sampler.close()
        self._generations.clear()
        self._embeddings.clear()
        while not self._mailbox.empty():
            command = self._mailbox.get()
            if isinstance(command, GenerateRequest | EmbedRequest):
                self._events.append(Failed(command.id, code, message))

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

    def _step(self, scheduler: Scheduler, work: list[Work]) -> None:
        if self._compute(scheduler, work):
            self._failed_steps = 0
            return
        self._failed_steps += 1
        if self._failed_steps >= FATAL_FAILURES:
            raise EngineBroken(f"{self._failed_steps} steps in a row could not be decoded, not even token by token")

    def _prompt_room(self, generating: int) -> int:
        """Tokens of prompts in this step: what is left of the batch, or what fits in one turn when others wait."""
        left = self._batch - generating
        if not generating or math.isinf(self._prompt_rate):
            return left
        return min(left, max(SHORTEST_CHUNK, int(self._prompt_rate * PROMPT_TURN_S)))

    def _step_prompts(self, scheduler: Scheduler, work: list[Work]) -> None:
        """Compute prompt chunks and learn how fast that goes here."""
        if not work:
            return
        started, size = self._clock(), sum(len(item.span.tokens) for item in work)
        self._step(scheduler, work)
        seconds = self._clock() - started
        if size >= SHORTEST_CHUNK and seconds > 0:
            self._prompt_rate = size / seconds

    def _compute(self, scheduler: Scheduler, work: list[Work]) -> bool:
        """Decode and sample; on failure the same in smaller parts, down to one token. False: nothing was decoded."""
        status = self._backend.decode([item.span for item in work])
        if status is DecodeStatus.OK:
            scheduler.decoded(work)
            self._sample(scheduler, work)
            return True
        if status is DecodeStatus.FAILED:
            work = self._restored(scheduler, work)
        if sum(len(item.span.tokens) for item in work) <= 1:
            for item in work:
                self._fail_decode(scheduler, item.running)
            return False
        decoded = False
        for half in halves(work):
            still_there = [item for item in half if item.running.request.id in scheduler.running]
            if still_there:
                decoded |= self._compute(scheduler, still_there)
        return decoded

    def _restored(self, scheduler: Scheduler, work: list[Work]) -> list[Work]:
        """Take the sequences back to before the failed batch; those whose memory cannot do that fail here."""
        kept = []
        for item in work:
            if self._backend.truncate(item.span.sequence, item.span.position):
                kept.append(item)
            else:
                self._fail_decode(scheduler, item.running)
        return kept

    def _fail_decode(self, scheduler: Scheduler, running: Running) -> None:
        self._fail(
            scheduler,
            running.request.id,
            Code.ENGINE_FAILED,
            f"llama.cpp could not decode token {scheduler.kv.length(running.slot)} of the sequence",
            position=scheduler.kv.length(running.slot),
        )

    def _sample(self, scheduler: Scheduler, work: list[Work]) -> None:
        row = -1
        for item in work:
            row += len(item.span.tokens)
            if item.span.output:
                try:
                    self._sample_one(scheduler, item.running, row)
                except SamplingFailed as error:
                    self._fail(scheduler, item.running.request.id, Code.INVALID_REQUEST, str(error))

    def _sample_one(self, scheduler: Scheduler, running: Running, row: int) -> None:
        id, index = running.request.id, running.generated
        generation = self._generations[id]
        token = generation.sampler.sample(row)
        if not index:
            generation.first_token = self._clock()
        event = Token(id, index, token, "")
        if generation.request.logprobs:
            event.logprobs = self._backend.logprobs(row, token, generation.request.logprobs)
        self._events.append(event)
        full = scheduler.sampled(running, token)
        if self._backend.is_end(token):
            event.text = generation.text.flush()
            self._end(scheduler, running, FinishReason.STOP)
            return
        event.text = generation.text.feed(self._backend.piece(token))
        if generation.text.stopped:
            self._end(scheduler, running, FinishReason.STOP)
        elif full:
            event.text += generation.text.flush()
            self._end(scheduler, running, FinishReason.LENGTH)

    def _embed(self, scheduler: Scheduler, running: Running) -> None:
        """One chunk of one embedding request; its slot's memory is emptied after each input."""
        id = running.request.id
        job = self._embeddings[id]
        tokens = job.request.inputs[job.index]
        size = self._backend.info.embedding_chunk
        vector = self._backend.embed(Span(running.slot, job.offset, tokens[job.offset : job.offset + size], False))
        if vector is None:
            self._fail(
                scheduler, id, Code.ENGINE_FAILED, f"llama.cpp could not embed input {job.index}", input=job.index
            )
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
            self._free(scheduler, id, keep=False)
            self._events.append(Embedded(id, job.vectors, sum(map(len, job.request.inputs))))
