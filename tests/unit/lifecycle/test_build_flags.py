"""llama.cpp is compiled for the processor that is there, never with AMX, and as the person says when they say."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemons.lifecycle import build_flags as module
from daemons.lifecycle.build_flags import build_flags, parse_compute_capabilities, parse_cpuinfo, parse_sysctl

SCRIPT = Path(module.__file__)
HASWELL = frozenset({"sse4_2", "avx", "avx2", "fma", "f16c", "bmi2"})
AVX512 = frozenset({"avx512f", "avx512cd", "avx512vl", "avx512dq", "avx512bw"})
SAPPHIRE_RAPIDS = HASWELL | AVX512 | {"avx512vbmi", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_tile", "amx_int8"}


def options(line: str) -> dict[str, str]:
    """-DNAME=VALUE words as a dictionary."""
    words = line.split()
    assert all(word.startswith("-D") for word in words)
    return {word[2:].partition("=")[0]: word.partition("=")[2] for word in words}


def test_a_processor_with_avx2_gets_it_and_nothing_newer() -> None:
    assert options(build_flags(HASWELL, "x86_64", False)) == {
        "GGML_NATIVE": "OFF",
        "GGML_RPC": "ON",
        "GGML_SSE42": "ON",
        "GGML_AVX": "ON",
        "GGML_AVX2": "ON",
        "GGML_FMA": "ON",
        "GGML_F16C": "ON",
        "GGML_BMI2": "ON",
        "GGML_AVX_VNNI": "OFF",
        "GGML_AVX512": "OFF",
    }


def test_avx512_comes_with_the_extensions_that_are_there() -> None:
    chosen = options(build_flags(SAPPHIRE_RAPIDS - {"avx512_bf16"}, "x86_64", False))
    assert chosen["GGML_AVX512"] == chosen["GGML_AVX512_VBMI"] == chosen["GGML_AVX512_VNNI"] == "ON"
    assert chosen["GGML_AVX_VNNI"] == "ON"
    assert "GGML_AVX512_BF16" not in chosen


@pytest.mark.parametrize("missing", sorted(AVX512))
def test_avx512_needs_all_five_of_its_parts(missing: str) -> None:
    chosen = options(build_flags(SAPPHIRE_RAPIDS - {missing}, "x86_64", False))
    assert chosen["GGML_AVX512"] == "OFF"
    assert not [name for name in chosen if name.startswith("GGML_AVX512_")]


def test_what_an_old_processor_lacks_is_turned_off_because_ggml_assumes_it() -> None:
    chosen = options(build_flags(frozenset({"sse4_2", "avx"}), "x86_64", False))
    assert {name for name, value in chosen.items() if value == "OFF"} >= {
        "GGML_AVX2",
        "GGML_FMA",
        "GGML_F16C",
        "GGML_BMI2",
    }


@given(st.frozensets(st.sampled_from(sorted(SAPPHIRE_RAPIDS)) | st.text(max_size=12)), st.booleans())
def test_never_amx_never_native_and_only_what_the_processor_has(flags: frozenset[str], cuda: bool) -> None:
    chosen = options(build_flags(flags, "x86_64", cuda))
    assert "AMX" not in "".join(chosen)
    assert chosen["GGML_NATIVE"] == "OFF"
    assert (chosen["GGML_AVX2"] == "ON") is ("avx2" in flags)
    assert chosen.get("GGML_CUDA") == ("ON" if cuda else None)


def test_cuda_is_built_for_the_devices_that_are_there() -> None:
    chosen = options(build_flags(HASWELL, "x86_64", True, ("86", "90")))
    assert (chosen["GGML_CUDA"], chosen["CMAKE_CUDA_ARCHITECTURES"]) == ("ON", "86;90")
    assert "CMAKE_CUDA_ARCHITECTURES" not in options(build_flags(HASWELL, "x86_64", True))


def test_linux_on_arm_gets_the_extensions_that_are_there() -> None:
    features = frozenset({"fp", "asimd", "asimdhp", "asimddp", "i8mm", "sve"})
    assert options(build_flags(features, "aarch64", False)) == {
        "GGML_NATIVE": "OFF",
        "GGML_RPC": "ON",
        "GGML_CPU_ARM_ARCH": "armv8.2-a+dotprod+fp16+i8mm",
    }


@pytest.mark.parametrize("machine", ["arm64", "aarch64", "riscv64"])
def test_a_processor_that_tells_nothing_gets_nothing_but_native_off(machine: str) -> None:
    assert build_flags(frozenset(), machine, False) == "-DGGML_NATIVE=OFF -DGGML_RPC=ON"


def test_only_flags_of_every_processor_count() -> None:
    text = "processor\t: 0\nflags\t\t: fpu avx avx2\n\nprocessor\t: 1\nflags\t\t: fpu avx\n"
    assert parse_cpuinfo(text) == {"fpu", "avx"}
    assert parse_cpuinfo("processor : 0\nFeatures\t: fp asimd asimddp\n") == {"fp", "asimd", "asimddp"}
    assert parse_cpuinfo("") == frozenset()


def test_an_intel_mac_spells_flags_differently() -> None:
    spelled = "FPU SSE4.2 FMA F16C AVX1.0 AVX2 BMI2 AVX512F AVX512CD AVX512VL AVX512DQ AVX512BW AVX512VBMI AVX512VNNI"
    chosen = options(build_flags(parse_sysctl(spelled), "x86_64", False))
    assert {name for name, value in chosen.items() if value == "OFF"} == {"GGML_NATIVE", "GGML_AVX_VNNI"}
    assert chosen["GGML_AVX512_VNNI"] == "ON"


def test_compute_capabilities_are_named_once_each() -> None:
    assert parse_compute_capabilities("9.0\n8.6\n9.0\n[N/A]\n") == ("86", "90")
    assert parse_compute_capabilities("") == ()


def run_script(path: str, tmp_path: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """The script, isolated from site-packages, with only these programs on PATH."""
    env = {"PATH": path, "HOME": str(tmp_path), **environment}
    return subprocess.run(
        [sys.executable, "-I", "-S", str(SCRIPT)], env=env, capture_output=True, text=True, check=True, cwd=tmp_path
    )


def program(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


def test_the_script_needs_nothing_installed(tmp_path: Path) -> None:
    done = run_script("/nonexistent", tmp_path)
    assert options(done.stdout)["GGML_NATIVE"] == "OFF"
    assert len(done.stdout.splitlines()) == 1


def test_given_cmake_args_win_unchanged(tmp_path: Path) -> None:
    done = run_script(os.defpath, tmp_path, CMAKE_ARGS="-DGGML_NATIVE=ON  -DGGML_VULKAN=ON")
    assert done.stdout == "-DGGML_NATIVE=ON  -DGGML_VULKAN=ON\n"


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="this machine has an NVIDIA device")
def test_the_toolkit_alone_builds_nothing_for_cuda(tmp_path: Path) -> None:
    program(tmp_path / "bin", "nvcc", "exit 0")
    done = run_script(str(tmp_path / "bin"), tmp_path)
    assert "GGML_CUDA" not in done.stdout
    assert done.stderr == ""


def test_driver_and_toolkit_build_for_cuda(tmp_path: Path) -> None:
    program(tmp_path / "bin", "nvcc", "exit 0")
    program(tmp_path / "bin", "nvidia-smi", "echo 9.0")
    chosen = options(run_script(str(tmp_path / "bin"), tmp_path).stdout)
    assert (chosen["GGML_CUDA"], chosen["CMAKE_CUDA_ARCHITECTURES"]) == ("ON", "90")


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("echo 'NVIDIA H200'; echo 'NVIDIA L4'", ["NVIDIA H200", "NVIDIA L4"]),
        ("echo 'No devices were found'; exit 6", []),
    ],
)
def test_gpus_are_named_by_nvidia_smi(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, found: list[str]
) -> None:
    program(tmp_path / "bin", "nvidia-smi", answer)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(module, "_DRIVER_FOLDER", tmp_path / "none")
    assert module.find_nvidia_gpus() == found


def test_without_nvidia_smi_gpus_are_named_by_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for slot, model in (("0000:01:00.0", "NVIDIA A100"), ("0000:02:00.0", "NVIDIA L4")):
        file = tmp_path / "nvidia" / "gpus" / slot / "information"
        file.parent.mkdir(parents=True)
        file.write_text(f"Model: \t\t {model}\nIRQ:   \t\t 24\nGPU UUID: \t GPU-0\n")
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(module, "_DRIVER_FOLDER", tmp_path / "nvidia")
    assert module.find_nvidia_gpus() == ["NVIDIA A100", "NVIDIA L4"]


def test_a_driver_without_toolkit_is_said_on_stderr(tmp_path: Path) -> None:
    program(tmp_path / "bin", "nvidia-smi", "exit 9")
    done = run_script(str(tmp_path / "bin"), tmp_path)
    assert "GGML_CUDA" not in done.stdout
    assert "no nvcc on PATH" in done.stderr
