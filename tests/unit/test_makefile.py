"""What `make` installs again, and when: llama.cpp has to be built with the flags that suit the machine now."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.harness import cannot_run

ROOT = Path(__file__).parents[2]
COPIED = ("Makefile", "pyproject.toml", "daemons/lifecycle/build_flags.py")
TOOLS = ("make", "grep", "sed", "cat", "touch", "env")


@pytest.fixture(autouse=True)
def tools() -> None:
    """Make, and what its recipes call."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        cannot_run(f"not installed: {', '.join(missing)}")


def program(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)


class Checkout:
    """The Makefile with a virtual environment whose pip writes down what it is asked, and nothing else on PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "pip.log"
        for name in COPIED:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
        for tool in TOOLS:
            self.path.mkdir(exist_ok=True)
            (self.path / tool).symlink_to(str(shutil.which(tool)))
        program(self.venv / "python", f'exec "{sys.executable}" "$@"')
        program(self.venv / "pip", f'echo "$CMAKE_ARGS| $*" >>"{self.log}"')
        program(self.venv / "llm-worker-rbee", "exit 0")

    @property
    def venv(self) -> Path:
        return self.folder / ".venv" / "bin"

    @property
    def path(self) -> Path:
        return self.folder / "bin"

    def install_cuda_toolkit(self) -> None:
        program(self.path / "nvidia-smi", "echo 9.0")
        program(self.path / "nvcc", "exit 0")

    def make(self, target: str = ".venv/.ready", **environment: str) -> list[str]:
        """Make it; the calls of pip, each as ``CMAKE_ARGS| arguments``."""
        self.log.write_text("")
        subprocess.run(
            [str(self.path / "make"), target],
            cwd=self.folder, env={"PATH": str(self.path), **environment}, check=True, capture_output=True, timeout=60,
        )  # fmt: skip
        return self.log.read_text().splitlines()

    def make_llama(self, **environment: str) -> str:
        """Make it; the one call that installs llama.cpp."""
        (call,) = [call for call in self.make(**environment) if "llama-cpp-python==" in call]
        return call


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_the_first_install_is_for_the_cpu_and_may_come_from_the_cache(checkout: Checkout) -> None:
    llama, rest = checkout.make()
    assert llama.startswith("-DGGML_NATIVE=OFF ")
    assert "--force-reinstall --no-deps llama-cpp-python==" in llama
    assert "--no-cache-dir" not in llama
    assert rest == "| install --quiet --editable .[all]"


def test_with_the_same_flags_nothing_is_installed_again(checkout: Checkout) -> None:
    checkout.make()
    assert checkout.make() == []


def test_after_the_cuda_toolkit_came_it_is_built_anew_and_past_the_cache(checkout: Checkout) -> None:
    checkout.make()
    checkout.install_cuda_toolkit()
    call = checkout.make_llama()
    assert "-DGGML_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES=90|" in call
    assert "--force-reinstall --no-deps" in call
    assert "--no-cache-dir --no-binary llama-cpp-python" in call
    assert checkout.make() == []


def test_cmake_args_of_the_environment_win_and_go_past_the_cache_and_back(checkout: Checkout) -> None:
    checkout.make()
    call = checkout.make_llama(CMAKE_ARGS="-DGGML_VULKAN=ON")
    assert call.startswith("-DGGML_VULKAN=ON| ")
    assert "--no-cache-dir" in call
    assert checkout.make(CMAKE_ARGS="-DGGML_VULKAN=ON") == []
    assert "--no-cache-dir" not in checkout.make_llama()


def test_another_version_is_installed_by_itself_and_other_changes_of_the_project_are_not(checkout: Checkout) -> None:
    checkout.make()
    project = checkout.folder / "pyproject.toml"
    project.write_text(project.read_text() + "\n")
    assert checkout.make() == ["| install --quiet --editable .[all]"]
    project.write_text(project.read_text().replace("llama-cpp-python==", "llama-cpp-python==9."))
    assert "llama-cpp-python==9." in checkout.make_llama()


def test_a_cached_build_that_does_not_decode_is_compiled_here(checkout: Checkout) -> None:
    program(checkout.venv / "llm-worker-rbee", f'grep -q -e --no-cache-dir "{checkout.log}"')
    assert ["--no-cache-dir" in call for call in checkout.make()] == [False, False, True]
    assert checkout.make() == []


def test_one_that_still_does_not_is_explained_and_does_not_count_as_installed(checkout: Checkout) -> None:
    program(checkout.venv / "llm-worker-rbee", "exit 1")
    program(checkout.venv / "rbee", f'echo "rbee $*" >>"{checkout.log}"')
    for _ in range(2):
        with pytest.raises(subprocess.CalledProcessError):
            checkout.make()
        assert checkout.log.read_text().splitlines()[-1] == "rbee doctor"
