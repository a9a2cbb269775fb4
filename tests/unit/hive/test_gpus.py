"""Live GPU figures: read from a child that may end, lie or hang without harm to the hive."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from daemons.hive.gpus import GpuFigures, GpuReader, visible
from daemons.hive.nvml import NO_DRIVER
from tests.support.hive_harness import eventually, program_that

ROW: dict[str, Any] = {
    "uuid": "GPU-aa11",
    "name": "Fake H200",
    "memory_total": 1000,
    "memory_free": 900,
    "utilisation_percent": 12.0,
}


def line(**changes: Any) -> str:
    return json.dumps({"devices": [{**ROW, **changes}]})


def reader(folder: Path, script: str, interval_s: float = 0.5) -> GpuReader:
    return GpuReader(interval_s, [str(program_that(folder, script))], driver=lambda: True)


async def cancelled(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_the_newest_line_counts(tmp_path: Path) -> None:
    found = reader(tmp_path, f"echo '{line()}'; echo '{line(memory_free=800)}'; exec sleep 60")
    running = asyncio.create_task(found.run())

    async def newest() -> bool:
        return [row.memory_free for row in found.latest] == [800]

    await eventually(newest)
    assert found.latest[0].temperature_c is None, "what a device does not tell stays open"
    await cancelled(running)


async def test_without_a_driver_nothing_is_started(tmp_path: Path) -> None:
    script = program_that(tmp_path, f"touch {tmp_path}/started")
    found = GpuReader(0.1, [str(script)], driver=lambda: False)
    await asyncio.wait_for(found.run(), 5.0)
    assert found.first_line.is_set()
    assert not (tmp_path / "started").exists()


async def test_a_child_that_finds_no_driver_is_not_started_again(tmp_path: Path) -> None:
    found = reader(tmp_path, f"echo once >> {tmp_path}/starts; exit {NO_DRIVER}")
    await asyncio.wait_for(found.run(), 10.0)
    assert (tmp_path / "starts").read_text() == "once\n"
    assert found.latest == ()


async def test_a_program_that_is_missing_is_given_up(tmp_path: Path) -> None:
    found = GpuReader(0.1, [str(tmp_path / "none")], driver=lambda: True)
    await asyncio.wait_for(found.run(), 5.0)
    assert found.first_line.is_set()


async def test_a_child_that_ends_is_replaced_and_its_figures_forgotten(tmp_path: Path) -> None:
    script = (
        f"echo x >> {tmp_path}/starts; echo '{line()}'; [ $(wc -l < {tmp_path}/starts) -gt 1 ] && exec sleep 60; exit 1"
    )
    found = reader(tmp_path, script)
    running = asyncio.create_task(found.run())
    await asyncio.wait_for(found.first_line.wait(), 10.0)

    async def replaced() -> bool:
        return len((tmp_path / "starts").read_text().splitlines()) == 2 and bool(found.latest)

    await eventually(replaced)
    await cancelled(running)


async def test_lines_that_cannot_be_read_end_the_child(tmp_path: Path) -> None:
    found = reader(tmp_path, "echo nonsense; exec sleep 60")
    running = asyncio.create_task(found.run())
    await asyncio.wait_for(found.first_line.wait(), 10.0)
    assert found.latest == ()
    await cancelled(running)


async def test_a_silent_child_is_taken_to_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GpuReader, "_patience_s", 0.3)
    found = reader(tmp_path, f"echo '{line()}'; exec sleep 60")
    running = asyncio.create_task(found.run())

    async def known() -> bool:
        return bool(found.latest)

    async def forgotten() -> bool:
        return not found.latest

    await eventually(known)
    await eventually(forgotten)
    await cancelled(running)


def gpus(*uuids: str) -> list[GpuFigures]:
    return [GpuFigures.model_validate({**ROW, "uuid": uuid}) for uuid in uuids]


@pytest.mark.parametrize(
    ("named", "seen"),
    [
        (None, ["GPU-aa11", "GPU-bb22", "GPU-cc33"]),
        ("2,0", ["GPU-cc33", "GPU-aa11"]),
        ("GPU-bb", ["GPU-bb22"]),
        ("1,9,0", ["GPU-bb22"]),
        ("", []),
        ("-1", []),
    ],
)
def test_cuda_sees_what_its_variable_names(named: str | None, seen: list[str]) -> None:
    environ = {} if named is None else {"CUDA_VISIBLE_DEVICES": named}
    assert [row.uuid for row in visible(gpus("GPU-aa11", "GPU-bb22", "GPU-cc33"), environ)] == seen
