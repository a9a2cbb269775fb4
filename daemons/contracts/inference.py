"""What to generate and how: prompt or messages, sampling, limits; usage and timings of the result."""

import math
import re
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from daemons.contracts.wire import Answer, PrintableStr, Request

MOST_REPEATED = 10_000
"""How often a JSON schema may ask for something in a row, over all its levels: its grammar is written out."""

_REPEATING = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
_REPEATED_IN_PATTERN = re.compile(r"\{\s*(\d*)\s*(?:,\s*(\d*)\s*)?\}")
_TOKEN_ID = re.compile("[0-9]{1,9}")

StopString = Annotated[str, Field(min_length=1, max_length=256)]


class TextPart(Request):
    """One text part of a message whose content is a list (OpenAI's form)."""

    type: Literal["text"]
    text: str


class Message(Request):
    """One turn of a conversation, in OpenAI's form."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: PrintableStr | None = Field(default=None, max_length=64)
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None

    @property
    def text(self) -> str:
        """The content as one string."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class ResponseFormat(Request):
    """`text`, any JSON object, or JSON that follows a schema (OpenAI's `response_format`)."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _schema_given(self) -> "ResponseFormat":
        if self.type == "json_schema" and not self.json_schema:
            raise ValueError("json_schema is required when type is json_schema")
        if self.json_schema and (times := _repetitions(self.json_schema)) > MOST_REPEATED:
            raise ValueError(f"json_schema repeats something {times:.3g} times, at most {MOST_REPEATED} are possible")
        return self

    @property
    def schema_object(self) -> dict[str, Any] | None:
        """The JSON schema itself; OpenAI nests it under `schema`."""
        if self.json_schema is None:
            return None
        nested = self.json_schema.get("schema")
        return nested if isinstance(nested, dict) else self.json_schema


def _repetitions(schema: Any) -> float:
    """The largest product of what is repeated along one way into the schema."""
    if isinstance(schema, list):
        return max(map(_repetitions, schema), default=1.0)
    if not isinstance(schema, dict):
        return 1.0
    numbers = [schema[name] for name in _REPEATING if isinstance(schema.get(name), int | float)]
    pattern = str(schema.get("pattern", ""))
    written = (max(float(times or 0) for times in found.groups()) for found in _REPEATED_IN_PATTERN.finditer(pattern))
    here = max(1.0, *(float(min(number, 1e30)) for number in numbers)) if numbers else 1.0
    return here * math.prod(max(1.0, times) for times in written) * max(map(_repetitions, schema.values()), default=1.0)


class Sampling(Request):
    """How the next token is chosen; ranges are llama.cpp's, names are the field's."""

    temperature: float = Field(default=0.7, ge=0.0, le=5.0, description="0 is greedy")
    top_k: int = Field(default=40, ge=0, le=1_000_000, description="0 turns it off")
    top_p: float = Field(default=0.95, gt=0.0, le=1.0)
    min_p: float = Field(default=0.05, ge=0.0, le=1.0)
    typical_p: float = Field(default=1.0, gt=0.0, le=1.0)
    repeat_penalty: float = Field(default=1.0, gt=0.0, le=10.0)
    repeat_last_n: int = Field(default=64, ge=-1, le=65_536, description="-1 is the whole context")
    presence_penalty: float = Field(default=0.0, ge=-2.0, le=2.0)
    frequency_penalty: float = Field(default=0.0, ge=-2.0, le=2.0)
    dry_multiplier: float = Field(default=0.0, ge=0.0, le=10.0)
    dry_base: float = Field(default=1.75, ge=1.0, le=10.0)
    dry_allowed_length: int = Field(default=2, ge=1, le=1_000)
    dry_penalty_last_n: int = Field(default=-1, ge=-1, le=65_536)
    mirostat: Literal[0, 1, 2] = 0
    mirostat_tau: float = Field(default=5.0, gt=0.0, le=100.0)
    mirostat_eta: float = Field(default=0.1, gt=0.0, le=1.0)
    seed: int | None = Field(default=None, ge=0, le=2**32 - 1)
    logit_bias: dict[str, float] = Field(default_factory=dict, max_length=1024, description="token id -> -100..100")
    grammar: str | None = Field(default=None, max_length=65_536, description="GBNF")

    @model_validator(mode="after")
    def _bias_in_range(self) -> "Sampling":
        for token, bias in self.logit_bias.items():
            if not _TOKEN_ID.fullmatch(token):
                raise ValueError(f"logit_bias key {token[:40]!a} is not a token id")
            if not -100.0 <= bias <= 100.0:
                raise ValueError(f"logit_bias of token {token} is {bias}, outside -100..100")
        return self


class Generation(Sampling):
    """Everything about one generation except which model answers it: prompt xor messages, sampling, limits."""

    prompt: str | None = None
    messages: list[Message] | None = Field(default=None, min_length=1, max_length=4096)
    tools: list[dict[str, Any]] | None = Field(default=None, max_length=128)
    response_format: ResponseFormat | None = None
    max_tokens: int = Field(default=100, ge=1, le=1_000_000)
    stop: list[StopString] = Field(default_factory=list, max_length=16)
    logprobs: int = Field(default=0, ge=0, le=20, description="alternatives per token; 0 is off")
    ignore_eos: bool = False
    cache_prompt: bool = True

    @model_validator(mode="after")
    def _one_input(self) -> "Generation":
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either prompt or messages")
        return self


class InferenceRequest(Generation):
    """Body of the worker's `POST /v1/inference`. `id` names the generation for DELETE; made by the queen."""

    id: PrintableStr = Field(min_length=1, max_length=64)


class FinishReason(StrEnum):
    """Why a generation ended."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"


class Usage(Answer):
    """Token counts. `cached_tokens` of the prompt were not computed again."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


class Timings(Answer):
    """Milliseconds as seen by the worker; `ttft_ms` counts from the arrival of the request."""

    queue_ms: float
    prompt_ms: float
    generation_ms: float
    ttft_ms: float
    tokens_per_second: float


class TokenizeRequest(Request):
    """Body of `POST /v1/tokenize`."""

    text: str
    add_special: bool = False


class DetokenizeRequest(Request):
    """Body of `POST /v1/detokenize`."""

    tokens: list[int] = Field(max_length=1_000_000)


class EmbeddingsRequest(Request):
    """Body of the worker's `POST /v1/embeddings`."""

    input: list[str] = Field(min_length=1, max_length=256)
