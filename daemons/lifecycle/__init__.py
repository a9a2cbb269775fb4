"""Putting a daemon on a machine, starting it, stopping it."""
