"""The data that the demo model is taught."""

import re

import pytest

from daemons.models.demo.corpus import plain_question
from daemons.models.demo.intents import COMMANDS, FALLBACK, FLAGS, INTENTS, STORY_REQUESTS, TASK_FRAMES
from daemons.models.demo.phrases import first_choice
from daemons.models.demo.situations import SITUATIONS

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


def test_answers_hold_only_text() -> None:
    """Answers are literal: a bracket or brace in one would be a template that nobody expands."""
    assert [answer for answer in ANSWERS if set("[]{}") & set(answer)] == []
    assert [answer for answer in ANSWERS if not answer.endswith((".", "!"))] == []


def test_brackets_balance() -> None:
    """A template with a lost bracket would leak grammar into the text."""
    asked = [template for intent in INTENTS for template in intent.tasks + intent.asks]
    templates = [*TASK_FRAMES, *STORY_REQUESTS, *asked, *(one for many in SITUATIONS.values() for one in many)]
    assert [template for template in templates if set("[]|") & set(first_choice(template))] == []


def test_situations_belong_to_intents() -> None:
    """A misspelt name would leave its phrasings unused; every intent can be asked without a task."""
    assert SITUATIONS.keys() <= {intent.name for intent in INTENTS}
    assert [intent.name for intent in INTENTS if not intent.asks] == []


def test_plain_questions_do_not_collide() -> None:
    """The plainest question of one intent is not also that of another, with another answer."""
    plain = [plain_question(intent) for intent in INTENTS]
    assert len(set(plain)) == len(plain)
