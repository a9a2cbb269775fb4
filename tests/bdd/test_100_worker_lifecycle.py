"""Steps of features/100-worker-lifecycle.feature."""

import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
from pytest_bdd import parsers, scenarios, then, when

from daemons.contracts import routes
from tests.bdd.conftest import PROMPT, Fill, Row
from tests.bdd.spawning import Spawned, ready_row, registry_row, spawn, told_row
from tests.support.harness import eventually
from tests.support.harness_http import EventReader
from tests.support.harness_leftovers import command_line
from tests.support.topology import Topology

scenarios("100-worker-lifecycle.feature")

CALLBACK_FIELDS = ("id", "url", "model_ref", "backend", "device", "pid")


def log_rows(path: Path) -> list[Row]:
    """The lines of a log that is there, as far as it goes."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def line_with(path: Path, what: str, wanted: dict[str, Any]) -> Row:
    """The first line of a log whose fields hold all of `wanted`, once it is written."""

    def look() -> Row | None:
        return next((row for row in log_rows(path) if wanted.items() <= row.items()), None)

    return eventually(look, f"{what} in {path.name}: {wanted}", within_s=20.0)


@when(
    parsers.parse('the hive is asked for a worker with "{model}" without mmap and {slots:d} slots'),
    target_fixture="spawned",
)
def ask_for_worker(rbee: Topology, fill: Fill, model: str, slots: int) -> Spawned:
    return spawn(rbee, fill(model), slots)


# --- T27


@then("a process of that pid runs the worker program")
def real_process(rbee: Topology, spawned: Spawned) -> None:
    pid = spawned.answer["pid"]
    assert pid in {identity.pid for identity in rbee.processes()}
    hive = rbee.run_of("hive").identity.pid
    assert psutil.Process(pid).ppid() == hive
    assert "daemons.worker" in command_line(pid) or "llm-worker-rbee" in command_line(pid)


@then("the process was started with that model, backend, device and address")
def started_with(spawned: Spawned, fill: Fill) -> None:
    model, url = fill("{large}"), spawned.answer["url"]
    assert {"model_ref": model, "backend": "cpu", "device": 0, "url": url}.items() <= spawned.row.items()
    words = command_line(spawned.answer["pid"]).split()
    for label, value in {"--model": model, "--backend": "cpu", "--device": "0", "--url": url}.items():
        assert words[words.index(label) + 1] == value, words


@then("HTTP answers there while the model is still being loaded")
def http_before_model(spawned: Spawned) -> None:
    # The hive bound the socket, so these wait in its backlog from before the program ran, and are answered at once.
    health = spawned.api.call(routes.WORKER_ALIVE)
    spawned.noted["ready"] = spawned.api.call(routes.WORKER_READY).json()
    assert (health.status_code, health.json()["status"]) == (200, "alive")
    assert spawned.noted["ready"]["ready"] is False


@then('the worker\'s state is "loading"')
def loading(spawned: Spawned) -> None:
    assert spawned.row["state"] == "loading"
    assert spawned.noted["ready"]["state"] == "loading"


@then("the address is taken by that process and by no other")
def address_is_its_own(rbee: Topology, spawned: Spawned) -> None:
    port = urlsplit(spawned.answer["url"]).port
    assert [identity.pid for identity in rbee.processes() if port in listening(identity.pid)] == [spawned.answer["pid"]]


def listening(pid: int) -> list[int]:
    """Ports that a process listens on."""
    try:
        return [c.laddr.port for c in psutil.Process(pid).net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    except psutil.NoSuchProcess:
        return []


@then("the worker accepts its own key and refuses the hive's key")
def own_key_only(rbee: Topology, spawned: Spawned) -> None:
    assert spawned.api.call(routes.WORKER_STATS).status_code == 200
    foreign = rbee.api(spawned.answer["url"], rbee.key("hive"))
    assert foreign.call(routes.WORKER_STATS).status_code == 401


# --- T28


@then("the worker tells in its log that it called back and that the hive acknowledged")
def worker_says_so(rbee: Topology, spawned: Spawned) -> None:
    line_with(rbee.home / "logs" / f"{spawned.id}.log", "callback acknowledged", {"acknowledged": True})


@then("the hive tells in its log that this worker called back, with id, url, model, backend, device and pid")
def hive_says_so(rbee: Topology, spawned: Spawned) -> None:
    wanted = {name: spawned.answer[name] for name in CALLBACK_FIELDS}
    spawned.noted["callback"] = line_with(rbee.home / "logs" / "hive.log", "callback", wanted)


@then('the registry changed from "loading" to "idle" by that')
def registry_changed(rbee: Topology, spawned: Spawned) -> None:
    assert spawned.row["state"] == "loading"
    assert told_row(rbee, spawned.id)["state"] == "idle"


def callback(spawned: Spawned, row: Row) -> Row:
    """The body that this worker posts."""
    names = (*CALLBACK_FIELDS, "slots_total", "ctx")
    return {**{name: row[name] for name in names}, "load_ms": 1.0}


@then("the hive acknowledges the same callback again")
def acknowledged_again(rbee: Topology, spawned: Spawned) -> None:
    body = callback(spawned, registry_row(rbee, spawned.id))
    answer = rbee.api(rbee.hive.url, spawned.answer["key"]).call(routes.HIVE_READY, body)
    assert (answer.status_code, answer.json()) == (200, {"accepted": True})


@then("the hive refuses that callback with the key of another")
def refused_with_other_key(rbee: Topology, spawned: Spawned) -> None:
    body = callback(spawned, registry_row(rbee, spawned.id))
    assert rbee.api(rbee.hive.url, "rbee-not-this-workers-key").call(routes.HIVE_READY, body).status_code == 401
    assert rbee.hive.call(routes.HIVE_READY, body).status_code == 403


# --- T32


@when("the worker is asked at once whether it is ready", target_fixture="readiness")
def ask_ready_at_once(spawned: Spawned) -> httpx.Response:
    return spawned.api.call(routes.WORKER_READY)


@then('it answers not ready, in the state "loading", with an address for the progress')
def not_ready(readiness: httpx.Response) -> None:
    assert readiness.status_code == 200
    fields = readiness.json()
    assert (fields["ready"], fields["state"]) == (False, "loading")
    assert fields.get("model_loaded", False) is False
    assert fields["progress_url"].endswith(routes.WORKER_PROGRESS.path)


@then("an event stream is found at that address")
def stream_there(spawned: Spawned, readiness: httpx.Response) -> None:
    url = readiness.json()["progress_url"]
    assert url in {routes.WORKER_PROGRESS.path, spawned.answer["url"] + routes.WORKER_PROGRESS.path}
    with spawned.api.stream(routes.WORKER_PROGRESS) as reader:
        assert reader.status == 200
        assert reader.headers["content-type"].startswith("text/event-stream")
        reader.wait_for(lambda event: event.type in {"progress", "ready"}, "an event of the load")


# --- T33


@when("the loading progress is followed from the beginning", target_fixture="load")
def follow(spawned: Spawned, streams: dict[str, EventReader]) -> EventReader:
    streams["load"] = spawned.api.stream(routes.WORKER_PROGRESS)
    spawned.noted["asked during the load"] = spawned.api.call(routes.WORKER_READY).json()
    streams["load"].wait_end()
    return streams["load"]


@then(parsers.parse("it has at least {count:d} different figures that only rise, the last one 100 percent"))
def rises(load: EventReader, count: int) -> None:
    events = [event.data for event in load.events if event.type == "progress"]
    assert {(data["unit"], data["total"]) for data in events} == {("percent", 100)}
    figures = [data["done"] for data in events]
    assert len(set(figures)) >= count, figures
    assert figures == sorted(figures)
    assert figures[-1] == 100


@then("some of them came while the worker was not ready")
def before_ready(spawned: Spawned, load: EventReader) -> None:
    assert spawned.noted["asked during the load"]["ready"] is False
    ready_at = next(event.at for event in load.events if event.type == "ready")
    first_at = load.events[0].at
    assert load.events[0].type == "progress"
    assert load.events[0].data["done"] < 100
    assert first_at < ready_at


@then('then comes one event "ready" and one event "done", and the stream ends')
def ends_ready(load: EventReader) -> None:
    types = [event.type for event in load.events]
    assert types[-2:] == ["ready", "done"]
    assert set(types[:-2]) == {"progress"}
    assert load.events[-2].data == {"ready": True, "state": "idle", "model_loaded": True}
    assert load.events[-1].data == {"done": True}


@then("somebody who follows only now gets the same end")
def late_reader(spawned: Spawned) -> None:
    with spawned.api.stream(routes.WORKER_PROGRESS) as late:
        assert [event.type for event in late.wait_end(within_s=5.0)][-2:] == ["ready", "done"]


# --- T34


@when("the worker has called back")
def has_called_back(rbee: Topology, spawned: Spawned) -> None:
    ready_row(rbee, spawned.id)


@when("the worker is asked whether it is ready", target_fixture="readiness")
def ask_ready(spawned: Spawned) -> httpx.Response:
    return spawned.api.call(routes.WORKER_READY)


@then("it answers exactly ready, idle, with the model loaded")
def is_ready(readiness: httpx.Response) -> None:
    assert readiness.json() == {"ready": True, "state": "idle", "model_loaded": True}


@then(parsers.parse("it generates {count:d} tokens"))
def generates(spawned: Spawned, count: int) -> None:
    body = {"id": f"test-{os.getpid()}", "prompt": PROMPT, "max_tokens": count, "ignore_eos": True}
    with spawned.api.stream(routes.WORKER_INFER, body) as reader:
        assert reader.wait_end()[-1].data["total_tokens"] == count
