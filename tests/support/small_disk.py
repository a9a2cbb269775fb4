"""A small file system of its own in a folder, that a test can fill up; needs the right to mount."""

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.harness import cannot_run


class SmallDisk:
    """A tmpfs at `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    def fill(self) -> None:
        """Take every free byte."""
        with self._filler.open("ab", buffering=0) as file:
            for step in (65_536, 4_096, 1):
                while _written(file.fileno(), bytes(step)):
                    pass

    def make_room(self) -> None:
        """Give back what `fill` took."""
        self._filler.unlink()

    @property
    def free(self) -> int:
        """Bytes."""
        return shutil.disk_usage(self.folder).free


@contextmanager
def small_disk(folder: Path, mib: int) -> Iterator[SmallDisk]:
    """The folder is made, and holds a file system of so many MiB meanwhile."""
    folder.mkdir(parents=True)
    mounting = ["mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=0700", "tmpfs", str(folder)]
    mounted = subprocess.run(mounting, capture_output=True, text=True, check=False)
    if mounted.returncode:
        cannot_run(f"no right to mount a tmpfs: {mounted.stderr.strip()}")
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def _written(descriptor: int, data: bytes) -> bool:
    """Whether the disk took it all."""
    try:
        return os.write(descriptor, data) == len(data)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return False
