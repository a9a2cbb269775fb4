"""CMAKE_ARGS for building llama-cpp-python on this machine: ``python3 daemons/lifecycle/build_flags.py``.

Standard library only, because it runs before anything is installed. Option names are those of ``ggml/CMakeLists.txt``.
The flags go to stdout, remarks to stderr. A ``CMAKE_ARGS`` that is set already is printed unchanged.

GGML_NATIVE stays off: it turns on AMX on some virtual machines whose processor then faults in it. Without it ggml
assumes AVX2, FMA, F16C, BMI2 and SSE4.2 for every x86 processor, so each of these is said explicitly, on or off.
"""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

# Options of x86, each with the /proc/cpuinfo flags that it needs. One -mavx512f of ggml's implies all five.
_X86_OPTIONS = (
    ("GGML_SSE42", ("sse4_2",)),
    ("GGML_AVX", ("avx",)),
    ("GGML_AVX2", ("avx2",)),
    ("GGML_FMA", ("fma",)),
    ("GGML_F16C", ("f16c",)),
    ("GGML_BMI2", ("bmi2",)),
    ("GGML_AVX_VNNI", ("avx_vnni",)),
    ("GGML_AVX512", ("avx512f", "avx512cd", "avx512vl", "avx512dq", "avx512bw")),
)
# Only together with GGML_AVX512.
_AVX512_EXTENSIONS = (
    ("GGML_AVX512_VBMI", ("avx512vbmi",)),
    ("GGML_AVX512_VNNI", ("avx512_vnni",)),
    ("GGML_AVX512_BF16", ("avx512_bf16",)),
)
# Parts of -march for Linux on ARM, each with its flag in /proc/cpuinfo. Without them ggml builds for plain ARMv8.0.
_ARM_EXTENSIONS = (("dotprod", "asimddp"), ("fp16", "asimdhp"), ("i8mm", "i8mm"))
_X86_MACHINES = frozenset({"x86_64", "amd64", "i686", "i386"})
_DRIVER_FOLDER = Path("/proc/driver/nvidia")
_ARM_MACHINES = frozenset({"aarch64", "arm64"})


def build_flags(
    cpu_flags: frozenset[str], machine: str, has_nvcc: bool, cuda_architectures: tuple[str, ...] = ()
) -> str:
    """The flags as one line, as CMAKE_ARGS takes them.

    `cpu_flags` are spelled as in Linux' ``/proc/cpuinfo``, `machine` as ``uname -m`` does. `has_nvcc`: CUDA code can be
    compiled and used here. `cuda_architectures` such as ``90``; none: those that ggml chooses, which takes far longer.
    """
    options = ["GGML_NATIVE=OFF", "GGML_RPC=ON"]
    if machine.lower() in _X86_MACHINES:
        options += _x86_options(cpu_flags)
    elif machine.lower() in _ARM_MACHINES:
        options += _arm_options(cpu_flags)
    if has_nvcc:
        options.append("GGML_CUDA=ON")
        if cuda_architectures:
            options.append("CMAKE_CUDA_ARCHITECTURES=" + ";".join(cuda_architectures))
    return " ".join(f"-D{option}" for option in options)


def _x86_options(cpu_flags: frozenset[str]) -> list[str]:
    chosen = [(name, cpu_flags.issuperset(needed)) for name, needed in _X86_OPTIONS]
    if ("GGML_AVX512", True) in chosen:
        chosen += [(name, True) for name, needed in _AVX512_EXTENSIONS if cpu_flags.issuperset(needed)]
    return [f"{name}={'ON' if on else 'OFF'}" for name, on in chosen]


def _arm_options(cpu_flags: frozenset[str]) -> list[str]:
    extensions = [part for part, flag in _ARM_EXTENSIONS if flag in cpu_flags]
    # On a Mac the compiler's own default is the first Apple processor, and Metal is on by itself.
    return [f"GGML_CPU_ARM_ARCH=armv8.2-a+{'+'.join(extensions)}"] if extensions else []


def parse_cpuinfo(text: str) -> frozenset[str]:
    """Flags that every processor of a ``/proc/cpuinfo`` has (x86 calls the line ``flags``, ARM ``Features``)."""
    sets = [
        frozenset(value.split())
        for key, _, value in (line.partition(":") for line in text.splitlines())
        if key.strip() in ("flags", "Features")
    ]
    return frozenset.intersection(*sets) if sets else frozenset()


def parse_sysctl(text: str) -> frozenset[str]:
    """Flags of an Intel Mac's ``machdep.cpu`` features, spelled as Linux does."""
    special = {"AVX1.0": "avx", "SSE4.2": "sse4_2"}
    return frozenset(special.get(word, word.lower().replace("avx512vnni", "avx512_vnni")) for word in text.split())


def read_cpu_flags() -> frozenset[str]:
    """Flags of this machine's processor; none where the system does not tell."""
    if sys.platform == "darwin":
        names = ("machdep.cpu.features", "machdep.cpu.leaf7_features")
        return parse_sysctl(" ".join(_output_of("sysctl", "-n", name) for name in names))
    try:
        return parse_cpuinfo(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return frozenset()


def parse_compute_capabilities(text: str) -> tuple[str, ...]:
    """``9.0`` per line, as nvidia-smi prints them, to CMake's ``90``; each once."""
    numbers = {line.strip().replace(".", "") for line in text.splitlines()}
    return tuple(sorted(number for number in numbers if number.isdigit()))


def find_nvidia_gpus() -> list[str]:
    """Names of the NVIDIA GPUs that a driver shows here, by nvidia-smi or under ``/proc/driver/nvidia``."""
    told = _output_of("nvidia-smi", "--query-gpu=name", "--format=csv,noheader").splitlines()
    return [name.strip() for name in told if name.strip()] or read_driver_files(_DRIVER_FOLDER)


def read_driver_files(folder: Path) -> list[str]:
    """Models in ``gpus/*/information`` of the driver's folder; none where it has no such files."""
    try:
        texts = [file.read_text(errors="replace") for file in sorted(folder.glob("gpus/*/information"))]
    except OSError:  # the driver is being unloaded
        return []
    rows = [row.partition(":") for text in texts for row in text.splitlines()]
    return [value.strip() for key, _, value in rows if key.strip() == "Model"]


def _has_nvidia_device() -> bool:
    return shutil.which("nvidia-smi") is not None or Path("/dev/nvidia0").exists()


def _output_of(*argv: str) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def main() -> None:
    """Print the flags for this machine."""
    given = os.environ.get("CMAKE_ARGS")
    if given:
        print(given)
        return
    device, nvcc = _has_nvidia_device(), shutil.which("nvcc") is not None
    if device and not nvcc:
        print(
            "NVIDIA driver found, but no nvcc on PATH: building for the CPU only. "
            "Install the CUDA toolkit and run this again for the GPU.",
            file=sys.stderr,
        )
    capabilities = _output_of("nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader") if device else ""
    print(build_flags(read_cpu_flags(), platform.machine(), device and nvcc, parse_compute_capabilities(capabilities)))


if __name__ == "__main__":
    main()
