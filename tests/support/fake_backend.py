"""A backend without llama.cpp: byte tokens, text that follows from the history, memory that is checked strictly."""

import random
import threading
import zlib
from collections.abc import Callable, Sequence

from daemons.contracts.errors import Code, RbeeError
from daemons.worker.engine.backend import DecodeStatus, ModelInfo, SamplingFailed, Span
from daemons.worker.engine.request import SamplingParams, TokenLogprobs

BOS, EOS, FIRST_BYTE = 1, 2, 3
VOCAB_SIZE = FIRST_BYTE + 256
PRINTABLE = tuple(FIRST_BYTE + byte for byte in range(0x20, 0x7F))

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def fake_tokens(text: str) -> tuple[int, ...]:
    return tuple(FIRST_BYTE + byte for byte in text.encode())


class FakeSampler:
    """Greedy text is a hash of the history; with a temperature the seed's random numbers are mixed in."""

    def __init__(self, backend: "FakeBackend", params: SamplingParams, *, ignore_eos: bool) -> None:
        self._backend = backend
        self._random = random.Random(params.seed) if params.temperature > 0 else None
        self._ignore_eos = ignore_eos
        self._stuck = params.grammar is not None and "stuck" in params.grammar
        self._count = 0
        backend.open_samplers += 1
        self._closed = False

    def sample(self, row: int) -> int:
        if self._closed:
            raise AssertionError("sampling with a closed sampler")
        if self._stuck:
            raise SamplingFailed("the grammar allows no token")
        history = self._backend.rows[row]
        number = zlib.crc32(repr(history).encode()) + (self._random.getrandbits(16) if self._random else 0)
        self._count += 1
        if self._backend.reply is not None:
            rest = fake_tokens(self._backend.reply)[self._count - 1 :]
            return rest[0] if rest else EOS
        if number % 97 == 0 and not self._ignore_eos:
            return EOS
        return PRINTABLE[number % len(PRINTABLE)]

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._backend.open_samplers -= 1


class FakeBackend:
    """Implements ``Backend``.

    reply      text to generate for every request, then end of text; None: a hash of the history
    gate       when given, each decode (and embed) takes one permit first, so that a test steps the engine
    fail       called with each batch; a status it returns is the outcome (FAILED leaves half of the batch behind)
    window     tokens of a sliding window: older positions are gone
    partial    False: like a recurrent model, a sequence can only be dropped as a whole
    load_gate  when given, loading waits for it after the first half
    """

    def __init__(
        self,
        *,
        slots: int = 4,
        ctx: int = 256,
        reply: str | None = None,
        gate: threading.Semaphore | None = None,
        fail: Callable[[Sequence[Span]], DecodeStatus | None] | None = None,
        window: int | None = None,
        partial: bool = True,
        load_gate: threading.Event | None = None,
        load_error: RbeeError | None = None,
        chat_template: str | None = CHAT_TEMPLATE,
        generates: bool = True,
    ) -> None:
        self.reply = reply
        self.gate = gate
        self.fail = fail
        self.window = window
        self.partial = partial
        self.load_gate = load_gate
        self.load_error = load_error
        self.open_samplers = 0
        self.batches: list[list[Span]] = []
        self.rows: dict[int, tuple[int, ...]] = {}
        self.memory: list[list[int]] = [[] for _ in range(slots)]
        self.closed = False
        self.info = ModelInfo(
            description="fake",
            ctx=ctx,
            ctx_train=ctx,
            cells=ctx * slots,
            vocab_size=VOCAB_SIZE,
            embedding_size=4,
            size_bytes=1024,
            parameters=256,
            add_bos=True,
            bos="<s>",
            eos="</s>",
            chat_template=chat_template,
            generates=generates,
            embedding_chunk=8,
        )

    def load(self, progress: Callable[[float], bool]) -> None:
        for step in range(11):
            if not progress(step / 10):
                raise RbeeError(Code.CANCELLED, "loading was stopped")
            if step == 5 and self.load_gate:
                self.load_gate.wait()
        if self.load_error:
            raise self.load_error

    def close(self) -> None:
        self.closed = True

    # -- vocabulary

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        head = [BOS] if add_special else []
        if parse_special and text.startswith("<s>"):
            return [*head, BOS, *fake_tokens(text[3:])]
        return [*head, *fake_tokens(text)]

    def piece(self, token: int) -> bytes:
        return bytes([token - FIRST_BYTE]) if token >= FIRST_BYTE else b""

    def is_end(self, token: int) -> bool:
        return token == EOS

    def grammar_of_schema(self, schema: str) -> str:
        if '"unsupported"' in schema:
            raise ValueError("unsupported schema")
        return "root ::= object"

    # -- computing

    def decode(self, batch: Sequence[Span]) -> DecodeStatus:
        if self.gate:
            self.gate.acquire()
        self.batches.append(list(batch))
        status = self.fail(batch) if self.fail else None
        if status is DecodeStatus.FAILED:
            self._store(batch[: (len(batch) + 1) // 2])
        if status is not None:
            return status
        if any(span.position + len(span.tokens) > self.info.ctx for span in batch):
            return DecodeStatus.NO_CELLS
        self._store(batch)
        return DecodeStatus.OK

    def _store(self, batch: Sequence[Span]) -> None:
        self.rows = {}
        row = -1
        for span in batch:
            held = self.memory[span.sequence]
            if span.position != len(held):
                raise AssertionError(
                    f"sequence {span.sequence} holds {len(held)} tokens, position {span.position} given"
                )
            if not all(0 <= token < VOCAB_SIZE for token in span.tokens):
                raise AssertionError(f"tokens outside the vocabulary: {span.tokens}")
            held.extend(span.tokens)
            row += len(span.tokens)
            if span.output:
                self.rows[row] = tuple(held)

    def embed(self, span: Span) -> list[float] | None:
        if self.gate:
            self.gate.acquire()
        self._store([span])
        return [float(sum(token * (column + 1) for token in span.tokens) % 101) for column in range(4)]

    def sampler(self, params: SamplingParams, prompt: Sequence[int], *, ignore_eos: bool) -> FakeSampler:
        if params.grammar is not None and "::=" not in params.grammar:
            raise SamplingFailed("the grammar does not parse")
        return FakeSampler(self, params, ignore_eos=ignore_eos)

    def logprobs(self, row: int, token: int, top: int) -> TokenLogprobs:
        ranked = [token, *(other for other in PRINTABLE if other != token)][:top]
        return TokenLogprobs(-0.5, tuple((other, -0.5 - rank) for rank, other in enumerate(ranked)))

    # -- memory

    def reusable(self, sequence: int, length: int) -> bool:
        held = len(self.memory[sequence])
        if not self.partial:
            return length == held
        first = max(0, held - self.window) if self.window is not None else 0
        return held > 0 and (first == 0 or first < max(0, length - (self.window or 0)))

    def truncate(self, sequence: int, length: int) -> bool:
        if length and length < len(self.memory[sequence]) and not self.partial:
            return False
        del self.memory[sequence][length:]
        return True

    def copy(self, source: int, target: int, length: int) -> bool:
        if self.memory[target]:
            raise AssertionError(f"sequence {target} is not empty")
        self.memory[target] = list(self.memory[source])
        return self.truncate(target, length)
