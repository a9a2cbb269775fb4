"""Handlers of the queen's routes: from a validated request to a call of the service, and its answer."""
