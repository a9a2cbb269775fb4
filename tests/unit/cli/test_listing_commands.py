"""Listings: a row each, the same rows as wire types with --json, and a clear word when there is nothing."""

import json
import os
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from daemons import __version__
from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.events import EventType, TextSnapshot
from daemons.contracts.fleet import ModelRow, NodeStatus
from daemons.contracts.inference import Usage
from daemons.contracts.tasks import TaskState
from daemons.contracts.telemetry import Device
from daemons.contracts.workers import Backend, WorkerState
from daemons.kit.procs import ProcessIdentity, own_identity
from daemons.kit.runfile import RunFile, write_run_file
from tests.support.fake_queen import STARTED_AT, TASK_ID, FakeQueen, answer_of, node_row, task_row, worker_row
from tests.unit.cli.conftest import Finished, Rbee


def rows(finished: Finished) -> list[dict[str, str]]:
    """Tab-separated output as dictionaries."""
    assert finished.code == 0, finished.err
    header, *lines = finished.out.splitlines()
    return [dict(zip(header.split("\t"), line.split("\t"), strict=True)) for line in lines]


def as_json(finished: Finished) -> Any:
    assert finished.code == 0, finished.err
    return json.loads(finished.out)


GONE = replace(own_identity(), boot_id="another boot")


def write_run(folder: Path, name: str, identity: ProcessIdentity, url: str = "http://127.0.0.1:9") -> None:
    """The run file of a queen or hive of the environment whose parent folder this is."""
    path = folder / "h" / "run" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_run_file(path, RunFile(name=name, identity=identity, url=url, version=__version__, started_at=STARTED_AT))


def write_worker(folder: Path, worker_id: str, identity: ProcessIdentity) -> None:
    path = folder / "h" / "run" / "workers" / f"{worker_id}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"identity": identity.to_json()}))


class TestWorkers:
    def test_list(self, rbee: Rbee, queen: FakeQueen) -> None:
        queen.workers = [
            worker_row("w-0000000a"),
            worker_row("w-0000000b", node="box", state=WorkerState.BUSY, slots_available=1, threads=3),
        ]
        first, second = rows(rbee("workers", "list"))
        assert (first["WORKER"], first["NODE"], first["STATE"], first["MODEL"]) == (
            "w-0000000a", "local", "idle", "demo",
        )  # fmt: skip
        assert (second["NODE"], second["STATE"], second["SLOTS FREE"], second["THREADS"]) == ("box", "busy", "1/4", "3")

    def test_list_as_json_is_the_wire_type(self, rbee: Rbee, queen: FakeQueen) -> None:
        expected = [row.model_dump(mode="json") for row in queen.workers]
        assert as_json(rbee("workers", "list", "--json")) == {"workers": expected}

    def test_none(self, rbee: Rbee, queen: FakeQueen) -> None:
        queen.workers = []
        finished = rbee("workers", "list")
        assert (rows(finished), finished.err) == ([], "[keeper] there are no workers\n")
        assert as_json(rbee("workers", "list", "--json")) == {"workers": []}

    def test_health(self, rbee: Rbee, queen: FakeQueen) -> None:
        queen.workers = [worker_row("w-0000000a"), worker_row("w-0000000b", state=WorkerState.UNHEALTHY)]
        assert [(row["WORKER"], row["HEALTH"], row["ANSWER"]) for row in rows(rbee("workers", "health"))] == [
            ("w-0000000a", "healthy", "1.5 ms"),
            ("w-0000000b", "unhealthy", "1.5 ms"),
        ]
        assert [row["healthy"] for row in as_json(rbee("workers", "health", "--json"))["workers"]] == [True, False]

    def test_health_of_an_unknown_node(self, rbee: Rbee, queen: FakeQueen) -> None:
        finished = rbee("workers", "health", "--node", "nowhere")
        assert (finished.code, "error NODE_NOT_FOUND: no node nowhere" in finished.err) == (1, True)

    def test_shutdown(self, rbee: Rbee, queen: FakeQueen) -> None:
        assert rbee("workers", "shutdown", "--id", "w-00000001").out == "w-00000001 on local is gone\n"
        assert as_json(rbee("workers", "shutdown", "--id", "w-00000001", "--json"))["worker"]["id"] == "w-00000001"
        finished = rbee("workers", "shutdown", "--id", "w-00000009")
        assert (finished.code, finished.out, "WORKER_NOT_FOUND" in finished.err) == (1, "", True)
        assert rbee("workers", "shutdown").code == 2

    def test_start(self, rbee: Rbee, queen: FakeQueen) -> None:
        queen.start_steps = [
            ("narration", {"actor": "hive local", "text": "chose cpu device 0"}),
            ("progress", {"stage": "load", "done": 100, "total": 100, "unit": "percent"}),
            ("worker", worker_row("w-0000000a")),
            ("done", {"done": True}),
        ]
        finished = rbee("workers", "start", "--model", "demo", "--slots", "2", "--no-mmap")
        assert [row["WORKER"] for row in rows(finished)] == ["w-0000000a"]
        assert finished.err == "[hive local] chose cpu device 0\n[keeper] load: 100 %\n"
        assert (queen.starts[0].model_ref, queen.starts[0].slots, queen.starts[0].mmap) == ("demo", 2, False)


