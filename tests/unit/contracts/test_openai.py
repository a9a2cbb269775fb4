"""OpenAI's requests: null is not given, what changes no answer is ignored, and what rbee lacks is refused in words."""

from typing import Any

import pytest
from openai.types.chat import completion_create_params as chat_params

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.openai import IGNORED, ChatCompletionRequest, CompletionRequest
from daemons.contracts.wire import parse_request

CHAT: dict[str, Any] = {"model": "demo", "messages": [{"role": "user", "content": "hi"}]}
PLAIN: dict[str, Any] = {"model": "demo", "prompt": "hi"}


def chat(**fields: Any) -> ChatCompletionRequest:
    return parse_request(ChatCompletionRequest, {**CHAT, **fields})


def plain(**fields: Any) -> CompletionRequest:
    return parse_request(CompletionRequest, {**PLAIN, **fields})


def refused(model: type[ChatCompletionRequest] | type[CompletionRequest], **fields: Any) -> RbeeError:
    with pytest.raises(RbeeError) as caught:
        parse_request(model, {**(CHAT if model is ChatCompletionRequest else PLAIN), **fields})
    assert caught.value.code is Code.INVALID_REQUEST
    assert [row["field"] for row in caught.value.details["fields"]] == list(fields)
    return caught.value


@pytest.mark.parametrize("name", sorted({*ChatCompletionRequest.model_fields, *IGNORED} - {"model", "messages"}))
def test_null_is_not_given_in_a_chat(name: str) -> None:
    assert chat(**{name: None}) == chat()


@pytest.mark.parametrize("name", sorted({*CompletionRequest.model_fields, *IGNORED} - {"model", "prompt"}))
def test_null_is_not_given_in_a_completion(name: str) -> None:
    assert plain(**{name: None}) == plain()


def test_every_parameter_of_openais_client_has_a_meaning_here() -> None:
    known = {*ChatCompletionRequest.model_fields, *IGNORED}
    assert set(chat_params.CompletionCreateParamsBase.__annotations__) - known <= {"moderation"}


def test_what_is_required_cannot_be_null() -> None:
    assert "messages: Field required" in refused(ChatCompletionRequest, messages=None).message
    assert "prompt: Field required" in refused(CompletionRequest, prompt=None).message


def test_null_inside_of_options_and_messages_is_not_given() -> None:
    options = {"include_usage": None, "include_obfuscation": False}
    assert chat(stream_options=options).stream_options == chat(stream_options={}).stream_options
    answered: dict[str, Any] = {
        "role": "assistant", "content": "Hello", "refusal": None, "annotations": [], "audio": None,
        "function_call": None, "tool_calls": None,
    }  # fmt: skip
    messages = [*CHAT["messages"], answered]
    assert chat(messages=messages).as_task().messages == chat(messages=[
        *CHAT["messages"], {"role": "assistant", "content": "Hello"},
    ]).as_task().messages  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 1), ("store", True), ("reasoning_effort", "low"), ("metadata", {"a": "b"}),
        ("tool_choice", "auto"), ("tool_choice", "none"), ("service_tier", "flex"), ("user", "me"), ("logprobs", False),
        ("top_logprobs", 0), ("modalities", ["text"]), ("verbosity", "low"), ("prompt_cache_key", "k"),
        ("safety_identifier", "s"), ("functions", []), ("tools", []),
        ("parallel_tool_calls", False),
    ],
)  # fmt: skip
def test_what_changes_no_answer_is_taken(name: str, value: object) -> None:
    assert chat(**{name: value}).as_task() == chat().as_task()


def test_tools_are_passed_on_unless_none_is_to_be_chosen() -> None:
    tools = [{"type": "function", "function": {"name": "buzz"}}]
    assert chat(tools=tools, parallel_tool_calls=True).as_task().tools == tools
    assert chat(tools=tools, tool_choice="none").as_task().tools is None


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("n", 2, "n=2 is not supported; ask once for each answer"),
        ("n", True, "n=true is not supported"),
        ("logprobs", True, "logprobs=true is not supported; POST /v2/tasks"),
        ("top_logprobs", 3, "top_logprobs=3 is not supported"),
        ("tool_choice", "required", 'tool_choice="required" is not supported; the model decides'),
        ("tool_choice", {"type": "function", "function": {"name": "buzz"}}, "is not supported; the model decides"),
        ("modalities", ["text", "audio"], 'modalities=["text", "audio"] is not supported; answers are text'),
        ("audio", {"voice": "alloy"}, "is not supported; answers are text"),
        ("functions", [{"name": "buzz"}], "is not supported; `tools`"),
        ("web_search_options", {}, "web_search_options={} is not supported"),
        ("best_off", 2, "best_off: unknown field"),
    ],
)
def test_a_chat_that_cannot_be_honoured_is_refused_in_words(name: str, value: object, words: str) -> None:
    message = refused(ChatCompletionRequest, **{name: value}).message
    assert words in message
    assert "Input should" not in message


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("best_of", 3, "best_of=3 is not supported; ask once for each answer"),
        ("echo", True, "echo=true is not supported"),
        ("logprobs", 2, "logprobs=2 is not supported; POST /v2/tasks"),
        ("suffix", "end", 'suffix="end" is not supported'),
    ],
)
def test_a_completion_that_cannot_be_honoured_is_refused_in_words(name: str, value: object, words: str) -> None:
    assert words in refused(CompletionRequest, **{name: value}).message


def test_all_faults_are_named_at_once() -> None:
    error = refused(ChatCompletionRequest, temperature=3, n=2, logprobs=True, colour=1)
    assert "4 invalid field(s)" in error.message
