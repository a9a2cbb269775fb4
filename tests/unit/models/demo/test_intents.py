"""The data that the demo model is taught."""

import re

import pytest

from daemons.models.demo.intents import COMMANDS, FALLBACK, FLAGS, INTENTS, STORY_REQUESTS, TASK_FRAMES
from daemons.models.demo.phrases import Intent, first_choice

ANSWERS = [intent.answer for intent in INTENTS] + [FALLBACK]
NAMED = sorted({command for answer in ANSWERS for command in re.findall(r"`(rbee[^`]*)`", answer)})
_ARGUMENT = re.compile(r"<[a-z]+>|hf:<org>/<repo>|\"<text>\"|-|demo")


def command_of(text: str) -> str:
    """The longest entry of COMMANDS that the text begins with."""
    fitting = [command for command in COMMANDS if text == command or text.startswith(command + " ")]
    return max(fitting, key=len, default="")


@pytest.mark.parametrize("text", NAMED)
def test_every_named_command_exists(text: str) -> None:
    """Behind a known command stand only known flags and placeholders: an invented sub-command would be left over."""
    command = command_of(text)
    assert command
    rest = text[len(command) :].split()
    assert [word for word in rest if word not in FLAGS and not _ARGUMENT.fullmatch(word)] == []


def test_no_command_hides_outside_of_backquotes() -> None:
    """`rbee` followed by a sub-command is always quoted, so that the test above sees it."""
    words = {command.split()[1] for command in COMMANDS if " " in command}
    loose = [re.findall(rf"\brbee (?:{'|'.join(words)}) [a-z]+-?", re.sub(r"`[^`]*`", "", one)) for one in ANSWERS]
    assert [found for found in loose if found] == []


@pytest.mark.parametrize("command", [command for command in COMMANDS if command != "rbee setup"])
def test_every_command_is_explained(command: str) -> None:
    """No command of the grammar is missing from the answers."""
    assert command in {command_of(text) for text in NAMED}


def test_flags_are_all_used() -> None:
    """A flag that no answer names any more leaves the list."""
    quoted = re.findall(r"`([^`]*)`", " ".join(ANSWERS))
    assert set(FLAGS) == {word for text in quoted for word in text.split() if word.startswith("--")}


def test_names_and_answers_are_unique() -> None:
    """Two intents with one answer, or one name, would be one intent."""
    assert len({intent.name for intent in INTENTS}) == len(INTENTS)
    assert len(set(ANSWERS)) == len(ANSWERS)


@pytest.mark.parametrize("intent", INTENTS, ids=lambda intent: intent.name)
def test_intents_can_be_asked_and_hold_only_text_in_the_answer(intent: Intent) -> None:
    """Answers are literal: a bracket or brace in one would be a template that nobody expands."""
    assert intent.tasks or intent.asks
    assert not set("[]{}") & set(intent.answer)
    assert intent.answer.endswith((".", "!"))


@pytest.mark.parametrize("template", [*TASK_FRAMES, *STORY_REQUESTS, *(t for i in INTENTS for t in i.tasks + i.asks)])
def test_brackets_balance(template: str) -> None:
    """A template with a lost bracket would leak grammar into the text."""
    assert not set("[]|") & set(first_choice(template))


def test_plain_questions_do_not_collide() -> None:
    """The plainest question of one intent is not also that of another, with another answer."""
    plain = [first_choice((intent.tasks or intent.asks)[0]) for intent in INTENTS]
    assert len(set(plain)) == len(plain)
