"""Exit codes: what scripts may rely on."""

from enum import IntEnum

import click

from daemons.contracts.errors import Code, RbeeError


class Exit(IntEnum):
    """The only codes that `rbee` ends with."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    INTERRUPTED = 130


USAGE_CODES = frozenset({Code.INVALID_REQUEST, Code.INVALID_MODEL_REF, Code.INVALID_BACKEND})
"""Named failures that are about what was typed: as wrong as an option that does not exist."""


def exit_code_for(error: BaseException) -> Exit:
    """The exit code that stands for what ended a command."""
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return Exit.INTERRUPTED
    if isinstance(error, click.UsageError) or (isinstance(error, RbeeError) and error.code in USAGE_CODES):
        return Exit.USAGE
    return Exit.FAILED
