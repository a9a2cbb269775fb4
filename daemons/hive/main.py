"""The hive program: `rbee-hive serve`. Imports little until a command runs."""

import click

import daemons
from daemons.kit.entry import needing


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(daemons.__version__, prog_name="rbee-hive")
def main() -> None:
    """The daemon of one machine: its devices, models and worker processes."""


@main.command()
@click.option("--host", default=None, help="address to listen on (setting hive.host)")
@click.option("--port", type=click.IntRange(0, 65535), default=None, help="port to listen on; 0: any free one")
@click.option("--ephemeral", is_flag=True, help="leave nothing running, and end with the owner")
@click.option("--owner-pid", type=click.IntRange(min=1), default=None, help="process that an ephemeral hive ends with")
def serve(host: str | None, port: int | None, ephemeral: bool, owner_pid: int | None) -> None:
    """Serve until SIGTERM, then end all workers and exit 0."""
    with needing("hive"):
        from daemons.hive.serving import run_hive
        from daemons.kit.server import run_daemon
        from daemons.kit.startup import Options

    options = Options(host=host, port=port, ephemeral=ephemeral, owner_pid=owner_pid)
    run_daemon(lambda: run_hive(options))


if __name__ == "__main__":
    main()
