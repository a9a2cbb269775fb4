"""Who reads a vocabulary that another thread may want to free."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from daemons.contracts.errors import Code, RbeeError


class Readers:
    """Counts calls into llama.cpp from threads that do not own the model; readers never wait for each other."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._reading = 0
        self._closed = False

    @contextmanager
    def reading(self) -> Iterator[None]:
        """The model stays while this is open. Raises RbeeError(DRAINING) after `close`."""
        with self._changed:
            if self._closed:
                raise RbeeError(Code.DRAINING, "the worker is stopping and reads no more text")
            self._reading += 1
        try:
            yield
        finally:
            with self._changed:
                self._reading -= 1
                self._changed.notify_all()

    def close(self) -> None:
        """Let nobody in any more; returns when the last one is out."""
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: not self._reading)
