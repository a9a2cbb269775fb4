"""Unit tests run with a detector that fails a test when it blocks the event loop."""

from collections.abc import Iterator

import pytest
import structlog
from blockbuster import BlockBuster, blockbuster_ctx


@pytest.fixture(autouse=True)
def no_blocking_calls() -> Iterator[BlockBuster]:
    """Raise BlockingError where product code sleeps, reads files or waits for sockets inside the event loop."""
    with blockbuster_ctx(scanned_modules=["rbee_tui", "daemons"]) as detector:
        # Starting a process waits for its exec (1 to 3 ms), as asyncio's own subprocesses do; a line fits into an empty
        # pipe; /proc is memory.
        detector.functions["os.read"].can_block_in("daemons/kit/procs/children.py", "spawn")
        detector.functions["io.BufferedWriter.write"].can_block_in("daemons/kit/procs/children.py", "_write_stdin")
        detector.functions["io.BufferedReader.read"].can_block_in("daemons/kit/procs/identity.py", "_from_proc")
        yield detector


@pytest.fixture(autouse=True)
def silent_log() -> Iterator[None]:
    """Log lines go nowhere, unless a test configures the log itself."""
    structlog.configure(
        processors=[structlog.processors.KeyValueRenderer()], logger_factory=structlog.ReturnLoggerFactory()
    )
    yield
    structlog.reset_defaults()
