"""``run/queen.json`` and ``run/hive.json``: which process a daemon is, and at which address it answers.

A daemon writes its own file when it answers and removes it at its end; when it is lost meanwhile, it is written again,
or nobody would find a daemon that runs. A file whose process is gone is stale; its identity tells, so that a later
process of the same pid is not taken for the daemon.
"""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from daemons import __version__
from daemons.contracts.errors import RbeeError
from daemons.kit.logs import get_logger
from daemons.kit.paths import Paths, discard, unusable
from daemons.kit.procs.identity import ProcessIdentity, is_alive, own_identity

LOOK_EACH_S = 1.0
"""A lost run file is there again within this."""


class RunFile(BaseModel):
    """What a running daemon says of itself. `started_at` is unix seconds.

    `owner` is the process for whose sake an ephemeral daemon runs.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    identity: ProcessIdentity
    url: str
    version: str
    started_at: float
    ephemeral: bool = False
    owner: ProcessIdentity | None = None

    @classmethod
    def of_this_process(
        cls, name: str, url: str, *, ephemeral: bool = False, owner: ProcessIdentity | None = None
    ) -> "RunFile":
        """The run file of the calling daemon."""
        return cls(
            name=name,
            identity=own_identity(),
            url=url,
            version=__version__,
            started_at=time.time(),
            ephemeral=ephemeral,
            owner=owner,
        )

    @property
    def is_alive(self) -> bool:
        """Whether the process of this file still runs."""
        return is_alive(self.identity)


def run_path(paths: Paths, name: str) -> Path:
    """Path of the run file of ``queen`` or ``hive``."""
    return paths.run / f"{name}.json"


def read_run_file(path: Path) -> RunFile | None:
    """The run file at `path`, stale or not; None when there is none that can be read."""
    try:
        return RunFile.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def write_run_file(path: Path, run: RunFile) -> None:
    """Write the file (mode 0600) so that readers see the old one or the new one, whole.

    Raises RbeeError(HOME_UNUSABLE).
    """
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(run.model_dump_json(indent=2) + "\n")
        fresh.replace(path)
    except OSError as error:
        discard(fresh)
        raise unusable(path, error) from error


def remove_run_file(path: Path, identity: ProcessIdentity) -> bool:
    """Remove the file if it is that of `identity`; another process' file is left alone."""
    run = read_run_file(path)
    if run is None or run.identity != identity:
        return False
    path.unlink(missing_ok=True)
    return True


@contextmanager
def published(path: Path, run: RunFile, *, look_each_s: float = LOOK_EACH_S) -> Iterator[None]:
    """The run file is there meanwhile, also when somebody removes it. Raises as `write_run_file` does."""
    write_run_file(path, run)
    over = threading.Event()
    keeping = threading.Thread(target=_keep, args=(path, run, over, look_each_s), name="run-file", daemon=True)
    keeping.start()
    try:
        yield
    finally:
        over.set()
        keeping.join()
        remove_run_file(path, run.identity)


def _keep(path: Path, run: RunFile, over: threading.Event, each_s: float) -> None:
    """Write the file again whenever it is gone, cannot be read, or names a process that has ended."""
    while not over.wait(each_s):
        told = read_run_file(path)
        if told is not None and told.is_alive:
            continue
        try:
            write_run_file(path, run)
        except RbeeError:
            continue  # the disk is full, or the folder is gone: a later look may find it mended
        get_logger().warning("the run file was lost and is written again", path=str(path))
