"""The hive's routes."""
