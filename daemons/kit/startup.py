"""What queen and hive share from a command line to an address: settings, log, one daemon a home, a socket."""

import socket
from dataclasses import dataclass
from typing import Literal

from daemons.contracts.errors import Code, RbeeError
from daemons.kit.logs import configure_logs, log_start_line
from daemons.kit.paths import Paths, find_paths
from daemons.kit.procs import ProcessIdentity, bind_listening, identify
from daemons.kit.runfile import read_run_file, run_path
from daemons.kit.server import check_bind
from daemons.kit.settings import HiveSettings, QueenSettings, Settings, load_settings

DaemonName = Literal["queen", "hive"]


@dataclass(frozen=True, slots=True)
class Options:
    """The command line of a daemon's `serve`; None is not given."""

    host: str | None = None
    port: int | None = None
    ephemeral: bool = False
    owner_pid: int | None = None

    def owner(self) -> ProcessIdentity | None:
        """The process to end with. One that is gone already is named by a pid that will never run: we end at once."""
        if self.owner_pid is None or not self.ephemeral:
            return None
        return identify(self.owner_pid) or ProcessIdentity(self.owner_pid, "", 0)


def prepare(name: DaemonName, options: Options) -> tuple[Paths, Settings]:
    """Folders, settings and log of the daemon `name`, before anything of it is made.

    Raises RbeeError: CONFIG_INVALID, HOME_UNUSABLE, ALREADY_RUNNING, INSECURE_BIND.
    """
    paths = find_paths()
    settings = load_settings(paths, flags={f"{name}.host": options.host, f"{name}.port": options.port}).settings
    paths.create()
    configure_logs(name, paths.log_file(name), settings.log)
    log_start_line(ephemeral=options.ephemeral, owner_pid=options.owner_pid)
    _refuse_second(name, paths)
    check_bind(_address(name, settings).host, secured=False, hint=f"rbee {name} start --host 127.0.0.1")
    return paths, settings


def listen(name: DaemonName, settings: Settings) -> socket.socket:
    """The listening socket of the daemon `name`. Raises RbeeError(PORT_IN_USE)."""
    address = _address(name, settings)
    try:
        return bind_listening(address.host, address.port)
    except RbeeError as error:
        if error.code is not Code.PORT_IN_USE:
            raise
        hint = f"RBEE_{name.upper()}_PORT=0 rbee {name} start"
        raise RbeeError(error.code, error.message, details=error.details, hint=hint) from error


def _address(name: DaemonName, settings: Settings) -> QueenSettings | HiveSettings:
    return settings.queen if name == "queen" else settings.hive


def _refuse_second(name: DaemonName, paths: Paths) -> None:
    run = read_run_file(run_path(paths, name))
    if run is not None and run.is_alive:
        raise RbeeError(
            Code.ALREADY_RUNNING,
            f"a {name} runs on {paths.home} as pid {run.identity.pid} at {run.url}",
            details={"pid": run.identity.pid, "url": run.url, "home": str(paths.home)},
            hint=f"rbee {name} status",
        )
