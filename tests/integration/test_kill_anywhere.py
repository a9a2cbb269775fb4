"""Queen or hive killed with SIGKILL at any moment: the same command again works, and nothing is left over."""

import os
import signal
from collections.abc import Callable

import pytest

from daemons.kit.procs.identity import ProcessIdentity
from tests.conftest import StartTopology
from tests.support.harness import eventually
from tests.support.harness_keeper import Keeper
from tests.support.harness_leftovers import processes_of, read_daemon_run
from tests.support.harness_models import ModelShelf
from tests.support.topology import Topology

pytestmark = pytest.mark.timeout(240)

Moment = Callable[[Topology, Keeper], object]


def running(topology: Topology, name: str) -> ProcessIdentity | None:
    """The daemon of that name, from the process table: it may not have a run file yet."""
    found = processes_of(topology.root).items()
    return next((identity for identity, line in found if f"daemons.{name}.main serve" in line), None)


def spawned(name: str) -> Moment:
    return lambda topology, _keeper: eventually(
        lambda: running(topology, name), f"a process of the {name}", within_s=30.0, every_s=0.002
    )


def answering(name: str) -> Moment:
    return lambda topology, _keeper: eventually(
        lambda: read_daemon_run(topology.home / "run" / f"{name}.json"),
        f"the {name} answers",
        within_s=30.0,
        every_s=0.002,
    )


def loading(_topology: Topology, keeper: Keeper) -> None:
    keeper.wait_err("goes to CPU")


def streaming(_topology: Topology, keeper: Keeper) -> None:
    keeper.wait_out("")


MOMENTS = {
    "queen spawned": spawned("queen"),
    "queen answering": answering("queen"),
    "hive spawned": spawned("hive"),
    "hive answering": answering("hive"),
    "worker loading": loading,
    "tokens streaming": streaming,
}


CASES = [(moment, "queen") for moment in MOMENTS] + [
    (moment, "hive") for moment in MOMENTS if not moment.startswith("queen")
]


@pytest.mark.parametrize(("moment", "victim"), CASES)
def test_the_same_command_again_works(
    fresh_topology: StartTopology, models: ModelShelf, moment: str, victim: str
) -> None:
    topology = fresh_topology({})
    command = (
        "infer",
        "--model",
        models.steady(),
        "--prompt",
        "Once upon a time",
        "--max-tokens",
        "60",
        "--temperature",
        "0",
    )
    wanted = topology.succeed(*command).out
    topology.succeed("queen", "stop")
    topology.succeed("hive", "stop")

    keeper = topology.begin(*command)
    MOMENTS[moment](topology, keeper)
    target = running(topology, victim)
    assert target is not None, f"no {victim} runs at the moment: {moment}"
    os.kill(target.pid, signal.SIGKILL)
    first = keeper.wait(within_s=120.0)
    assert first.code in (0, 1), str(first)
    assert "Traceback" not in first.err, str(first)

    again = topology.keeper(*command)
    assert again.code == 0, f"{again}\n--- first\n{first}"
    assert again.out == wanted
    topology.succeed("queen", "stop")
    topology.succeed("hive", "stop")
    eventually(lambda: not topology.processes(), "nothing is left running", within_s=20.0)
    run = topology.home / "run"
    assert [path for path in run.rglob("*") if path.is_file() and path.suffix != ".lock"] == []
    assert sorted(path.name for path in (topology.home / "keys").iterdir()) == ["admin.key", "hive.key", "infer.key"]
    logs = [*(topology.home / "logs").glob("queen.*"), *(topology.home / "logs").glob("hive.*")]
    assert [path.name for path in logs if "Traceback" in path.read_text(encoding="utf-8")] == []
