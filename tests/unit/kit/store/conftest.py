"""Small schemas for tests, and a file with a fault that only a full read finds."""

import os
from pathlib import Path

from daemons.kit.store import Database, Migration, Statement

NODES = Migration(1, "nodes", "CREATE TABLE node (name VARCHAR PRIMARY KEY, cores INTEGER CHECK (cores > 0))")
PLACES = Migration(
    2, "places", "ALTER TABLE node ADD COLUMN place VARCHAR DEFAULT 'attic'; CREATE INDEX by_place ON node (place)"
)
BROKEN = Migration(2, "broken", "ALTER TABLE node ADD COLUMN place VARCHAR; INSERT INTO nowhere VALUES (1)")

TEXTS = Migration(1, "texts", "CREATE TABLE texts (text VARCHAR)")


def with_a_damaged_block(path: Path) -> None:
    """Make a database with `TEXTS` in which a block of the table, and nothing else, is damaged."""
    database = Database(path, [TEXTS], path.parent / "backups")
    rows = [Statement("INSERT INTO texts VALUES (?)", (os.urandom(2000).hex(),)) for _ in range(500)]
    assert database.write([rows]) == [None]
    database.close()
    middle = path.stat().st_size // 2
    with path.open("r+b") as file:
        file.seek(middle)
        file.write(bytes(64))
