"""State in DuckDB: one process, one file, one thread that owns the connection. The only importer of duckdb.

`Store` is what daemons use; `Database` is the same without threads and event loop.
"""

from daemons.kit.store.database import (
    ConstraintViolated,
    Database,
    Migration,
    Row,
    Statement,
    StoreFailed,
)
from daemons.kit.store.store import DAY_S, Store

__all__ = ["DAY_S", "ConstraintViolated", "Database", "Migration", "Row", "Statement", "Store", "StoreFailed"]
