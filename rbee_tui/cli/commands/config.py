"""`rbee config`: the settings in force."""

import os

import click

from rbee_tui.cli.call import Call, command_options
from rbee_tui.cli.columns import SETTING_COLUMNS
from rbee_tui.keeper.config import config_files, settings_rows


@click.group(short_help="Settings and where each comes from")
def config() -> None:
    """Settings: flag > environment > RBEE_CONFIG file > user file > system file > default."""


@config.command(short_help="Every setting, its value and its source")
@command_options
def show(call: Call) -> None:
    """Show every setting with its value and its source; secrets only by their fingerprint."""
    installation = call.installation()
    paths, rows = installation.paths, settings_rows(installation)
    if call.screen.as_json:
        call.screen.json(
            {
                "home": str(paths.home),
                "models": str(paths.models),
                "files": [
                    {"path": str(file), "exists": file.is_file()}
                    for file in config_files(paths, os.environ.get("RBEE_CONFIG"))
                ],
                "settings": [
                    {"key": r.key, "value": r.value, "source": r.source, "variable": r.variable, "about": r.description}
                    for r in rows
                ],
            }
        )
        return
    call.screen.say(f"state in {paths.home}, models in {paths.models}, your file is {paths.user_config}")
    call.screen.table(rows, SETTING_COLUMNS)
