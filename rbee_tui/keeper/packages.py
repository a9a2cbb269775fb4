"""Which roles this installation can play: the modules that each needs, and the extra that installs them."""

import importlib.util
from collections.abc import Mapping

ROLE_MODULES: Mapping[str, tuple[str, ...]] = {
    "queen": ("starlette", "uvicorn", "prometheus_client", "duckdb"),
    "hive": ("starlette", "uvicorn", "prometheus_client", "duckdb", "gguf", "pynvml"),
    "worker": ("starlette", "uvicorn", "jinja2", "llama_cpp"),
    "tui": ("textual",),
}
"""Modules that each role imports; the extra of that name installs them."""


def missing_modules(role: str) -> list[str]:
    """Modules of a role that are not installed. Imports none of them."""
    return [module for module in ROLE_MODULES[role] if importlib.util.find_spec(module) is None]


def install_command(*roles: str) -> str:
    """The command that installs what these roles need."""
    return f"pip install 'rbee[{','.join(roles)}]'"
