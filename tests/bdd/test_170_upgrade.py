"""Steps of features/170-upgrade.feature. The newer rbee is this one, with another version in a copy of its source."""

import re
import shlex
import shutil

from pytest_bdd import parsers, scenarios, then, when

from daemons import __version__
from daemons.kit.procs.identity import is_alive, send_signal
from daemons.kit.runfile import RunFile, read_run_file
from daemons.lifecycle.plan import KEEP_WORKERS_SIGNAL
from tests.bdd.conftest import Row
from tests.support.harness import eventually
from tests.support.harness_http import EventReader
from tests.support.harness_keeper import Finished
from tests.support.topology import REPOSITORY, Topology

scenarios("170-upgrade.feature")


def next_version(part: str) -> str:
    major, minor, patch = (int(number) for number in __version__.split("."))
    return {"patch": f"{major}.{minor}.{patch + 1}", "minor": f"{major}.{minor + 1}.0"}[part]


@when(parsers.re(r"rbee is upgraded to the next (?P<part>patch|minor) version"), target_fixture="newer")
def upgrade(rbee: Topology, part: str) -> str:
    """What runs goes on from the old source; keepers, and what they start, come from the new one."""
    version, source = next_version(part), rbee.root / "newer"
    for package in ("daemons", "rbee_tui"):
        shutil.copytree(REPOSITORY / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    told = source / "daemons" / "__init__.py"
    text = told.read_text(encoding="utf-8")
    told.write_text(text.replace(f'"{__version__}"', f'"{version}"'), encoding="utf-8")
    rbee.settings["PYTHONPATH"] = str(source)
    assert rbee.succeed("--version").out == f"rbee {version}\n"
    return version


def run_file(rbee: Topology, name: str) -> RunFile:
    run = read_run_file(rbee.home / "run" / f"{name}.json")
    assert run is not None
    return run


@when("the hive is ended as the restart of its service ends it, and started again")
def restart_hive(rbee: Topology) -> None:
    identity = run_file(rbee, "hive").identity
    assert send_signal(identity, KEEP_WORKERS_SIGNAL)
    eventually(lambda: not is_alive(identity), "the old hive has ended", within_s=30.0)
    rbee.succeed("hive", "start")


@when("the queen is stopped and started again")
def restart_queen(rbee: Topology) -> None:
    rbee.succeed("queen", "stop")
    rbee.start_queen()


@then(parsers.re(r"the (?P<name>hive|queen) is of the new version, and has the same worker process"))
def same_worker(rbee: Topology, newer: str, worker: Row, name: str) -> None:
    assert run_file(rbee, name).version == newer
    rows = eventually(lambda: rbee.hive_workers() if name == "hive" else rbee.workers(), "its workers", within_s=30.0)
    assert [(row["id"], row["pid"]) for row in rows] == [(worker["id"], worker["pid"])]


@then(parsers.parse('task "{name}" still generates'))
def still_generates(streams: dict[str, EventReader], name: str) -> None:
    """What came before the restart of the hive is not all: more comes after it."""
    events = streams[name].events
    assert not any(event.is_last for event in events), events[-1]
    streams[name].wait_tokens(sum(event.type == "token" for event in events) + 5)


@then(parsers.parse('task "{name}" ends with all its {count:d} tokens'))
def all_tokens(streams: dict[str, EventReader], name: str, count: int) -> None:
    last = streams[name].wait_end(within_s=100.0)[-1]
    assert (last.type, last.data.get("total_tokens")) == ("done", count), last


@then(parsers.re(r"stderr names VERSION_MISMATCH of the (?P<name>queen|hive), with both versions"))
def mismatch(finished: Finished, newer: str, name: str) -> None:
    message = re.search(r"^error VERSION_MISMATCH: (.+)$", finished.err, re.MULTILINE)
    assert message is not None, str(finished)
    assert f"the {name} " in message[1], message[1]
    assert __version__ in message[1], message[1]
    assert newer in message[1], message[1]


@when("the person runs the command of the hint")
def run_hint(rbee: Topology, finished: Finished) -> None:
    hint = re.search(r"^hint: rbee (.+)$", finished.err, re.MULTILINE)
    assert hint is not None, str(finished)
    rbee.succeed(*shlex.split(hint[1]))
