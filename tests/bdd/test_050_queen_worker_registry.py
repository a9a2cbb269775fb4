"""Steps of features/050-queen-worker-registry.feature."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from pytest_bdd import given, parsers, scenarios, then

from daemons.contracts import routes
from daemons.kit.procs.identity import ProcessIdentity
from tests.bdd.conftest import Row, stats, task_id, task_row
from tests.support.harness import eventually
from tests.support.harness_http import EventReader
from tests.support.harness_keeper import Finished
from tests.support.topology import Topology

scenarios("050-queen-worker-registry.feature")

SPEAKER = re.compile(r"^\[(\w+)[^\]]*\]", re.MULTILINE)


@dataclass(frozen=True)
class Before:
    """How things stood when the worker was ready: what ran, how much it had generated, how long the hive's log was."""

    processes: set[ProcessIdentity]
    tokens: int
    hive_log_bytes: int
    models: set[Path]


@given("what runs, and what was told so far, is noted", target_fixture="before")
def note(rbee: Topology, worker: Row) -> Before:
    return Before(
        processes=set(rbee.processes()),
        tokens=stats(rbee, worker)["tokens_generated_total"],
        hive_log_bytes=(rbee.home / "logs" / "hive.log").stat().st_size,
        models=set(rbee.home.glob("models/**/*")),
    )


@given("the list of workers is empty")
def no_workers(rbee: Topology) -> None:
    assert rbee.workers() == []
    assert rbee.hive_workers() == []


@then("first the queen, then the hive and then the worker told what they did")
def narrated_in_order(finished: Finished) -> None:
    speakers = list(dict.fromkeys(SPEAKER.findall(finished.err)))
    assert [name for name in speakers if name != "keeper"] == ["queen", "hive", "worker"], str(finished)


@then(parsers.parse('the list of workers holds one idle worker with the model "{model}"'))
def one_idle_worker(rbee: Topology, model: str) -> None:
    eventually(lambda: [row["state"] for row in rbee.workers()] == ["idle"], "one idle worker", within_s=3.0)
    (row,) = rbee.workers()
    assert (row["model_ref"], row["node"]) == (model, "local")
    assert row["pid"] in {identity.pid for identity in rbee.processes()}


@then(parsers.parse("that same worker generated {tokens:d} tokens"))
def generated_there(rbee: Topology, worker: Row, before: Before, tokens: int) -> None:
    assert stats(rbee, worker)["tokens_generated_total"] == before.tokens + tokens
    newest = rbee.queen.call(routes.TASK_LIST).json()["tasks"][0]
    assert (newest["worker_id"], newest["tokens"]) == (worker["id"], tokens)


@then("the hive told nothing on the way")
def hive_silent(finished: Finished) -> None:
    assert "hive" not in SPEAKER.findall(finished.err), str(finished)


@then("the hive checked, downloaded and started nothing for it")
def hive_idle(rbee: Topology, before: Before) -> None:
    with (rbee.home / "logs" / "hive.log").open(encoding="utf-8") as log:
        log.seek(before.hive_log_bytes)
        rows = [json.loads(line) for line in log]
    assert [row for row in rows if str(row.get("actor", "")).startswith("hive")] == []
    assert set(rbee.processes()) <= before.processes
    assert set(rbee.home.glob("models/**/*")) == before.models


@then("the list of workers holds that same worker and no other")
def same_worker(rbee: Topology, worker: Row) -> None:
    assert [(row["id"], row["pid"]) for row in rbee.workers()] == [(worker["id"], worker["pid"])]


@then(parsers.parse('task "{name}" generates on that same worker while task "{other}" still does'))
def generates_beside(rbee: Topology, streams: dict[str, EventReader], worker: Row, name: str, other: str) -> None:
    streams[name].wait_tokens(3)
    rows = [task_row(rbee, task_id(streams[task])) for task in (name, other)]
    assert [(row["state"], row["worker_id"]) for row in rows] == [("running", worker["id"])] * 2


@then(parsers.parse("the worker's {slots:d} slots are all taken"))
def all_taken(rbee: Topology, worker: Row, slots: int) -> None:
    now = stats(rbee, worker)
    assert (now["slots_total"], now["slots_available"], now["state"]) == (slots, 0, "busy")


@then(parsers.parse('task "{name}" waits in the queue at position {position:d}'))
def waits(rbee: Topology, streams: dict[str, EventReader], name: str, position: int) -> None:
    def look() -> Row | None:
        row = task_row(rbee, task_id(streams[name]))
        return row if row["state"] == "queued" else None

    row = eventually(look, f"task {name} is queued", within_s=2.0)
    assert row["queue_position"] == position
    assert rbee.queen.call(routes.FLEET).json()["queue"]["waiting"] == 1


@then(parsers.parse('task "{name}" has no token before one of the others has ended'))
def waits_for_others(streams: dict[str, EventReader], name: str) -> None:
    first = streams[name].wait_tokens(1)[0].at
    ends = [reader.wait_end()[-1].at for other, reader in streams.items() if other != name]
    assert min(ends) < first


@then("all tasks end completed on that same worker")
def all_completed(rbee: Topology, streams: dict[str, EventReader], worker: Row) -> None:
    for name, reader in streams.items():
        assert reader.wait_end()[-1].type == "done", f"{name}: {reader.events[-1]}"
        row = task_row(rbee, task_id(reader))
        assert (row["state"], row["worker_id"]) == ("completed", worker["id"]), row
    assert [row["id"] for row in rbee.workers()] == [worker["id"]]
