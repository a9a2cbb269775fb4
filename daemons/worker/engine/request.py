"""What goes into the engine and what comes out of it: requests, events, counts. Plain values, no behaviour."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeAlias

from daemons.contracts.errors import Code


class FinishReason(StrEnum):
    """Why a generation ended: end of text or a stop string; the token limit; a cancel from outside."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How the next token is chosen; meanings and neutral values are llama.cpp's (``common_params_sampling``).

    ``temperature`` 0 is greedy. ``seed`` None draws one. Neutral values: ``top_k`` 0, ``top_p`` 1, ``min_p`` 0,
    ``typical_p`` 1, ``repeat_penalty`` 1, the other penalties 0, ``mirostat`` 0. A window of -1 is the whole context.
    """

    temperature: float = 0.7
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    seed: int | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()
    grammar: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRequest:
    """Continue `tokens` by at most `max_tokens`. Times are seconds of the engine's monotonic clock."""

    id: str
    tokens: tuple[int, ...]
    max_tokens: int
    sampling: SamplingParams = field(default_factory=SamplingParams)
    stop: tuple[str, ...] = ()
    deadline: float | None = None
    arrived: float | None = None
    cache_prompt: bool = True
    logprobs: int = 0
    ignore_eos: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedRequest:
    """One mean-pooled, L2-normalised vector for each of `inputs` (token ids of one text each)."""

    id: str
    inputs: tuple[tuple[int, ...], ...]
    deadline: float | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts; `cached_tokens` of the prompt were taken from the KV cache."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


@dataclass(frozen=True, slots=True)
class Timings:
    """Milliseconds. Waiting for the engine, prompt, generation after the first token, arrival to first token."""

    queue_ms: float
    prompt_ms: float
    generation_ms: float
    ttft_ms: float
    tokens_per_second: float


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Natural log-probability of the chosen token, and of the most likely ones, before any sampling filter."""

    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """Share of the model that is in memory, 0 to 1."""

    fraction: float


@dataclass(frozen=True, slots=True)
class Loaded:
    """The model answers from now on."""

    load_ms: float


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """The model could not be loaded; the engine's thread has ended."""

    code: Code
    message: str
    details: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Started:
    """The request has a slot; `cached_tokens` of its prompt need not be computed."""

    id: str
    prompt_tokens: int
    cached_tokens: int


@dataclass(frozen=True, slots=True)
class PromptProgress:
    """So many of the prompt's tokens are in the KV cache; not told for a prompt that is computed in one go."""

    id: str
    done: int
    total: int


@dataclass(slots=True)
class Token:
    """One sampled token. `text` may be empty while bytes or a possible stop string are held back."""

    id: str
    index: int
    token: int
    text: str
    logprobs: TokenLogprobs | None = None


@dataclass(frozen=True, slots=True)
class Finished:
    """Last event of a request that ended as it should."""

    id: str
    reason: FinishReason
    usage: Usage
    timings: Timings


@dataclass(frozen=True, slots=True)
class Embedded:
    """Last event of an embedding request: one vector per input."""

    id: str
    vectors: list[list[float]]
    tokens: int


@dataclass(frozen=True, slots=True)
class Failed:
    """Last event of a request that failed; others go on. `usage` counts what was done until then."""

    id: str
    code: Code
    message: str
    details: dict[str, Any] = field(default_factory=dict)
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class EngineDied:
    """The engine itself failed and will not answer again; every open request got its ``Failed`` before this."""

    message: str


Event: TypeAlias = (
    LoadProgress | Loaded | LoadFailed | Started | PromptProgress | Token | Finished | Embedded | Failed | EngineDied
)
LAST_EVENTS = (Finished, Embedded, Failed)
