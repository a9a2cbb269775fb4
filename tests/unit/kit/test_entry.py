"""Programs of an installation without their packages say which one is missing, and which extra has it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from daemons.contracts.errors import Code
from daemons.kit.entry import missing_package

CODE = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {module!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
from {program} import main
main({arguments!r})
"""
QUEEN, HIVE, WORKER = "daemons.queen.main", "daemons.hive.main", "daemons.worker.main"
SETTINGS = {
    "worker_id": "w-0a1b2c3d", "key": "a-key-of-this-test-0123456789", "model_ref": "demo", "model_path": "/none.gguf",
    "ctx": 512, "slots": 1,
}  # fmt: skip


def run_without(module: str, program: str, *arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    """The program in a process that cannot import `module`; it ends by itself, or nothing was missing."""
    code = CODE.format(module=module, program=program, arguments=list(arguments))
    return subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps({**SETTINGS, "log_path": str(home / "worker.log")}) + "\n",
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "RBEE_HOME": str(home), "RBEE_QUEEN_PORT": "0", "RBEE_HIVE_PORT": "0"},
    )


@pytest.mark.parametrize(
    ("module", "program", "code", "package", "extra"),
    [
        ("uvicorn", QUEEN, Code.DAEMON_START_FAILED, "uvicorn", "queen"),
        ("uvloop", QUEEN, Code.DAEMON_START_FAILED, "uvloop", "queen"),
        ("duckdb", QUEEN, Code.DAEMON_START_FAILED, "duckdb", "queen"),
        ("starlette", HIVE, Code.DAEMON_START_FAILED, "starlette", "hive"),
        ("prometheus_client", HIVE, Code.DAEMON_START_FAILED, "prometheus-client", "hive"),
        ("jinja2", WORKER, Code.WORKER_RUNTIME_MISSING, "jinja2", "worker"),
        ("llama_cpp", WORKER, Code.WORKER_RUNTIME_MISSING, "llama-cpp-python", "worker"),
    ],
)
def test_a_daemon_without_a_package_ends_with_one_line(
    tmp_path: Path, module: str, program: str, code: Code, package: str, extra: str
) -> None:
    done = run_without(module, program, "serve", home=tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    (line,) = done.stdout.splitlines()
    error = json.loads(line)["error"]
    assert error["code"] == code
    assert error["details"] == {"package": package, "extra": extra}
    assert package in error["message"]
    assert f"rbee[{extra}]" in error["message"]


@pytest.mark.parametrize("command", ["devices", "self-test"])
def test_a_short_command_without_llama_cpp_says_so(tmp_path: Path, command: str) -> None:
    for_people = run_without("llama_cpp", WORKER, command, home=tmp_path)
    assert (for_people.returncode, for_people.stdout) == (1, "")
    assert for_people.stderr == (
        "WORKER_RUNTIME_MISSING: the package llama-cpp-python is not installed; it comes with the extra rbee[worker]\n"
    )
    for_programs = run_without("llama_cpp", WORKER, command, "--json", home=tmp_path)
    assert (for_programs.returncode, for_programs.stderr) == (1, "")
    assert json.loads(for_programs.stdout)["error"]["code"] == Code.WORKER_RUNTIME_MISSING


@pytest.mark.parametrize("name", ["daemons.kit.nothing", "rbee_tui", None])
def test_a_missing_module_of_ours_stays_a_defect(name: str | None) -> None:
    with pytest.raises(ModuleNotFoundError):
        missing_package(ModuleNotFoundError("no", name=name), "queen", Code.DAEMON_START_FAILED)
