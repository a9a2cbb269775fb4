"""A small schema for tests."""

from daemons.kit.store import Migration

NODES = Migration(1, "nodes", "CREATE TABLE node (name VARCHAR PRIMARY KEY, cores INTEGER CHECK (cores > 0))")
PLACES = Migration(
    2, "places", "ALTER TABLE node ADD COLUMN place VARCHAR DEFAULT 'attic'; CREATE INDEX by_place ON node (place)"
)
BROKEN = Migration(2, "broken", "ALTER TABLE node ADD COLUMN place VARCHAR; INSERT INTO nowhere VALUES (1)")
