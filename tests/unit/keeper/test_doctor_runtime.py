"""A worker runtime that dies by a signal is a finding with a command to run, not a crash of ours."""

import asyncio
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from daemons.contracts.workers import Backend, DeviceReport, DevicesReport, SelfTestReport
from rbee_tui.keeper import doctor_runtime
from rbee_tui.keeper.checks import Check, Result
from rbee_tui.keeper.doctor_runtime import (
    ChildResult,
    Runtime,
    check_runtime,
    judge_devices,
    judge_self_test,
    reinstall_command,
    run_child,
)
from rbee_tui.keeper.packages import install_command

GOOD = SelfTestReport(ok=True, tokens=8, tokens_per_second=312.4).model_dump_json()

INSTALLED = Runtime("llama-cpp-python 0.3.36", reinstall_command("0.3.36"))


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


class TestSelfTest:
    @pytest.mark.parametrize(
        "out",
        [
            GOOD,
            f"llama_model_loader: noise\n{GOOD}\n",
            SelfTestReport(ok=True, tokens=8, tokens_per_second=312.4).model_dump_json(indent=2),
        ],
    )
    def test_a_report_that_is_fine(self, out: str) -> None:
        check = judge_self_test(ChildResult(0, out, "noise"), INSTALLED)
        assert check == Check("worker runtime", Result.OK, "llama-cpp-python 0.3.36 decoded 8 tokens at 312 tok/s")

    @pytest.mark.parametrize(
        ("code", "name"), [(-11, "SIGSEGV"), (-4, "SIGILL"), (-6, "SIGABRT"), (139, "SIGSEGV"), (132, "SIGILL")]
    )
    def test_death_by_signal_is_explained_with_the_command_that_builds_it_anew(self, code: int, name: str) -> None:
        check = judge_self_test(ChildResult(code, "", "general protection fault"), INSTALLED)
        assert check.result is Result.FAIL
        assert f"WORKER_RUNTIME_BROKEN: llama-cpp-python 0.3.36 was killed by {name}" in check.sentence
        assert "daemons.lifecycle.build_flags" in check.command
        assert "llama-cpp-python==0.3.36" in check.command

    def test_a_report_that_is_not_fine_says_why(self) -> None:
        out = SelfTestReport(ok=False, error="decoded garbage").model_dump_json()
        check = judge_self_test(ChildResult(1, out, ""), INSTALLED)
        assert (check.result, "decoded garbage" in check.sentence) == (Result.FAIL, True)

    def test_no_report_says_the_last_words(self) -> None:
        check = judge_self_test(ChildResult(1, "", "Traceback\nImportError: libcudart.so.12\n"), INSTALLED)
        assert check.result is Result.FAIL
        assert "exited with code 1 without a report: ImportError: libcudart.so.12" in check.sentence

    def test_a_child_that_hangs_is_said_to_hang(self) -> None:
        assert "did not end within 120 s" in judge_self_test(ChildResult(None, "", ""), INSTALLED).sentence

    def test_a_version_that_nobody_knows_is_not_pinned(self) -> None:
        assert reinstall_command("").endswith("--no-binary llama-cpp-python llama-cpp-python")


def judge(
    *backends: Backend, gpus: Sequence[str] = (), system_info: str = "CPU : AVX2 = 1 |", nvcc: bool = True
) -> Check:
    devices = [
        DeviceReport(name="any", description=f"its {backend.value}", backend=backend, memory_total=1, memory_free=1)
        for backend in backends
    ]
    out = DevicesReport(devices=devices, version={"system_info": system_info}).model_dump_json()
    return judge_devices(ChildResult(0, out, ""), gpus, "build it anew", has_nvcc=nvcc)


