"""Steps of features/310-secrets.feature."""

import json
import os
import re
import shlex
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from pytest_bdd import given, parsers, scenarios, then, when

from daemons.contracts import routes
from daemons.contracts.routes import Daemon, routes_of
from daemons.kit.auth import fingerprint, new_key
from daemons.kit.logs import read_log
from tests.bdd.conftest import PROMPT, Row
from tests.support.harness import eventually
from tests.support.harness_http import EventReader, error_of
from tests.support.harness_keeper import Finished
from tests.support.harness_leftovers import processes_of
from tests.support.terminal import shown_on_terminal
from tests.support.topology import Topology

scenarios("310-secrets.feature")

NAMES = ("admin", "infer", "hive")


def log_text(rbee: Topology, name: str) -> str:
    return (rbee.home / "logs" / f"{name}.log").read_text(encoding="utf-8")


def send(rbee: Topology, name: str, number: signal.Signals) -> None:
    os.kill(rbee.run_of(name).identity.pid, number)


# --- S03, S05


@when("right and wrong keys are used on every daemon", target_fixture="keys")
def use_keys(rbee: Topology) -> Mapping[str, str]:
    """Every key of this rbee, and wrong ones, each sent in every place where a client might put it."""
    rows = rbee.hive_workers()
    keys = {**{name: rbee.key(name) for name in NAMES}, **{row["id"]: row["key"] for row in rows}}
    keys |= {f"wrong {number}": new_key("wrong") for number in range(3)}
    urls = [rbee.run_of("queen").url, rbee.run_of("hive").url, *(row["url"] for row in rows)]
    for url in urls:
        for key in keys.values():
            api = rbee.api(url, key)
            api.send("GET", "/metrics")
            api.send("POST", "/v2/tasks", b"{")
            api.send("GET", "/v1/models", headers={"Authorization": f"Basic {key}"})
    assert rbee.queen.call(routes.TASK_CREATE, {"model": "demo", "prompt": "x", "max_tokens": 2}).status_code == 200
    return keys


@then("no file but the key files and the run files of workers holds any of these keys")
def no_key_in_files(rbee: Topology, keys: Mapping[str, str]) -> None:
    kept = [rbee.home / "keys", rbee.home / "run" / "workers"]
    files = [path for path in rbee.home.rglob("*") if path.is_file() and not any(path.is_relative_to(k) for k in kept)]
    assert {"queen.log", "hive.log", "queen.duckdb", "hive.duckdb"} <= {path.name for path in files}
    holding = [(path, name) for path in files for name, key in keys.items() if key.encode() in path.read_bytes()]
    assert holding == []
    kept_files = [path for folder in kept for path in folder.iterdir()]
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in kept_files)
    assert any(keys["admin"].encode() in path.read_bytes() for path in kept_files)  # this look finds what is there


@then("the logs tell the keys of queen and hive by their fingerprints")
def fingerprints(rbee: Topology, keys: Mapping[str, str]) -> None:
    for daemon, names in (("queen", ("admin", "infer")), ("hive", ("hive",))):
        (line,) = (
            line for line in read_log(rbee.home / "logs" / f"{daemon}.log", "", daemon) if line.text == "keys read"
        )
        assert line.fields == {name: fingerprint(keys[name]) for name in names}


@then("the keys of queen, hive and both workers all differ")
def keys_differ(rbee: Topology, keys: Mapping[str, str]) -> None:
    assert len(rbee.hive_workers()) == 2
    assert len(set(keys.values())) == len(keys) == len(NAMES) + 2 + 3


@then("a worker's key is in no command line, no environment, no log and no answer of the queen")
def worker_key_unseen(rbee: Topology, keys: Mapping[str, str]) -> None:
    secrets = [row["key"] for row in rbee.hive_workers()]
    seen = "".join(
        Path(f"/proc/{process.pid}/{what}").read_text(errors="replace")
        for process in processes_of(rbee.root)
        for what in ("cmdline", "environ")
    )
    assert "RBEE_HOME" in seen
    seen += "".join(path.read_text(errors="replace") for path in rbee.home.glob("logs/*"))
    for route in routes_of(Daemon.QUEEN):
        if route.method == "GET" and route.path not in {"/v2/fleet/events"}:
            seen += rbee.queen.call(route, id="task-0123456789ab").text
    seen += rbee.succeed("workers", "list", "--json").out
    assert "w-" in seen
    assert [secret for secret in secrets if secret in seen] == []


