"""A view of the file system of its own for one process; the machine's is untouched."""

import os
import subprocess
from pathlib import Path

from tests.support.harness import cannot_run


def mounted(folder: Path, script: str) -> tuple[str, ...]:
    """Runs what follows in a mount namespace of its own, after `script` mounted something with `folder` as ``$0``."""
    own_user = () if os.geteuid() == 0 else ("--map-root-user",)
    wrapper = ("unshare", "--mount", *own_user, "sh", "-c", f'{script} && exec "$@"', str(folder))
    try:
        probe = subprocess.run([*wrapper, "true"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        cannot_run("no unshare(1) here: nothing can be mounted for one process alone")
    if probe.returncode != 0:
        cannot_run(f"no mount namespaces here: {probe.stderr.strip()}")
    return wrapper
