"""`rbee doctor`: everything that has to be in order on this machine, each with what was found and what to run."""

import asyncio
import os
import platform
import stat
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from daemons import __version__
from daemons.contracts.errors import RbeeError
from daemons.contracts.ids import new_request_id
from daemons.kit.auth import ADMIN_KEY, HIVE_KEY, INFER_KEY, key_path, read_key
from daemons.kit.paths import Paths, find_paths
from daemons.kit.procs import port_holder
from daemons.kit.settings import LoadedSettings, Settings, load_settings, mend_hint
from daemons.lifecycle.plan import QUEEN
from rbee_tui.keeper.checks import Check, Result
from rbee_tui.keeper.config import config_files
from rbee_tui.keeper.daemons import NAMES, DaemonStatus, daemon_status
from rbee_tui.keeper.doctor_installation import check_installation
from rbee_tui.keeper.doctor_runtime import check_runtime
from rbee_tui.keeper.installation import Installation
from rbee_tui.keeper.packages import ROLE_MODULES, install_command, missing_modules

OLDEST_PYTHON = (3, 11)
OnCheck = Callable[[Check], None]


async def run_checks(on_check: OnCheck, *, environ: Mapping[str, str] | None = None) -> list[Check]:
    """Look at everything, telling each check as it is done. What is out of order fails its check and raises nothing."""
    checks: list[Check] = []

    def tell(*done: Check) -> None:
        for check in done:
            checks.append(check)
            on_check(check)

    tell(check_python(sys.version_info[:2]))
    try:
        paths = find_paths(environ)
    except RbeeError as error:
        tell(failed("folders", error))
        return checks
    tell(*await asyncio.to_thread(_check_files, paths))
    loaded = await asyncio.to_thread(_check_settings, paths, environ, tell)
    tell(*await asyncio.to_thread(check_model_folders, loaded))
    remote_queen = bool(loaded.settings.queen.url)
    tell(*await asyncio.to_thread(lambda: check_packages(remote_queen=remote_queen)))
    tell(*await asyncio.to_thread(check_installation, loaded.settings, os.environ if environ is None else environ))
    tell(*await check_runtime(loaded.settings.worker.program))
    for name in NAMES:
        tell(*await _check_daemon(name, Installation(paths, loaded, new_request_id())))
    return checks


def failed(name: str, error: RbeeError) -> Check:
    """An error as a check: its code, message and hint."""
    return Check(name, Result.FAIL, f"{error.code.value}: {error.message}", error.hint)


def check_python(version: tuple[int, ...]) -> Check:
    sentence = f"Python {'.'.join(map(str, version))} on {platform.system()} {platform.machine()}, rbee {__version__}"
    if version < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        return Check("python", Result.FAIL, f"{sentence}; rbee needs {oldest}", f"apt-get install python{oldest}-venv")
    return Check("python", Result.OK, sentence)


def _check_files(paths: Paths) -> list[Check]:
    return [check_folder(paths.home), *check_keys(paths)]


def check_folder(home: Path) -> Check:
    """The state folder: writable by us, closed to others. One that is not there yet is made at the first start."""
    name = "state folder"
    if not home.exists():
        parent = next(folder for folder in home.parents if folder.exists())
        if os.access(parent, os.W_OK):
            return Check(name, Result.OK, f"{home} is made at the first start")
        return Check(name, Result.FAIL, f"{home} cannot be made in {parent}", "export RBEE_HOME=/path/to/folder")
    if not home.is_dir() or not os.access(home, os.W_OK | os.X_OK):
        return Check(name, Result.FAIL, f"{home} cannot be written", "export RBEE_HOME=/path/to/folder")
    mode = stat.S_IMODE(home.stat().st_mode)
    if mode & 0o022:
        return Check(name, Result.WARN, f"{home} has mode {mode:04o}: others may write it", f"chmod 700 {home}")
    return Check(name, Result.OK, str(home))


