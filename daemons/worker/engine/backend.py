"""The seam below the engine: what it asks of llama.cpp. A real one and a deterministic fake pass the same tests.

Everything here is called by the engine's thread alone, except what `Vocabulary` offers: llama.cpp's vocabulary is
read-only after loading and safe to read from any thread.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, Protocol

from daemons.worker.engine.request import SamplingParams, TokenLogprobs


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What the loaded model and its context turned out to be.

    `ctx` is tokens per slot, `cells` the whole KV cache, `embedding_chunk` the most tokens of one ``embed`` call.
    """

    description: str
    ctx: int
    ctx_train: int
    cells: int
    vocab_size: int
    embedding_size: int
    size_bytes: int
    parameters: int
    add_bos: bool
    bos: str
    eos: str
    chat_template: str | None
    generates: bool
    embedding_chunk: int


class Span(NamedTuple):
    """Consecutive tokens of one sequence in a batch, the first at `position`; `output` wants the last one's logits."""

    sequence: int
    position: int
    tokens: Sequence[int]
    output: bool


class DecodeStatus(Enum):
    """How a decode ended. NO_CELLS: nothing was changed; FAILED: the memory of the batch's sequences is undefined."""

    OK = "ok"
    NO_CELLS = "no cells"
    FAILED = "failed"


class SamplingFailed(Exception):
    """No token can be sampled for this request (a grammar without a way out, a bad parameter); others go on."""


class Sampler(Protocol):
    """The sampling state of one sequence; nothing in it is shared with another sequence."""

    def sample(self, row: int) -> int:
        """Choose and accept the next token from the logits of batch row `row`. Raises SamplingFailed."""

    def close(self) -> None: ...


class Vocabulary(Protocol):
    """Text to tokens and back; may be called from any thread once the model is loaded."""

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]: ...

    def piece(self, token: int) -> bytes:
        """The bytes that a token stands for; control tokens give none. May be part of a UTF-8 character."""

    def is_end(self, token: int) -> bool:
        """Whether the token ends a generation (end of text, end of turn)."""

    def grammar_of_schema(self, schema: str) -> str:
        """GBNF for a JSON schema. Raises ValueError for a schema that cannot be turned into one."""


class Backend(Vocabulary, Protocol):
    """One model in one context."""

    @property
    def info(self) -> ModelInfo: ...

    def load(self, progress: Callable[[float], bool]) -> None:
        """Load the model, then make the context; `progress` gets 0 to 1 and stops the load by returning False.

        Raises RbeeError: MODEL_NOT_FOUND, MODEL_INVALID, WORKER_OOM, CANCELLED.
        """

    def decode(self, batch: Sequence[Span]) -> DecodeStatus:
        """Compute the batch; rows are numbered over all spans from 0."""

    def embed(self, span: Span) -> list[float] | None:
        """Sum of the embeddings of the span's tokens (the pooled vector where the model pools); None: failed."""

    def sampler(self, params: SamplingParams, prompt: Sequence[int], *, ignore_eos: bool) -> Sampler:
        """Raises SamplingFailed when the grammar does not parse."""

    def logprobs(self, row: int, token: int, top: int) -> TokenLogprobs: ...

    def reusable(self, sequence: int, length: int) -> bool:
        """Whether the first `length` tokens of the sequence can be continued from, by llama.cpp's minimum position."""

    def truncate(self, sequence: int, length: int) -> bool:
        """Forget all from position `length` on; False when the memory cannot do that in part."""

    def copy(self, source: int, target: int, length: int) -> bool:
        """Give `target` (empty) the first `length` tokens of `source`; False when the memory cannot do that in part."""

    def close(self) -> None:
        """Free context and model; may be called twice."""
