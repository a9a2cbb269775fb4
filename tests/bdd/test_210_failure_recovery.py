"""Steps of features/210-failure-recovery.feature."""

import os
import shlex
import signal
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest
from pytest_bdd import given, parsers, scenarios, then, when

from daemons.contracts import routes
from daemons.contracts.ids import LOCAL_NODE
from daemons.kit.procs.identity import is_alive
from daemons.kit.store import Database, Migration, Statement
from daemons.queen.store import MIGRATIONS
from tests.bdd.conftest import PROMPT, Fill, Row, quoted, task_id, task_row
from tests.conftest import StartTopology
from tests.support.harness import eventually
from tests.support.harness_http import EventReader
from tests.support.harness_keeper import Finished
from tests.support.small_disk import SmallDisk, right_to_mount
from tests.support.topology import Topology

scenarios("210-failure-recovery.feature")

NEXT = Migration(len(MIGRATIONS) + 1, "of a later version", "ALTER TABLE tasks ADD COLUMN mood VARCHAR")
INFER = ("infer", "--model", "demo", "--prompt", PROMPT, "--max-tokens", "8")


@pytest.fixture
def damaged() -> dict[Path, bytes]:
    """Files that the scenario damaged, and their bytes after that."""
    return {}


def database(rbee: Topology) -> Path:
    return rbee.home / "queen.duckdb"


def backups(rbee: Topology, reason: str = "*", daemon: str = "queen") -> list[Path]:
    return sorted((rbee.home / "backups").glob(f"{daemon}-{reason}-*.duckdb"))


def kept_aside(rbee: Topology) -> list[Path]:
    return sorted(rbee.home.glob("*.corrupt-*"))


def status_names(rbee: Topology, words: list[str]) -> bool:
    finished = rbee.succeed("status")
    return all(word in finished.err for word in words)


# --- F10


@given(parsers.parse("a running rbee whose state folder is on a disk of {mib:d} MiB"), target_fixture="rbee")
def on_small_disk(fresh_topology: StartTopology, disks: list[SmallDisk], mib: int) -> Topology:
    topology = fresh_topology({})
    disks.append(_small_disk(topology, mib))
    topology.start_queen()
    return topology


@given(parsers.parse("an installation where nothing runs, on a full disk of {mib:d} MiB"), target_fixture="rbee")
def on_full_disk(fresh_topology: StartTopology, disks: list[SmallDisk], mib: int) -> Topology:
    topology = fresh_topology({})
    disks.append(_small_disk(topology, mib))
    disks[0].fill()
    return topology


def _small_disk(topology: Topology, mebibytes: int) -> SmallDisk:
    with right_to_mount():
        return topology.small_disk(LOCAL_NODE, mebibytes)


@pytest.fixture
def disks() -> list[SmallDisk]:
    """The scenario's disk."""
    return []


@when("the disk is filled up")
def fill_disk(disks: list[SmallDisk]) -> None:
    disks[0].fill()
    assert disks[0].free == 0


@when("there is room again on the disk")
def make_room(disks: list[SmallDisk]) -> None:
    disks[0].make_room()


@then(parsers.parse('each of {count:d} requests for {tokens:d} tokens of "{model}" is answered'))
def all_answered(rbee: Topology, count: int, tokens: int, model: str) -> None:
    for _ in range(count):
        finished = rbee.succeed("infer", "--model", model, "--prompt", PROMPT, "--max-tokens", str(tokens))
        assert finished.out.strip(), str(finished)


@then(parsers.parse('a request for {tokens:d} tokens of "{model}" is answered by a new worker'))
def answered_by_new_worker(rbee: Topology, worker: Row, fill: Fill, tokens: int, model: str) -> None:
    finished = rbee.succeed("infer", "--model", fill(model), "--prompt", PROMPT, "--max-tokens", str(tokens))
    assert finished.out.strip(), str(finished)
    assert len({row["id"] for row in rbee.hive_workers()} - {worker["id"]}) == 1


@then(parsers.re(r'within (?P<seconds>\d+) seconds "rbee status" names (?P<words>.+)'))
def status_tells(rbee: Topology, seconds: str, words: str) -> None:
    eventually(lambda: status_names(rbee, quoted(words)), f"status names {words}", within_s=float(seconds), every_s=0.3)


