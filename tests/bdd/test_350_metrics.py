"""Steps of features/350-metrics.feature."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

from pytest_bdd import given, parsers, scenarios, then, when

from daemons.contracts import routes
from tests.bdd.conftest import Fill, Row, ask
from tests.conftest import StartTopology
from tests.support.harness import eventually
from tests.support.harness_http import EventReader
from tests.support.process_sizes import descriptors, rss_mib
from tests.support.topology import Topology

scenarios("350-metrics.feature")

FASTER = 100.0
IDLE_HOUR_S = 3600.0 / FASTER
WARM_UP_S = 8.0
GROWTH_MIB = 6.0
"""An arena of malloc is some MiB, and Python's own come in steps of 1; what leaks with time or tokens is more."""


@dataclass(frozen=True)
class Size:
    """One process at one moment."""

    mib: float
    descriptors: int


def pids(rbee: Topology) -> dict[str, int]:
    rows = rbee.hive_workers()
    daemons = {name: rbee.run_of(name).identity.pid for name in ("queen", "hive")}
    return {**daemons, **{row["id"]: row["pid"] for row in rows}}


def sizes(of: Mapping[str, int]) -> dict[str, Size]:
    return {name: Size(rss_mib(pid), descriptors(pid)) for name, pid in of.items()}


def grown(before: Mapping[str, Size], after: Mapping[str, Size]) -> dict[str, str]:
    """Processes that have grown, with both figures."""
    return {
        name: f"{before[name].mib:.1f} -> {size.mib:.1f} MiB"
        for name, size in after.items()
        if size.mib - before[name].mib > GROWTH_MIB
    }


# --- O02


@when(parsers.parse("tokens are generated for {seconds:d} seconds"), target_fixture="measured")
def generate(rbee: Topology, worker: Row, fill: Fill, seconds: int) -> tuple[dict[str, Size], dict[str, Size]]:
    """To the end of the context, and again where that is sooner; what is there after a quarter of the time is warm."""
    of = {name: pid for name, pid in pids(rbee).items() if name != "hive"}
    begun, before = time.monotonic(), dict[str, Size]()
    while (left := seconds - (time.monotonic() - begun)) > 0:
        with ask(rbee, fill("{steady}"), int(worker["ctx"]) - 100) as reader:
            if not before:
                wait_for_end(reader, seconds / 4)
                before = sizes(of)
                left = seconds - (time.monotonic() - begun)
            wait_for_end(reader, left)
            assert sum(event.type == "token" for event in reader.events) > 100
            after = sizes(of)
    return before, after


def wait_for_end(reader: EventReader, at_most_s: float) -> None:
    """Let a generation go on for so long; one that ends by itself has to end well."""
    try:
        last = reader.wait_end(within_s=at_most_s)[-1]
    except AssertionError:
        assert not any(event.type == "error" for event in reader.events)
        return
    assert last.type == "done", last


@then("queen and worker have not grown meanwhile")
def not_grown(measured: tuple[dict[str, Size], dict[str, Size]]) -> None:
    before, after = measured
    assert len(after) == 2
    assert grown(before, after) == {}


# --- O03


@given("a running rbee whose clocks run up to a hundred times faster", target_fixture="rbee")
def fast_clocks(fresh_topology: StartTopology) -> Topology:
    """Health checks and pings a hundred times, samples, which cost most, twenty times. Idle workers stay."""
    topology = fresh_topology(
        {
            "RBEE_POLICY_TELEMETRY_INTERVAL_S": "0.05",
            "RBEE_POLICY_HEALTH_INTERVAL_S": "0.3",
            "RBEE_POLICY_PING_S": "0.15",
            "RBEE_POLICY_IDLE_WORKER_S": "-1",
        }
    )
    topology.start_queen()
    return topology


@when("an hour of its intervals has passed", target_fixture="hour")
def idle_hour(rbee: Topology) -> tuple[dict[str, Size], dict[str, Size], dict[str, int], dict[str, int]]:
    of = pids(rbee)
    begun = time.monotonic()
    eventually(lambda: time.monotonic() - begun > WARM_UP_S, "warm", within_s=WARM_UP_S + 5, every_s=0.5)
    before, files = sizes(of), file_sizes(rbee)
    eventually(lambda: time.monotonic() - begun > IDLE_HOUR_S, "an hour", within_s=IDLE_HOUR_S + 30, every_s=0.5)
    return before, sizes(of), files, file_sizes(rbee)


def file_sizes(rbee: Topology) -> dict[str, int]:
    """Logs and everything else but the databases, whose history grows by a row a minute and is pruned by age."""
    found = {str(path.relative_to(rbee.home)): path for path in rbee.home.rglob("*") if path.is_file()}
    return {name: path.stat().st_size for name, path in found.items() if ".duckdb" not in name}


@then("no daemon has grown in memory or descriptors")
def daemons_flat(rbee: Topology, hour: tuple[dict[str, Size], dict[str, Size], dict[str, int], dict[str, int]]) -> None:
    before, after, *_ = hour
    assert len(after) == 3
    assert pids(rbee).keys() == after.keys()
    assert grown(before, after) == {}
    more = {name: size.descriptors - before[name].descriptors for name, size in after.items()}
    assert all(count <= 2 for count in more.values()), more
    assert rbee.queen.call(routes.FLEET).status_code == 200


@then("no file of its home has grown")
def files_flat(hour: tuple[dict[str, Size], dict[str, Size], dict[str, int], dict[str, int]]) -> None:
    *_, before, after = hour
    assert set(after) - set(before) == set()
    assert {name: (before[name], size) for name, size in after.items() if size > before[name] + 2048} == {}
