"""Steps of features/120-queen-lifecycle.feature."""

import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from pytest_bdd import given, parsers, scenarios, then, when

from daemons.contracts import routes
from daemons.kit.procs.identity import ProcessIdentity, is_alive
from tests.bdd.conftest import Row
from tests.support.harness import eventually
from tests.support.harness_http import EventReader
from tests.support.harness_keeper import Finished, Keeper
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


@given("the queen and the hive that run are noted", target_fixture="daemons_before")
def note_daemons(rbee: Topology) -> dict[str, ProcessIdentity]:
    """Queen and hive as they run before anything else happens."""
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


# --- L04, L07


@then(parsers.parse('within {seconds:d} seconds the queen lists the node "{node}" as reachable, with that same worker'))
def found_again(rbee: Topology, worker: Row, seconds: int, node: str) -> None:
    def look() -> bool:
        fleet = rbee.queen.call(routes.FLEET).json()
        nodes = {row["name"]: row["status"] for row in fleet["nodes"]}
        return nodes[node] == "reachable" and [row["id"] for row in fleet["workers"]] == [worker["id"]]

    eventually(look, "node and worker are found again", within_s=seconds)


@then("the hive and the worker that ran before are the only ones")
def nothing_restarted(rbee: Topology, worker: Row, daemons_before: dict[str, ProcessIdentity]) -> None:
    assert rbee.run_of("hive").identity == daemons_before["hive"]
    assert [(row["id"], row["pid"]) for row in rbee.hive_workers()] == [(worker["id"], worker["pid"])]
    assert count_of(rbee, "daemons.hive.main serve") == count_of(rbee, "daemons.worker.main serve") == 1


def count_of(rbee: Topology, words: str) -> int:
    return sum(words in line for line in running_daemons(rbee))


@when("the queen program is started a second time", target_fixture="second")
def second_queen(rbee: Topology, daemons_before: dict[str, ProcessIdentity]) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "daemons.queen.main", "serve"]
    return subprocess.run(argv, env=rbee.environ(), capture_output=True, text=True, timeout=60, check=False)


@then(parsers.parse('it exits with {code:d} and prints "{name}" with the pid of the first'))
def refused(rbee: Topology, second: subprocess.CompletedProcess[str], code: int, name: str) -> None:
    assert second.returncode == code, second
    error = json.loads(second.stdout.splitlines()[-1])["error"]
    assert (error["code"], error["details"]["pid"]) == (name, rbee.run_of("queen").identity.pid)


@when(parsers.parse('{count:d} persons run "rbee {line}" at once'), target_fixture="commands")
def run_at_once(rbee: Topology, count: int, line: str) -> list[Finished]:
    running = [rbee.begin(*shlex.split(line)) for _ in range(count)]
    finished = [keeper.wait() for keeper in running]
    rbee.notice()
    return finished


@then(parsers.parse("all of the commands exit with {code:d} and print text"))
def all_exit(commands: list[Finished], code: int) -> None:
    for finished in commands:
        assert finished.code == code, str(finished)
        assert finished.out.strip(), str(finished)


@then("one queen and one hive are running")
def one_of_each(rbee: Topology) -> None:
    assert count_of(rbee, "daemons.queen.main serve") == count_of(rbee, "daemons.hive.main serve") == 1
    assert rbee.queen.call(routes.QUEEN_HEALTH).status_code == 200


# --- L08


@dataclass(frozen=True)
class PortTaker:
    """A program that has nothing to do with rbee, and the port that it listens on."""

    process: subprocess.Popen[str]
    port: int


_LISTEN = "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); input()"


@pytest.fixture
def taker() -> Iterator[PortTaker]:
    argv = [sys.executable, "-c", _LISTEN]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield PortTaker(process, int(process.stdout.readline()))
        process.kill()


@given("another program that listens on a port")
def port_taken(taker: PortTaker) -> None:
    assert taker.process.poll() is None


@when(parsers.parse('a person runs "rbee {name} start" with that port'), target_fixture="finished")
def start_with_port(rbee: Topology, taker: PortTaker, name: str) -> Finished:
    return rbee.keeper(name, "start", "--port", str(taker.port))


@then("stderr names that port, the program and its pid")
def names_holder(finished: Finished, taker: PortTaker) -> None:
    assert f"port {taker.port} " in finished.err, str(finished)
    assert f"(pid {taker.process.pid})" in finished.err, str(finished)
    assert "python" in finished.err, str(finished)


@when(parsers.parse("a person follows the hint for the {name}"), target_fixture="finished")
def follow_hint(rbee: Topology, finished: Finished, name: str) -> Finished:
    variable = f"RBEE_{name.upper()}_PORT"
    assert f"hint: {variable}=0 rbee {name} start" in finished.err, str(finished)
    started = rbee.keeper(name, "start", environ=rbee.environ(**{variable: "0"}))
    rbee.run_of("hive")  # which the queen is still starting: one without a run file could not be ended in order
    return started


# --- L09


@when("that keeper is killed with SIGKILL")
def kill_keeper(running: Keeper) -> None:
    running.signal(signal.SIGKILL)
    assert running.wait().code == -signal.SIGKILL


@then(parsers.parse("within {seconds:d} seconds no process of this installation is left"))
def all_gone(rbee: Topology, seconds: int) -> None:
    eventually(lambda: not rbee.processes(), "everything has ended", within_s=seconds)


@then(parsers.parse('task "{name}" goes on to its end with {tokens:d} tokens'))
def goes_on(streams: dict[str, EventReader], name: str, tokens: int) -> None:
    last = streams[name].wait_end()[-1]
    assert (last.type, last.data.get("total_tokens")) == ("done", tokens)
