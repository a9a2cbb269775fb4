"""Who calls, and what of tasks that caller may see: a key of the role `infer` its own, `admin` all."""

from starlette.requests import Request

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.routes import LAST_EVENT_ID, PREFER, Role
from daemons.contracts.tasks import TaskRow
from daemons.kit.auth import fingerprint


def client_of(request: Request) -> str:
    """Fingerprint of the key that a request came with."""
    return fingerprint(request.scope["bearer"])


def is_admin(request: Request) -> bool:
    return request.scope.get("role") is Role.ADMIN


def may_see(request: Request, row: TaskRow) -> bool:
    """Whether the caller may see and cancel this task."""
    return is_admin(request) or row.client == client_of(request)


def last_event_id(request: Request) -> int:
    """Number of the last event that the reader has; 0 when it has none. Raises RbeeError(INVALID_REQUEST)."""
    text = request.headers.get(LAST_EVENT_ID.name) or "0"
    if not text.isdecimal() or len(text) > 18:
        raise RbeeError(Code.INVALID_REQUEST, f"Last-Event-ID is a number, got {text[:40]!a}")
    return int(text)


def wants_detached(request: Request) -> bool:
    """`Prefer: respond-async` (RFC 7240)."""
    preferences = (part.partition(";")[0].strip().lower() for part in request.headers.get(PREFER.name, "").split(","))
    return "respond-async" in preferences
