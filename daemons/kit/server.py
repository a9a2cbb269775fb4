"""Runs a daemon: binds, serves, and on SIGTERM or SIGINT drains in order and exits 0.

SIGHUP has the daemon read its key files again; one without any goes on.

Order of the end: new work is refused -> running work ends, or is cut at the drain limit -> the service closes what it
owns -> connections close -> the process exits. A second signal cuts the drain short.
"""

import asyncio
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import uvicorn
import uvloop
from starlette.types import ASGIApp

from daemons.contracts.errors import Code, RbeeError
from daemons.kit.entry import end_failed
from daemons.kit.logs import get_logger
from daemons.kit.protocol import bounded

LAST_CONNECTIONS_S = 1
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class Service(Protocol):
    """What a daemon does besides answering HTTP. The runner calls these in this order, each once."""

    async def start(self, stop: Callable[[], None]) -> None:
        """Begin; HTTP answers right after. Call `stop` to end the daemon as SIGTERM would."""

    def begin_drain(self) -> None:
        """Refuse new work from now on."""

    async def drained(self) -> None:
        """Return when no work is running any more; cancelled at the drain limit."""

    async def close(self) -> None:
        """End everything that is left and give up what is owned."""


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling: SIGTERM belongs to the runner."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def check_bind(host: str, *, secured: bool, hint: str | None = None) -> None:
    """Refuse to serve other machines without TLS. Raises RbeeError(INSECURE_BIND) with the hint."""
    if host not in LOOPBACK and not secured:
        raise RbeeError(Code.INSECURE_BIND, f"{host} is not a loopback address, and there is no TLS for it", hint=hint)


def url_of(sock: socket.socket) -> str:
    """Address under which a bound socket answers."""
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def serve(
    service: Service,
    app: ASGIApp,
    sock: socket.socket,
    *,
    drain_s: float,
    read_s: float,
    on_serving: Callable[[], Awaitable[None]] | None = None,
    on_hangup: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Serve until a signal or the service itself ends the daemon. `on_serving` runs once HTTP answers.

    `read_s`: the head of a request arrives within so many seconds. `on_hangup` is called at each SIGHUP.
    """
    server = _Server(
        uvicorn.Config(
            app,
            http=bounded(read_s),
            ws="none",
            # Any local program could choose its address with a header, and would never be refused as a flood.
            proxy_headers=False,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=LAST_CONNECTIONS_S,
        )
    )
    stop, hurry = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (hurry if stop.is_set() else stop).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    hung_up = asyncio.Event()
    loop.add_signal_handler(signal.SIGHUP, hung_up.set)
    await service.start(stop.set)
    serving = asyncio.create_task(server.serve(sockets=[sock]))
    reading = asyncio.create_task(_each_time(hung_up, on_hangup))
    try:
        if on_serving is not None:
            await on_serving()
        tell_systemd("READY=1")
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait([stopping, serving], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        await _drain(service, hurry, drain_s)
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await service.close()
        server.should_exit = True
        await serving


def tell_systemd(state: str) -> None:
    """Tell systemd, where it waits for that, what we are up to (sd_notify(3)); it waits for no program we start.

    A service of ``Type=notify`` counts as started only then: whoever comes after it finds it answering.
    """
    address = os.environ.pop("NOTIFY_SOCKET", "")
    if not address:
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)
    except OSError as error:
        get_logger().warning("systemd could not be told", state=state, reason=str(error))


async def _each_time(hung_up: asyncio.Event, act: Callable[[], Awaitable[None]] | None) -> None:
    while True:
        await hung_up.wait()
        hung_up.clear()
        try:
            await (act() if act is not None else asyncio.sleep(0))
        except Exception as error:
            get_logger().error("SIGHUP could not be acted upon", exc_info=error)


async def _drain(service: Service, hurry: asyncio.Event, drain_s: float) -> None:
    get_logger().info("draining", limit_s=drain_s)
    service.begin_drain()
    draining = asyncio.ensure_future(service.drained())
    hurrying = asyncio.create_task(hurry.wait())
    done, _ = await asyncio.wait([draining, hurrying], timeout=drain_s, return_when=asyncio.FIRST_COMPLETED)
    if draining not in done:
        get_logger().warning("drain limit reached, cutting what still runs", limit_s=drain_s)
    for task in (draining, hurrying):
        task.cancel()
    await asyncio.gather(draining, hurrying, return_exceptions=True)


def run_daemon(main: Callable[[], Awaitable[None]]) -> None:
    """Run a daemon's main coroutine to its end and exit: 0 done, 1 failed.

    What it failed of is told as `end_failed` does.
    """
    try:
        uvloop.run(_awaited(main))
    except RbeeError as error:
        get_logger().error(error.message, code=error.code.value)
        end_failed(error)


async def _awaited(main: Callable[[], Awaitable[None]]) -> None:
    await main()
