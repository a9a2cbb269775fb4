"""Requests are checked strictly, and all faults are named at once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.inference import InferenceRequest, ResponseFormat
from daemons.contracts.openai import ChatCompletionRequest
from daemons.contracts.tasks import TaskRequest
from daemons.contracts.wire import invalid_fields, parse_request
from daemons.contracts.workers import WorkerSettings


def refused(body: object, model: type[TaskRequest] = TaskRequest) -> RbeeError:
    with pytest.raises(RbeeError) as caught:
        parse_request(model, body)
    return caught.value


def test_all_faults_are_named_at_once() -> None:
    error = refused({"model": "demo", "prompt": "x", "temperature": 9, "top_p": 0, "max_tokens": "5", "colour": 1})
    assert error.code is Code.INVALID_REQUEST
    assert {row["field"] for row in error.details["fields"]} == {"temperature", "top_p", "max_tokens", "colour"}
    for name in ("temperature", "top_p", "max_tokens", "colour"):
        assert name in error.message


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (0, "max_tokens: Input should be greater than or equal to 1 (given: 0)"),
        (True, "max_tokens: Input should be a valid integer (given: true)"),
        ("5", "max_tokens: Input should be a valid integer (given: '5')"),
        ("\x1b[31m" + "x" * 99, r"max_tokens: Input should be a valid integer (given: '\x1b[31m" + "x" * 35 + "'…)"),
        ([5], "max_tokens: Input should be a valid integer"),
    ],
)
def test_a_fault_tells_the_value_that_was_given(given: object, told: str) -> None:
    error = refused({"model": "demo", "prompt": "x", "max_tokens": given})
    assert error.message == f"1 invalid field(s): {told}"
    assert error.details["fields"] == [{"field": "max_tokens", "problem": told.removeprefix("max_tokens: ")}]


def test_an_unknown_field_is_called_so() -> None:
    assert refused({"model": "demo", "prompt": "x", "colour": 1}).message == "1 invalid field(s): colour: unknown field"


@pytest.mark.parametrize("line", ['{"key": "sec-0123"}', '{"key": "sec-0123456789abcdef', '"sec-0123456789abcdef"'])
def test_a_key_is_never_told_again(line: str) -> None:
    with pytest.raises(ValidationError) as caught:
        WorkerSettings.model_validate_json(line)
    assert "sec-" not in str(invalid_fields(caught.value).as_dict())


@pytest.mark.parametrize("body", [{"model": "demo"}, {"model": "demo", "prompt": "a", "messages": [{"role": "user"}]}])
def test_prompt_xor_messages(body: dict[str, object]) -> None:
    assert "either prompt or messages" in refused(body).message


@pytest.mark.parametrize("name", ["de\nmo", "de\x1b[31mmo", "de\0mo"])
def test_control_characters_in_names_are_refused(name: str) -> None:
    error = refused({"model": name, "prompt": "x"})
    assert error.details["fields"][0]["field"] == "model"
    assert name not in error.message


def test_a_backend_is_taken_by_name() -> None:
    assert parse_request(TaskRequest, {"model": "demo", "prompt": "x", "backend": "cpu"}).backend == "cpu"
    unknown = refused({"model": "demo", "prompt": "x", "backend": "abacus"})
    assert unknown.code is Code.INVALID_BACKEND
    assert unknown.details["fields"][0]["field"] == "backend"
    assert "cpu, cuda, metal, vulkan, rocm" in unknown.message


def test_message_parts_become_one_text() -> None:
    request = parse_request(
        InferenceRequest,
        {
            "id": "t",
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            ],
        },
    )
    assert request.messages is not None
    assert request.messages[0].text == "ab"


def test_openai_json_schema_is_unwrapped() -> None:
    schema = {"type": "object"}
    wrapped = ResponseFormat(type="json_schema", json_schema={"name": "x", "schema": schema})
    assert wrapped.schema_object == schema
    assert ResponseFormat(type="json_schema", json_schema=schema).schema_object == schema


def test_openai_chat_becomes_a_task() -> None:
    chat = parse_request(
        ChatCompletionRequest,
        {"model": "demo", "messages": [{"role": "user", "content": "hi"}], "stop": "END", "max_tokens": 7, "seed": -1},
    )
    task = chat.as_task()
    assert (task.model, task.max_tokens, task.stop, task.seed) == ("demo", 7, ["END"], 2**32 - 1)
    assert task.temperature == 1.0


def test_what_cannot_be_honoured_is_refused() -> None:
    with pytest.raises(RbeeError, match="n: "):
        parse_request(ChatCompletionRequest, {"model": "demo", "n": 2, "messages": [{"role": "user", "content": "hi"}]})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*TaskRequest.model_fields, "bogus"]), json_values, max_size=6) | json_values)
def test_any_body_is_taken_or_refused_by_name(body: object) -> None:
    try:
        parse_request(TaskRequest, body)
    except RbeeError as error:
        assert error.status == 400
        assert error.details["fields"]
