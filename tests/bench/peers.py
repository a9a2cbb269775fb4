"""The programs rbee is measured against, built or installed once in a cache folder outside the repository.

`RBEE_BENCH_LLAMA_SERVER` names a llama-server that is there already; `RBEE_BENCH_CACHE` another cache folder.
"""

import os
import shlex
import subprocess
import sys
import tarfile
from pathlib import Path

from daemons.lifecycle import build_flags

LLAMA_CPP_PYTHON = "llama-cpp-python==0.3.36"
SERVER_FLAGS = [
    "-DCMAKE_BUILD_TYPE=Release",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
]


def cache_folder() -> Path:
    folder = Path(os.environ.get("RBEE_BENCH_CACHE", "~/.cache/rbee-bench")).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def run(argv: list[str], log: Path, **environ: str) -> None:
    """Run a build step; its output goes to `log`, whose end is shown when it fails."""
    print("  " + shlex.join(argv)[:160], file=sys.stderr)
    with log.open("ab") as output:
        status = subprocess.run(argv, stdout=output, stderr=output, env={**os.environ, **environ}).returncode
    if status:
        sys.exit(f"failed with status {status}; the end of {log}:\n{log.read_text(errors='replace')[-3000:]}")


def flags() -> str:
    """The flags that this machine's llama-cpp-python is built with."""
    return subprocess.run(
        [sys.executable, build_flags.__file__], check=True, capture_output=True, text=True
    ).stdout.strip()


def llama_server() -> Path:
    """llama.cpp's own server, from the very source that the worker's library was built from."""
    named = os.environ.get("RBEE_BENCH_LLAMA_SERVER")
    if named:
        return Path(named)
    folder = cache_folder()
    program = folder / "llama-server-build" / "bin" / "llama-server"
    if program.exists():
        return program
    print("building llama-server (some minutes, once)", file=sys.stderr)
    log = folder / "llama-server.log"
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", "llama-cpp-python"]
    run([*pip, LLAMA_CPP_PYTHON, "--dest", str(folder)], log)
    archive = next(folder.glob("llama_cpp_python-*.tar.gz"))
    with tarfile.open(archive) as source:
        source.extractall(folder, filter="data")
    tree = folder / archive.name.removesuffix(".tar.gz") / "vendor" / "llama.cpp"
    build = str(program.parent.parent)
    run(["cmake", "-S", str(tree), "-B", build, *shlex.split(flags()), *SERVER_FLAGS], log)
    run(["cmake", "--build", build, "--target", "llama-server", "--parallel", str(os.cpu_count() or 1)], log)
    return program


def packaged_server_python() -> Path:
    """A Python that has llama-cpp-python with its packaged server."""
    folder = cache_folder()
    python = folder / "packaged-server" / "bin" / "python"
    if python.exists():
        return python
    print("installing llama-cpp-python's packaged server", file=sys.stderr)
    log = folder / "packaged-server.log"
    run([sys.executable, "-m", "venv", str(python.parent.parent)], log)
    install = [str(python), "-m", "pip", "install", "--quiet"]
    run([*install, LLAMA_CPP_PYTHON.replace("==", "[server]==")], log, CMAKE_ARGS=flags())
    return python