class TestDevices:
    def test_they_are_listed(self) -> None:
        assert judge(Backend.CPU) == Check("devices", Result.OK, "cpu its cpu")

    @pytest.mark.parametrize("out", ["", DevicesReport(devices=[]).model_dump_json()])
    def test_none_is_a_failure(self, out: str) -> None:
        assert judge_devices(ChildResult(0, out, "no backend"), [], "", has_nvcc=True).result is Result.FAIL

    @pytest.mark.parametrize("backend", [Backend.CUDA, Backend.VULKAN])
    def test_an_nvidia_gpu_that_is_used_is_fine(self, backend: Backend) -> None:
        assert judge(backend, Backend.CPU, gpus=["NVIDIA H200"]).result is Result.OK

    @pytest.mark.parametrize("nvcc", [True, False])
    def test_one_that_a_build_for_the_cpu_leaves_unused_is_a_warning(self, nvcc: bool) -> None:
        check = judge(Backend.CPU, gpus=["NVIDIA H200", "NVIDIA L4"], nvcc=nvcc)
        assert (check.result, check.command) == (Result.WARN, "build it anew")
        assert "has NVIDIA H200, NVIDIA L4, but workers would run on the CPU" in check.sentence
        assert "built without CUDA" in check.sentence
        assert ("install the CUDA toolkit" in check.sentence) is not nvcc

    def test_a_build_for_cuda_that_finds_none_is_not_built_again(self) -> None:
        check = judge(Backend.CPU, gpus=["NVIDIA H200"], system_info="CUDA : ARCHS = 900 | CPU : AVX2 = 1 |")
        assert (check.result, check.command) == (Result.WARN, "nvidia-smi")
        assert "built with CUDA and finds no device" in check.sentence


class TestChildren:
    """The real thing: a process that ends well, is killed by a signal, or never ends."""

    async def test_output_and_code_are_kept(self) -> None:
        child = await run_child(python("import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"), 20)
        assert child == ChildResult(3, "out\n", "err\n")

    async def test_a_signal_is_named(self) -> None:
        child = await run_child(python("import os, signal; os.kill(os.getpid(), signal.SIGILL)"), 20)
        assert (child.code, child.signal_name) == (-4, "SIGILL")

    async def test_one_that_hangs_is_killed(self) -> None:
        assert await run_child(python("import time; time.sleep(60)"), 0.2) == ChildResult(None, "", "")

    @pytest.mark.parametrize(
        ("code", "name"), [(0, None), (1, None), (128, None), (127, None), (255, None), (None, None)]
    )
    def test_other_codes_are_no_signals(self, code: int | None, name: str | None) -> None:
        assert ChildResult(code, "", "").signal_name is name


async def test_a_broken_runtime_is_not_asked_for_its_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []

    async def dies(_program: str, *arguments: str) -> ChildResult:
        asked.append(arguments)
        return ChildResult(-11, "", "")

    monkeypatch.setattr(doctor_runtime, "run_worker_program", dies)
    monkeypatch.setattr(doctor_runtime, "installed_version", lambda: "0.3.36")
    (check,) = await check_runtime("")
    assert (check.result, asked) == (Result.FAIL, [("self-test", "--json")])


async def test_the_program_that_the_hive_runs_is_the_one_that_is_tested(tmp_path: Path) -> None:
    """The setting worker.program; real processes."""
    program = tmp_path / "worker"
    (missing,) = await check_runtime(str(program))
    assert (missing.result, missing.command) == (Result.FAIL, "rbee config show")
    assert f"{program}: No such file or directory" in missing.sentence
    program.write_text("#!/bin/sh\nkill -ILL $$\n")
    program.chmod(0o755)
    (killed,) = await check_runtime(str(program))
    assert f"{program} (setting worker.program) was killed by SIGILL" in killed.sentence


async def test_without_llama_cpp_the_command_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    expected = await asyncio.to_thread(install_command, "hive", "worker")
    (check,) = await check_runtime("")
    assert (check.result, check.command) == (Result.WARN, expected)


@pytest.mark.parametrize("gpus", [[], ["NVIDIA H200"]])
async def test_the_gpus_of_this_machine_are_held_against_the_devices(
    monkeypatch: pytest.MonkeyPatch, gpus: list[str]
) -> None:
    device = DeviceReport(name="CPU", description="Xeon", backend=Backend.CPU, memory_total=1, memory_free=1)
    answers = {"self-test": GOOD, "devices": DevicesReport(devices=[device]).model_dump_json()}

    async def answer(_program: str, *arguments: str) -> ChildResult:
        return ChildResult(0, answers[arguments[0]], "")

    monkeypatch.setattr(doctor_runtime, "run_worker_program", answer)
    monkeypatch.setattr(doctor_runtime, "installed_version", lambda: "0.3.36")
    monkeypatch.setattr(doctor_runtime, "find_nvidia_gpus", lambda: gpus)
    _, devices = await check_runtime("")
    assert devices.command == (reinstall_command("0.3.36") if gpus else "")


def test_the_reinstall_command_is_one_that_a_shell_takes() -> None:
    words = shlex.split(reinstall_command("0.3.36"))
    assert words[0].startswith("CMAKE_ARGS=$(env -u CMAKE_ARGS ")
    assert words[1:4] == [sys.executable, "-m", "pip"]
