"""The worker program: how it is called, and what its short commands (devices, self-test) say.

llama.cpp runs in these children only: one that dies of an illegal instruction is a finding, not our crash.
"""

import asyncio
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.workers import DevicesReport, SelfTestReport
from daemons.kit.procs import describe_exit
from daemons.lifecycle.plan import worker_argv

_SECRETS = frozenset({"RBEE_QUEEN_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"})
_ADDED = {
    "GGML_NO_BACKTRACE": "1",  # an abort would bury the log under a debugger's output
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # llama.cpp then counts devices as NVML does
}
_SHOWN_LINES = 5

SELF_TEST_LIMIT_S = 150.0
"""Longer than the limit that the self-test sets itself, which says more."""

ReportT = TypeVar("ReportT", bound=BaseModel)


def worker_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Environment of a worker: ours, without secrets that it has no use for."""
    return {**{name: value for name, value in environ.items() if name not in _SECRETS}, **_ADDED}


class WorkerRuntime:
    """Calls the worker program. `program` "" is the one of this installation."""

    def __init__(self, program: str, *, limit_s: float, environ: Mapping[str, str] | None = None) -> None:
        self._program = program
        self._limit_s = limit_s
        self.environ = worker_environment(os.environ if environ is None else environ)

    def argv(self, *arguments: str) -> list[str]:
        """Command line of the worker program."""
        return worker_argv(self._program, *arguments, python=sys.executable)

    async def devices(self) -> DevicesReport:
        """What llama.cpp can use here. Raises RbeeError(WORKER_RUNTIME_MISSING or WORKER_RUNTIME_BROKEN)."""
        return await self._report(DevicesReport, self._limit_s, "devices", "--json")

    async def self_test(self) -> SelfTestReport:
        """Load the demo model and decode. A runtime that is missing or dies is told in the report's `error`."""
        try:
            return await self._report(SelfTestReport, SELF_TEST_LIMIT_S, "self-test", "--json")
        except RbeeError as error:
            return SelfTestReport(ok=False, error=error.message)

    async def _report(self, model: type[ReportT], limit_s: float, *arguments: str) -> ReportT:
        argv = self.argv(*arguments)
        returncode, out, err = await self._run(argv, limit_s)
        try:
            decoded = json.loads(out.strip().splitlines()[-1])
            if isinstance(decoded, dict) and "error" in decoded and isinstance(decoded["error"], dict):
                raise RbeeError.from_dict(decoded["error"])
            if returncode == 0 or model is SelfTestReport:
                return model.model_validate(decoded)
        except (ValueError, IndexError, ValidationError):
            pass  # whatever it printed is shown below
        raise _broken(argv, returncode, out, err)

    async def _run(self, argv: Sequence[str], limit_s: float) -> tuple[int | None, str, str]:
        """(exit code, stdout, stderr); the code is None when it was killed at the time limit."""
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=self.environ,
            )
        except OSError as error:
            raise missing_program(argv[0], error) from error
        try:
            out, err = await asyncio.wait_for(process.communicate(), limit_s)
        except TimeoutError:
            return None, "", f"no answer within {limit_s:g} s"
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return process.returncode, out.decode(errors="replace"), err.decode(errors="replace")


def missing_program(program: str, error: OSError) -> RbeeError:
    """WORKER_RUNTIME_MISSING for a program that cannot be started."""
    return RbeeError(
        Code.WORKER_RUNTIME_MISSING,
        f"the worker program {program} (setting worker.program) cannot be started: {error.strerror or error}",
        details={"program": program},
    )


def _broken(argv: Sequence[str], returncode: int | None, out: str, err: str) -> RbeeError:
    said = [line for line in (err.strip() or out.strip()).splitlines() if line.strip()][-_SHOWN_LINES:]
    details: dict[str, Any] = {"command": list(argv), "returncode": returncode, "log": said}
    how = "was killed at its time limit" if returncode is None else describe_exit(returncode)
    return RbeeError(
        Code.WORKER_RUNTIME_BROKEN,
        f"llama.cpp does not run here: `{' '.join(argv[-2:])}` {how}" + (f": {said[-1]}" if said else ""),
        details=details,
    )
