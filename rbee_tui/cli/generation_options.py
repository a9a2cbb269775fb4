"""Options that `infer`, `chat` and `workers start` share: where a model runs, and how it generates.

None of them checks a range: the wire types do, naming every faulty field at once.
"""

from collections.abc import Callable
from typing import Any

import click
from click.shell_completion import CompletionItem

BACKENDS = ("cpu", "cuda", "metal", "vulkan", "rocm")

Function = Callable[..., Any]


def placement_options(function: Function) -> Function:
    """--node, --backend, --device, --ctx, --slots, --keep-alive: fields of a task or of a worker."""
    for option in (
        click.option("--keep-alive", "keep_alive_s", type=float, metavar="SECONDS", help="Idle limit; -1: none."),
        click.option("--slots", type=int, metavar="N", help="Requests that a new worker answers at once."),
        click.option("--ctx", type=int, metavar="N", help="Context of a new worker: tokens per slot."),
        click.option("--device", type=int, metavar="D", help="Number of the device (see: rbee devices)."),
        click.option("--backend", metavar="B", help=f"{', '.join(BACKENDS)}.", shell_complete=_complete_backend),
        click.option("--node", metavar="N", help="Name of the node."),
    ):
        function = option(function)
    return function


def max_tokens_option(default: int) -> Callable[[Function], Function]:
    """--max-tokens; each command has a default of its own."""
    return click.option(
        "--max-tokens", type=int, default=default, metavar="N", help=f"Longest answer; default {default}."
    )


def generation_options(function: Function) -> Function:
    """The sampling options, --stop."""
    for option in (
        click.option(
            "--stop", multiple=True, callback=_as_list, metavar="TEXT", help="End before this text; may be repeated."
        ),
        click.option("--frequency-penalty", type=float, metavar="X", help="-2 to 2."),
        click.option("--presence-penalty", type=float, metavar="X", help="-2 to 2."),
        click.option("--repeat-penalty", type=float, metavar="X", help="1 is off."),
        click.option("--seed", type=int, metavar="N", help="Same seed, same text."),
        click.option("--min-p", type=float, metavar="X", help="Least probability, relative to the best token."),
        click.option("--top-p", type=float, metavar="X", help="Choose among the likeliest of this total probability."),
        click.option("--top-k", type=int, metavar="N", help="Choose among this many tokens; 0 is off."),
        click.option("--temperature", type=float, metavar="X", help="0 is greedy; default 0.7."),
    ):
        function = option(function)
    return function


def _as_list(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> list[str] | None:
    """JSON knows lists, no tuples; none given leaves the default."""
    return list(values) or None


def _complete_backend(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in BACKENDS if name.startswith(incomplete)]
