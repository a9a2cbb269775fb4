"""Where rbee keeps things. ``RBEE_HOME`` moves everything; without it models live in the user's data folder."""

import errno
import os
import shlex
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from daemons.contracts.errors import Code, RbeeError

SYSTEM_CONFIG = Path("/etc/rbee/config.toml")
SYSTEM_HOME = Path("/var/lib/rbee")
PRIVATE_FOLDER_MODE = 0o700
PROBE_BYTES = 64 * 1024
"""What a daemon needs of the disk in order to start: its run file, a log line, the database's write-ahead log."""


@dataclass(frozen=True, slots=True)
class Paths:
    """Folders of one installation. Folders are made when `create` is called, not before."""

    home: Path
    models: Path
    user_config: Path

    @property
    def run(self) -> Path:
        return self.home / "run"

    @property
    def worker_run(self) -> Path:
        return self.run / "workers"

    @property
    def logs(self) -> Path:
        return self.home / "logs"

    @property
    def keys(self) -> Path:
        return self.home / "keys"

    @property
    def backups(self) -> Path:
        return self.home / "backups"

    @property
    def partial_answers(self) -> Path:
        """Texts of generations that were cut off."""
        return self.home / "partial"

    @property
    def folders(self) -> tuple[Path, ...]:
        """Every folder that holds state, the outer ones first."""
        return (self.home, self.run, self.worker_run, self.logs, self.keys, self.backups)

    def database(self, daemon: str) -> Path:
        """``queen.duckdb`` or ``hive.duckdb``."""
        return self.home / f"{daemon}.duckdb"

    def log_file(self, source: str) -> Path:
        """Log of ``queen``, ``hive`` or a worker id."""
        return self.logs / f"{source}.log"

    def create(self) -> None:
        """Make the folders, readable by the owner only.

        Raises RbeeError(HOME_UNUSABLE) with the path and the reason when one cannot be made or written.
        """
        for folder in self.folders:
            try:
                folder.mkdir(mode=PRIVATE_FOLDER_MODE, parents=True, exist_ok=True)
            except OSError as error:
                raise unusable(folder, error, "the state folder ") from error
        try:
            with tempfile.TemporaryFile(dir=self.home, buffering=0) as probe:
                probe.write(bytes(PROBE_BYTES))
        except OSError as error:
            raise unusable(self.home, error, "the state folder ") from error


@dataclass(frozen=True, slots=True)
class Places:
    """Where `rbee install` puts the parts of an installation: links to programs, settings, systemd units, state."""

    programs: Path
    config: Path
    config_mode: int
    units: Path
    state: Paths


_SYSTEM = Places(
    programs=Path("/usr/local/bin"),
    config=SYSTEM_CONFIG,
    config_mode=0o644,
    units=Path("/etc/systemd/system"),
    state=Paths(home=SYSTEM_HOME, models=SYSTEM_HOME / "models", user_config=SYSTEM_CONFIG),
)


def system_places(prefix: Path = Path("/")) -> Places:
    """Places for all users of this machine, below `prefix`."""
    state = _SYSTEM.state
    moved = Paths(*(_below(prefix, path) for path in (state.home, state.models, state.user_config)))
    return replace(
        _SYSTEM,
        programs=_below(prefix, _SYSTEM.programs),
        config=moved.user_config,
        units=_below(prefix, _SYSTEM.units),
        state=moved,
    )


def user_places(environ: Mapping[str, str]) -> Places:
    """Places of this user alone. Raises RbeeError(HOME_UNUSABLE) as `find_paths` does, and where HOME is not set."""
    if not environ.get("HOME"):
        raise RbeeError(
            Code.HOME_UNUSABLE,
            "HOME is not set, so there is no folder for programs",
            hint="export HOME=/path/to/folder",
        )
    state = find_paths(environ)
    home = _absolute("HOME", environ["HOME"])
    config_home = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
    return Places(
        programs=home / ".local" / "bin",
        config=state.user_config,
        config_mode=0o600,  # it may hold the key for a queen elsewhere
        units=config_home / "systemd" / "user",
        state=state,
    )


def _below(prefix: Path, path: Path) -> Path:
    return prefix / path.relative_to("/")


def unusable(path: Path, error: OSError, what: str = "") -> RbeeError:
    """The failure to write `path`; of a full disk, with the bytes that are free and the command that shows it."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return RbeeError(
        Code.HOME_UNUSABLE,
        f"cannot write {what}{path}: {error.strerror or error}{f', {free_space(path)}' if full else ''}",
        details={"path": str(path), "errno": error.errno},
        hint=shlex.join(["df", "-h", str(path if path.is_dir() else path.parent)]) if full else None,
    )


def discard(*leftovers: Path) -> None:
    """Remove files as far as they are there and the disk allows it."""
    for leftover in leftovers:
        try:
            leftover.unlink()
        except OSError:
            pass  # it is not there, or what kept it from being written keeps this as well


def free_space(path: Path) -> str:
    """``4,096 bytes free of 8,388,608`` on the file system of `path`, or of the nearest folder that is there."""
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    usage = shutil.disk_usage(there)
    return f"{usage.free:,} bytes free of {usage.total:,}"


def find_paths(environ: Mapping[str, str] | None = None) -> Paths:
    """Paths for this user: ``RBEE_HOME``, else ``~/.rbee`` with models in the platform's data folder.

    Raises RbeeError(HOME_UNUSABLE) when neither RBEE_HOME nor HOME is set to an absolute path, or it is no folder.
    """
    env = os.environ if environ is None else environ
    user_home = env.get("HOME", "")
    config_home = env.get("XDG_CONFIG_HOME") or (f"{user_home}/.config" if user_home else "")
    rbee_home = env.get("RBEE_HOME", "")
    if rbee_home:
        home = _absolute("RBEE_HOME", rbee_home)
        models = home / "models"
    else:
        if not user_home:
            raise RbeeError(
                Code.HOME_UNUSABLE, "neither RBEE_HOME nor HOME is set, so rbee has no folder for its state"
            )
        home = _absolute("HOME", user_home) / ".rbee"
        data_home = env.get("XDG_DATA_HOME") or f"{user_home}/.local/share"
        models = Path(data_home) / "rbee" / "models"
    user_config = Path(config_home) / "rbee" / "config.toml" if config_home else home / "config.toml"
    return Paths(home=home, models=models, user_config=user_config)


def _absolute(name: str, value: str) -> Path:
    path = Path(value).expanduser()
    if not path.is_absolute():
        raise RbeeError(Code.HOME_UNUSABLE, f"{name} is {value!r}, which is not an absolute path")
    if os.path.lexists(path) and not os.path.isdir(path):
        raise RbeeError(Code.HOME_UNUSABLE, f"{name} is {value!r}, which is not a folder", details={"path": str(path)})
    return path
