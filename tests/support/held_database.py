"""A database file as other processes meet it: held open by one, tried by another."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_HOLD = """
import sys, duckdb
connection = duckdb.connect(sys.argv[1])
print("open", flush=True)
sys.stdin.read()
"""
_TRY = """
import sys, duckdb
try:
    duckdb.connect(sys.argv[1])
    print("opened")
except duckdb.IOException as error:
    print("refused" if "lock" in str(error) else error)
"""


@contextmanager
def held_by_another_process(path: Path) -> Iterator[int]:
    """Another process has the database open meanwhile; gives its pid."""
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == b"open\n"
        yield holder.pid
        holder.stdin.close()


def opened_by_another_process(path: Path) -> str:
    """``opened`` or ``refused``: what becomes of another process that tries."""
    return subprocess.run(
        [sys.executable, "-c", _TRY, str(path)], capture_output=True, text=True, check=True
    ).stdout.strip()
