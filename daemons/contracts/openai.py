"""OpenAI's request shapes as far as rbee serves them; names and meanings are OpenAI's API reference.

A parameter that is null counts as not given. Known parameters that rbee cannot honour are refused rather than ignored,
unless ignoring them changes no answer.
"""

import json
from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from daemons.contracts.inference import Message, ResponseFormat, StopString
from daemons.contracts.tasks import TaskRequest
from daemons.contracts.wire import PrintableStr, Request

OPENAI_DEFAULT_MAX_TOKENS = 1024
"""OpenAI has no limit by default; without one a small model may run to the end of its context."""

IGNORED = frozenset({
    "metadata", "parallel_tool_calls", "prediction", "prompt_cache_key", "prompt_cache_options",
    "prompt_cache_retention", "reasoning_effort", "safety_identifier", "service_tier", "store", "user", "verbosity",
})  # fmt: skip
"""About OpenAI's own service (storage, billing, caches), or wishes to models of a kind that is not served here."""

IGNORED_IN_MESSAGES = frozenset({"annotations"})
IGNORED_IN_STREAM_OPTIONS = frozenset({"include_obfuscation"})

_SHOWN_LENGTH = 40


def _given(body: Any, ignored: Collection[str]) -> Any:
    """The fields of an object that were given and count."""
    if not isinstance(body, dict):
        return body
    return {name: value for name, value in body.items() if value is not None and name not in ignored}


def _only(*accepted: Any, instead: str) -> BeforeValidator:
    """Takes these values of a parameter; for others it says what to do instead."""

    def check(value: Any, info: ValidationInfo) -> Any:
        if any(type(value) is type(one) and value == one for one in accepted):
            return value
        raise ValueError(f"{info.field_name}={json.dumps(value)[:_SHOWN_LENGTH]} is not supported; {instead}")

    return BeforeValidator(check)


class StreamOptions(Request):
    include_usage: bool = False

    @model_validator(mode="before")
    @classmethod
    def _what_counts(cls, body: Any) -> Any:
        return _given(body, IGNORED_IN_STREAM_OPTIONS)


class _Common(Request):
    """Parameters that chat and plain completions share."""

    model: PrintableStr = Field(min_length=1, max_length=512)
    temperature: float = Field(default=1.0, ge=0.0, le=2.0)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    n: Annotated[Literal[1], _only(1, instead="ask once for each answer")] = 1
    stream: bool = False
    stream_options: StreamOptions | None = None
    stop: str | list[StopString] | None = None
    presence_penalty: float = Field(default=0.0, ge=-2.0, le=2.0)
    frequency_penalty: float = Field(default=0.0, ge=-2.0, le=2.0)
    logit_bias: dict[str, float] | None = None
    seed: int | None = None
    # llama.cpp's additions, as other local servers take them.
    top_k: int | None = Field(default=None, ge=0)
    min_p: float | None = Field(default=None, ge=0.0, le=1.0)
    repeat_penalty: float | None = Field(default=None, gt=0.0, le=10.0)
    cache_prompt: bool = True

    @model_validator(mode="before")
    @classmethod
    def _what_counts(cls, body: Any) -> Any:
        return _given(body, IGNORED)

    @field_validator("stop")
    @classmethod
    def _at_most_four(cls, stop: str | list[str] | None) -> list[str] | None:
        stops = [stop] if isinstance(stop, str) else stop
        if stops is not None and len(stops) > 4:
            raise ValueError(f"at most 4 stop strings, got {len(stops)}")
        return stops

    def _sampling(self) -> dict[str, Any]:
        """Fields of TaskRequest that both kinds of completion set."""
        optional = {"top_k": self.top_k, "min_p": self.min_p, "repeat_penalty": self.repeat_penalty}
        return {
            "model": self.model,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "stop": self.stop or [],
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "logit_bias": self.logit_bias or {},
            "seed": None if self.seed is None else self.seed % 2**32,
            "cache_prompt": self.cache_prompt,
            **{name: value for name, value in optional.items() if value is not None},
        }


_LOGPROBS = 'POST /v2/tasks gives them: "logprobs": 1 to 20'
_NO_AUDIO = "answers are text"


class ChatCompletionRequest(_Common):
    """Body of `POST /v1/chat/completions`."""

    messages: list[Message] = Field(min_length=1, max_length=4096)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    response_format: ResponseFormat | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Annotated[Literal["auto", "none"], _only("auto", "none", instead="the model decides")] = "auto"
    # OpenAI's parameters with the one value that asks for nothing.
    logprobs: Annotated[Literal[False], _only(False, instead=_LOGPROBS)] = False
    top_logprobs: Annotated[Literal[0], _only(0, instead=_LOGPROBS)] = 0
    modalities: Annotated[list[str] | None, _only(["text"], instead=_NO_AUDIO)] = None
    audio: Annotated[None, _only(instead=_NO_AUDIO)] = None
    functions: Annotated[list[Any] | None, _only([], instead="`tools` takes their place")] = None
    function_call: Annotated[Literal["auto", "none"], _only("auto", "none", instead="`tools` takes its place")] = "auto"
    web_search_options: Annotated[None, _only(instead="models do not search here")] = None

    @field_validator("messages", mode="before")
    @classmethod
    def _what_counts_of_messages(cls, messages: Any) -> Any:
        """Clients send back the messages that they got, with all that is null in them."""
        if not isinstance(messages, list):
            return messages
        return [_given(message, IGNORED_IN_MESSAGES) for message in messages]

    def as_task(self) -> TaskRequest:
        """The same request in rbee's own form."""
        return TaskRequest(
            messages=self.messages,
            tools=None if self.tool_choice == "none" else self.tools or None,
            response_format=self.response_format,
            max_tokens=self.max_completion_tokens or self.max_tokens or OPENAI_DEFAULT_MAX_TOKENS,
            **self._sampling(),
        )


class CompletionRequest(_Common):
    """Body of `POST /v1/completions`."""

    prompt: str
    max_tokens: int = Field(default=16, ge=1)
    # OpenAI's parameters with the one value that asks for nothing.
    best_of: Annotated[Literal[1], _only(1, instead="ask once for each answer")] = 1
    echo: Annotated[Literal[False], _only(False, instead="put the prompt before the answer yourself")] = False
    logprobs: Annotated[None, _only(instead=_LOGPROBS)] = None
    suffix: Annotated[Literal[""], _only("", instead="put it into the prompt")] = ""

    def as_task(self) -> TaskRequest:
        """The same request in rbee's own form."""
        return TaskRequest(prompt=self.prompt, max_tokens=self.max_tokens, **self._sampling())
