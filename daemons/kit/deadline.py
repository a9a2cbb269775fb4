"""A request's deadline as every hop reads and sends it: unix seconds in one header, passed on as they came.

No hop computes a deadline of its own for the next one, so none can be later than what the client asked for.
"""

import time
from collections.abc import Mapping

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.routes import DEADLINE

DEADLINE_HEADER = DEADLINE.name
_FARTHEST_S = 1e12
"""Unix seconds beyond which a deadline is none; no comparison holds for a NaN."""


def deadline_of(headers: Mapping[str, str], daemon: str) -> float | None:
    """The deadline of a request (unix seconds); None without one. `daemon` is who got it, for the sentence.

    Raises RbeeError: INVALID_REQUEST for something else than a number, DEADLINE_EXCEEDED when it has passed.
    """
    text = headers.get(DEADLINE_HEADER)
    if text is None:
        return None
    try:
        deadline = float(text)
    except ValueError:
        deadline = float("nan")
    if not abs(deadline) < _FARTHEST_S:
        raise RbeeError(Code.INVALID_REQUEST, f"{DEADLINE_HEADER} takes unix seconds, got {text[:40]!a}")
    late_s = time.time() - deadline
    if late_s >= 0:
        raise RbeeError(
            Code.DEADLINE_EXCEEDED,
            f"the deadline passed {late_s:.1f} s before the {daemon} got the request",
            details={"late_s": round(late_s, 3), "daemon": daemon},
        )
    return deadline


def deadline_header(deadline: float | None) -> Mapping[str, str]:
    """What carries a deadline to the next hop: the same number; nothing for none."""
    return {} if deadline is None else {DEADLINE_HEADER: repr(deadline)}
