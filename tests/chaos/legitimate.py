"""Which failure may be the end of a request, and which faults or behaviours explain it. INTERNAL is never one."""

from collections.abc import Mapping, Set
from typing import Final

from daemons.contracts.errors import Code
from tests.chaos.plan import OF_THE_QUEEN, Fault, Kind

Cause = Fault | Kind

_WORKER: Final = frozenset({Fault.KILL_WORKER, Fault.FREEZE_WORKER, Fault.LOSE_WORKER_RUN_FILES})
_HIVE: Final = frozenset(fault for fault in Fault if "hive" in fault)
_STATE: Final = frozenset({Fault.FILL_DISK, Fault.CORRUPT_HIVE, Fault.TRUNCATE_HIVE_WAL, Fault.CORRUPT_QUEEN})
_QUEEN_GOES: Final = OF_THE_QUEEN - {Fault.FREEZE_QUEEN}
_ANYTHING: Final = frozenset(Fault)

CAUSES: Final[Mapping[Code, frozenset[Cause]]] = {
    Code.CANCELLED: frozenset({Kind.CANCEL, Kind.VANISH, Kind.OPENAI_VANISH}),
    Code.DEADLINE_EXCEEDED: frozenset({Kind.DEADLINE}),
    Code.WORKER_CRASHED: _WORKER | _HIVE | {Fault.FILL_DISK},
    Code.UPSTREAM_LOST: _WORKER | _HIVE,
    Code.INFERENCE_STALLED: frozenset({Fault.FREEZE_WORKER, Fault.FREEZE_QUEEN}),
    Code.WORKER_START_FAILED: _WORKER | _HIVE | _STATE,
    Code.LOADING_TIMEOUT: frozenset({Fault.FREEZE_WORKER, Fault.FREEZE_HIVE}),
    Code.HIVE_UNREACHABLE: _HIVE | {Fault.FREEZE_QUEEN},
    Code.NO_NODE_AVAILABLE: _ANYTHING,
    Code.DAEMON_START_FAILED: _STATE | _HIVE | _QUEEN_GOES,
    Code.HOME_UNUSABLE: frozenset({Fault.FILL_DISK}),
    Code.STATE_CORRUPT: _STATE | {Fault.TRUNCATE_QUEEN_WAL},
    Code.QUEEN_RESTARTED: _QUEEN_GOES,
    Code.QUEEN_UNREACHABLE: OF_THE_QUEEN,
    Code.DRAINING: frozenset({Fault.TERM_QUEEN, Fault.RESTART_QUEEN, Fault.TERM_HIVE, Fault.RESTART_HIVE}),
    Code.QUEUE_FULL: _ANYTHING,
    Code.TASK_NOT_FOUND: frozenset({Fault.CORRUPT_QUEEN, Fault.TRUNCATE_QUEEN_WAL}),
}
"""Error code -> what may cause it. A code that is missing here is a defect whenever it ends a request."""


def unexplained(code: str, kind: Kind, faults: Set[Fault]) -> bool:
    """Whether neither the client's own behaviour nor any fault that happened explains this end."""
    try:
        causes = CAUSES.get(Code(code), frozenset())
    except ValueError:
        return True
    return kind not in causes and not causes & faults
