"""Which roles this installation can play: the modules that each needs, and the extra that installs them."""

import importlib.metadata
import importlib.util
import json
import os
import shlex
from collections.abc import Mapping
from urllib.parse import urlsplit
from urllib.request import url2pathname

PACKAGE = "rbee"
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
    """The command that installs what these roles need, from the folder that this rbee came from if there is one.

    pip writes that folder down in ``direct_url.json`` (PyPA specification "Recording the Direct URL Origin").
    """
    extras = f"[{','.join(roles)}]"
    try:
        record = importlib.metadata.distribution(PACKAGE).read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        record = None
    origin = json.loads(record or "{}")
    folder = url2pathname(urlsplit(origin.get("url", "")).path)
    if "dir_info" not in origin or not os.path.isdir(folder):
        return f"pip install {shlex.quote(PACKAGE + extras)}"
    editable = "-e " if origin["dir_info"].get("editable") else ""
    return f"pip install {editable}{shlex.quote(folder + extras)}"
