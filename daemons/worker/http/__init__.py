"""The worker's routes."""
