"""The worker program's short commands: what they say, and every way in which they can fail."""

import json
from pathlib import Path

import pytest

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.workers import Backend
from daemons.hive.runtime import WorkerRuntime, worker_environment
from tests.support.fake_worker import DEVICES
from tests.support.hive_harness import program_that


def runtime(folder: Path, script: str, limit_s: float = 20.0) -> WorkerRuntime:
    return WorkerRuntime(str(program_that(folder, script)), limit_s=limit_s)


async def failure_of(found: WorkerRuntime) -> RbeeError:
    with pytest.raises(RbeeError) as failure:
        await found.devices()
    return failure.value


async def test_devices_are_read(fake_program: Path) -> None:
    report = await WorkerRuntime(str(fake_program), limit_s=20.0).devices()
    assert [(device.name, device.backend) for device in report.devices] == [("CPU", Backend.CPU)]
    assert report.version["llama_cpp_python"] == "0.0-fake"


async def test_chatter_before_the_report_is_passed_over(tmp_path: Path) -> None:
    report = await runtime(tmp_path, f"echo loading; echo '{json.dumps(DEVICES)}'").devices()
    assert len(report.devices) == 1


@pytest.mark.parametrize(
    ("script", "code", "words"),
    [
        ("kill -ILL $$", Code.WORKER_RUNTIME_BROKEN, "killed by SIGILL"),
        ("kill -SEGV $$", Code.WORKER_RUNTIME_BROKEN, "killed by SIGSEGV"),
        ("echo libcudart.so.12 not found >&2; exit 1", Code.WORKER_RUNTIME_BROKEN, "libcudart.so.12 not found"),
        ("echo nonsense", Code.WORKER_RUNTIME_BROKEN, "nonsense"),
        ("true", Code.WORKER_RUNTIME_BROKEN, "exited with code 0"),
        ("echo '{\"devices\": 5}'", Code.WORKER_RUNTIME_BROKEN, "devices"),
        (
            'echo \'{"error": {"code": "WORKER_RUNTIME_MISSING", "message": "told so"}}\'; exit 1',
            Code.WORKER_RUNTIME_MISSING,
            "told so",
        ),
    ],
)
async def test_a_runtime_that_does_not_run(tmp_path: Path, script: str, code: Code, words: str) -> None:
    failure = await failure_of(runtime(tmp_path, script))
    assert failure.code is code
    assert words in failure.message
    assert failure.hint


async def test_a_runtime_that_hangs_is_ended(tmp_path: Path) -> None:
    failure = await failure_of(runtime(tmp_path, "exec sleep 60", limit_s=0.3))
    assert failure.code is Code.WORKER_RUNTIME_BROKEN
    assert "time limit" in failure.message


async def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    failure = await failure_of(WorkerRuntime(str(tmp_path / "none"), limit_s=5.0))
    assert failure.code is Code.WORKER_RUNTIME_MISSING


async def test_a_self_test_reports_its_own_failure(tmp_path: Path, fake_program: Path) -> None:
    assert (await WorkerRuntime(str(fake_program), limit_s=20.0).self_test()).ok
    failed = await runtime(tmp_path, 'echo \'{"ok": false, "error": "wrong text"}\'; exit 1').self_test()
    assert (failed.ok, failed.error) == (False, "wrong text")
    died = await runtime(tmp_path, "kill -ILL $$").self_test()
    assert not died.ok
    assert "SIGILL" in (died.error or "")


def test_the_environment_of_workers_has_no_secrets_and_what_llama_cpp_needs() -> None:
    given = worker_environment({"PATH": "/bin", "RBEE_QUEEN_KEY": "secret", "HF_TOKEN": "secret"})
    assert given == {"PATH": "/bin", "GGML_NO_BACKTRACE": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def test_the_program_is_ours_or_the_configured_one() -> None:
    assert WorkerRuntime("", limit_s=1.0).argv("devices")[1:] == ["-P", "-m", "daemons.worker.main", "devices"]
    assert WorkerRuntime("/opt/w", limit_s=1.0).argv("serve", "x") == ["/opt/w", "serve", "x"]
