"""A command on a terminal of its own (pty(7)): what it shows there, byte by byte."""

import os
import pty
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from tests.support.harness_keeper import KEEPER_MODULE


def shown_on_terminal(
    args: tuple[str, ...], environ: Mapping[str, str], folder: Path, *, within_s: float = 60.0
) -> bytes:
    """Everything that a keeper command writes to its terminal, as its stdout and its stderr. It has to exit with 0."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", KEEPER_MODULE, *args],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        cwd=folder,
        env={**environ, "TERM": "dumb"},
        start_new_session=True,
    ) as process:
        os.close(theirs)
        shown = bytearray()
        reader = threading.Thread(target=_copy, args=(ours, shown), daemon=True)
        reader.start()
        code = process.wait(within_s)
        reader.join(5.0)
    os.close(ours)
    assert code == 0, f"rbee {' '.join(args)} -> {code}: {bytes(shown)!r}"
    return bytes(shown)


def _copy(descriptor: int, into: bytearray) -> None:
    until = time.monotonic() + 120.0
    while time.monotonic() < until:
        try:
            chunk = os.read(descriptor, 65_536)
        except OSError:
            return  # how Linux tells that the other side is closed
        if not chunk:
            return
        into += chunk