# --- S04


@given(parsers.re('a key file "(?P<name>[a-z]+)" that (?P<fault>.+)'), target_fixture="key_file")
def faulty_key_file(rbee: Topology, name: str, fault: str) -> Path:
    path = rbee.home / "keys" / f"{name}.key"
    path.parent.mkdir(parents=True)
    contents = {"others may read": f"{new_key()}\n", "is empty": "", "has two lines": f"{new_key()}\n{new_key()}\n"}
    path.write_text(contents[fault])
    path.chmod(0o644 if "others" in fault else 0o600)
    return path


@then(parsers.parse('stderr names "{code}" and the path of that file'))
def names_path(finished: Finished, key_file: Path, code: str) -> None:
    line = next(line for line in finished.err.splitlines() if code in line)
    assert str(key_file) in line, str(finished)
    assert "Traceback" not in finished.err


@when(parsers.parse("a person runs the command of the hint and starts the {daemon} again"))
def run_hint(rbee: Topology, finished: Finished, daemon: str) -> None:
    hint = next(line for line in finished.err.splitlines() if line.startswith("hint: ")).removeprefix("hint: ")
    command = hint.partition("; rbee")[0]
    assert shlex.split(command)[0] in {"chmod", "rm"}, hint
    subprocess.run(command, shell=True, check=True, cwd=rbee.root)
    if daemon == "queen":
        rbee.start_queen()
    else:
        rbee.start_hive()


@then(parsers.parse("the {daemon} runs"))
def daemon_runs(rbee: Topology, daemon: str, key_file: Path) -> None:
    api = rbee.queen if daemon == "queen" else rbee.hive
    assert api.send("GET", "/metrics").status_code == 200
    assert key_file.stat().st_mode & 0o777 == 0o600


# --- S04: SIGHUP


@pytest.fixture
def old_keys() -> dict[str, str]:
    return {}


def hang_up(rbee: Topology, words: str) -> None:
    """SIGHUP to queen and hive; returns when both have said what came of it."""
    before = {name: log_text(rbee, name).count(words) for name in ("queen", "hive")}
    for name in ("hive", "queen"):
        send(rbee, name, signal.SIGHUP)

    def said() -> bool:
        return all(log_text(rbee, name).count(words) > count for name, count in before.items())

    eventually(said, f"queen and hive say {words!r}")


@when("all keys are replaced and queen and hive get SIGHUP")
def replace_keys(rbee: Topology, old_keys: dict[str, str]) -> None:
    for name in NAMES:
        old_keys[name] = rbee.key(name)
        (rbee.home / "keys" / f"{name}.key").write_text(new_key() + "\n")
    hang_up(rbee, "keys read")


@then("the new keys are accepted and the old ones refused")
def new_keys_count(rbee: Topology, old_keys: Mapping[str, str]) -> None:
    for daemon, name, path in (
        ("queen", "admin", "/v2/fleet"),
        ("queen", "infer", "/v2/tasks"),
        ("hive", "hive", "/metrics"),
    ):
        url = rbee.run_of(daemon).url
        assert rbee.api(url, rbee.key(name)).send("GET", path).status_code == 200
        refused = rbee.api(url, old_keys[name]).send("GET", path)
        assert (refused.status_code, error_of(refused)["code"]) == (401, "INVALID_API_KEY")


@then("the queen reaches its hive with the new key")
def queen_reaches_hive(rbee: Topology) -> None:
    def look() -> list[Row]:
        answer = rbee.queen.call(routes.WORKER_HEALTH)
        return answer.json()["workers"] if answer.status_code == 200 else []

    assert eventually(look, "the hive answers the queen")[0]["healthy"] is True
    (node,) = rbee.queen.call(routes.NODE_LIST).json()["nodes"]
    assert node["status"] == "reachable"


@then(parsers.parse('task "{name}" runs to its end with {tokens:d} tokens'))
def runs_to_end(streams: dict[str, EventReader], name: str, tokens: int) -> None:
    last = streams[name].wait_end()[-1]
    assert (last.type, last.data["total_tokens"]) == ("done", tokens)


