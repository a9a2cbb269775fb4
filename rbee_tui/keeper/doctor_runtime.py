"""Whether llama.cpp really runs here: asked of a child process, because a broken build dies by a signal."""

import asyncio
import importlib.metadata
import importlib.util
import shlex
import shutil
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from daemons.contracts.errors import Code
from daemons.contracts.workers import Backend, DevicesReport, SelfTestReport
from daemons.kit.procs import describe_exit
from daemons.lifecycle.build_flags import find_nvidia_gpus
from daemons.lifecycle.plan import worker_argv
from rbee_tui.keeper.checks import Check, Result
from rbee_tui.keeper.packages import install_command

RUNTIME = "llama-cpp-python"
CHILD_LIMIT_S = 120.0
_NOT_STARTED = 127
"""As a shell says it of a program that it cannot start."""

_SIGNAL_BASE = 128

ReportT = TypeVar("ReportT", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Runtime:
    """What runs workers here, and the command that mends it."""

    name: str
    remedy: str


@dataclass(frozen=True, slots=True)
class ChildResult:
    """How a child ended: exit code (negative: signal; None: over the limit), stdout, stderr."""

    code: int | None
    out: str
    err: str

    @property
    def signal_name(self) -> str | None:
        """The signal that killed it, also when a shell or an emulator passed it on as 128 + number."""
        if self.code is None or 0 <= self.code <= _SIGNAL_BASE:
            return None
        number = -self.code if self.code < 0 else self.code - _SIGNAL_BASE
        try:
            return signal.Signals(number).name
        except ValueError:
            return None

    @property
    def last_words(self) -> str:
        """The last line that it wrote, stderr first."""
        lines = [line for line in f"{self.out}\n{self.err}".splitlines() if line.strip()]
        return lines[-1].strip()[:300] if lines else "no output"


async def check_runtime(program: str) -> list[Check]:
    """The self-test and, when it passes, the devices that llama.cpp sees. `program`: the setting worker.program."""
    runtime = await asyncio.to_thread(find_runtime, program)
    if runtime is None:
        sentence = f"{RUNTIME} is not installed: this machine can run no workers"
        return [
            Check("worker runtime", Result.WARN, sentence, await asyncio.to_thread(install_command, "hive", "worker"))
        ]
    tested = judge_self_test(await run_worker_program(program, "self-test", "--json"), runtime)
    if tested.result is not Result.OK:
        return [tested]
    devices = await run_worker_program(program, "devices", "--json")
    return [tested, await asyncio.to_thread(_check_devices, devices, runtime)]


def find_runtime(program: str) -> Runtime | None:
    """The worker program that hives run; None when this installation's lacks llama.cpp."""
    if program:
        return Runtime(f"{program} (setting worker.program)", "rbee config show")
    version = installed_version()
    return None if version is None else Runtime(f"{RUNTIME} {version}", reinstall_command(version))


async def run_worker_program(program: str, *arguments: str) -> ChildResult:
    """Run the worker program ("": this installation's) to its end; a child that takes too long is killed."""
    return await run_child(worker_argv(program, *arguments, python=sys.executable), CHILD_LIMIT_S)


async def run_child(argv: Sequence[str], limit_s: float) -> ChildResult:
    """Run a program to its end, its output kept."""
    try:
        child = await asyncio.create_subprocess_exec(
            *argv, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
    except OSError as error:
        return ChildResult(_NOT_STARTED, "", f"{argv[0]}: {error.strerror or error}")
    try:
        out, err = await asyncio.wait_for(child.communicate(), limit_s)
    except TimeoutError:
        return ChildResult(None, "", "")
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    return ChildResult(child.returncode, out.decode(errors="replace"), err.decode(errors="replace"))


def judge_self_test(child: ChildResult, runtime: Runtime) -> Check:
    """What the end of the self-test says about the installed runtime."""
    name = "worker runtime"
    if child.code is None:
        sentence = f"the self-test of {runtime.name} did not end within {CHILD_LIMIT_S:g} s"
        return Check(name, Result.FAIL, sentence, runtime.remedy)
    if child.signal_name is not None:
        sentence = (
            f"{Code.WORKER_RUNTIME_BROKEN.value}: {runtime.name} was killed by {child.signal_name} in its "
            "self-test; this build uses processor instructions that do not work here; build it for this processor"
        )
        return Check(name, Result.FAIL, sentence, runtime.remedy)
    report = _report(child.out, SelfTestReport)
    if report is None:
        sentence = f"the self-test of {runtime.name} {describe_exit(child.code)} without a report: {child.last_words}"
        return Check(name, Result.FAIL, sentence, runtime.remedy)
    if not report.ok:
        sentence = f"{Code.WORKER_RUNTIME_BROKEN.value}: {runtime.name}: {report.error or 'the self-test failed'}"
        return Check(name, Result.FAIL, sentence, runtime.remedy)
    return Check(
        name, Result.OK, f"{runtime.name} decoded {report.tokens} tokens at {report.tokens_per_second:.0f} tok/s"
    )


def _check_devices(child: ChildResult, runtime: Runtime) -> Check:
    has_nvcc = shutil.which("nvcc") is not None
    return judge_devices(child, find_nvidia_gpus(), runtime.remedy, has_nvcc=has_nvcc)


def judge_devices(child: ChildResult, nvidia_gpus: Sequence[str], reinstall: str, *, has_nvcc: bool) -> Check:
    """Which devices llama.cpp reports, and whether a GPU of this machine (`nvidia_gpus`: names) is not among them.

    `reinstall` builds llama.cpp anew; for CUDA only where the toolkit's compiler is on PATH (`has_nvcc`).
    """
    report = _report(child.out, DevicesReport)
    if report is None or not report.devices:
        return Check("devices", Result.FAIL, f"llama.cpp reports no device: {child.last_words}", "rbee devices")
    found = ", ".join(f"{device.backend.value} {device.description or device.name}" for device in report.devices)
    if not nvidia_gpus or any(device.backend is not Backend.CPU for device in report.devices):
        return Check("devices", Result.OK, found)
    unused = f"{found}; this machine has {', '.join(nvidia_gpus)}, but workers would run on the CPU: llama.cpp"
    if "CUDA" in str(report.version.get("system_info", "")):
        return Check("devices", Result.WARN, f"{unused} was built with CUDA and finds no device", "nvidia-smi")
    advice = "" if has_nvcc else "; first install the CUDA toolkit, so that nvcc is on PATH"
    return Check("devices", Result.WARN, f"{unused} was built without CUDA{advice}", reinstall)


def reinstall_command(version: str) -> str:
    """Builds the runtime anew for this processor; CMAKE_ARGS of the environment may be the fault, and is left out."""
    python = shlex.quote(sys.executable)
    pinned = f"{RUNTIME}=={version}" if version else RUNTIME
    return (
        f'CMAKE_ARGS="$(env -u CMAKE_ARGS {python} -m daemons.lifecycle.build_flags)" {python} -m pip install '
        f"--force-reinstall --no-deps --no-cache-dir --no-binary {RUNTIME} {pinned}"
    )


def installed_version() -> str | None:
    """Version of the installed runtime, "" when its metadata is gone; None when it is not installed."""
    if importlib.util.find_spec("llama_cpp") is None:
        return None
    try:
        return importlib.metadata.version(RUNTIME)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _report(out: str, form: type[ReportT]) -> ReportT | None:
    """The report on the last line that is one; llama.cpp may have written before it."""
    for line in reversed(out.splitlines()):
        try:
            return form.model_validate_json(line)
        except ValidationError:
            continue
    try:
        return form.model_validate_json(out)  # printed over several lines
    except ValidationError:
        return None
