"""Decisions of the queen, pure: state + event in, effects out. No I/O, clock, event loop or log."""
