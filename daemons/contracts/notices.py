"""Notices of daemons to the person who runs them."""

from daemons.contracts.wire import Answer


class Notice(Answer):
    """What a person should know although no request failed of it: when (unix seconds), a sentence, what to run next.

    `node` is where it was noticed; empty: by the queen.
    """

    at: float
    text: str
    hint: str = ""
    node: str = ""
