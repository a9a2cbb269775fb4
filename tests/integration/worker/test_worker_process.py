"""The worker program as a hive runs it: settings on stdin, ready callback, signals, absence of the hive, exit codes."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from daemons.contracts import routes
from daemons.contracts.errors import Code
from daemons.contracts.events import EventType
from daemons.contracts.routes import Daemon, Role
from daemons.contracts.workers import (
    DevicesReport,
    ReadyCallback,
    SelfTestReport,
    WorkerState,
    WorkerStats,
)
from daemons.kit.app import Handler, Result, build_app
from daemons.kit.auth import Keyring
from daemons.kit.client import DaemonClient, Peer
from daemons.kit.policy import Policy
from daemons.kit.procs import bind_listening
from daemons.kit.server import url_of
from daemons.models.demo import DEMO_MODEL_PATH
from tests.support.http_service import running

pytestmark = pytest.mark.real_llama

KEY = "a-key-that-must-stay-secret-0123456789"
WAIT_S = 30.0
PROGRAM = (sys.executable, "-m", "daemons.worker.main")


def settings(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    values = {
        "worker_id": "w-0a1b2c3d", "key": KEY, "model_ref": "demo", "model_path": str(DEMO_MODEL_PATH), "ctx": 512,
        "slots": 2, "threads": 1, "log_path": str(tmp_path / "worker.log"), "drain_s": 5.0,
    }  # fmt: skip
    return {**values, **changes}


@asynccontextmanager
async def started(values: dict[str, Any], sock: socket.socket, output: Path) -> AsyncIterator[Process]:
    """A worker process on an inherited socket, as hives start it; killed afterwards if it still runs."""
    line = json.dumps({**values, "listen_fd": sock.fileno()}).encode() + b"\n"
    with output.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            *PROGRAM, "serve", stdin=subprocess.PIPE, stdout=file, stderr=file,
            pass_fds=[sock.fileno()], start_new_session=True,
        )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(line)
    process.stdin.close()
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def client_of(url: str) -> DaemonClient:
    return DaemonClient(Peer(url, KEY, "the worker", Code.WORKER_CRASHED), Policy())


async def ended(process: Process) -> int:
    return await asyncio.wait_for(process.wait(), WAIT_S)


def log_lines(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "worker.log").read_text().splitlines()]


class FakeHive:
    """Takes ready callbacks."""

    def __init__(self) -> None:
        self.callbacks: asyncio.Queue[ReadyCallback] = asyncio.Queue()

    def app(self) -> Any:
        async def ready(_request: object, body: ReadyCallback) -> Result:
            await self.callbacks.put(body)
            return {"accepted": True}

        async def nothing(_request: object, _body: object) -> Result:
            return None

        handlers: dict[routes.Route, Handler] = dict.fromkeys(routes.routes_of(Daemon.HIVE), nothing)
        handlers[routes.HIVE_READY] = ready
        keyring = Keyring({KEY: Role.WORKER})
        return build_app(Daemon.HIVE, handlers, keyring=lambda: keyring, policy=Policy())


async def test_life_of_a_worker(tmp_path: Path) -> None:
    """HTTP, ready callback with its own key, tokens, SIGTERM, exit 0; no secret in log, output or argument list."""
    hive, output = FakeHive(), tmp_path / "out"
    sock = bind_listening("127.0.0.1", 0)
    url = url_of(sock)
    async with running(hive.app()) as hive_url:
        values = settings(tmp_path, ready_url=f"{hive_url}/v1/workers/ready")
        async with started(values, sock, output) as process, client_of(url) as client:
            sock.close()
            callback = await asyncio.wait_for(hive.callbacks.get(), WAIT_S)
            assert callback.id == "w-0a1b2c3d"
            assert (callback.url, callback.pid, callback.slots_total, callback.ctx) == (url, process.pid, 2, 512)
            arguments = await asyncio.to_thread(Path(f"/proc/{process.pid}/cmdline").read_bytes)
            body = {"id": "r-1", "messages": [{"role": "user", "content": "How do I add a node?"}], "temperature": 0.0}
            headers = {"X-Request-Id": "req-f00d"}
            async with client.stream(routes.WORKER_INFER, body=body, headers=headers) as events:
                seen = [event async for event in events]
            assert seen[-1].type == EventType.DONE
            assert seen[-1].data["finish_reason"] == "stop"
            assert "rbee setup add-node" in "".join(e.data["token"] for e in seen if e.type == EventType.TOKEN)
            process.send_signal(signal.SIGTERM)
            assert await ended(process) == 0
    lines = log_lines(tmp_path)
    assert lines[0]["text"] == "started"
    assert lines[0]["command"][-1] == "serve"
    assert any(line.get("request_id") == "req-f00d" for line in lines)
    for text in (arguments, (tmp_path / "worker.log").read_bytes(), output.read_bytes()):
        assert KEY.encode() not in text


async def test_model_that_cannot_be_loaded_is_the_last_word(tmp_path: Path) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_text("not a model")
    sock = bind_listening("127.0.0.1", 0)
    async with started(settings(tmp_path, model_path=str(bad)), sock, tmp_path / "out") as process:
        sock.close()
        assert await ended(process) == 1
    last = json.loads((tmp_path / "out").read_text().splitlines()[-1])
    assert last["error"]["code"] == "MODEL_INVALID"
    assert any(line.get("code") == "MODEL_INVALID" for line in log_lines(tmp_path))


async def test_settings_that_are_wrong_name_the_field_and_not_the_key(tmp_path: Path) -> None:
    done = await asyncio.to_thread(
        subprocess.run,
        [*PROGRAM, "serve"],
        input=json.dumps(settings(tmp_path, slots=0)).encode(),
        capture_output=True,
        timeout=WAIT_S,
        check=False,
    )
    assert done.returncode == 1
    error = json.loads(done.stdout.splitlines()[-1])["error"]
    assert error["code"] == "CONFIG_INVALID"
    assert "slots" in error["message"]
    assert KEY.encode() not in done.stdout + done.stderr


async def test_port_that_is_taken_is_said(tmp_path: Path) -> None:
    sock = bind_listening("127.0.0.1", 0)
    values = settings(tmp_path, port=sock.getsockname()[1])
    done = await asyncio.to_thread(
        subprocess.run,
        [*PROGRAM, "serve"],
        input=json.dumps(values).encode(),
        capture_output=True,
        timeout=WAIT_S,
        check=False,
    )
    sock.close()
    assert done.returncode == 1
    assert json.loads(done.stdout.splitlines()[-1])["error"]["code"] == "PORT_IN_USE"


async def test_worker_without_a_hive_ends_when_its_grace_is_over(tmp_path: Path) -> None:
    """Its parent ends right after starting it; nobody asks for it; it drains and exits by itself."""
    sock = bind_listening("127.0.0.1", 0)
    url = url_of(sock)
    values = settings(tmp_path, orphan_grace_s=0.3, listen_fd=sock.fileno())
    script = (
        "import subprocess, sys\n"
        f"child = subprocess.Popen({[*PROGRAM, 'serve']!r}, stdin=subprocess.PIPE, start_new_session=True,\n"
        f"                         close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\n"
        f"child.stdin.write({json.dumps(values).encode() + bytes([10])!r}); child.stdin.close()\n"
        "print(child.pid)\n"
    )
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, stdout=subprocess.PIPE, pass_fds=[sock.fileno()]
    )
    out, _ = await parent.communicate()
    descriptor = os.pidfd_open(int(out))
    sock.close()
    over = asyncio.Event()
    asyncio.get_running_loop().add_reader(descriptor, over.set)
    async with client_of(url) as client:
        assert (await client.get(routes.WORKER_STATS, WorkerStats)).state in {WorkerState.LOADING, WorkerState.IDLE}
        await asyncio.wait_for(over.wait(), WAIT_S)
    asyncio.get_running_loop().remove_reader(descriptor)
    os.close(descriptor)
    assert any("no hive" in line["text"] for line in log_lines(tmp_path))


async def run_program(*arguments: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(*PROGRAM, *arguments, stdout=subprocess.PIPE)
    out, _ = await asyncio.wait_for(process.communicate(), WAIT_S)
    assert process.returncode is not None
    return process.returncode, out.decode()


async def test_devices_are_reported_as_json() -> None:
    code, out = await run_program("devices", "--json")
    report = DevicesReport.model_validate_json(out)
    assert code == 0
    assert any(device.backend.value == "cpu" and device.memory_total > 0 for device in report.devices)
    assert report.version["llama_cpp_python"]


async def test_self_test_decodes_the_demo_model() -> None:
    code, out = await run_program("self-test", "--json")
    report = SelfTestReport.model_validate_json(out)
    assert code == 0
    assert report.ok
    assert report.tokens == 16
    assert "node" in report.text
    assert report.load_ms > 0


async def test_self_test_of_a_bad_file_says_why(tmp_path: Path) -> None:
    code, out = await run_program("self-test", "--json", "--model", str(tmp_path / "none.gguf"))
    report = SelfTestReport.model_validate_json(out)
    assert code == 1
    assert not report.ok
    assert report.error is not None
    assert "none.gguf" in report.error


async def test_estimate_grows_with_context_and_slots() -> None:
    sizes = []
    for ctx, slots in (("512", "1"), ("1024", "1"), ("1024", "4")):
        code, out = await run_program(
            "estimate", "--json", "--model", str(DEMO_MODEL_PATH), "--ctx", ctx, "--slots", slots
        )
        assert code == 0
        sizes.append(json.loads(out))
    assert sizes[0]["weights_bytes"] == sizes[2]["weights_bytes"] > 1_000_000
    assert [size["kv_bytes"] / sizes[0]["kv_bytes"] for size in sizes] == pytest.approx([1, 2, 8], rel=0.02)
    assert all(size["compute_bytes"] > 0 for size in sizes)


async def test_help_comes_without_llama_cpp() -> None:
    code = "import sys, daemons.worker.main; print(any('llama_cpp' in name or 'numpy' in name for name in sys.modules))"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=subprocess.PIPE)
    out, _ = await process.communicate()
    assert out.strip() == b"False"