class TestFleet:
    def test_status_shows_everything_once(self, rbee: Rbee, queen: FakeQueen) -> None:
        queen.nodes = [node_row(), node_row("box", status=NodeStatus.UNREACHABLE, problem="no answer for 12 s")]
        queen.tasks = [task_row("task-00000000000a", state=TaskState.RUNNING, ended_at=None), task_row()]
        finished = rbee("status")
        assert finished.code == 0
        assert f"at {queen.url}, pid 4242" in finished.out
        assert "queue: 1 waiting, 2 running, limit 100" in finished.out
        for text in (
            "local\treachable\tcpu\t12%\t8.0 GiB",
            "box\tunreachable",
            "w-00000001\tdemo",
            "task-00000000000a",
        ):
            assert text in finished.out
        assert TASK_ID not in finished.out, "a task that has ended is not open"
        assert "[keeper] node box: no answer for 12 s" in finished.err

    def test_status_as_json_has_the_queen_and_the_wire_types(self, rbee: Rbee, queen: FakeQueen) -> None:
        status = as_json(rbee("status", "--json"))
        assert set(status) == {"queen", "nodes", "workers", "models", "tasks", "queue", "notices", "this_machine"}
        assert set(status["queen"]) == {"version", "url", "pid", "started_at", "draining", "ephemeral"}
        assert status["workers"] == [row.model_dump(mode="json") for row in queen.workers]

    def test_status_without_a_queen_says_so_and_is_no_failure(self, rbee: Rbee) -> None:
        finished = rbee("status")
        assert (finished.code, finished.err) == (0, "")
        assert finished.out == "queen: none is running (start one with: rbee queen start)\n"
        nothing: dict[str, object] = {"hive": None, "workers": [], "ended_unexpectedly": []}
        assert as_json(rbee("status", "--json")) == {"queen": None, "this_machine": nothing}

    def test_status_without_a_queen_shows_the_hive_that_goes_on(self, rbee: Rbee, tmp_path: Path) -> None:
        write_run(tmp_path, "hive", own_identity())
        write_worker(tmp_path, "w-1", own_identity())
        write_worker(tmp_path, "w-2", GONE)
        finished = rbee("status")
        queen, hive = finished.out.splitlines()
        assert (finished.code, queen) == (0, "queen: none is running (start one with: rbee queen start)")
        assert hive.startswith(f"hive: {__version__} at http://127.0.0.1:9, pid {os.getpid()}, up ")
        assert hive.endswith(", 1 worker (stop it with: rbee hive stop)")
        here = as_json(rbee("status", "--json"))["this_machine"]
        assert (here["hive"]["pid"], here["workers"], here["ended_unexpectedly"]) == (os.getpid(), ["w-1"], [])

    def test_status_names_what_ended_without_a_word(self, rbee: Rbee, tmp_path: Path) -> None:
        write_run(tmp_path, "queen", GONE)
        write_run(tmp_path, "hive", GONE)
        write_worker(tmp_path, "w-1", own_identity())
        _, *lines = rbee("status").out.splitlines()
        logs = tmp_path / "h" / "logs"
        gone = f"pid {GONE.pid}, which was at http://127.0.0.1:9, ended unexpectedly (see: rbee logs; "
        assert lines == [
            f"queen: {gone}{logs / 'queen.log'})",
            f"hive: {gone}{logs / 'hive.log'})",
            "hive: none is running, but 1 worker without it (adopt with: rbee hive start; end with: rbee hive stop)",
        ]
        here = as_json(rbee("status", "--json"))["this_machine"]
        assert (here["hive"], [row["name"] for row in here["ended_unexpectedly"]]) == (None, ["queen", "hive"])

    def test_status_with_a_queen_of_this_machine_names_a_hive_that_died(
        self, rbee: Rbee, queen: FakeQueen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_run(tmp_path, "hive", GONE)
        assert "unexpectedly" not in rbee("status").err, "the queen is elsewhere"
        monkeypatch.delenv("RBEE_QUEEN_URL")
        write_run(tmp_path, "queen", own_identity(), queen.url)
        finished = rbee("status")
        assert f"queen: {__version__} at {queen.url}" in finished.out
        assert f"[keeper] hive: pid {GONE.pid}, which was at http://127.0.0.1:9, ended unexpectedly" in finished.err

    def test_status_of_a_configured_queen_that_does_not_answer_is_a_failure(
        self, rbee: Rbee, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RBEE_QUEEN_KEY", "some-key")
        for args in (("--queen", "http://127.0.0.1:9", "status"), ("status", "--queen", "http://127.0.0.1:9")):
            finished = rbee(*args)
            assert (finished.code, finished.out) == (1, "")
            assert "error QUEEN_UNREACHABLE: the queen at http://127.0.0.1:9 does not answer" in finished.err

    def test_devices(self, rbee: Rbee, queen: FakeQueen) -> None:
        gpu = Device(
            index=0, backend=Backend.CUDA, name="CUDA0", description="H200", memory_total=2**37, memory_free=2**36,
            utilisation_percent=42.0, temperature_c=51.0, power_w=312.4,
        )  # fmt: skip
        queen.nodes = [node_row(), node_row("box", devices=[gpu])]
        cpu, cuda = rows(rbee("devices"))
        assert (cpu["BACKEND"], cpu["CORES FREE"], cpu["USE"], cpu["TEMP"]) == ("cpu", "6/8", "-", "-")
        assert (cuda["NODE"], cuda["NAME"], cuda["FREE"], cuda["TOTAL"]) == ("box", "H200", "64.0 GiB", "128.0 GiB")
        assert (cuda["USE"], cuda["TEMP"], cuda["POWER"], cuda["CORES FREE"]) == ("42%", "51 °C", "312 W", "-")
        listed = as_json(rbee("devices", "--node", "box", "--json"))["devices"]
        assert listed == [{"node": "box", **gpu.model_dump(mode="json")}]
        assert rbee("devices", "--node", "nowhere").code == 1

    def test_ps(self, rbee: Rbee, queen: FakeQueen) -> None:
        queen.workers = [worker_row(slots_available=1, memory_bytes=2**29), worker_row("w-2", idle_limit_s=-1.0)]
        busy, pinned = rows(rbee("ps"))
        assert (busy["BUSY"], busy["MEMORY"], busy["UNLOADS"]) == ("3/4", "512.0 MiB", "-")
        assert (pinned["BUSY"], pinned["MEMORY"], pinned["UNLOADS"]) == ("0/4", "-", "never")
        assert [row["id"] for row in as_json(rbee("ps", "--json"))["workers"]] == ["w-00000001", "w-2"]

    def test_ps_tells_what_waits_after_a_crash_and_what_failed(self, rbee: Rbee, queen: FakeQueen) -> None:
        fields: dict[str, Any] = {"pid": 0, "url": "", "slots_available": 0, "memory_bytes": 0, "last_active_at": 0.0}
        coming = {"state": WorkerState.RESTARTING, "starts_at": time.time() + 60, "problem": "crashed: it died"}
        queen.workers = [
            worker_row("w-0000000a", **fields | coming),
            worker_row("w-0000000b", **fields, state=WorkerState.FAILED, problem="crashed 5 times"),
        ]
        finished = rbee("ps")
        waiting, failed = rows(finished)
        assert (waiting["STATE"], waiting["BUSY"], waiting["MEMORY"]) == ("restarting", "-", "-")
        assert waiting["UNLOADS"] in {"starts in 60s", "starts in 59s", "starts in 1m00s"}
        assert (failed["STATE"], failed["UNLOADS"]) == ("failed", "-")
        assert "[keeper] worker w-0000000a: demo crashed: it died\n" in finished.err
        assert rbee("workers", "list").err == finished.err
        assert rows(rbee("workers", "list"))[0]["PID"] == "-"
        assert rbee("ps", "--json").err == "", "it is in the rows"

    def test_models(self, rbee: Rbee, queen: FakeQueen) -> None:
        row = ModelRow(
            id="m-1", ref="demo", path="/m", size_bytes=4 * 2**20, architecture="llama", context_length=2048,
            quantisation="Q8_0", loaded=True,
        )  # fmt: skip
        queen.models = [row]
        (shown,) = rows(rbee("models", "list"))
        assert (shown["MODEL"], shown["SIZE"], shown["QUANT"], shown["LOADED"]) == ("demo", "4.0 MiB", "Q8_0", "yes")
        assert as_json(rbee("models", "list", "--json")) == {"models": [row.model_dump(mode="json")]}

    @pytest.mark.parametrize(
        "args", [("ps",), ("devices",), ("workers", "list"), ("tasks", "list"), ("models", "list")]
    )
    def test_without_a_queen_the_hint_starts_one(self, rbee: Rbee, args: tuple[str, ...]) -> None:
        finished = rbee(*args)
        assert (finished.code, finished.out) == (1, "")
        assert "error QUEEN_UNREACHABLE: no queen runs on this machine" in finished.err
        assert "hint: rbee queen start\n" in finished.err


class TestTasks:
    def test_list(self, rbee: Rbee, queen: FakeQueen) -> None:
        failed = task_row(
            "task-00000000000b", state=TaskState.FAILED, finish_reason=None, error={"code": "WORKER_CRASHED"}
        )
        queen.tasks = [failed, task_row()]
        first, second = rows(rbee("tasks", "list"))
        assert (first["STATE"], first["END"]) == ("failed", "WORKER_CRASHED")
        assert (second["TOKENS"], second["TOOK"], second["END"]) == ("24/100", "3.0s", "stop")

    def test_show(self, rbee: Rbee, queen: FakeQueen) -> None:
        finished = rbee("tasks", "show", TASK_ID)
        assert f"id: {TASK_ID}\nstate: completed\n" in finished.out
        assert "\ndetached: no\n" in finished.out
        assert re.search(r"^ended_at: 2023-11-1\d \d\d:\d\d:\d3$", finished.out, re.MULTILINE)
        assert as_json(rbee("tasks", "show", TASK_ID, "--json")) == queen.tasks[0].model_dump(mode="json")
        assert rbee("tasks", "show", "task-ffffffffffff").code == 1

    def test_show_the_text_that_is_kept(self, rbee: Rbee, queen: FakeQueen) -> None:
        queen.events = [(EventType.SNAPSHOT, TextSnapshot(text="Bees hum", index=3)), *answer_of()]
        assert rbee("tasks", "show", TASK_ID, "--text").out == "Bees hum\n"
        shown = as_json(rbee("tasks", "show", TASK_ID, "--text", "--json"))
        assert shown == {"id": TASK_ID, "text": "Bees hum", "tokens": 3}
        queen.events = answer_of()
        finished = rbee("tasks", "show", TASK_ID, "--text")
        assert finished.out == ""
        assert f"no text of {TASK_ID} is kept" in finished.err

    def test_show_a_failure(self, rbee: Rbee, queen: FakeQueen) -> None:
        error = RbeeError(Code.WORKER_CRASHED, "w-1 was killed\nby SIGKILL").as_dict()
        usage = Usage(prompt_tokens=5, completion_tokens=2)
        queen.tasks = [task_row(state=TaskState.FAILED, error=error, usage=usage, detached=True)]
        lines = rbee("tasks", "show", TASK_ID).out.splitlines()
        assert "error: WORKER_CRASHED w-1 was killed by SIGKILL (see: rbee logs --tail 40)" in lines
        assert "usage: prompt_tokens=5, completion_tokens=2, cached_tokens=0" in lines
        assert "detached: yes" in lines
        assert not any("{" in line or line.endswith(": ") for line in lines)

    def test_cancel(self, rbee: Rbee, queen: FakeQueen) -> None:
        queen.tasks = [task_row(state=TaskState.RUNNING)]
        assert rbee("tasks", "cancel", TASK_ID).out == f"{TASK_ID} is cancelled\n"
        assert queen.cancelled.is_set()
        cancelled = {"id": TASK_ID, "cancelled": True, "state": "cancelled"}
        assert as_json(rbee("tasks", "cancel", TASK_ID, "--json")) == cancelled

    def test_what_has_ended_is_not_said_to_be_cancelled(self, rbee: Rbee, queen: FakeQueen) -> None:
        queen.tasks = [task_row(state=TaskState.FAILED)]
        assert rbee("tasks", "cancel", TASK_ID).out == f"{TASK_ID} had ended before: failed\n"
        assert not queen.cancelled.is_set()
