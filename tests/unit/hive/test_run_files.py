"""Run files of workers: private, whole, and read back as they were written."""

import json
from pathlib import Path

import pytest

from daemons.contracts.workers import Backend, SpawnRequest
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


@pytest.mark.parametrize("name", ["../../victim", "w-00000002", "w-1/../x"])
def test_a_file_that_names_another_path_is_removed_and_that_path_is_not(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "run" / "workers"
    folder.mkdir(parents=True)
    victim = tmp_path / "victim.json"
    victim.write_text("{}")
    evil = written(1).model_copy(update={"worker": written(1).worker.model_copy(update={"id": name})})
    (folder / "w-00000001.json").write_text(evil.model_dump_json())
    assert WorkerFiles(folder).read_all() == []
    assert victim.exists()
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"identity": 3}', '{"identity": {"pid": 1}, "worker": {}}', "\xff"])
def test_what_cannot_be_read_is_removed(tmp_path: Path, text: str) -> None:
    (tmp_path / "w-00000009.json").write_text(text, encoding="latin-1")
    assert WorkerFiles(tmp_path).read_all() == []
    assert list(tmp_path.iterdir()) == []


def test_what_a_worker_was_asked_for_is_kept(tmp_path: Path) -> None:
    request = SpawnRequest(model_ref="demo", backend=Backend.CPU, slots=2, mmap=False, keep_alive_s=-1.0)
    files = WorkerFiles(tmp_path)
    files.write(written(1).model_copy(update={"request": request}))
    (read,) = files.read_all()
    assert read.spawn_request == request


def test_a_file_of_an_older_hive_is_adopted_by_what_its_row_tells(tmp_path: Path) -> None:
    document = written(1).model_dump(mode="json", exclude={"request"})
    (tmp_path / "w-00000001.json").write_text(json.dumps(document))
    (read,) = WorkerFiles(tmp_path).read_all()
    row = read.worker
    assert read.spawn_request == SpawnRequest(
        model_ref=row.model_ref, backend=Backend.CPU, device=0, ctx=2048, slots=4, keep_alive_s=row.idle_limit_s
    )
