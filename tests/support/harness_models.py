"""GGUF files for scenarios, made by the product's own writers once per checkout and kept under ``build/``."""

import fcntl
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from daemons.models.demo import DEMO_MODEL_PATH
from tests.support.topology import REPOSITORY

STEADY_PARAMETERS = 60_000_000
"""About 6 ms per token on one core: long enough to look at a generation while it runs."""

LARGE_PARAMETERS = 400_000_000
"""About 0.4 s to load without mmap: long enough to look at a load while it runs."""


class ModelShelf:
    """Where the scenarios' models lie. Safe for several test processes at once."""

    def __init__(self, folder: Path = REPOSITORY / "build" / "test-models") -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        # All of them take their vocabulary or weights from the shipped model, so a new one makes new files.
        self._origin = hashlib.sha256(DEMO_MODEL_PATH.read_bytes()).hexdigest()[:8]

    def f16_demo(self) -> str:
        """The demo model with 16-bit weights."""
        return self._reference("demo-f16", self._write_f16)

    def steady(self) -> str:
        """A random-weight model that decodes slowly enough to be watched; it never ends by itself."""
        return self._reference("steady", lambda path: _write_synthetic(path, STEADY_PARAMETERS, context=5120))

    def large(self) -> str:
        """A random-weight model that takes a while to load when it is not memory-mapped."""
        return self._reference("large", lambda path: _write_synthetic(path, LARGE_PARAMETERS, context=1024))

    def _reference(self, name: str, write: Callable[[Path], None]) -> str:
        path = self.folder / f"{name}-{self._origin}.gguf"
        with (self.folder / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                for outdated in self.folder.glob(f"{name}-????????.gguf"):
                    outdated.unlink()
                fresh = path.with_suffix(".fresh")
                write(fresh)
                os.replace(fresh, path)
        return f"file://{path}"

    @staticmethod
    def _write_f16(path: Path) -> None:
        from daemons.models.demo.export import derive_variant

        derive_variant("f16", path)


def _write_synthetic(path: Path, parameters: int, context: int) -> None:
    from daemons.models.demo.synthetic import write_synthetic

    write_synthetic(path, parameters=parameters, context=context)
