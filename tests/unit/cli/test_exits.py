"""Exit codes are API: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""

import click
import pytest

from daemons.contracts.errors import Code, RbeeError
from rbee_tui.cli.exits import Exit, exit_code_for


def test_there_are_these_four_and_no_other() -> None:
    assert {code.name: code.value for code in Exit} == {"DONE": 0, "FAILED": 1, "USAGE": 2, "INTERRUPTED": 130}


@pytest.mark.parametrize("code", list(Code))
def test_every_named_failure_is_a_failure_or_about_what_was_typed(code: Code) -> None:
    typed = code in (Code.INVALID_REQUEST, Code.INVALID_MODEL_REF, Code.INVALID_BACKEND)
    assert exit_code_for(RbeeError(code, "so")) is (Exit.USAGE if typed else Exit.FAILED)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (click.UsageError("no"), Exit.USAGE),
        (click.BadParameter("no"), Exit.USAGE),
        (click.ClickException("no"), Exit.FAILED),
        (KeyboardInterrupt(), Exit.INTERRUPTED),
        (click.Abort(), Exit.INTERRUPTED),
        (ValueError("a defect"), Exit.FAILED),
    ],
)
def test_other_ends(error: BaseException, expected: Exit) -> None:
    assert exit_code_for(error) is expected
