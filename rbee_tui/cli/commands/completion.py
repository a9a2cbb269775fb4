"""`rbee completion`: scripts for shells."""

import click
from click.shell_completion import get_completion_class

from rbee_tui.cli.main import rbee

PROGRAM = "rbee"


@click.command(short_help="Print the completion script for a shell")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script for SHELL.

    \b
    bash:  mkdir -p ~/.local/share/bash-completion/completions
           rbee completion bash > ~/.local/share/bash-completion/completions/rbee
    zsh:   mkdir -p ~/.zfunc
           rbee completion zsh > ~/.zfunc/_rbee
    fish:  mkdir -p ~/.config/fish/completions
           rbee completion fish > ~/.config/fish/completions/rbee.fish
    """
    script = get_completion_class(shell)
    assert script is not None
    click.echo(script(rbee, {}, PROGRAM, f"_{PROGRAM}_COMPLETE".upper()).source())
