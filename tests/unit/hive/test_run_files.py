"""Run files of workers: private, whole, and read back as they were written."""

from pathlib import Path

import pytest

from daemons.hive.run_files import WorkerFile, WorkerFiles
from daemons.kit.procs import ProcessIdentity
from tests.support.hive_rows import worker


def written(number: int) -> WorkerFile:
    row = worker(f"w-0000000{number}")
    return WorkerFile(identity=ProcessIdentity(4711, "boot", 99), url=row.url, worker=row, load_limit_s=301.5)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    files = WorkerFiles(tmp_path)
    files.write(written(1))
    files.write(written(2))
    assert files.read_all() == [written(1), written(2)]
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    files.remove("w-00000001")
    files.remove("w-00000001")
    assert files.read_all() == [written(2)]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"identity": 3}', '{"identity": {"pid": 1}, "worker": {}}', "\xff"])
def test_what_cannot_be_read_is_removed(tmp_path: Path, text: str) -> None:
    (tmp_path / "w-00000009.json").write_text(text, encoding="latin-1")
    assert WorkerFiles(tmp_path).read_all() == []
    assert list(tmp_path.iterdir()) == []
