"""Chat templates: what Hugging Face's renderer offers them, and what the sandbox keeps from them."""

import datetime
import json

import pytest

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.inference import Message, TextPart
from daemons.worker.templates import ChatTemplate

USER = [Message(role="user", content="Hi")]


def render(source: str | None, messages: list[Message] | None = None, **options: object) -> str:
    return ChatTemplate(source, bos="<s>", eos="</s>").render(messages or USER, **options)  # type: ignore[arg-type]


def test_template_gets_messages_tokens_and_the_generation_prompt() -> None:
    source = (
        "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    messages = [Message(role="system", content="Be brief."), Message(role="user", content="Hi")]
    assert render(source, messages) == "<s>[system]Be brief.</s>[user]Hi</s>[assistant]"


def test_model_without_a_template_gets_chatml() -> None:
    assert render(None) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_parts_of_a_message_are_joined() -> None:
    message = Message(role="user", content=[TextPart(type="text", text="a"), TextPart(type="text", text="b")])
    assert render("{{ messages[0].content }}", [message]) == "ab"


def test_blocks_leave_no_white_space() -> None:
    assert render("{% if true %}\n  {% set x = 1 %}\nx\n{% endif %}\n") == "x\n"


def test_tojson_does_not_escape_html_or_unicode() -> None:
    tools = [{"name": "<é>"}]
    assert render("{{ tools | tojson }}", tools=tools) == json.dumps(tools, ensure_ascii=False)
    assert render("{{ tools[0] | tojson(indent=2) }}", tools=tools) == json.dumps(
        tools[0], ensure_ascii=False, indent=2
    )


def test_tools_are_refused_where_the_template_would_leave_them_out() -> None:
    tools = [{"type": "function", "function": {"name": "buzz"}}]
    # The name alone is no use of it: neither in a comment, nor in a text, nor as an attribute of something else.
    for source in (None, "{# tools #}tools {{ messages[0].tools }}"):
        with pytest.raises(RbeeError, match="knows no tools") as caught:
            render(source, tools=tools)
        assert caught.value.code is Code.INVALID_REQUEST
        assert caught.value.details["fields"][0]["field"] == "tools"
        assert render(source, tools=[]) == render(source)


def test_a_template_may_look_first_whether_there_are_tools() -> None:
    llama = (
        "{%- if custom_tools is defined %}{%- set tools = custom_tools %}{%- endif %}"
        "{%- if not tools is defined %}{%- set tools = none %}{%- endif %}"
        "{%- if tools is not none %}{{- tools | length }}{%- endif %}"
    )
    assert render(llama, tools=[{}]) == "1"
    assert render("{% macro all() %}{{ tools | length }}{% endmacro %}{{ all() }}", tools=[{}, {}]) == "2"


def test_time_and_loop_controls_and_generation_tag_work() -> None:
    year = str(datetime.datetime.now().astimezone().year)
    assert render("{{ strftime_now('%Y') }}") == year
    assert render("{% for x in [1, 2, 3] %}{% if x == 2 %}{% break %}{% endif %}{{ x }}{% endfor %}") == "1"
    assert render("{% generation %}{{ messages[0].content }}{% endgeneration %}") == "Hi"


def test_template_may_refuse_a_conversation() -> None:
    with pytest.raises(RbeeError) as caught:
        render("{{ raise_exception('roles must alternate') }}")
    assert caught.value.code is Code.INVALID_REQUEST
    assert "roles must alternate" in caught.value.message


@pytest.mark.parametrize(
    "attack",
    [
        "{{ messages.__class__.__mro__ }}{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ messages.append({}) }}",
        "{{ raise_exception.__globals__.keys() }}",
        "{% for x in range(10**9) %}{% endfor %}",
    ],
)
def test_template_cannot_leave_the_sandbox(attack: str) -> None:
    with pytest.raises(RbeeError) as caught:
        render(attack)
    assert caught.value.code is Code.INVALID_REQUEST


def test_template_that_does_not_parse_is_the_models_fault() -> None:
    with pytest.raises(RbeeError) as caught:
        render("{% if %}")
    assert caught.value.code is Code.MODEL_INVALID
    assert "prompt" in caught.value.message


def test_developer_is_system_for_templates_that_do_not_know_it() -> None:
    messages = [Message(role="developer", content="x")]
    assert render("{{ messages[0].role }}", messages) == "system"
    assert render("{# developer #}{{ messages[0].role }}", messages) == "developer"


def test_tool_calls_reach_the_template_and_absent_fields_do_not() -> None:
    messages = [Message(role="assistant", content=None, tool_calls=[{"id": "c1"}])]
    assert render("{{ messages[0].tool_calls[0].id }}{{ 'name' in messages[0] }}", messages) == "c1False"
