"""`rbee chat`: a conversation on the terminal."""

import asyncio
import sys
from collections.abc import Iterator
from typing import Any

import click

from daemons.contracts.errors import Code, RbeeError
from rbee_tui.cli.answer_printer import AnswerPrinter
from rbee_tui.cli.call import Call, command_options
from rbee_tui.cli.generation_options import generation_options, max_tokens_option, placement_options
from rbee_tui.keeper.chat import LARGER_CONTEXT, Conversation, ask
from rbee_tui.keeper.installation import Installation
from rbee_tui.keeper.session import QueenSession, ensure

PROMPT = "> "
END_HINT = "Ctrl+D ends"
HELP = "/new begins again, /exit or Ctrl+D ends, Ctrl+C stops an answer"
KEPT = "what came stays in the conversation"
DROPPED = "the question is dropped"
MAX_TOKENS = 512
WHEN_FULL = f"more: /new, or {LARGER_CONTEXT}, which starts a new worker"

# What the queen itself says is told and the conversation goes on; without the queen it cannot.
_ENDS = frozenset({Code.QUEEN_UNREACHABLE, Code.INVALID_API_KEY, Code.ROLE_FORBIDDEN, Code.VERSION_MISMATCH})


@click.command(short_help="Talk with a model on this terminal")
@click.option("--model", "-m", metavar="M", help="Default: the setting models.default.")
@click.option("--system", metavar="TEXT", help="System prompt.")
@placement_options
@max_tokens_option(MAX_TOKENS)
@generation_options
@click.option("--ephemeral", is_flag=True, help="Stop again what this command had to start.")
@command_options
def chat(call: Call, model: str | None, system: str | None, ephemeral: bool, **options: Any) -> None:
    """Talk with a model: each line is a turn, and the model sees the whole conversation.

    From a pipe every line is asked in turn. With --json each answer is one object.
    """
    installation = call.installation()
    conversation = Conversation.begin(model or installation.settings.models.default, system=system, options=options)
    conversation.request(PROMPT)  # a wrong option is told before anything is started
    # One runner for the whole conversation: between two turns Ctrl+C belongs to the line editor, not to the loop.
    with asyncio.Runner() as runner:
        session = runner.run(ensure(installation, call.screen.narrate, ephemeral=ephemeral))
        try:
            _talk(runner, session, call, conversation, installation)
        finally:
            runner.run(session.close())


def _talk(
    runner: asyncio.Runner, session: QueenSession, call: Call, conversation: Conversation, installation: Installation
) -> None:
    call.screen.say(f"talking with {conversation.model}; {HELP}")
    for line in _lines(call):
        if line in {"/exit", "/quit"}:
            return
        if line == "/new":
            conversation = conversation.cleared()
            call.screen.say("a new conversation: what was said before is forgotten")
        elif line.startswith("/"):
            call.screen.say(HELP if line == "/help" else f"unknown command {line.split()[0]}; {HELP}")
        else:
            conversation = _turn(runner, session, call, conversation, line, installation)


def _turn(
    runner: asyncio.Runner,
    session: QueenSession,
    call: Call,
    conversation: Conversation,
    question: str,
    installation: Installation,
) -> Conversation:
    """The conversation after this question. Ctrl+C keeps what had come of the answer; a failure drops the question."""
    # How the first answer came about is worth telling; after that the worker is warm.
    printer = AnswerPrinter(call.screen, terse=conversation != conversation.cleared())
    partials = installation.paths.partial_answers
    try:
        after, answer = runner.run(ask(session, conversation, question, printer, partials=partials))
    except KeyboardInterrupt:
        call.screen.interrupted()
        call.screen.say(f"{printer.cancelled()}; {KEPT if printer.text else DROPPED}")
        if printer.kept:
            call.screen.say(printer.kept)
        return conversation.exchanged(question, printer.text) if printer.text else conversation
    except RbeeError as error:
        if error.code in _ENDS or not sys.stdin.isatty():
            raise
        call.screen.error(error)
        return conversation
    printer.finish(
        answer,
        model=conversation.model,
        max_tokens=conversation.options["max_tokens"],
        request_id=installation.request_id,
        when_full=WHEN_FULL,
    )
    return after


def _lines(call: Call) -> Iterator[str]:
    """Lines that are not blank, up to the end of the input. At a terminal Ctrl+C drops the line that is being typed."""
    terminal = sys.stdin.isatty() and call.screen.out_is_terminal
    if terminal:
        import readline  # noqa: F401 - gives `input` line editing and history
    while True:
        try:
            line = input(PROMPT if terminal else "").strip()
        except EOFError:
            return
        except KeyboardInterrupt:
            if not terminal:
                raise
            call.screen.line("")
            call.screen.say(END_HINT)
            continue
        if line:
            yield line
