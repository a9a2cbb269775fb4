"""Steps of features/060-hive-worker-registry.feature."""

from pytest_bdd import parsers, scenarios, then, when

from daemons.contracts import routes
from tests.bdd.conftest import Fill, Row
from tests.bdd.spawning import Spawned, registry_row, spawn, told_row
from tests.support.topology import Topology

scenarios("060-hive-worker-registry.feature")


@when(
    parsers.parse('the hive is asked for a worker with "{model}" without mmap and {slots:d} slots'),
    target_fixture="spawned",
)
def ask_for_worker(rbee: Topology, fill: Fill, model: str, slots: int) -> Spawned:
    return spawn(rbee, fill(model), slots)


@then('the registry shows that worker in the state "loading"')
def loading(spawned: Spawned) -> None:
    assert (spawned.row["id"], spawned.row["state"]) == (spawned.id, "loading")


@then("the worker calls back", target_fixture="registered")
def calls_back(rbee: Topology, spawned: Spawned) -> Row:
    return told_row(rbee, spawned.id)


@then("the registry shows that worker with id, url, model, backend and device")
def identity_shown(rbee: Topology, spawned: Spawned, registered: Row, fill: Fill) -> None:
    assert registered["id"] == spawned.id
    assert registered["url"].startswith("http://127.0.0.1:")
    assert registered["model_ref"] == fill("{large}")
    assert (registered["backend"], registered["device"]) == ("cpu", 0)
    assert registered["pid"] in {identity.pid for identity in rbee.processes()}


@then('the registry shows that worker in the state "idle"')
def idle(rbee: Topology, spawned: Spawned) -> None:
    assert registry_row(rbee, spawned.id)["state"] == "idle"


@then(parsers.parse("the registry shows {slots:d} slots in all and {free:d} free"))
def slots_shown(registered: Row, slots: int, free: int) -> None:
    assert (registered["slots_total"], registered["slots_available"]) == (slots, free)


@then("the address in the registry is where that worker answers to its own id")
def answers_there(rbee: Topology, registered: Row) -> None:
    answer = rbee.api(registered["url"], registered["key"]).call(routes.WORKER_STATS)
    assert (answer.status_code, answer.json()["id"]) == (200, registered["id"])
