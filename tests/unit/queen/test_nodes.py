"""The watcher of one node: what it notices, how fast, and what it says of it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.fleet import ModelList, NodeStatus
from daemons.contracts.routes import HIVE_MODEL_LIST
from daemons.kit.client import DaemonClient
from daemons.kit.notices import Notices
from daemons.kit.procs import ProcessIdentity
from daemons.queen.core.events import Event, NodeChanged, NodeFailed, NodeSampled
from daemons.queen.nodes import NodeWatcher
from tests.support.fake_hive import FakeHive
from tests.support.queen_harness import FAST, until

POLICY = FAST.model_copy(
    update={"node_stale_s": 0.3, "node_unreachable_s": 0.8, "http_timeout_s": 0.3, "restart_first_s": 0.1}
)


class Watched:
    """A watcher at work and what it told."""

    def __init__(self, hive: FakeHive) -> None:
        self.events: list[Event] = []
        self.said: list[str] = []
        self.notices = Notices()
        self.watcher = NodeWatcher(
            "local",
            hive,
            POLICY,
            post=self.events.append,
            say=lambda text, **_: self.said.append(text),
            notices=self.notices,
        )

    def statuses(self) -> list[NodeStatus]:
        return [event.status for event in self.events if isinstance(event, NodeChanged)]

    def sampled(self) -> int:
        return sum(isinstance(event, NodeSampled) for event in self.events)

    def failures(self) -> list[RbeeError]:
        return [event.error for event in self.events if isinstance(event, NodeFailed)]


@asynccontextmanager
async def _watching(hive: FakeHive) -> AsyncIterator[Watched]:
    watched = Watched(hive)
    running = asyncio.create_task(watched.watcher.run())
    try:
        yield watched
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert not watched.watcher.connected


async def test_a_running_hive_is_found_without_being_asked_for() -> None:
    async with FakeHive().serving() as hive, _watching(hive) as watched:
        await until(watched.sampled)
        assert watched.watcher.version == hive.version
        assert [model.node for model in watched.watcher.models] == ["local"]
        assert hive.ensured == 0


async def test_a_stopped_hive_is_started_only_when_it_is_needed() -> None:
    async with FakeHive(started=False).serving() as hive, _watching(hive) as watched:
        await asyncio.sleep(0.2)
        assert hive.ensured == 0
        watched.watcher.ensure()
        await until(watched.sampled)
        assert watched.statuses() == [NodeStatus.STARTING]
        assert watched.said == ["starting the hive"]


async def test_a_hive_that_a_person_starts_is_noticed() -> None:
    async with FakeHive(started=False).serving() as hive, _watching(hive) as watched:
        await asyncio.sleep(0.05)
        hive.started = True
        await until(watched.sampled)


async def test_a_hive_whose_process_ended_is_stopped_at_once() -> None:
    async with FakeHive().serving() as hive, _watching(hive) as watched:
        await until(watched.sampled)
        hive.die()
        await until(lambda: NodeStatus.STOPPED in watched.statuses(), limit_s=0.3)
        with pytest.raises(RbeeError) as caught:
            _ = watched.watcher.client
        assert caught.value.code is Code.HIVE_UNREACHABLE


async def test_a_hive_that_ended_unexpectedly_is_started_again_without_being_asked_for() -> None:
    async with FakeHive().serving() as hive, _watching(hive) as watched:
        await until(watched.sampled)
        hive.crash = ProcessIdentity(4711, "boot", 1)
        hive.die()
        await until(lambda: NodeStatus.STOPPED in watched.statuses(), limit_s=0.3)
        before = watched.sampled()
        await until(lambda: watched.sampled() > before, limit_s=2.0)
        assert hive.ensured == 1
        assert watched.statuses() == [NodeStatus.STOPPED, NodeStatus.STARTING]
        (notice,) = watched.notices.rows()
        assert notice.text == "node local: its hive (pid 4711) ended unexpectedly and is started again"


async def test_a_restart_that_fails_is_told_and_not_repeated_by_itself() -> None:
    async with FakeHive().serving() as hive, _watching(hive) as watched:
        await until(watched.sampled)
        hive.crash, hive.ensure_error = ProcessIdentity(4711, "boot", 1), RbeeError(Code.PORT_IN_USE, "9200 is taken")
        hive.die()
        await until(watched.failures, limit_s=2.0)
        await asyncio.sleep(0.3)
        assert hive.ensured == 1
        assert [error.code for error in watched.failures()] == [Code.PORT_IN_USE]


async def test_silence_makes_a_node_stale_then_unreachable_and_a_sample_brings_it_back() -> None:
    async with FakeHive().serving() as hive, _watching(hive) as watched:
        await until(watched.sampled)
        hive.silent = True
        await until(lambda: watched.statuses() == [NodeStatus.STALE], limit_s=0.7)
        await until(lambda: watched.statuses()[1:] == [NodeStatus.UNREACHABLE], limit_s=1.2)
        before = watched.sampled()
        hive.silent = False
        await until(lambda: watched.sampled() > before)


async def test_another_version_is_refused_with_both() -> None:
    hive = FakeHive()
    hive.version = "9.1.0"
    async with hive.serving(), _watching(hive) as watched:
        watched.watcher.ensure()
        await until(watched.failures)
        (error,) = watched.failures()
        assert error.code is Code.VERSION_MISMATCH
        assert error.details["hive"] == "9.1.0"
        assert error.hint == "rbee hive stop"
        assert "9.1.0" in error.message
        await asyncio.sleep(0.3)
        assert len(watched.failures()) == 1, "it is told once"
        hive.version = watched.watcher.version or __import__("daemons").__version__
        await until(watched.sampled)


async def test_another_patch_version_is_fine() -> None:
    hive = FakeHive()
    hive.version = ".".join([*hive.version.split(".")[:2], "99"])
    async with hive.serving(), _watching(hive) as watched:
        await until(watched.sampled)


async def test_a_failed_start_is_told_and_tried_again_only_when_needed_again() -> None:
    hive = FakeHive(started=False)
    hive.ensure_error = RbeeError(Code.PORT_IN_USE, "9200 is taken")
    async with hive.serving(), _watching(hive) as watched:
        watched.watcher.ensure()
        await until(watched.failures)
        await asyncio.sleep(0.3)
        assert hive.ensured == 1
        hive.ensure_error = None
        watched.watcher.ensure()
        await until(watched.sampled)


async def test_a_hive_that_does_not_answer_is_tried_as_the_policy_says() -> None:
    hive = FakeHive()
    hive.url = "http://127.0.0.1:9"
    async with _watching(hive) as watched:
        watched.watcher.ensure()
        await until(watched.failures)
        assert watched.failures()[0].code is Code.HIVE_UNREACHABLE
        assert watched.failures()[0].details["tries"] == POLICY.http_tries
        assert any("next try in" in sentence for sentence in watched.said)


async def test_a_hive_that_ends_while_it_is_tried_is_started_anew_when_needed() -> None:
    """What a person sees who stops the hive and asks for something at once."""
    async with FakeHive().serving() as hive, _watching(hive) as watched:
        await until(watched.sampled)
        real, hive.url = hive.url, "http://127.0.0.1:9"
        hive.cut_streams()
        await until(lambda: not watched.watcher.connected)
        hive.started, hive.url = False, real
        watched.watcher.ensure()
        before = watched.sampled()
        await until(lambda: watched.sampled() > before, limit_s=1.0)
        assert not watched.failures()
        assert "starting the hive" in watched.said


async def test_a_call_in_flight_outlives_the_telemetry_stream() -> None:
    async with FakeHive().serving() as hive, _watching(hive) as watched:
        await until(watched.sampled)
        client = watched.watcher.client
        broken = hive.cut_streams()
        await until(lambda: hive._streams - broken)
        assert (await client.get(HIVE_MODEL_LIST, ModelList)).models
        assert watched.watcher.client is client


async def test_an_unforeseen_failure_does_not_end_the_watching(monkeypatch: pytest.MonkeyPatch) -> None:
    failures = [RuntimeError("never thought of")]

    async def follow(self: NodeWatcher, client: DaemonClient) -> None:
        if failures:
            raise failures.pop()
        await real(self, client)

    real = NodeWatcher._follow
    monkeypatch.setattr(NodeWatcher, "_follow", follow)
    async with FakeHive().serving() as hive, _watching(hive) as watched:
        await until(watched.sampled)
