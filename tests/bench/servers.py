"""Starts what is measured, each on the server's core with one compute thread and the same context per slot."""

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.bench import peers
from tests.bench.load import Target

SLOTS = 8
SERVER_CORE, CLIENT_CORE = "0", "1"
START_LIMIT_S = 120.0


@dataclass(frozen=True)
class Job:
    """What every server gets: the model, the context per slot, and how many tokens each request makes."""

    model: Path
    context: int
    tokens: int

    @property
    def sampling(self) -> dict[str, float | int]:
        return {"temperature": 0.7, "top_k": 40, "top_p": 0.95, "min_p": 0.05}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def pinned(core: str, argv: list[str]) -> list[str]:
    return ["taskset", "--cpu-list", core, *argv]


def wait_http(url: str, path: str, process: subprocess.Popen[bytes], key: str = "") -> None:
    """Until the address answers 200; the process must stay alive."""
    deadline = time.monotonic() + START_LIMIT_S
    request = urllib.request.Request(url + path, headers={"Authorization": f"Bearer {key}"} if key else {})
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with status {process.returncode}")
        try:
            with urllib.request.urlopen(request, timeout=2) as response:
                if response.status == 200 and b'"ready":false' not in response.read():
                    return
        except (urllib.error.URLError, OSError):
            pass
        time.sleep(0.1)
    raise RuntimeError(f"{url}{path} did not answer within {START_LIMIT_S:g} s")


@contextlib.contextmanager
def running(argv: list[str], log: Path, **popen: object) -> Iterator[subprocess.Popen[bytes]]:
    """A server process in its own session, ended by SIGTERM and waited for."""
    with log.open("ab") as output:
        process = subprocess.Popen(argv, stdout=output, stderr=output, start_new_session=True, **popen)  # type: ignore[call-overload]
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def llama_server(job: Job, folder: Path, *, unified: bool) -> Iterator[Target]:
    """llama.cpp's own server; `unified` is how its slots share the KV cache."""
    port = free_port()
    argv = [str(peers.llama_server()), "-m", str(job.model), "--host", "127.0.0.1", "--port", str(port), "-t", "1"]
    argv += ["-tb", "1", "-np", str(SLOTS), "-c", str(job.context * SLOTS), "-b", "512", "-ub", "512"]
    argv += ["--kv-unified" if unified else "--no-kv-unified", "--cache-ram", "0", "--no-ui"]
    body = {"n_predict": job.tokens, "stream": True, "ignore_eos": True, "cache_prompt": False, **job.sampling}
    with running(pinned(SERVER_CORE, argv), folder / "llama-server.log") as process:
        url = f"http://127.0.0.1:{port}"
        wait_http(url, "/health", process)
        yield Target(url, "/completion", body=body)


@contextlib.contextmanager
def packaged_server(job: Job, folder: Path) -> Iterator[Target]:
    """The server that llama-cpp-python ships: one request at a time."""
    port = free_port()
    argv = [
        str(peers.packaged_server_python()),
        "-m",
        "llama_cpp.server",
        "--model",
        str(job.model),
        "--n_threads",
        "1",
    ]
    argv += ["--n_threads_batch", "1", "--n_ctx", str(job.context), "--port", str(port), "--host", "127.0.0.1"]
    argv += ["--interrupt_requests", "false", "--verbose", "false"]
    body = {"max_tokens": job.tokens, "stream": True, **job.sampling}
    with running(pinned(SERVER_CORE, argv), folder / "packaged.log") as process:
        url = f"http://127.0.0.1:{port}"
        wait_http(url, "/v1/models", process)
        yield Target(url, "/v1/completions", body=body)


@contextlib.contextmanager
def worker_alone(job: Job, folder: Path) -> Iterator[Target]:
    """rbee's worker without hive or queen."""
    key, port = secrets.token_urlsafe(24), free_port()
    settings = {
        "worker_id": "w-bench000", "key": key, "port": port, "model_ref": f"file://{job.model}",
        "model_path": str(job.model), "ctx": job.context, "slots": SLOTS, "threads": 1,
        "log_path": str(folder / "worker.log"), "orphan_grace_s": 86_400.0,
    }  # fmt: skip
    argv = pinned(SERVER_CORE, [sys.executable, "-m", "daemons.worker.main", "serve"])
    with running(argv, folder / "worker.out", stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(json.dumps(settings).encode() + b"\n")
        process.stdin.close()
        url = f"http://127.0.0.1:{port}"
        wait_http(url, "/v1/ready", process, key)
        yield Target(url, "/v1/inference", key, worker_body(job), id_field="id")


def worker_body(job: Job) -> dict[str, object]:
    return {"max_tokens": job.tokens, "ignore_eos": True, "cache_prompt": False, **job.sampling}


@contextlib.contextmanager
def fleet(job: Job) -> Iterator[tuple[Target, Target]]:
    """Queen, hive and worker: (the keeper through the queen, that very worker directly). The worker gets a core."""
    home = Path(tempfile.mkdtemp(prefix="rbee-bench-"))
    environ = {
        **os.environ, "RBEE_HOME": str(home), "RBEE_QUEEN_PORT": "0", "RBEE_HIVE_PORT": "0",
        "RBEE_HIVE_WORKER_PORT": "0", "RBEE_WORKER_THREADS": "1", "RBEE_WORKER_SLOTS": str(SLOTS),
        "RBEE_WORKER_CTX": str(job.context), "RBEE_MODELS_ALLOWED_FOLDERS": str(job.model.parent),
    }  # fmt: skip
    ref = f"file://{job.model}"

    def rbee(*arguments: str) -> None:
        argv = pinned(CLIENT_CORE, [sys.executable, "-m", "rbee_tui.cli.main", *arguments])
        subprocess.run(argv, check=True, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    try:
        rbee("queen", "start")
        rbee("workers", "start", "--model", ref)
        queen = json.loads((home / "run" / "queen.json").read_text())
        worker = json.loads(next((home / "run" / "workers").glob("*.json")).read_text())
        for task in Path(f"/proc/{_pid(worker)}/task").iterdir():
            os.sched_setaffinity(int(task.name), {int(SERVER_CORE)})
        yield (
            Target(queen["url"], "/v2/tasks", body={"model": ref, **worker_body(job)}, home=str(home)),
            Target(worker["url"], "/v1/inference", worker["worker"]["key"], worker_body(job), id_field="id"),
        )
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):
            rbee("hive", "stop")
        with contextlib.suppress(subprocess.CalledProcessError):
            rbee("queen", "stop")
        shutil.rmtree(home, ignore_errors=True)


def _pid(run_file: dict[str, object]) -> int:
    identity = run_file.get("identity")
    pid = identity["pid"] if isinstance(identity, dict) else run_file["pid"]
    assert isinstance(pid, int)
    return pid
