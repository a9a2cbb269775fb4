"""`rbee models`: what the nodes have."""

import click

from rbee_tui.cli.call import Call, command_options
from rbee_tui.cli.columns import MODEL_COLUMNS
from rbee_tui.keeper.fleet import models as list_models


@click.group(short_help="Models that the nodes have")
def models() -> None:
    """Models that the nodes have."""


@models.command("list", short_help="Models of all nodes")
@command_options
def list_(call: Call) -> None:
    """List the models of all nodes."""
    call.screen.listing("models", call.with_queen(list_models), MODEL_COLUMNS, nothing="no node has a model")
