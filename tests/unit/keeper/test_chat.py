"""A conversation: the model sees every turn, and a turn that failed is not one of them."""

import pytest

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.events import Token
from rbee_tui.keeper.chat import Conversation, ask
from rbee_tui.keeper.infer import AnswerEvent
from rbee_tui.keeper.installation import Installation
from rbee_tui.keeper.session import connect
from tests.support.fake_queen import FakeQueen, answer_of
from tests.unit.keeper.conftest import Heard


def test_a_request_has_all_turns_before_the_question() -> None:
    conversation = Conversation.begin("demo", system="Be brief.", options={"max_tokens": 7}).exchanged("Hi", "Hello")
    request = conversation.request("How are you?")
    assert [(message.role, message.text) for message in request.messages or []] == [
        ("system", "Be brief."),
        ("user", "Hi"),
        ("assistant", "Hello"),
        ("user", "How are you?"),
    ]
    assert (request.model, request.max_tokens, request.prompt) == ("demo", 7, None)


def test_beginning_again_keeps_the_system_prompt_and_the_options() -> None:
    begun = Conversation.begin("demo", system="Be brief.", options={"seed": 1})
    assert begun.exchanged("Hi", "Hello").cleared() == begun


def test_without_a_system_prompt_there_is_none() -> None:
    assert Conversation.begin("demo").turns == ()


def test_wrong_options_are_told_by_the_first_request() -> None:
    with pytest.raises(RbeeError) as raised:
        Conversation.begin("demo", options={"temperature": 9.0}).request("Hi")
    assert raised.value.code is Code.INVALID_REQUEST


async def test_an_answer_becomes_a_turn(installed: Installation, queen: FakeQueen) -> None:
    queen.answers = [answer_of("Hel", "lo"), answer_of("Fine")]
    events: list[AnswerEvent] = []
    partials = installed.paths.partial_answers
    async with await connect(installed, Heard()) as session:
        conversation, answer = await ask(session, Conversation.begin("demo"), "Hi", events.append, partials=partials)
        conversation, _ = await ask(session, conversation, "And you?", events.append, partials=partials)
    assert answer.text == "Hello"
    assert [message.text for message in queen.requests[1].messages or []] == ["Hi", "Hello", "And you?"]
    assert conversation.turns[-1] == {"role": "assistant", "content": "Fine"}
    assert [event.token for event in events if isinstance(event, Token)] == ["Hel", "lo", "Fine"]


async def test_a_question_that_failed_is_no_turn(installed: Installation, queen: FakeQueen) -> None:
    queen.answers = [RbeeError(Code.CONTEXT_OVERFLOW, "2100 tokens do not fit 2048")]
    conversation = Conversation.begin("demo").exchanged("Hi", "Hello")
    async with await connect(installed, Heard()) as session:
        with pytest.raises(RbeeError, match="2100 tokens do not fit 2048") as raised:
            await ask(session, conversation, "x", lambda event: None, partials=installed.paths.partial_answers)
    assert len(conversation.turns) == 2
    assert raised.value.hint == "/new (starts over), or: rbee chat --ctx N"
