"""An ephemeral queen goes with its owner, but not away from others."""

import asyncio
import sys

from starlette.types import Receive, Scope, Send

from daemons.kit.procs import identify
from daemons.queen.owner import InFlight, OwnerWatch
from tests.support.queen_harness import until


async def _owner() -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", "input()", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL
    )


async def test_it_ends_when_the_owner_is_gone_and_nothing_is_in_use() -> None:
    owner = await _owner()
    identity = identify(owner.pid)
    assert identity is not None
    in_use, ends = [True], []
    watch = OwnerWatch(identity, lambda: not in_use[0], lambda: ends.append(1))
    watching = asyncio.create_task(watch.run())
    watch.look()
    assert ends == []
    owner.kill()
    await owner.wait()
    await watching
    assert ends == [], "somebody else uses it"
    in_use[0] = False
    watch.look()
    assert ends == [1]


async def test_requests_in_flight_are_counted() -> None:
    gate, told = asyncio.Event(), []

    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        await gate.wait()

    async def nothing(*_: object) -> None:
        return None

    counted = InFlight(app, lambda: told.append(counted.count))
    requests = [asyncio.create_task(counted({}, nothing, nothing)) for _ in range(3)]  # type: ignore[arg-type]
    await until(lambda: counted.count == 3)
    gate.set()
    await asyncio.gather(*requests)
    assert told == [0]
