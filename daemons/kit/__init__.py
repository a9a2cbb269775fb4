"""Plumbing that queen, hive, worker and keeper share: settings, paths, logs, HTTP both ways, state, processes."""