@when("a key file is broken and queen and hive get SIGHUP", target_fixture="broken")
def break_keys(rbee: Topology) -> Mapping[str, str]:
    keys = {name: rbee.key(name) for name in NAMES}
    for name in ("admin", "hive"):
        (rbee.home / "keys" / f"{name}.key").write_text("")
    hang_up(rbee, "the keys stay as they were")
    return keys


@then("the keys stay as they were, and the logs say so with the command that mends it")
def keys_stay(rbee: Topology, broken: Mapping[str, str]) -> None:
    assert rbee.api(rbee.run_of("queen").url, broken["admin"]).send("GET", "/v2/fleet").status_code == 200
    assert rbee.api(rbee.run_of("hive").url, broken["hive"]).send("GET", "/metrics").status_code == 200
    for daemon, name in (("queen", "admin"), ("hive", "hive")):
        lines = read_log(rbee.home / "logs" / f"{daemon}.log", "", daemon)
        line = next(line for line in lines if line.text == "the keys stay as they were")
        assert line.fields["code"] == "KEY_FILE_INVALID"
        assert f"keys/{name}.key" in line.fields["why"]
        assert line.fields["run"].startswith("rm ")
    for name, key in broken.items():
        (rbee.home / "keys" / f"{name}.key").write_text(key + "\n")


# --- S06


@when("the daemons are asked for what fails, even inside", target_fixture="failures")
def provoke(rbee: Topology) -> list[httpx.Response]:
    """A model folder that is a link to itself is a fault that no code looks for."""
    folder = rbee.home / "models"
    if folder.exists():
        folder.rmdir()
    folder.symlink_to(folder)
    worker = rbee.only_worker()
    chat = {"messages": [{"role": "user", "content": "x"}]}
    asked = [
        rbee.hive.call(routes.HIVE_SPAWN, {"model_ref": "file:///data/a.gguf"}),
        rbee.queen.call(routes.OPENAI_CHAT, {"model": "file:///data/a.gguf", **chat}),
        rbee.queen.call(routes.OPENAI_CHAT, {"model": f"file://{rbee.user_home}/.ssh/id_rsa", **chat}),
        rbee.queen.call(routes.OPENAI_CHAT, {"model": "demo", **chat, "response_format": {"type": "json_schema"}}),
        rbee.queen.call(routes.TASK_CREATE, {"model": "demo", "prompt": "x", "grammar": "root ::= ("}),
        rbee.queen.call(routes.TASK_CREATE, {"key": rbee.key("admin"), "password": "hunter-2", "model": 5}),
        rbee.hive.call(routes.HIVE_READY, {"id": worker["id"]}),
        rbee.api(worker["url"], worker["key"]).call(routes.WORKER_DETOKENIZE, {"tokens": [2**40]}),
        rbee.api(worker["url"], "wrong").call(routes.WORKER_STATS),
        rbee.queen.call(routes.LOGS, query={"worker": "../keys/admin"}),
    ]
    folder.unlink()
    return asked


@then("at least one of them failed inside")
def failed_inside(rbee: Topology, failures: list[httpx.Response]) -> None:
    assert "INTERNAL" in {error_of(answer)["code"] for answer in failures if answer.status_code >= 500}
    assert "Traceback" in log_text(rbee, "hive")  # the log has what the answer does not tell


@then("no answer holds a key, a stack trace, a source file or the home folder of the person")
def tells_nothing(rbee: Topology, failures: list[httpx.Response]) -> None:
    secrets = [rbee.key(name) for name in NAMES] + [row["key"] for row in rbee.hive_workers()]
    for answer in failures:
        text = answer.text.replace(f"file://{rbee.user_home}/.ssh/id_rsa", "")  # what was asked for may be said again
        assert not re.search(r'Traceback|File \\?"|\.py\b|hunter-2', text), text
        assert [secret for secret in secrets if secret in text] == [], text
        assert str(rbee.user_home) not in text, text


# --- S07


def run_with_id(rbee: Topology, request_id: str, model: str) -> EventReader:
    body = {"model": model, "prompt": PROMPT, "max_tokens": 4}
    return rbee.queen.stream(routes.TASK_CREATE, body, headers={"X-Request-Id": request_id})


