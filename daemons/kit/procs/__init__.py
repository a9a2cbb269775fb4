"""Processes: who one is, starting it, waiting for its end, ending it, the port it holds, the end of its log.

A process is always named by its identity (pid, boot, start time), never by its pid alone and never by its name.
"""

from daemons.kit.procs.children import ChildProcess, spawn
from daemons.kit.procs.exits import ExitReport, Target, describe_exit, stop, wait_exit
from daemons.kit.procs.identity import ProcessIdentity, identify, is_alive, own_identity, send_signal
from daemons.kit.procs.ports import PortHolder, bind_listening, describe_holder, port_holder
from daemons.kit.procs.tail import last_lines

__all__ = [
    "ChildProcess",
    "ExitReport",
    "PortHolder",
    "ProcessIdentity",
    "Target",
    "bind_listening",
    "describe_exit",
    "describe_holder",
    "identify",
    "is_alive",
    "last_lines",
    "own_identity",
    "port_holder",
    "send_signal",
    "spawn",
    "stop",
    "wait_exit",
]
