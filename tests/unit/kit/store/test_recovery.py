"""A damaged or missing database: kept aside, replaced by the newest backup that can be read, told with both paths."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from daemons.contracts.errors import Code, RbeeError
from daemons.kit.store import Database, Statement
from daemons.kit.store.backups import list_backups
from daemons.kit.store.recovery import KEPT_ASIDE, Mended, open_mended
from tests.support.held_database import held_by_another_process
from tests.unit.kit.store.conftest import NODES, PLACES, TEXTS, with_a_damaged_block

Damage = Callable[[Path], None]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "queen.duckdb"


def backups_of(path: Path) -> Path:
    return path.parent / "backups"


def with_node(path: Path, name: str, *, backup: bool) -> None:
    """Put a node into the database at `path`, and perhaps make a backup of what there is then."""
    database = Database(path, [NODES], backups_of(path))
    assert database.write([[Statement("INSERT INTO node VALUES (?, 1)", (name,))]]) == [None]
    if backup:
        database.backup("daily")
    database.close()


def names_in(database: Database) -> list[str]:
    return [row["name"] for row in database.read(Statement("SELECT name FROM node ORDER BY name"))]


def mended(path: Path) -> tuple[list[str], Mended]:
    """(the nodes that there are, what was done)."""
    database, done = open_mended(path, [NODES], backups_of(path))
    names = names_in(database)
    database.close()
    assert done is not None
    return names, done


def kept_aside(path: Path) -> list[Path]:
    return sorted(path.parent.glob("queen.duckdb.corrupt-*"))


def garbage(path: Path) -> None:
    path.write_bytes(b"not a database " * 1000)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def cut_off(path: Path) -> None:
    os.truncate(path, 9000)


def bits_turned(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[4096:20000] = bytes(byte ^ 0xFF for byte in raw[4096:20000])
    path.write_bytes(raw)


@pytest.mark.parametrize("damage", [garbage, emptied, cut_off, bits_turned])
def test_a_damaged_file_is_kept_aside_and_the_newest_backup_takes_its_place(path: Path, damage: Damage) -> None:
    with_node(path, "a", backup=True)
    with_node(path, "b", backup=True)
    damage(path)
    raw = path.read_bytes()
    names, done = mended(path)
    assert names == ["a", "b"]
    [kept] = kept_aside(path)
    assert kept.read_bytes() == raw
    assert str(path) in done.text
    assert str(kept) in done.text
    assert "could not be read and was restored from the backup of 20" in done.text
    assert sorted(file.name for file in path.parent.iterdir()) == ["backups", path.name, kept.name]


def test_after_that_it_opens_as_if_nothing_had_been(path: Path) -> None:
    with_node(path, "a", backup=True)
    garbage(path)
    mended(path)
    database, done = open_mended(path, [NODES], backups_of(path))
    database.close()
    assert done is None
    assert len(kept_aside(path)) == 1


def test_a_damaged_block_is_found_and_mended(path: Path) -> None:
    with_a_damaged_block(path)
    database, done = open_mended(path, [TEXTS], backups_of(path))
    assert database.read(Statement("SELECT count(*) AS n FROM texts")) == [{"n": 0}]
    database.close()
    assert done is not None
    assert "checksum" in done.text
    assert "an empty one was made" in done.text


def test_a_backup_that_is_damaged_too_is_passed_over(path: Path) -> None:
    with_node(path, "a", backup=True)
    with_node(path, "b", backup=True)
    newest, *_ = list_backups(path, backups_of(path))
    garbage(newest)
    garbage(path)
    names, _ = mended(path)
    assert names == ["a"]


def test_a_backup_of_a_newer_version_is_passed_over(path: Path) -> None:
    with_node(path, "a", backup=True)
    newer = Database(path, [NODES, PLACES], backups_of(path))
    newer.backup("daily")
    newer.close()
    garbage(path)
    names, _ = mended(path)
    assert names == ["a"]


def test_without_a_backup_an_empty_database_is_made(path: Path) -> None:
    with_node(path, "a", backup=False)
    garbage(path)
    names, done = mended(path)
    assert names == []
    assert "no backup that can be; an empty one was made" in done.text
    assert len(kept_aside(path)) == 1


def test_a_file_that_is_gone_is_restored(path: Path) -> None:
    with_node(path, "a", backup=True)
    path.unlink()
    names, done = mended(path)
    assert names == ["a"]
    assert "was gone" in done.text
    assert kept_aside(path) == []


def test_the_wal_of_a_file_that_is_gone_is_kept(path: Path) -> None:
    """DuckDB would throw it away."""
    with_node(path, "a", backup=True)
    path.unlink()
    wal = path.with_name("queen.duckdb.wal")
    wal.write_bytes(b"what was written last")
    mended(path)
    [kept] = kept_aside(path)
    assert kept.name.endswith(".wal")
    assert kept.read_bytes() == b"what was written last"


def test_a_damaged_wal_goes_aside_with_its_file(path: Path) -> None:
    with_node(path, "a", backup=True)
    wal = _with_a_wal(path)
    raw = bytearray(wal.read_bytes())
    raw[30:] = b"\xff" * (len(raw) - 30)
    wal.write_bytes(raw)
    names, done = mended(path)
    assert names == ["a"]
    assert "WAL" in done.text
    assert [file.suffix for file in kept_aside(path)][-1] == ".wal"
    assert len(kept_aside(path)) == 2


_DIE = """
import duckdb, os, sys
connection = duckdb.connect(sys.argv[1])
connection.execute("CREATE TABLE t AS SELECT 1")
os.kill(os.getpid(), 9)
"""


def _with_a_wal(path: Path) -> Path:
    subprocess.run([sys.executable, "-c", _DIE, str(path)], check=False)
    return path.with_name("queen.duckdb.wal")


def test_a_first_start_is_no_loss(path: Path) -> None:
    database, done = open_mended(path, [NODES], backups_of(path))
    database.close()
    assert done is None


def test_a_newer_schema_is_refused_and_not_moved(path: Path) -> None:
    Database(path, [NODES, PLACES], backups_of(path)).close()
    with pytest.raises(RbeeError) as caught:
        open_mended(path, [NODES], backups_of(path))
    assert caught.value.code is Code.STATE_SCHEMA_NEWER
    assert path.exists()
    assert kept_aside(path) == []


def test_a_database_in_use_is_not_moved(path: Path) -> None:
    with_node(path, "a", backup=True)
    with held_by_another_process(path), pytest.raises(RbeeError) as caught:
        open_mended(path, [NODES], backups_of(path))
    assert caught.value.code is Code.ALREADY_RUNNING
    assert kept_aside(path) == []


def test_a_mending_that_was_killed_is_begun_again(path: Path) -> None:
    """Killed after the file was moved, before its replacement was put in its place."""
    with_node(path, "a", backup=True)
    path.rename(path.with_name("queen.duckdb.corrupt-20260101T000000.000"))
    path.with_name("queen.duckdb.mending").write_bytes(b"half")
    names, _ = mended(path)
    assert names == ["a"]
    assert not path.with_name("queen.duckdb.mending").exists()


def test_only_a_few_damaged_files_are_kept(path: Path) -> None:
    with_node(path, "a", backup=True)
    for _ in range(KEPT_ASIDE + 2):
        garbage(path)
        mended(path)
    assert len(kept_aside(path)) == KEPT_ASIDE


def test_the_restored_file_is_private(path: Path) -> None:
    with_node(path, "a", backup=True)
    garbage(path)
    mended(path)
    assert path.stat().st_mode & 0o777 == 0o600
