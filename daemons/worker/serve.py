"""`llm-worker-rbee serve`: settings from stdin, HTTP first, then the model."""

import os
import socket
import sys
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.routes import Daemon, Role
from daemons.contracts.wire import invalid_fields
from daemons.contracts.workers import LAST_WORDS, WorkerSettings
from daemons.kit.app import build_app
from daemons.kit.auth import Keyring, fingerprint
from daemons.kit.logs import configure_logs, get_logger, log_start_line
from daemons.kit.policy import Policy
from daemons.kit.procs import bind_listening
from daemons.kit.server import check_bind, serve, url_of
from daemons.kit.settings import LogSettings
from daemons.worker.bridge import Bridge
from daemons.worker.engine.backend import Backend
from daemons.worker.http.handlers import worker_handlers
from daemons.worker.runtime import importing_runtime
from daemons.worker.service import WorkerService


def read_settings() -> WorkerSettings:
    """The one line of JSON on stdin. Raises RbeeError(CONFIG_INVALID) without echoing it: it holds the key."""
    line = sys.stdin.buffer.readline()
    sys.stdin.close()
    try:
        return WorkerSettings.model_validate_json(line)
    except ValidationError as error:
        fields = invalid_fields(error)
        raise RbeeError(
            Code.CONFIG_INVALID, f"the settings on stdin: {fields.message}", details=fields.details
        ) from None


def prepare_process(settings: WorkerSettings) -> None:
    """Log file, cores, and no debugger that buries the log when llama.cpp aborts."""
    os.environ["GGML_NO_BACKTRACE"] = "1"
    _pin(settings.cores)
    configure_logs(settings.worker_id, Path(settings.log_path), LogSettings(level=settings.log_level))
    log_start_line(
        model=settings.model_ref,
        backend=settings.backend.value,
        device=settings.device,
        slots=settings.slots,
        key=fingerprint(settings.key),
    )


def _pin(cores: list[int]) -> None:
    """Run on these CPUs only, where the system can do that. Raises RbeeError(CONFIG_INVALID) for others than it has."""
    if not cores or not hasattr(os, "sched_setaffinity"):
        return
    try:
        os.sched_setaffinity(0, cores)
    except (OSError, OverflowError, ValueError) as error:
        raise RbeeError(
            Code.CONFIG_INVALID, f"cannot run on the cores {cores}: {error}", details={"cores": cores}
        ) from None


def listening_socket(settings: WorkerSettings) -> socket.socket:
    """The inherited socket, or one of our own. Raises RbeeError: PORT_IN_USE, INSECURE_BIND."""
    if settings.listen_fd is not None:
        sock = socket.socket(fileno=settings.listen_fd)
        os.set_inheritable(sock.fileno(), False)
        return sock
    check_bind(settings.host, secured=False, hint="rbee hive start --host 127.0.0.1")
    return bind_listening(settings.host, settings.port)


def make_backend(settings: WorkerSettings) -> Backend:
    """The llama.cpp backend; imported here, so that HTTP code can be imported without llama.cpp."""
    with importing_runtime():
        from daemons.worker.engine.llama.backend import LlamaBackend, LoadOptions
    return LlamaBackend(
        LoadOptions(
            model_path=settings.model_path,
            slots=settings.slots,
            ctx=settings.ctx,
            batch=settings.batch,
            threads=settings.threads,
            device=settings.device_name,
            mmap=settings.mmap,
        )
    )


async def run_worker(settings: WorkerSettings, backend: Backend, sock: socket.socket) -> None:
    """Serve until told to end. Raises RbeeError when the model could not be loaded or the engine died."""
    policy = Policy(max_body_bytes=settings.max_body_bytes)
    bridge = Bridge(backend, slots=settings.slots, batch=settings.batch)
    service = WorkerService(settings, bridge, url_of(sock), policy)
    keyring = Keyring({settings.key: Role.ADMIN})
    app = build_app(Daemon.WORKER, worker_handlers(service, bridge), keyring=lambda: keyring, policy=policy)
    get_logger().info("listening", url=url_of(sock))
    await serve(service, app, sock, drain_s=settings.drain_s, read_s=policy.request_read_s)
    with suppress(OSError):
        sock.close()
    if bridge.failure is not None:
        raise bridge.failure
    get_logger().info(LAST_WORDS)


async def main() -> None:
    """Everything of the `serve` command that runs on the event loop."""
    settings = read_settings()
    prepare_process(settings)
    sock = listening_socket(settings)
    await run_worker(settings, make_backend(settings), sock)
