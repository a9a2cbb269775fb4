"""Where llama.cpp's Python package comes in, which may be missing or may not load."""

from collections.abc import Iterator
from contextlib import contextmanager

from daemons.contracts.errors import Code, RbeeError
from daemons.kit.entry import missing_package

EXTRA = "worker"


@contextmanager
def importing_runtime() -> Iterator[None]:
    """Around imports of the llama.cpp backend. Raises RbeeError: WORKER_RUNTIME_MISSING, WORKER_RUNTIME_BROKEN."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise missing_package(error, EXTRA, Code.WORKER_RUNTIME_MISSING) from error
    except (OSError, RuntimeError) as error:
        raise RbeeError(Code.WORKER_RUNTIME_BROKEN, f"llama.cpp's library cannot be loaded: {error}") from error
