"""A small schema, and databases that another process has open."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from daemons.kit.store import Migration

NODES = Migration(1, "nodes", "CREATE TABLE node (name VARCHAR PRIMARY KEY, cores INTEGER CHECK (cores > 0))")
PLACES = Migration(
    2, "places", "ALTER TABLE node ADD COLUMN place VARCHAR DEFAULT 'attic'; CREATE INDEX by_place ON node (place)"
)
BROKEN = Migration(2, "broken", "ALTER TABLE node ADD COLUMN place VARCHAR; INSERT INTO nowhere VALUES (1)")

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
