"""A small file system of its own in a folder, that a test can fill up; needs the right to mount."""

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
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
def mounted_disk(folder: Path, mebibytes: int) -> Iterator[SmallDisk]:
    """The folder is made, and holds a file system of that size meanwhile.

    Raises subprocess.CalledProcessError where that may not be done.
    """
    folder.mkdir(mode=0o700, parents=True)
    options = f"size={mebibytes}m,mode=0700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "rbee-test", folder], check=True, capture_output=True)
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True, capture_output=True)


@contextmanager
def small_disk(folder: Path, mebibytes: int) -> Iterator[SmallDisk]:
    """As `mounted_disk`, for a test that cannot do without."""
    with ExitStack() as stack:
        with right_to_mount():
            disk = stack.enter_context(mounted_disk(folder, mebibytes))
        yield disk


@contextmanager
def right_to_mount() -> Iterator[None]:
    """Around the mount of a test that cannot do without."""
    try:
        yield
    except subprocess.CalledProcessError as error:
        cannot_run(f"no right to mount a tmpfs: {error.stderr.decode().strip()}")


def _written(descriptor: int, data: bytes) -> bool:
    """Whether the disk took it all."""
    try:
        return os.write(descriptor, data) == len(data)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return False
