"""The grammar of the command line, and a help that is there at once."""

import re
import subprocess
import sys
import time
from collections.abc import Iterator

import click
import pytest

from daemons import __version__
from daemons.contracts.workers import Backend
from daemons.worker.main import main as worker_group
from rbee_tui.cli.generation_options import BACKENDS
from rbee_tui.cli.main import COMMANDS, rbee
from tests.unit.cli.conftest import Rbee

# One grammar for command line, screens and documentation: command -> its options and arguments.
GRAMMAR = {
    "infer": "--model --prompt --node --backend --device --max-tokens --temperature --top-k --seed --stop --system "
    "--ctx --slots --json-schema --timeout --ephemeral --json -q -v words",
    "chat": "--model --system --ephemeral --json",
    "status": "--json",
    "devices": "--json",
    "ps": "--json",
    "workers list": "--json",
    "workers health": "--node --json",
    "workers start": "--model --node --backend --device --ctx --slots --json",
    "workers shutdown": "--id --json",
    "models list": "--json",
    "tasks list": "--json",
    "tasks show": "task_id --json",
    "tasks cancel": "task_id --json",
    "logs": "--node --worker --since --tail --follow --json",
    "queen start": "--host --port --json",
    "queen stop": "--json",
    "queen status": "--json",
    "queen restart": "--json",
    "hive start": "--host --port --json",
    "hive stop": "--json",
    "hive status": "--json",
    "hive restart": "--json",
    "config show": "--json",
    "install": "--system --service --prefix --plan --json",
    "doctor": "--json",
    "completion": "shell",
}
HEAVY = ("textual", "asyncssh", "duckdb", "httpx", "pydantic", "rich", "structlog", "asyncio", "llama_cpp")
GENEROUS_S = 3.0
"""On an idle machine help takes 0.1 s; this bears several others at work."""


def commands(group: click.Group, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None, name
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


def words_of(command: click.Command) -> set[str]:
    options = {word for parameter in command.params for word in parameter.opts}
    return options | {parameter.name for parameter in command.params if parameter.name}


def test_every_command_of_the_grammar_is_there_and_no_other() -> None:
    assert {name for name, _ in commands(rbee)} == set(GRAMMAR)


@pytest.mark.parametrize("name", GRAMMAR)
def test_every_flag_of_the_grammar_is_there(name: str) -> None:
    command = dict(commands(rbee))[name]
    assert set(GRAMMAR[name].split()) <= words_of(command)


@pytest.mark.parametrize("name", [name for name in GRAMMAR if name != "completion"])
def test_every_command_takes_a_queen_and_may_be_quiet(name: str) -> None:
    assert {"--queen", "-q", "--quiet", "-v", "--verbose", "--json"} <= words_of(dict(commands(rbee))[name])


def test_the_table_of_commands_says_what_the_commands_say() -> None:
    for name, row in COMMANDS.items():
        assert (name, row.load().name, row.load().short_help) == (name, name, row.help)


def test_every_command_and_option_has_a_help_text() -> None:
    for name, command in commands(rbee):
        assert command.help, name
        for parameter in command.params:
            assert isinstance(parameter, click.Argument) or getattr(parameter, "help", None), f"{name} {parameter.name}"


def test_backends_are_those_of_the_wire() -> None:
    assert tuple(backend.value for backend in Backend) == BACKENDS


def test_no_listing_of_commands_is_cut_off_at_80_columns() -> None:
    def check(command: click.Command, name: str, parent: click.Context | None = None) -> int:
        # With the command's own settings: click keeps the help option that it makes first.
        settings = {**command.context_settings, "terminal_width": 80, "max_content_width": 80}
        context = click.Context(command, info_name=name, parent=parent, **settings)
        if not isinstance(command, click.Group):
            return 0
        listing = command.get_help(context).partition("\nCommands:\n")[2]
        assert listing
        assert "..." not in listing, listing
        subcommands = [(sub, command.get_command(context, sub)) for sub in command.list_commands(context)]
        return 1 + sum(check(found, sub, context) for sub, found in subcommands if found is not None)

    assert check(rbee, "rbee") > 5
    assert check(worker_group, "llm-worker-rbee") == 1


@pytest.mark.parametrize(("command", "default"), [("infer", 100), ("chat", 512)])
def test_help_tells_the_default_of_max_tokens_that_is_sent(rbee: Rbee, command: str, default: int) -> None:
    assert f"Longest answer; default {default}." in rbee(command, "--help").out
    (option,) = (row for row in COMMANDS[command].load().params if row.name == "max_tokens")
    assert option.default == default


def test_no_argument_prints_the_help(rbee: Rbee) -> None:
    assert rbee().out == rbee("--help").out
    assert rbee().code == 0
    assert "Commands:" in rbee("-h").out


def test_version(rbee: Rbee) -> None:
    assert (rbee("--version").code, rbee("--version").out) == (0, f"rbee {__version__}\n")


@pytest.mark.parametrize(("typed", "meant"), [("inferr", "infer"), ("worker", "workers"), ("statsu", "status")])
def test_a_mistyped_command_is_wrong_usage_and_named(rbee: Rbee, typed: str, meant: str) -> None:
    finished = rbee(typed)
    assert (finished.code, finished.out) == (2, "")
    assert f"Did you mean {meant}" in finished.err


@pytest.mark.parametrize("args", [("workers",), ("queen",), ("workers", "lst"), ("--nope",), ("tasks", "show")])
def test_half_a_command_is_wrong_usage(rbee: Rbee, args: tuple[str, ...]) -> None:
    assert rbee(*args).code == 2


@pytest.mark.parametrize("args", [["--help"], ["--version"], []])
def test_help_is_there_at_once_and_imports_nothing_heavy(args: list[str]) -> None:
    script = (
        "import sys; sys.argv = ['rbee', *sys.argv[1:]]\n"
        "from rbee_tui.cli.main import main\n"
        "try:\n    main()\nfinally:\n"
        f"    print('LOADED', [name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)\n"
    )
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", script, *args], capture_output=True, text=True, check=True)
    assert time.monotonic() - began < GENEROUS_S
    loaded = re.search(r"LOADED (.*)", done.stderr)
    assert loaded is not None
    assert loaded[1] == "[]"


def test_a_short_command_imports_no_screen_and_no_daemon() -> None:
    script = (
        "import sys\nfrom rbee_tui.cli.main import run\nrun(['status', '--json'])\n"
        "print([n for n in ('textual', 'asyncssh', 'duckdb', 'starlette', 'uvicorn', 'daemons.queen')"
        " if n in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={"RBEE_HOME": "/nonexistent/rbee"},
    )
    assert (done.stdout.startswith('{"queen": null, '), done.stderr) == (True, "[]\n")
