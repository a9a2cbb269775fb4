"""`rbee chat`: lines in, answers out, the whole conversation remembered."""

import json
from collections.abc import Iterator

import pytest

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.events import EventType, Token
from daemons.contracts.inference import FinishReason
from tests.support.fake_queen import FakeQueen, answer_of, done
from tests.unit.cli.conftest import Rbee


def asked(queen: FakeQueen) -> list[list[str]]:
    return [[message.text for message in request.messages or []] for request in queen.requests]


def test_each_line_of_a_pipe_is_a_turn_that_sees_those_before(rbee: Rbee, queen: FakeQueen) -> None:
    queen.answers = [answer_of("Hello"), answer_of("Fine")]
    finished = rbee("chat", "--system", "Be brief.", stdin=b"Hi\n\n  How are you? \n")
    assert (finished.code, finished.out) == (0, "Hello\nFine\n")
    assert asked(queen) == [["Be brief.", "Hi"], ["Be brief.", "Hi", "Hello", "How are you?"]]


def test_the_model_is_the_configured_one_and_answers_may_be_long(
    rbee: Rbee, queen: FakeQueen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RBEE_MODELS_DEFAULT", "hf:org/repo")
    rbee("chat", stdin=b"Hi\n")
    rbee("chat", "--model", "demo", "--max-tokens", "9", "--seed", "3", stdin=b"Hi\n")
    assert [(r.model, r.max_tokens, r.seed) for r in queen.requests] == [("hf:org/repo", 512, None), ("demo", 9, 3)]


def test_how_an_answer_came_about_is_told_once_unless_figures_are_wanted(rbee: Rbee, queen: FakeQueen) -> None:
    assert rbee("chat", stdin=b"one\ntwo\n").err.count("[queen] placing") == 1
    assert rbee("chat", "-v", stdin=b"one\ntwo\n").err.count("[queen] placing") == 2


def test_new_begins_again_and_exit_ends(rbee: Rbee, queen: FakeQueen) -> None:
    finished = rbee("chat", stdin=b"one\n/new\ntwo\n/what\n/exit\nthree\n")
    assert (finished.code, asked(queen)) == (0, [["one"], ["two"]])
    assert "[keeper] a new conversation: what was said before is forgotten\n" in finished.err
    assert "[keeper] unknown command /what; /new begins again, /exit or Ctrl+D ends" in finished.err


def test_help_is_a_command(rbee: Rbee, queen: FakeQueen) -> None:
    finished = rbee("chat", stdin=b"/help\n")
    assert (finished.err.count("/new begins again"), "unknown" in finished.err, queen.requests) == (2, False, [])


def test_zero_tokens_are_refused(rbee: Rbee, queen: FakeQueen) -> None:
    finished = rbee("chat", "--max-tokens", "0", stdin=b"Hi\n")
    assert (finished.code, "max_tokens" in finished.err, queen.requests) == (2, True, [])


def test_a_full_context_names_what_helps_in_a_conversation(rbee: Rbee, queen: FakeQueen) -> None:
    queen.answers = [[(EventType.TOKEN, Token(token="x", index=0)), done(8, FinishReason.LENGTH)]]
    err = rbee("chat", stdin=b"Hi\n").err
    assert "context of 13 tokens is full: 5 of the prompt, 8 of the answer (more: /new, or rbee chat --ctx N" in err


def test_with_json_each_answer_is_an_object(rbee: Rbee, queen: FakeQueen) -> None:
    out = rbee("chat", "--json", stdin=b"one\ntwo\n").out
    assert [json.loads(line)["text"] for line in out.splitlines()] == ["Bees hum.", "Bees hum."]


def test_wrong_options_are_told_before_anything_is_started(rbee: Rbee) -> None:
    finished = rbee("chat", "--temperature", "9", stdin=b"Hi\n")
    assert (finished.code, "INVALID_REQUEST" in finished.err) == (2, True)


def test_a_script_that_pipes_lines_ends_with_the_first_failure(rbee: Rbee, queen: FakeQueen) -> None:
    queen.answers = [RbeeError(Code.CONTEXT_OVERFLOW, "2100 tokens do not fit 2048")]
    finished = rbee("chat", stdin=b"one\ntwo\n")
    assert (finished.code, len(queen.requests)) == (1, 1)
    assert "error CONTEXT_OVERFLOW: 2100 tokens do not fit 2048" in finished.err


class TestAtATerminal:
    """`input` is what a person types; Ctrl+C is a KeyboardInterrupt, Ctrl+D an EOFError."""

    @pytest.fixture
    def typed(self, monkeypatch: pytest.MonkeyPatch) -> list[str | type[BaseException]]:
        lines: list[str | type[BaseException]] = []

        def typing() -> Iterator[str]:
            for line in lines:
                if isinstance(line, str):
                    yield line
                else:
                    raise line

        source = typing()
        monkeypatch.setattr("builtins.input", lambda _prompt="": next(source))
        return lines

    def test_a_failed_turn_is_told_and_the_conversation_goes_on_without_it(
        self, rbee: Rbee, queen: FakeQueen, typed: list[str | type[BaseException]]
    ) -> None:
        queen.answers = [answer_of("Hello"), RbeeError(Code.CONTEXT_OVERFLOW, "too long"), answer_of("Fine")]
        typed += ["Hi", "a very long question", "And you?", EOFError]
        finished = rbee("chat")
        assert (finished.code, finished.out) == (0, "Hello\nFine\n")
        assert asked(queen)[-1] == ["Hi", "Hello", "And you?"]
        assert "error CONTEXT_OVERFLOW: too long\nhint: /new (starts over), or: rbee chat --ctx N\n" in finished.err

    def test_ctrl_c_at_the_prompt_ends_with_130(
        self, rbee: Rbee, queen: FakeQueen, typed: list[str | type[BaseException]]
    ) -> None:
        typed += ["Hi", KeyboardInterrupt]
        assert rbee("chat").code == 130
