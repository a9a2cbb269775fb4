"""OpenAI's request shapes as far as rbee serves them; names and meanings are OpenAI's API reference.

Known parameters that rbee cannot honour are refused rather than ignored, unless ignoring them changes no answer.
"""

from typing import Any, Literal

from pydantic import Field, field_validator

from daemons.contracts.inference import Message, ResponseFormat, StopString
from daemons.contracts.tasks import TaskRequest
from daemons.contracts.wire import Request

OPENAI_DEFAULT_MAX_TOKENS = 1024
"""OpenAI has no limit by default; without one a small model may run to the end of its context."""


class StreamOptions(Request):
    include_usage: bool = False


class _Common(Request):
    """Parameters that chat and plain completions share."""

    model: str = Field(min_length=1, max_length=512)
    temperature: float = Field(default=1.0, ge=0.0, le=2.0)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    n: Literal[1] = 1
    stream: bool = False
    stream_options: StreamOptions | None = None
    stop: str | list[StopString] | None = None
    presence_penalty: float = Field(default=0.0, ge=-2.0, le=2.0)
    frequency_penalty: float = Field(default=0.0, ge=-2.0, le=2.0)
    logit_bias: dict[str, float] | None = None
    seed: int | None = None
    user: str | None = None
    # llama.cpp's additions, as other local servers take them.
    top_k: int | None = Field(default=None, ge=0)
    min_p: float | None = Field(default=None, ge=0.0, le=1.0)
    repeat_penalty: float | None = Field(default=None, gt=0.0, le=10.0)
    cache_prompt: bool = True

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


class ChatCompletionRequest(_Common):
    """Body of `POST /v1/chat/completions`."""

    messages: list[Message] = Field(min_length=1, max_length=4096)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: Literal[False] | None = None
    response_format: ResponseFormat | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Literal["auto", "none"] | None = None
    parallel_tool_calls: bool | None = None
    store: Literal[False] | None = None
    metadata: dict[str, str] | None = None
    service_tier: Literal["auto", "default"] | None = None

    def as_task(self) -> TaskRequest:
        """The same request in rbee's own form."""
        return TaskRequest(
            messages=self.messages,
            tools=None if self.tool_choice == "none" else self.tools,
            response_format=self.response_format,
            max_tokens=self.max_completion_tokens or self.max_tokens or OPENAI_DEFAULT_MAX_TOKENS,
            **self._sampling(),
        )


class CompletionRequest(_Common):
    """Body of `POST /v1/completions`."""

    prompt: str
    max_tokens: int = Field(default=16, ge=1)
    echo: Literal[False] = False
    suffix: None = None

    def as_task(self) -> TaskRequest:
        """The same request in rbee's own form."""
        return TaskRequest(prompt=self.prompt, max_tokens=self.max_tokens, **self._sampling())
