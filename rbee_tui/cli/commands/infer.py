"""`rbee infer`: one prompt, one answer."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.tasks import TaskRequest
from rbee_tui.cli.answer_printer import AnswerPrinter
from rbee_tui.cli.call import Call, command_options
from rbee_tui.cli.exits import Exit
from rbee_tui.cli.generation_options import generation_options, max_tokens_option, placement_options
from rbee_tui.keeper.infer import build_request, run_task
from rbee_tui.keeper.installation import Installation
from rbee_tui.keeper.session import ensure

STDIN = "-"


@click.command(short_help="Let a model answer a prompt")
@click.argument("words", metavar="[PROMPT | -]", required=False)
@click.option("--model", "-m", required=True, metavar="M", help="demo, file:///path/model.gguf or hf:org/repo[:QUANT].")
@click.option("--prompt", "-p", metavar="P", help="The prompt; - reads stdin, as does no prompt at all in a pipe.")
@click.option("--system", metavar="TEXT", help="System prompt; the prompt is then a turn of a chat.")
@placement_options
@max_tokens_option(TaskRequest.model_fields["max_tokens"].default)
@generation_options
@click.option(
    "--json-schema",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Answer with JSON that follows this schema.",
)
@click.option("--priority", type=click.Choice(["interactive", "batch"]), help="Batch tasks wait for interactive ones.")
@click.option("--timeout", "timeout_s", type=float, metavar="SECONDS", help="Deadline for the whole task.")
@click.option("--ephemeral", is_flag=True, help="Stop again what this command had to start.")
@command_options
def infer(
    call: Call,
    words: str | None,
    prompt: str | None,
    model: str,
    system: str | None,
    json_schema: Path | None,
    ephemeral: bool,
    **fields: Any,
) -> None:
    """Let a model answer PROMPT.

    Tokens go to stdout as they come. Without --system the model continues the prompt as it stands.
    """
    text = _prompt(words, prompt)
    request = build_request(model, {**fields, **_input(text, system), "response_format": _response_format(json_schema)})
    printer = AnswerPrinter(call.screen)
    try:
        call.run(_answer(call, call.installation(), request, printer, ephemeral=ephemeral))
    except KeyboardInterrupt:
        call.screen.interrupted()
        call.screen.say("; ".join(filter(None, (printer.cancelled(), printer.kept))))
        raise click.exceptions.Exit(Exit.INTERRUPTED) from None


async def _answer(
    call: Call, installation: Installation, request: TaskRequest, printer: AnswerPrinter, *, ephemeral: bool
) -> None:
    async with await ensure(installation, call.screen.narrate, ephemeral=ephemeral) as session:
        answer = await run_task(session, request, printer, partials=installation.paths.partial_answers)
        printer.finish(answer, model=request.model, max_tokens=request.max_tokens, request_id=installation.request_id)


def _prompt(argument: str | None, option: str | None) -> str:
    """The one prompt that was given. Raises click.UsageError for none, two, or an empty one."""
    if argument is not None and option is not None:
        raise click.UsageError("Give the prompt once: as an argument or with --prompt.")
    text = option if option is not None else argument
    if sys.stdin is not None and (text == STDIN or (text is None and not sys.stdin.isatty())):
        text = _stdin_text()
    if not text:
        raise click.UsageError("No prompt: give one as an argument, with --prompt, or on stdin.")
    return text


def _stdin_text() -> str:
    """All of stdin but the newline that ends it."""
    try:
        return sys.stdin.buffer.read().decode("utf-8").removesuffix("\n")
    except UnicodeDecodeError as error:
        raise click.UsageError(f"stdin is not UTF-8 at byte {error.start}.") from None


def _input(text: str, system: str | None) -> Mapping[str, Any]:
    if system is None:
        return {"prompt": text}
    return {"messages": [{"role": "system", "content": system}, {"role": "user", "content": text}]}


def _response_format(file: Path | None) -> Mapping[str, Any] | None:
    if file is None:
        return None
    try:
        schema = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RbeeError(Code.INVALID_REQUEST, f"--json-schema {file}: not a JSON file: {error}") from None
    if not isinstance(schema, dict):
        raise RbeeError(Code.INVALID_REQUEST, f"--json-schema {file}: holds no JSON object")
    return {"type": "json_schema", "json_schema": schema}
