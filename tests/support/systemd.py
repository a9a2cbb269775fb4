"""systemd's own opinion of unit files."""

import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.support.harness import cannot_run


def verify_units(units: Iterable[Path], environ: Mapping[str, str], *, of_user: bool) -> None:
    """Raises AssertionError with what systemd finds wrong with them."""
    if shutil.which("systemd-analyze") is None:
        cannot_run("no systemd-analyze(1) here to check units with: apt-get install systemd")
    command = ["systemd-analyze", "verify", *(["--user"] if of_user else []), *map(str, units)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ)
    assert (done.returncode, "rbee-" in done.stderr) == (0, False), done.stderr
