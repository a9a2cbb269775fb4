"""The file behind a store: opened by one process, migrated once, backed up, refused with the right words."""

import os
import signal
import stat
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from daemons.contracts.errors import Code, RbeeError
from daemons.kit.store import ConstraintViolated, Database, Migration, Statement, StoreFailed
from daemons.kit.store.backups import KEPT_PER_REASON, list_backups
from tests.support.held_database import held_by_another_process, opened_by_another_process
from tests.unit.kit.store.conftest import BROKEN, NODES, PLACES, TEXTS, with_a_damaged_block


def insert(name: str, cores: int = 1) -> Statement:
    return Statement("INSERT INTO node (name, cores) VALUES (?, ?)", (name, cores))


def names(database: Database) -> list[str]:
    return [row["name"] for row in database.read(Statement("SELECT name FROM node ORDER BY name"))]


def open_at(path: Path, *migrations: Migration) -> Database:
    return Database(path, migrations or (NODES,), path.parent / "backups")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "queen.duckdb"


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    database = open_at(path)
    yield database
    database.close()


def filled(path: Path, *rows: str) -> None:
    """Make a database of version 1 with these nodes, and close it."""
    database = open_at(path)
    assert database.write([[insert(row)] for row in rows]) == [None] * len(rows)
    database.close()


def refusal(path: Path, *migrations: Migration) -> RbeeError:
    with pytest.raises(RbeeError) as caught:
        open_at(path, *migrations)
    return caught.value


def test_what_is_written_is_read_back_also_after_closing(path: Path) -> None:
    filled(path, "attic", "'; DROP TABLE node; --")
    database = open_at(path)
    assert names(database) == ["'; DROP TABLE node; --", "attic"]
    database.close()


def test_files_are_readable_by_their_owner_only_whatever_the_umask(path: Path) -> None:
    before = os.umask(0o022)
    try:
        database = open_at(path)
        database.write([[insert("attic")]])
        files = [path, path.with_name("queen.duckdb.wal"), database.backup("daily")]
        assert [stat.S_IMODE(file.stat().st_mode) for file in files] == [0o600] * 3
        database.close()
    finally:
        os.umask(before)


def test_memory_and_threads_are_bounded_and_nothing_is_fetched(database: Database) -> None:
    settings = "memory_limit", "threads", "autoinstall_known_extensions"
    [row] = database.read(Statement("SELECT " + ", ".join(f"current_setting('{name}') AS {name}" for name in settings)))
    assert row == {"memory_limit": "244.1 MiB", "threads": 1, "autoinstall_known_extensions": False}


def test_one_faulty_group_costs_no_other(database: Database) -> None:
    faults = database.write([[insert("a")], [insert("b"), insert("a")], [insert("c", cores=0)], [insert("d")]])
    assert [type(fault) for fault in faults] == [type(None), ConstraintViolated, ConstraintViolated, type(None)]
    assert names(database) == ["a", "d"]


def test_a_fault_names_the_statement_but_not_its_parameters(database: Database) -> None:
    [fault] = database.write([[Statement("INSERT INTO nodes VALUES (?, ?)", ("secret", 1))]])
    assert isinstance(fault, StoreFailed)
    assert fault.code is Code.INTERNAL
    assert "Table with name nodes does not exist" in fault.message
    assert "INSERT INTO nodes VALUES" in fault.message
    assert "secret" not in fault.message


@pytest.mark.parametrize("parameter", ["\ud800", 2**200, object()])
def test_a_parameter_that_duckdb_cannot_take_is_a_fault_like_any_other(database: Database, parameter: object) -> None:
    faults = database.write([[insert("a")], [Statement("INSERT INTO node VALUES (?, 1)", (parameter,))]])
    assert faults[0] is None
    assert isinstance(faults[1], StoreFailed | type(None))  # DuckDB may also have a way to store it
    assert "a" in names(database)


def test_a_faulty_read_is_a_fault_and_spoils_nothing(database: Database) -> None:
    with pytest.raises(StoreFailed, match="nope"):
        database.read(Statement("SELECT nope FROM node"))
    assert database.write([[insert("a")]]) == [None]


def test_a_key_can_be_removed_and_written_anew_in_one_group(database: Database) -> None:
    database.write([[insert("a", 1)]])
    assert database.write([[Statement("DELETE FROM node"), insert("a", 2)]]) == [None]
    assert database.read(Statement("SELECT name, cores FROM node")) == [{"name": "a", "cores": 2}]