@then(parsers.parse('"rbee tasks list" shows {count:d} completed tasks'))
def lists_completed(rbee: Topology, count: int) -> None:
    lines = rbee.succeed("tasks", "list").out.splitlines()
    assert [line.split("\t")[1] for line in lines[1:]] == ["completed"] * count, lines


@then("nothing is kept aside as damaged")
def nothing_aside(rbee: Topology) -> None:
    assert kept_aside(rbee) == []


# --- F11


@given("the queen is restarted, which makes a backup, and stopped")
@then("the queen is restarted, which makes a backup, and stopped")
def with_backup(rbee: Topology) -> None:
    rbee.succeed("queen", "stop")
    rbee.succeed("queen", "start")
    assert backups(rbee, "start")
    rbee.succeed("queen", "stop")


@when("the queen's database is overwritten with other bytes")
def overwritten(rbee: Topology, damaged: dict[Path, bytes]) -> None:
    _damage(database(rbee), damaged, lambda raw: b"no database at all " * 5000)


@when("the queen's database is cut off")
def cut_off(rbee: Topology, damaged: dict[Path, bytes]) -> None:
    _damage(database(rbee), damaged, lambda raw: raw[:20_000])


@when("the queen's database is damaged in one of its blocks")
def block_damaged(rbee: Topology, damaged: dict[Path, bytes]) -> None:
    """In the block where the id of a task stands; the headers stay as they are."""
    _damage(database(rbee), damaged, lambda raw: _with_hole(raw, raw.index(b"task-")))


@when("the queen's database is gone")
def gone(rbee: Topology) -> None:
    database(rbee).unlink()


@when("every backup of the queen is overwritten with other bytes")
def backups_overwritten(rbee: Topology, damaged: dict[Path, bytes]) -> None:
    assert backups(rbee)
    for file in backups(rbee):
        file.write_bytes(b"no database at all " * 5000)


def _damage(path: Path, damaged: dict[Path, bytes], how: Callable[[bytes], bytes]) -> None:
    damaged[path] = how(path.read_bytes())
    path.write_bytes(damaged[path])


def _with_hole(raw: bytes, at: int) -> bytes:
    assert at > 12_288, "the first blocks are headers"
    return raw[:at] + bytes(64) + raw[at + 64 :]


@then("the damaged file is kept as it was")
def is_kept(rbee: Topology, damaged: dict[Path, bytes]) -> None:
    (kept,) = kept_aside(rbee)
    assert kept.read_bytes() == damaged[database(rbee)]
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


@then("the fleet's notices tell the same")
def notices_tell(rbee: Topology) -> None:
    (notice,) = rbee.queen.call(routes.FLEET).json()["notices"]
    assert str(database(rbee)) in notice["text"]
    assert notice["at"] > 0


@then(parsers.parse("within {seconds:d} seconds a daily backup of the queen and one of the hive is there"))
def daily(rbee: Topology, seconds: int) -> None:
    for daemon in ("queen", "hive"):
        eventually(lambda: backups(rbee, "daily", daemon), f"a daily backup of the {daemon}", within_s=seconds)  # noqa: B023
        with duckdb.connect(str(backups(rbee, "daily", daemon)[0]), read_only=True) as copy:
            assert copy.execute("SELECT max(number) FROM schema_version").fetchall() == [(1,)]


# --- F12


@given("a newer rbee has migrated the queen's database", target_fixture="left")
def migrated_by_newer(rbee: Topology) -> bytes:
    Database(database(rbee), [*MIGRATIONS, NEXT], rbee.home / "newer").close()
    return database(rbee).read_bytes()


@then("stderr names both versions of the schema")
def names_versions(finished: Finished) -> None:
    assert f"schema version {NEXT.number}" in finished.err, str(finished)
    assert f"versions up to {len(MIGRATIONS)}" in finished.err, str(finished)


@then("the queen's database is as the newer rbee left it")
def untouched(rbee: Topology, left: bytes) -> None:
    assert database(rbee).read_bytes() == left


