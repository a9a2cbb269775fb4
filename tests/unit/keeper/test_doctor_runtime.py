"""A worker runtime that dies by a signal is a finding with a command to run, not a crash of ours."""

import shlex
import sys

import pytest

from daemons.contracts.workers import Backend, DeviceReport, DevicesReport, SelfTestReport
from rbee_tui.keeper import doctor_runtime
from rbee_tui.keeper.checks import Check, Result
from rbee_tui.keeper.doctor_runtime import (
    ChildResult,
    check_runtime,
    judge_devices,
    judge_self_test,
    reinstall_command,
    run_child,
)

GOOD = SelfTestReport(ok=True, tokens=8, tokens_per_second=312.4).model_dump_json()


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
        check = judge_self_test(ChildResult(0, out, "noise"), "0.3.36")
        assert check == Check("worker runtime", Result.OK, "llama-cpp-python 0.3.36 decoded 8 tokens at 312 tok/s")

    @pytest.mark.parametrize(
        ("code", "name"), [(-11, "SIGSEGV"), (-4, "SIGILL"), (-6, "SIGABRT"), (139, "SIGSEGV"), (132, "SIGILL")]
    )
    def test_death_by_signal_is_explained_with_the_command_that_builds_it_anew(self, code: int, name: str) -> None:
        check = judge_self_test(ChildResult(code, "", "general protection fault"), "0.3.36")
        assert check.result is Result.FAIL
        assert f"WORKER_RUNTIME_BROKEN: llama-cpp-python 0.3.36 was killed by {name}" in check.sentence
        assert "daemons.lifecycle.build_flags" in check.command
        assert "llama-cpp-python==0.3.36" in check.command

    def test_a_report_that_is_not_fine_says_why(self) -> None:
        out = SelfTestReport(ok=False, error="decoded garbage").model_dump_json()
        check = judge_self_test(ChildResult(1, out, ""), "0.3.36")
        assert (check.result, "decoded garbage" in check.sentence) == (Result.FAIL, True)

    def test_no_report_says_the_last_words(self) -> None:
        check = judge_self_test(ChildResult(1, "", "Traceback\nImportError: libcudart.so.12\n"), "0.3.36")
        assert check.result is Result.FAIL
        assert "exited with code 1 without a report: ImportError: libcudart.so.12" in check.sentence

    def test_a_child_that_hangs_is_said_to_hang(self) -> None:
        assert "did not end within 120 s" in judge_self_test(ChildResult(None, "", ""), "0.3.36").sentence

    def test_a_version_that_nobody_knows_is_not_pinned(self) -> None:
        assert reinstall_command("").endswith("--no-binary llama-cpp-python llama-cpp-python")


class TestDevices:
    def test_they_are_listed(self) -> None:
        device = DeviceReport(name="CPU", description="Xeon", backend=Backend.CPU, memory_total=1, memory_free=1)
        out = DevicesReport(devices=[device]).model_dump_json()
        assert judge_devices(ChildResult(0, out, "")) == Check("devices", Result.OK, "cpu Xeon")

    @pytest.mark.parametrize("out", ["", DevicesReport(devices=[]).model_dump_json()])
    def test_none_is_a_failure(self, out: str) -> None:
        assert judge_devices(ChildResult(0, out, "no backend")).result is Result.FAIL


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

    async def dies(*arguments: str) -> ChildResult:
        asked.append(arguments)
        return ChildResult(-11, "", "")

    monkeypatch.setattr(doctor_runtime, "run_worker_program", dies)
    monkeypatch.setattr(doctor_runtime, "installed_version", lambda: "0.3.36")
    (check,) = await check_runtime()
    assert (check.result, asked) == (Result.FAIL, [("self-test", "--json")])


async def test_without_llama_cpp_the_command_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (check,) = await check_runtime()
    assert (check.result, check.command) == (Result.WARN, "pip install 'rbee[hive,worker]'")


def test_the_reinstall_command_is_one_that_a_shell_takes() -> None:
    words = shlex.split(reinstall_command("0.3.36"))
    assert words[0].startswith("CMAKE_ARGS=$(env -u CMAKE_ARGS ")
    assert words[1:4] == [sys.executable, "-m", "pip"]
