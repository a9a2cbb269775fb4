"""Chat templates of models: messages to one prompt, in Jinja's immutable sandbox, with what Hugging Face offers in it.

A template is part of a downloaded file, so it is foreign code: it gets values, no objects of ours.
"""

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.inference import Message

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Used for a model that brings no template, as llama.cpp does."""


class TemplateRefusal(jinja2.TemplateError):
    """The template itself refuses the conversation (``raise_exception``)."""


class _GenerationTag(Extension):
    """``{% generation %}`` marks the assistant's part for training; here its content is just rendered."""

    tags = frozenset({"generation"})  # type: ignore[assignment]

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _refuse(message: str) -> str:
    raise TemplateRefusal(message)


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **_: Any) -> str:
    """Unlike Jinja's own filter this does not escape HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


def _strftime_now(format: str) -> str:
    return datetime.datetime.now().astimezone().strftime(format)


def _environment() -> ImmutableSandboxedEnvironment:
    """The environment of transformers' ``apply_chat_template``."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
        extensions=["jinja2.ext.loopcontrols", _GenerationTag],
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = _strftime_now
    return environment


class ChatTemplate:
    """One model's template. `source` None stands for a model without one."""

    def __init__(self, source: str | None, *, bos: str, eos: str) -> None:
        self._source = source or CHATML
        self._tokens = {"bos_token": bos, "eos_token": eos}
        self._template: jinja2.Template | None = None
        self._knows_tools = False

    def render(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None) -> str:
        """The prompt up to where the assistant begins.

        Raises RbeeError: MODEL_INVALID for a template that does not parse, INVALID_REQUEST for a conversation that
        the template cannot render, and for tools where it would leave them out.
        """
        template = self._parsed()
        if tools and not self._knows_tools:
            raise RbeeError(
                Code.INVALID_REQUEST,
                "tools: the model's chat template knows no tools; leave them out, or take another model",
                details={"fields": [{"field": "tools", "problem": "the model's chat template knows no tools"}]},
            )
        try:
            return template.render(
                messages=[self._as_dict(message) for message in messages],
                tools=list(tools) if tools else None,
                add_generation_prompt=True,
                **self._tokens,
            )
        except Exception as error:  # foreign code may raise anything
            raise RbeeError(
                Code.INVALID_REQUEST, f"the model's chat template cannot render these messages: {error}"
            ) from error

    def _parsed(self) -> jinja2.Template:
        if self._template is None:
            try:
                environment = _environment()
                self._template = environment.from_string(self._source)
                names = environment.parse(self._source).find_all(nodes.Name)
                self._knows_tools = any(name.name == "tools" and name.ctx == "load" for name in names)
            except jinja2.TemplateError as error:
                raise RbeeError(
                    Code.MODEL_INVALID,
                    f"the model's chat template does not parse ({error}); send a `prompt` instead of `messages`",
                ) from error
        return self._template

    def _as_dict(self, message: Message) -> dict[str, Any]:
        role = message.role
        if role == "developer" and "developer" not in self._source:
            role = "system"  # OpenAI's newer name; most templates know the older one only
        fields = {
            "role": role,
            "content": message.text,
            "name": message.name,
            "tool_calls": message.tool_calls,
            "tool_call_id": message.tool_call_id,
        }
        return {name: value for name, value in fields.items() if value is not None}