@when("a queen with one more migration is started", target_fixture="finished")
def start_next_queen(rbee: Topology) -> Finished:
    """The queen program of a version to come: this one's, with a migration more."""
    program = rbee.root / "next-queen"
    program.write_text(
        f"#!{sys.executable}\n"
        "from daemons.kit.store import Migration\n"
        "from daemons.queen import main, serving\n"
        f"serving.MIGRATIONS += (Migration({NEXT.number}, {NEXT.name!r}, {NEXT.sql!r}),)\n"
        "main.main()\n"
    )
    program.chmod(0o700)
    return rbee.keeper("queen", "start", environ=rbee.environ(RBEE_QUEEN_PROGRAM=str(program)))


@then("a backup of the older version, made before the migration, holds the noted task")
def older_backup(rbee: Topology, noted: Row) -> None:
    (backup,) = backups(rbee, "migration")
    assert backup.name.endswith(f"-v{len(MIGRATIONS)}.duckdb")
    older = Database(backup, MIGRATIONS, rbee.root / "t" / "..")
    rows = older.read(Statement("SELECT id FROM tasks"))
    older.close()
    assert noted["id"] in [row["id"] for row in rows]


# --- F13


@when(parsers.parse('task "{name}" is left with the queen, for {tokens:d} tokens of "{model}"'))
def leave_task(rbee: Topology, left_tasks: dict[str, str], fill: Fill, name: str, tokens: int, model: str) -> None:
    body = {"model": fill(model), "prompt": PROMPT, "max_tokens": tokens, "ignore_eos": True}
    answer = rbee.queen.call(routes.TASK_CREATE, body, headers={"Prefer": "respond-async"})
    assert answer.status_code == 202, answer.text
    left_tasks[name] = answer.json()["id"]


@pytest.fixture
def left_tasks() -> dict[str, str]:
    """Ids of detached tasks by the name that the scenario gives them."""
    return {}


@when(parsers.parse('some text of task "{name}" is kept on the disk'), target_fixture="kept_text")
def text_is_kept(rbee: Topology, streams: dict[str, EventReader], name: str) -> str:
    text: str = streams[name].events[-1].data.get("token", "") and streams[name].text
    assert text
    wal = database(rbee).with_name("queen.duckdb.wal")
    eventually(lambda: text.encode() in wal.read_bytes(), "the text is kept", within_s=10.0)
    return text


@when("the queen is killed with SIGKILL")
def kill_queen(rbee: Topology, streams: dict[str, EventReader], left_tasks: dict[str, str]) -> None:
    waiting = [task_id(streams["attached"]), left_tasks["detached"]]
    assert [task_row(rbee, id)["state"] for id in waiting] == ["queued", "queued"]
    identity = rbee.run_of("queen").identity
    os.kill(identity.pid, signal.SIGKILL)
    eventually(lambda: not is_alive(identity), "the queen is gone")


@then(parsers.parse('task "{name}" has failed with "{code}"'), target_fixture="failed")
def has_failed(rbee: Topology, streams: dict[str, EventReader], name: str, code: str) -> Row:
    row = task_row(rbee, task_id(streams[name]))
    assert (row["state"], row["error"]["code"]) == ("failed", code), row
    assert row["tokens"] > 0
    return row


@then('"rbee tasks show" of it names the command that shows its text', target_fixture="command")
def names_command(rbee: Topology, failed: Row) -> str:
    command = f"rbee tasks show {failed['id']} --text"
    assert command in rbee.succeed("tasks", "show", failed["id"]).out
    return command


@then("that command prints the text so far")
def prints_text(rbee: Topology, command: str, kept_text: str) -> None:
    assert rbee.succeed(*shlex.split(command)[1:]).out.startswith(kept_text)


@then(parsers.parse('task "{name}" is completed with {tokens:d} tokens'))
def is_completed(
    rbee: Topology, streams: dict[str, EventReader], left_tasks: dict[str, str], name: str, tokens: int
) -> None:
    id = left_tasks[name] if name in left_tasks else task_id(streams[name])
    eventually(lambda: task_row(rbee, id)["state"] == "completed", f"task {name} is completed", within_s=60.0)
    assert task_row(rbee, id)["tokens"] == tokens


@then("that same worker did all of it")
def same_worker(rbee: Topology, worker: Row) -> None:
    assert {row["worker_id"] for row in rbee.queen.call(routes.TASK_LIST).json()["tasks"]} == {worker["id"]}
    assert [(row["id"], row["pid"]) for row in rbee.hive_workers()] == [(worker["id"], worker["pid"])]
