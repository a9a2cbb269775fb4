"""Host figures, and a fan-out that keeps nothing for slow readers."""

import asyncio
import json
from pathlib import Path

import pytest

from daemons.contracts.telemetry import HiveTelemetry
from daemons.hive import telemetry
from daemons.hive.telemetry import Broadcast, cores, memory, sample_host
from tests.support.hive_rows import cpu, host


def state(at: float) -> HiveTelemetry:
    return HiveTelemetry(at=at, devices=[cpu()], host=host(), workers=[])


def parsed(chunk: bytes) -> tuple[str, float]:
    """(event, its `at`)."""
    kind, data = chunk.decode().strip().split("\n")
    return kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))["at"]


def test_the_host_is_measured(tmp_path: Path) -> None:
    sample = sample_host(tmp_path / "not" / "there" / "yet")
    assert 0 < sample.ram_available <= sample.ram_total
    assert 0 < sample.disk_free <= sample.disk_total
    assert 1 <= cores() <= sample.cores


@pytest.mark.parametrize(
    ("limit", "used", "inactive", "expected_total"),
    [("max", 0, 0, None), (str(2**50), 0, 0, None), ("1000000", 700_000, 100_000, 1_000_000)],
)
def test_a_control_group_limits_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, used: int, inactive: int, expected_total: int | None
) -> None:
    unlimited = memory()[0]
    group = tmp_path / "a" / "b"
    group.mkdir(parents=True)
    (group / "memory.max").write_text(f"{limit}\n")
    (group / "memory.current").write_text(f"{used}\n")
    (group / "memory.stat").write_text(f"anon 5\ninactive_file {inactive}\nactive_file 0\n")
    own = tmp_path / "cgroup"
    own.write_text("0::/a/b\n")
    monkeypatch.setattr(telemetry, "_CGROUP_ROOT", tmp_path)
    monkeypatch.setattr(telemetry, "_OWN_CGROUP", own)
    total, available = memory()
    assert total == (expected_total or unlimited)
    if expected_total:
        assert available == limit_left(limit, used, inactive)


def limit_left(limit: str, used: int, caches: int) -> int:
    return int(limit) - (used - caches)


async def test_a_reader_begins_with_a_snapshot_of_the_newest_state() -> None:
    broadcast = Broadcast()
    broadcast.publish(state(1.0))
    broadcast.publish(state(2.0))
    reader = broadcast.events()
    assert parsed(await anext(reader)) == ("snapshot", 2.0)
    broadcast.publish(state(3.0))
    assert parsed(await anext(reader)) == ("telemetry", 3.0)
    await reader.aclose()


async def test_a_slow_reader_gets_only_the_newest() -> None:
    broadcast = Broadcast()
    broadcast.publish(state(0.0))
    slow, quick = broadcast.events(), broadcast.events()
    await anext(slow)
    await anext(quick)
    for at in range(1, 100):
        broadcast.publish(state(float(at)))
        assert parsed(await anext(quick)) == ("telemetry", float(at))
    assert parsed(await anext(slow)) == ("telemetry", 99.0)


async def test_a_reader_waits_for_the_first_state_and_ends_with_the_hive() -> None:
    broadcast = Broadcast()
    reader = broadcast.events()
    first = asyncio.ensure_future(anext(reader))
    await asyncio.sleep(0)
    assert not first.done()
    broadcast.publish(state(1.0))
    assert parsed(await first) == ("snapshot", 1.0)
    following = asyncio.ensure_future(anext(reader, None))
    await asyncio.sleep(0)
    broadcast.close()
    assert await following is None