def test_each_migration_runs_once(path: Path) -> None:
    filled(path, "a")
    for _ in range(2):
        database = open_at(path, NODES, PLACES)
        assert database.version == 2
        assert database.read(Statement("SELECT place FROM node")) == [{"place": "attic"}]
        rows = database.read(Statement("SELECT number, name FROM schema_version ORDER BY number"))
        database.close()
        assert rows == [{"number": 1, "name": "nodes"}, {"number": 2, "name": "places"}]


def test_a_backup_of_the_older_version_precedes_a_migration(path: Path) -> None:
    filled(path, "a")
    open_at(path, NODES, PLACES).close()
    [backup] = list_backups(path, path.parent / "backups", "migration")
    assert backup.name.startswith("queen-migration-")
    assert backup.name.endswith("-v1.duckdb")
    old = open_at(backup)
    assert (names(old), old.version) == (["a"], 1)
    old.close()


def test_a_migration_without_a_backup_does_not_happen(path: Path) -> None:
    filled(path, "a")
    (path.parent / "backups").write_text("a file where the folder should be")
    error = refusal(path, NODES, PLACES)
    assert error.code is Code.HOME_UNUSABLE
    database = open_at(path)
    assert (database.version, names(database)) == (1, ["a"])
    database.close()


def test_a_damaged_block_behind_a_sound_header_is_found_at_start(path: Path) -> None:
    """Nothing but reading it through finds it: DuckDB opens such a file, and takes writes into it."""
    with_a_damaged_block(path)
    error = refusal(path, TEXTS)
    assert error.code is Code.STATE_CORRUPT
    assert "checksum" in error.message
    assert list_backups(path, path.parent / "backups", "start") == []


def test_a_failed_backup_at_start_is_told_and_stops_nothing(path: Path) -> None:
    filled(path, "a")
    (path.parent / "backups").write_text("a file where the folder should be")
    database = open_at(path)
    assert database.start_backup_failure is not None
    assert str(path.parent / "backups") in database.start_backup_failure.message
    assert names(database) == ["a"]
    database.close()


def test_a_migration_that_fails_leaves_the_version_before_it(path: Path) -> None:
    filled(path, "a")
    error = refusal(path, NODES, BROKEN)
    assert error.message.startswith(f"migration 2 (broken) of {path}: ")
    database = open_at(path)
    assert database.read(Statement("SELECT * FROM node")) == [{"name": "a", "cores": 1}]
    database.close()


def test_migrations_are_numbered_without_gaps(path: Path) -> None:
    with pytest.raises(ValueError, match="without gaps"):
        open_at(path, NODES, Migration(3, "late", "SELECT 1"))
    assert not path.exists()


def test_a_newer_schema_is_refused_with_both_versions_and_left_alone(path: Path) -> None:
    open_at(path, NODES, PLACES).close()
    before = path.read_bytes()
    error = refusal(path, NODES)
    assert error.code is Code.STATE_SCHEMA_NEWER
    assert (error.details["found"], error.details["known"]) == (2, 1)
    assert "version 2" in error.message
    assert "up to 1" in error.message
    assert path.read_bytes() == before
    assert not (path.parent / "backups").exists()


def test_a_file_of_a_newer_duckdb_counts_as_newer_not_as_corrupt(path: Path) -> None:
    filled(path, "a")
    raw = bytearray(path.read_bytes())
    struct.pack_into("<Q", raw, 12, 2000)  # storage version
    struct.pack_into("<Q", raw, 0, _header_checksum(bytes(raw[8:4096])))
    path.write_bytes(raw)
    error = refusal(path)
    assert error.code is Code.STATE_SCHEMA_NEWER
    assert "2000" in error.message
    assert path.read_bytes() == raw


def _header_checksum(block: bytes) -> int:
    """DuckDB's checksum of a block header (src/common/checksum.cpp)."""
    result = 5381
    for (word,) in struct.iter_unpack("<Q", block):
        result ^= word * 0xBF58476D1CE4E5B9 & 0xFFFF_FFFF_FFFF_FFFF
    return result


@pytest.mark.parametrize("damage", ["other file", "empty", "cut off", "bits turned", "WAL"])
def test_a_corrupt_file_is_named_and_left_as_it_is(path: Path, damage: str) -> None:
    filled(path, "a")
    victim = path
    raw = bytearray(path.read_bytes())
    if damage == "other file":
        raw = bytearray(b"not a database " * 1000)
    elif damage == "empty":
        raw = bytearray()
    elif damage == "cut off":
        raw = raw[:5000]
    elif damage == "bits turned":
        raw[4096:20000] = bytes(byte ^ 0xFF for byte in raw[4096:20000])
    else:
        victim = path.with_name("queen.duckdb.wal")
        raw = bytearray(_wal_of_a_killed_process(path))
        raw[30:] = b"\xff" * (len(raw) - 30)
    victim.write_bytes(raw)
    error = refusal(path)
    assert error.code is Code.STATE_CORRUPT
    assert str(path) in error.message
    assert error.hint == f"ls -l {path.parent / 'backups'}"
    assert victim.read_bytes() == raw


