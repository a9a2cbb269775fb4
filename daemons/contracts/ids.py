"""Identifiers: how they are made and which forms are accepted at the border. Pure standard library."""

import re
import secrets

NODE_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?")
"""Node names are host-name like: lower case, digits, dot, dash, underscore; 1 to 63 characters."""

RUN_ID = re.compile(r"[a-z]{1,8}-[0-9a-f]{6,32}")
"""Ids of workers, tasks and requests: a short prefix and hexadecimal digits."""

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""Request ids may come from foreign clients; everything else than this is replaced by a new id."""

LOCAL_NODE = "local"
"""Name of the node that is the queen's own machine."""


def new_id(prefix: str, digits: int = 12) -> str:
    """A fresh id such as ``task-3f9a0c21b7de``; `digits` hexadecimal digits from the system's random source."""
    return f"{prefix}-{secrets.token_hex(digits // 2)}"


def new_worker_id() -> str:
    return new_id("w", 8)


def new_task_id() -> str:
    return new_id("task")


def new_request_id() -> str:
    return new_id("req")
