"""Listening sockets: taking a free one near the preferred port, and naming the program that holds a taken one."""

import errno
import socket
from dataclasses import dataclass

import psutil

from daemons.contracts.errors import Code, RbeeError

_BACKLOG = 2048
_LAST_PORT = 65_535


@dataclass(frozen=True, slots=True)
class PortHolder:
    """A program that listens on a port."""

    name: str
    pid: int


def port_holder(port: int) -> PortHolder | None:
    """The program that listens on a TCP port; None when nobody does, or the system does not show who."""
    try:
        for connection in psutil.net_connections(kind="tcp"):
            listens = connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port
            if listens and connection.pid:
                return PortHolder(psutil.Process(connection.pid).name(), connection.pid)
    except (psutil.Error, OSError):
        pass  # other users' sockets are hidden from us on some systems, and a holder may end while we look
    return None


def describe_holder(port: int) -> str:
    """Who holds a port, for a sentence: ``nginx (pid 812)`` or ``another program``."""
    return _sentence(port_holder(port))


def _sentence(holder: PortHolder | None) -> str:
    return f"{holder.name} (pid {holder.pid})" if holder else "another program"


def bind_listening(host: str, preferred_port: int, *, span: int = 1) -> socket.socket:
    """A listening TCP socket on the first free of `span` ports from `preferred_port` on; port 0 takes any.

    The socket is bound before anybody is told of it, so two callers cannot be given the same port.
    Raises RbeeError(PORT_IN_USE) naming the holder of the preferred port, CONFIG_INVALID when `host` cannot be bound.
    """
    if preferred_port == 0:
        candidates = range(1)
    else:
        candidates = range(preferred_port, min(preferred_port + max(span, 1), _LAST_PORT + 1))
    for port in candidates:
        try:
            return _listen(host, port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise _cannot_bind(host, port, error) from error
    raise _all_taken(host, candidates)


def _listen(host: str, port: int) -> socket.socket:
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    listener = socket.socket(family, kind)
    try:
        # Else a port stays taken for a minute after a daemon with open connections ended (TIME_WAIT).
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _cannot_bind(host: str, port: int, error: OSError) -> RbeeError:
    reason = error.strerror or str(error)
    return RbeeError(
        Code.CONFIG_INVALID,
        f"cannot listen on {host} port {port}: {reason}",
        details={"host": host, "port": port, "reason": reason},
    )


def _all_taken(host: str, ports: range) -> RbeeError:
    holder = port_holder(ports.start)
    held = f"is held by {_sentence(holder)}"
    if len(ports) == 1:
        message = f"port {ports.start} on {host} {held}"
    else:
        message = f"all of the ports {ports.start} to {ports.stop - 1} on {host} are taken; {ports.start} {held}"
    details: dict[str, object] = {"host": host, "port": ports.start, "ports_tried": len(ports)}
    if holder is not None:
        details |= {"program": holder.name, "pid": holder.pid}
    return RbeeError(Code.PORT_IN_USE, message, details=details)
