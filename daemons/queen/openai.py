"""OpenAI's answers: a list of models, chat and plain completions, whole or in chunks.

Shapes are those of OpenAI's API reference (chat completions, completions, models). A stream is lines of ``data:`` with
one object each, and ends with ``data: [DONE]``.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.events import Done
from daemons.contracts.fleet import ModelRow
from daemons.contracts.inference import Usage
from daemons.kit.middleware import error_body

_END = b"data: [DONE]\n\n"
_SHOWN_LENGTH = 80


@dataclass(frozen=True, slots=True)
class Form:
    """What tells chat from plain completions."""

    id_prefix: str
    whole_object: str
    chunk_object: str
    is_chat: bool


CHAT = Form("chatcmpl-", "chat.completion", "chat.completion.chunk", is_chat=True)
COMPLETION = Form("cmpl-", "text_completion", "text_completion", is_chat=False)


def model_list(rows: Sequence[ModelRow], created: int) -> dict[str, Any]:
    """`GET /v1/models`: each reference once, however many nodes have it."""
    refs = dict.fromkeys(row.ref for row in rows)
    return {"object": "list", "data": [_model(ref, created) for ref in refs]}


def one_model(rows: Sequence[ModelRow], ref: str, created: int) -> dict[str, Any]:
    """`GET /v1/models/{id}`; ids are references. Raises RbeeError(MODEL_NOT_FOUND)."""
    if not any(row.ref == ref for row in rows):
        shown = ref[:_SHOWN_LENGTH]
        raise RbeeError(Code.MODEL_NOT_FOUND, f"no node has a model {shown!r}", details={"model": shown})
    return _model(ref, created)


def _model(ref: str, created: int) -> dict[str, Any]:
    return {"id": ref, "object": "model", "created": created, "owned_by": "rbee"}


class Shape:
    """Writes one answer. `created` is unix seconds."""

    def __init__(self, form: Form, task_id: str, model: str, created: int) -> None:
        self._form = form
        self._head = {"id": form.id_prefix + task_id.removeprefix("task-"), "created": created, "model": model}
        # Only the text differs between the chunks of a stream, so the rest is encoded once.
        before, after = json.dumps(self._chunk([self._choice("\0")])).split(json.dumps("\0"))
        self._before, self._after = f"data: {before}", f"{after}\n\n"

    def whole(self, text: str, done: Done) -> dict[str, Any]:
        """The answer in one object."""
        part: dict[str, Any] = {"text": text}
        if self._form.is_chat:
            part = {"message": {"role": "assistant", "content": text, "refusal": None}}
        choice = {"index": 0, **part, "logprobs": None, "finish_reason": done.finish_reason.value}
        return {**self._head, "object": self._form.whole_object, "choices": [choice], "usage": usage_of(done.usage)}

    def opening(self) -> bytes:
        """The first chunk of a chat names the role; plain completions have none."""
        if not self._form.is_chat:
            return b""
        delta = {"role": "assistant", "content": ""}
        return _line(self._chunk([{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}]))

    def delta(self, text: str) -> bytes:
        """A chunk with some text."""
        return f"{self._before}{json.dumps(text)}{self._after}".encode()

    def closing(self, done: Done, *, usage: bool) -> bytes:
        """The reason for the end, token counts where they were asked for, and the end mark."""
        part: dict[str, Any] = {"delta": {}} if self._form.is_chat else {"text": ""}
        choice = {"index": 0, **part, "logprobs": None, "finish_reason": done.finish_reason.value}
        last = _line(self._chunk([choice]))
        counts = _line({**self._chunk([]), "usage": usage_of(done.usage)}) if usage else b""
        return last + counts + _END

    def error(self, error: RbeeError) -> bytes:
        """A failure after the stream has begun."""
        return b"data: " + error_body(error, error.request_id, openai=True) + b"\n\n" + _END

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._head, "object": self._form.chunk_object, "choices": choices}

    def _choice(self, text: str) -> dict[str, Any]:
        part: dict[str, Any] = {"delta": {"content": text}} if self._form.is_chat else {"text": text}
        return {"index": 0, **part, "logprobs": None, "finish_reason": None}


def usage_of(usage: Usage) -> dict[str, Any]:
    """OpenAI's `usage` object."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def _line(chunk: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"