_DIE_BEFORE_CHECKPOINT = """
import duckdb, os, sys
connection = duckdb.connect(sys.argv[1])
connection.execute("CREATE TABLE t AS SELECT 1")
os.kill(os.getpid(), 9)
"""


def _wal_of_a_killed_process(path: Path) -> bytes:
    subprocess.run([sys.executable, "-c", _DIE_BEFORE_CHECKPOINT, str(path)], check=False)
    return path.with_name("queen.duckdb.wal").read_bytes()


def test_what_was_written_survives_kill_9(path: Path) -> None:
    program = f"""
import os
from pathlib import Path
from daemons.kit.store import Database, Statement
from tests.unit.kit.store.conftest import NODES
database = Database(Path({str(path)!r}), [NODES], Path({str(path.parent / "backups")!r}))
assert database.write([[Statement("INSERT INTO node VALUES ('a', 1)")]]) == [None]
os.kill(os.getpid(), 9)
"""
    killed = subprocess.run([sys.executable, "-c", program], check=False)
    assert killed.returncode == -signal.SIGKILL
    database = open_at(path)
    assert names(database) == ["a"]
    database.close()


def test_a_second_process_is_refused_with_the_pid_of_the_first(path: Path) -> None:
    filled(path, "a")
    with held_by_another_process(path) as pid:
        error = refusal(path)
    assert error.code is Code.ALREADY_RUNNING
    assert error.details["pid"] == pid
    assert f"(pid {pid})" in error.message


def test_our_lock_holds_after_a_backup(database: Database, path: Path) -> None:
    database.backup("daily")
    assert opened_by_another_process(path) == "refused"


@pytest.mark.parametrize("where", ["missing/queen.duckdb", "."])
def test_a_place_that_cannot_hold_a_database_is_no_corruption(tmp_path: Path, where: str) -> None:
    assert refusal(tmp_path / where).code is Code.HOME_UNUSABLE


def test_only_the_newest_backups_of_each_reason_are_kept(path: Path) -> None:
    folder = path.parent / "backups"
    filled(path, "a")
    database = open_at(path)
    made = [database.backup("daily") for _ in range(KEPT_PER_REASON + 2)]
    database.close()
    assert list_backups(path, folder, "daily") == made[:1:-1]
    assert len(list_backups(path, folder, "start")) == 1
    assert len(list_backups(path, folder)) == KEPT_PER_REASON + 1
    assert list_backups(path.with_name("hive.duckdb"), folder) == []


def test_a_backup_is_whole(database: Database, path: Path) -> None:
    database.write([[insert(f"n{number}", number + 1)] for number in range(500)])
    backup = database.backup("daily")
    with duckdb.connect(str(backup), read_only=True) as copy:
        assert copy.execute("SELECT count(*), sum(cores) FROM node").fetchall() == [(500, 125_250)]
        assert copy.execute("SELECT number FROM schema_version").fetchall() == [(1,)]
        constraints = copy.execute("SELECT DISTINCT constraint_type FROM duckdb_constraints() ORDER BY 1").fetchall()
    assert ("PRIMARY KEY",) in constraints
    assert ("CHECK",) in constraints
    assert [file.name for file in (path.parent / "backups").iterdir()] == [backup.name]


def test_remains_of_an_unfinished_backup_are_removed(database: Database, path: Path) -> None:
    folder = path.parent / "backups"
    folder.mkdir()
    for leftover in ("queen-start-x-v1.part", "queen-start-x-v1.part.wal", "hive-start-x-v1.part"):
        (folder / leftover).write_text("half")
    backup = database.backup("daily")
    assert {file.name for file in folder.iterdir()} == {backup.name, "hive-start-x-v1.part"}


def test_an_empty_new_database_needs_no_backup(path: Path) -> None:
    open_at(path).close()
    assert not (path.parent / "backups").exists()


def test_a_folder_name_with_a_quote_is_backed_up_as_well(tmp_path: Path) -> None:
    folder = tmp_path / "bee's home"
    folder.mkdir()
    database = open_at(folder / 'the "queen".duckdb')
    assert database.backup("daily").exists()
    database.close()
