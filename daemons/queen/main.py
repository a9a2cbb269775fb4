"""The queen program: `queen-rbee serve`. Imports little until a command runs."""

import click

import daemons
from daemons.kit.entry import needing


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(daemons.__version__, prog_name="queen-rbee")
def main() -> None:
    """The daemon that decides which worker answers which task, and relays the tokens."""


@main.command()
@click.option("--host", default=None, help="address to listen on (setting queen.host)")
@click.option("--port", type=click.IntRange(0, 65535), default=None, help="port to listen on; 0: any free one")
@click.option("--ephemeral", is_flag=True, help="leave nothing running, and end with the owner")
@click.option("--owner-pid", type=click.IntRange(min=1), default=None, help="process that an ephemeral queen ends with")
def serve(host: str | None, port: int | None, ephemeral: bool, owner_pid: int | None) -> None:
    """Serve until SIGTERM, then finish what runs and exit 0."""
    with needing("queen"):
        from daemons.kit.server import run_daemon
        from daemons.kit.startup import Options
        from daemons.queen.serving import run_queen

    options = Options(host=host, port=port, ephemeral=ephemeral, owner_pid=owner_pid)
    run_daemon(lambda: run_queen(options))


if __name__ == "__main__":
    main()
