"""Entry point of `rbee`. Imports only click and the table of commands, so that help and completion are instant."""

import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

import click

from daemons import __version__
from rbee_tui.cli.exits import Exit, exit_code_for
from rbee_tui.cli.lazy import LazyCommand, LazyGroup

_AT = "rbee_tui.cli.commands"

COMMANDS: Mapping[str, LazyCommand] = {
    "infer": LazyCommand(f"{_AT}.infer:infer", "Let a model answer a prompt"),
    "chat": LazyCommand(f"{_AT}.chat:chat", "Talk with a model on this terminal"),
    "status": LazyCommand(f"{_AT}.fleet:status", "Queen, nodes, workers and queue at a glance"),
    "devices": LazyCommand(f"{_AT}.fleet:devices", "Devices of all nodes, with memory and use"),
    "ps": LazyCommand(f"{_AT}.fleet:ps", "Loaded models and the workers that hold them"),
    "workers": LazyCommand(f"{_AT}.workers:workers", "List, check, start and shut down workers"),
    "models": LazyCommand(f"{_AT}.models:models", "Models that the nodes have"),
    "tasks": LazyCommand(f"{_AT}.tasks:tasks", "List, show and cancel tasks"),
    "logs": LazyCommand(f"{_AT}.logs:logs", "Log lines of queen, hives and workers"),
    "queen": LazyCommand(f"{_AT}.daemons:queen", "Start, stop and look at the queen of this machine"),
    "hive": LazyCommand(f"{_AT}.daemons:hive", "Start, stop and look at the hive of this machine"),
    "config": LazyCommand(f"{_AT}.config:config", "Settings and where each comes from"),
    "install": LazyCommand(f"{_AT}.install:install", "Install programs, configuration and services"),
    "doctor": LazyCommand(f"{_AT}.doctor:doctor", "Check this installation and say what to run"),
    "completion": LazyCommand(f"{_AT}.completion:completion", "Print the completion script for a shell"),
}


@click.group(
    cls=LazyGroup,
    lazy=COMMANDS,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Begin with: rbee infer --model demo --prompt 'Tell me about bees'",
)
@click.option("--queen", "queen_url", metavar="URL", help="Use the queen at this address.")
@click.version_option(__version__, message="rbee %(version)s")
@click.pass_context
def rbee(context: click.Context, queen_url: str | None) -> None:
    """Turn the computers you own into one LLM service.

    Data goes to stdout, narration and errors to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def main() -> NoReturn:
    """Run the command line of this process and exit with its code."""
    _open_closed_streams()
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")  # what is not UTF-8 becomes question marks, not a crash
    code = run(sys.argv[1:])
    sys.exit(_flushed(code))


def _open_closed_streams() -> None:
    """Who starts us with a closed stream (``>&-``) wants nothing from it; no file of ours may get its number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115 - until we end


def run(arguments: Sequence[str]) -> int:
    """Run one command line; the exit code."""
    try:
        code = rbee.main(args=list(arguments), prog_name="rbee", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return exit_code_for(error)
    except (KeyboardInterrupt, click.Abort) as error:
        return exit_code_for(error)
    except OSError as error:  # of the output alone: what a command does itself is told by `command_options`
        return _lost(error)
    return code if isinstance(code, int) else Exit.DONE


def _flushed(code: int) -> int:
    """The code once all output is out. Whoever reads us may have gone (`| head`): nothing to say about that."""
    try:
        sys.stdout.flush()
    except OSError as error:
        if not isinstance(error, BrokenPipeError) and code == Exit.DONE:
            _lost(error)
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return code or Exit.FAILED
    return code


def _lost(error: OSError) -> int:
    with contextlib.suppress(OSError):
        click.echo(f"Error: cannot write to stdout: {error.strerror or error}", err=True)
    return Exit.FAILED


if __name__ == "__main__":
    main()
