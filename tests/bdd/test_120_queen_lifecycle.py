"""Steps of features/120-queen-lifecycle.feature."""

from dataclasses import dataclass

import pytest
from pytest_bdd import scenarios, then

from daemons.contracts import routes
from daemons.kit.procs.identity import ProcessIdentity, is_alive
from tests.support.harness_keeper import Keeper
from tests.support.harness_leftovers import command_line
from tests.support.topology import Topology

scenarios("120-queen-lifecycle.feature")

ROLES = ("queen", "hive", "worker")


@dataclass(frozen=True)
class Fleet:
    """One queen, one hive and one worker that were seen running, and where they listened."""

    processes: dict[str, ProcessIdentity]
    urls: tuple[str, ...]


def roles_running(rbee: Topology) -> dict[str, ProcessIdentity]:
    """The running daemons by role, as their run files say."""
    return {name if name in ROLES else "worker": identity for identity, name in rbee.notice().items()}


def running_daemons(rbee: Topology) -> list[str]:
    """Command lines of all daemons of this installation, from the process table."""
    return sorted(command_line(identity.pid) for identity in rbee.processes())


@pytest.fixture
def daemons_before(rbee: Topology) -> dict[str, ProcessIdentity]:
    """Queen and hive as they ran when the scenario began."""
    return {"queen": rbee.run_of("queen").identity, "hive": rbee.run_of("hive").identity}


# --- T52


@then("no keeper is running any more")
def no_keeper(rbee: Topology) -> None:
    assert [line for line in running_daemons(rbee) if "rbee_tui" in line] == []


@then("a queen, a hive and a worker are running")
def all_running(rbee: Topology) -> None:
    assert sorted(roles_running(rbee)) == sorted(ROLES)


@then("each of the three answers")
def all_answer(rbee: Topology) -> None:
    worker = rbee.only_worker()
    for api, route in (
        (rbee.queen, routes.QUEEN_HEALTH),
        (rbee.hive, routes.HIVE_HEALTH),
        (rbee.worker(worker["id"]), routes.WORKER_ALIVE),
    ):
        answer = api.call(route)
        assert (answer.status_code, answer.json()["status"]) == (200, "alive")


# --- T53


@then("text arrives while a queen, a hive and a worker are running", target_fixture="fleet")
def text_while_running(rbee: Topology, running: Keeper) -> Fleet:
    running.wait_out("")
    roles = roles_running(rbee)
    assert running.runs, running.wait()
    assert sorted(roles) == sorted(ROLES)
    assert all(is_alive(identity) for identity in roles.values())
    urls = (rbee.run_of("queen").url, rbee.run_of("hive").url, rbee.only_worker()["url"])
    return Fleet(roles, urls)


@then("no process of this installation is left")
def no_process(rbee: Topology, fleet: Fleet) -> None:
    # The keeper has ended: whatever it started has to be gone by then, not some time later.
    assert rbee.processes() == {}
    assert not any(is_alive(identity) for identity in fleet.processes.values())


@then("nothing listens where they did")
def nothing_listens(rbee: Topology, fleet: Fleet) -> None:
    assert [url for url in fleet.urls if rbee.api(url, None).answers()] == []


@then("no run file is left")
def no_run_file(rbee: Topology) -> None:
    assert sorted(path for path in (rbee.home / "run").rglob("*.json")) == []


# --- T54


@then("the same queen and the same hive are running")
def same_daemons(rbee: Topology, daemons_before: dict[str, ProcessIdentity]) -> None:
    assert all(is_alive(identity) for identity in daemons_before.values())
    for name, identity in daemons_before.items():
        assert rbee.run_of(name).identity == identity
    for api, route in ((rbee.queen, routes.QUEEN_HEALTH), (rbee.hive, routes.HIVE_HEALTH)):
        assert api.call(route).status_code == 200


@then("no second queen or hive was started")
def no_second(rbee: Topology) -> None:
    lines = running_daemons(rbee)
    for module in ("daemons.queen", "daemons.hive"):
        assert len([line for line in lines if f"{module}.main serve" in line]) == 1, lines
    for name in ("queen", "hive"):
        log = (rbee.home / "logs" / f"{name}.log").read_text(encoding="utf-8").splitlines()
        assert len([line for line in log if '"text": "started"' in line]) == 1
