"""Narration: every step of a request says in one sentence what is being done, to the log and to whoever listens."""

from collections.abc import Callable
from typing import Any

from daemons.contracts.events import Narration
from daemons.kit.logs import get_logger

Listener = Callable[[Narration], None]


class Narrator:
    """Says sentences as one actor; each goes to the log and to the listener."""

    def __init__(self, actor: str, listener: Listener | None = None) -> None:
        self.actor = actor
        self._listener = listener

    def say(self, text: str, **fields: Any) -> Narration:
        """Narrate `text` with its figures as `fields`."""
        narration = Narration(actor=self.actor, text=text, fields=fields)
        get_logger().info(text, actor=self.actor, **fields)
        if self._listener is not None:
            self._listener(narration)
        return narration

    def acting_as(self, actor: str) -> "Narrator":
        """A narrator with another name and the same listener."""
        return Narrator(actor, self._listener)
