"""Exit codes: what scripts may rely on."""

from enum import IntEnum

import click


class Exit(IntEnum):
    """The only codes that `rbee` ends with."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    INTERRUPTED = 130


def exit_code_for(error: BaseException) -> Exit:
    """The exit code that stands for what ended a command."""
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return Exit.INTERRUPTED
    if isinstance(error, click.UsageError):
        return Exit.USAGE
    return Exit.FAILED
