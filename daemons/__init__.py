"""The headless side of rbee: contracts, shared plumbing, and the queen, hive and worker daemons."""

__version__ = "0.1.0"