@when(
    parsers.parse('a task is sent with the request id "{request_id}" that loads the model "{model}"'),
    target_fixture="task",
)
def task_with_id(rbee: Topology, request_id: str, model: str) -> str:
    with run_with_id(rbee, request_id, model) as reader:
        assert reader.headers["X-Request-Id"] == request_id
        assert reader.wait_end()[-1].type == "done"
        return str(reader.headers["X-Task-Id"])


@then(parsers.parse('every line of that task in the logs of queen, hive and worker has the request id "{request_id}"'))
def one_request_id(rbee: Topology, task: str, request_id: str) -> None:
    worker = rbee.only_worker()["id"]
    logs = rbee.home / "logs"

    def of(source: str, *words: str) -> list[dict[str, Any]]:
        rows = [json.loads(line) for line in (logs / f"{source}.log").read_text().splitlines()]
        return [row for row in rows if any(word in json.dumps(row) for word in words)]

    eventually(lambda: of(worker, '"generated"'), "the worker tells of its end")
    queen = of("queen", task)
    hive = of("hive", "goes to CPU", "slots of", f"started {worker}", "a worker is asked for")
    generating = of(worker, task)
    assert len(queen) >= 5
    assert len(hive) >= 3
    assert len(generating) >= 2
    wrong = [row for row in (*queen, *hive, *generating) if row.get("request_id") != request_id]
    assert wrong == []


@when("a task is sent with a request id that is no id", target_fixture="replaced")
def task_with_hostile_id(rbee: Topology) -> str:
    with run_with_id(rbee, "evil id; <b>" + "x" * 99, "demo") as reader:
        reader.wait_end()
        return str(reader.headers["X-Request-Id"])


@then("it was given another one, and no log holds the one that was sent")
def hostile_id_replaced(rbee: Topology, replaced: str) -> None:
    assert re.fullmatch("req-[0-9a-f]{12}", replaced)
    text = "".join(path.read_text(errors="replace") for path in rbee.home.glob("logs/*"))
    assert replaced in text
    assert "evil" not in text


# --- S08

EVIL = "\x1b[2J\x1b]0;owned\x07\x9b31mbee\x1b[0m"


@pytest.fixture
def evil_schema(rbee: Topology) -> Path:
    """A schema whose only string has escape sequences in it, raw."""
    path = rbee.root / "evil.json"
    pattern = "^" + re.escape(EVIL) + "$"
    path.write_text(json.dumps({"type": "string", "pattern": pattern}))
    return path


def evil_infer(schema: Path) -> tuple[str, ...]:
    return ("infer", "--model", "demo", "--prompt", "x", "--max-tokens", "60", "--json-schema", str(schema), "-q")


@when("a person on a terminal asks for an answer that is forced to hold escape sequences", target_fixture="shown")
def on_terminal(rbee: Topology, evil_schema: Path) -> bytes:
    return shown_on_terminal(evil_infer(evil_schema), rbee.environ(), rbee.root)


@then("the answer is shown without them")
def shown_clean(shown: bytes) -> None:
    text = shown.decode()
    assert "bee" in text
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", text), repr(text)
    assert "owned" not in text


@when("that answer goes into a pipe", target_fixture="finished")
def into_pipe(rbee: Topology, evil_schema: Path) -> Finished:
    return rbee.succeed(*evil_infer(evil_schema))


@then("it is passed on as the model wrote it")
def passed_on(finished: Finished) -> None:
    assert "\x1b[2J" in finished.out, repr(finished.out)
    assert "\x1b]0;owned\x07" in finished.out


@when("a worker's log gets escape sequences and a person on a terminal reads the logs", target_fixture="shown_logs")
def logs_on_terminal(rbee: Topology) -> bytes:
    """As llama.cpp would print what a model's file says of itself."""
    worker = rbee.only_worker()["id"]
    with (rbee.home / "logs" / f"{worker}.out").open("a") as out:
        out.write(f"general.name = {EVIL}\n")
    return shown_on_terminal(("logs", "--worker", worker), rbee.environ(), rbee.root)


@then("the log is shown without them")
def log_clean(shown_logs: bytes) -> None:
    text = shown_logs.decode()
    assert "general.name = " in text
    assert "bee" in text
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", text), repr(text)