def check_keys(paths: Paths) -> list[Check]:
    """The key files there are; each is made on first use."""
    there = [name for name in (ADMIN_KEY, INFER_KEY, HIVE_KEY) if key_path(paths, name).exists()]
    faults = []
    for name in there:
        try:
            read_key(key_path(paths, name))
        except RbeeError as error:
            faults.append(failed(f"key {name}", error))
    if faults:
        return faults
    return [Check("keys", Result.OK, ", ".join(there) if there else "made at the first start")]


def _check_settings(paths: Paths, environ: Mapping[str, str] | None, tell: Callable[[Check], None]) -> LoadedSettings:
    """The settings, or the defaults when they are wrong, so that the other checks can go on."""
    named = (os.environ if environ is None else environ).get("RBEE_CONFIG")
    try:
        loaded = load_settings(paths, environ=environ)
    except RbeeError as error:
        tell(failed("configuration", error))
        return LoadedSettings(Settings(), {})
    files = [str(file) for file in config_files(paths, named) if file.is_file()]
    given = sum(source != "default" for source in loaded.sources.values())
    where = f"read from {', '.join(files)}" if files else "no file"
    tell(Check("configuration", Result.OK, f"{where}; {given} of {len(loaded.sources)} settings are given"))
    return loaded


def check_model_folders(loaded: LoadedSettings) -> list[Check]:
    """The folders of the setting models.allowed_folders; no check when it names none."""
    key = "models.allowed_folders"
    source = loaded.sources.get(key, "default")
    folders = [os.path.expanduser(folder) for folder in loaded.settings.models.allowed_folders]
    missing = [folder for folder in folders if not os.path.isdir(folder)]
    if missing:
        sentence = f"not there, or no folder: {', '.join(missing)} ({source})"
        return [Check(key, Result.WARN, sentence, mend_hint(source) or "rbee config show")]
    return [Check(key, Result.OK, ", ".join(folders))] if folders else []


def check_packages(*, remote_queen: bool) -> list[Check]:
    """Which roles this installation can play. None is missed where a queen elsewhere is configured."""
    return [_check_role(role, missing_modules(role), remote_queen) for role in ROLE_MODULES]


def _check_role(role: str, missing: list[str], remote_queen: bool) -> Check:
    name = f"packages of the {role}"
    if not missing:
        return Check(name, Result.OK, "installed")
    sentence = f"not installed: {', '.join(missing)}"
    if remote_queen:
        return Check(name, Result.OK, f"{sentence}; not needed beside a queen elsewhere")
    return Check(name, Result.WARN, sentence, install_command(role))


async def _check_daemon(name: str, installation: Installation) -> list[Check]:
    """A daemon that runs has to answer in our version; for one that does not run its port has to be free."""
    try:
        status = await daemon_status(installation, name)
    except RbeeError as error:
        return [failed(name, error)]
    if status is None:
        section = installation.settings.queen if name == QUEEN.name else installation.settings.hive
        return [await asyncio.to_thread(check_port, name, section.port)]
    return [judge_daemon(status)]


def judge_daemon(status: DaemonStatus) -> Check:
    """Whether a running daemon is of our version."""
    sentence = f"version {status.version} at {status.url}, pid {status.pid}"
    if status.version.split(".")[:2] != __version__.split(".")[:2]:
        return Check(status.name, Result.FAIL, f"{sentence}; this keeper is {__version__}", f"rbee {status.name} stop")
    return Check(status.name, Result.OK, sentence)


def check_port(name: str, port: int) -> Check:
    """The port that a daemon will want."""
    holder = port_holder(port) if port else None
    if holder is None:
        return Check(name, Result.OK, f"not running; port {port} is free" if port else "not running; takes any port")
    sentence = f"not running, and {holder.name} (pid {holder.pid}) holds its port {port}"
    return Check(name, Result.WARN, sentence, f"rbee {name} start --port 0")
