"""A queen with hundreds of connections that only listen: little memory, and nobody else notices."""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic
from urllib.parse import urlsplit

import pytest

from daemons.contracts import routes
from daemons.contracts.routes import Route
from tests.conftest import StartTopology
from tests.support.harness import eventually
from tests.support.harness_crowds import at_once
from tests.support.harness_http import Api, path_of
from tests.support.harness_models import ModelShelf
from tests.support.topology import Topology

CONNECTIONS = 500
MOST_MIB = 150
PROMPT = "Once upon a time"
pytestmark = pytest.mark.timeout(180)


def resident_mib(pid: int) -> float:
    """Memory of a process that is in RAM, as the kernel counts it."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError(f"no VmRSS for {pid}")


@contextmanager
def listening(api: Api, route: Route, task: str = "") -> Iterator[socket.socket]:
    """A bare connection that asked for an event stream and has got its head; what follows is read by nobody."""
    address = urlsplit(api.url)
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=30.0) as connection:
        request = f"GET {path_of(route, task)} HTTP/1.1\r\nHost: rbee\r\nAuthorization: Bearer {api.key}\r\n\r\n"
        connection.sendall(request.encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        yield connection


def detach(topology: Topology, model: str, tokens: int) -> str:
    body = {"model": model, "prompt": PROMPT, "max_tokens": tokens, "ignore_eos": True}
    answer = topology.queen.call(routes.TASK_CREATE, body, headers={"Prefer": "respond-async"})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def first_token_ms(topology: Topology) -> float:
    """What a person waits for the first token of a warm model; the best of five, since others use this machine."""

    def once() -> float:
        began = monotonic()
        with topology.queen.stream(routes.TASK_CREATE, {"model": "demo", "prompt": PROMPT, "max_tokens": 2}) as reader:
            return (reader.wait_tokens(1)[0].at - began) * 1000

    return min(once() for _ in range(5))


def test_five_hundred_idle_readers_cost_little_and_disturb_nobody(
    fresh_topology: StartTopology, models: ModelShelf, record_property: Callable[[str, object], None]
) -> None:
    """Readers of the fleet's events, of a running and of a queued task, a third each."""
    topology, steady = fresh_topology({"RBEE_POLICY_TELEMETRY_INTERVAL_S": "1"}), models.steady()
    topology.start_queen()
    topology.start_worker("demo")
    topology.start_worker(steady, "--slots", "1")
    running, queued = detach(topology, steady, 4900), detach(topology, steady, 4)
    queen, pid = topology.queen, topology.run_of("queen").identity.pid
    alone_ms, before_mib = first_token_ms(topology), resident_mib(pid)
    kinds = [(routes.FLEET_EVENTS, ""), (routes.TASK_EVENTS, running), (routes.TASK_EVENTS, queued)]
    with ExitStack() as stack:
        for number in range(CONNECTIONS):
            stack.enter_context(listening(queen, *kinds[number % len(kinds)]))
        beside_ms, after_mib = first_token_ms(topology), resident_mib(pid)
        said = (
            f"{CONNECTIONS} idle readers: {before_mib:.0f} -> {after_mib:.0f} MiB, "
            f"first token of others after {alone_ms:.0f} -> {beside_ms:.0f} ms"
        )
        record_property("load", said)
        assert after_mib < MOST_MIB, said
        assert beside_ms < alone_ms + 100, said
    for task in (running, queued):
        assert queen.call(routes.TASK_CANCEL, id=task).status_code == 204

    def readers_are_gone() -> bool:
        return len(list(Path(f"/proc/{pid}/fd").iterdir())) < CONNECTIONS / 5

    eventually(readers_are_gone, "the queen has closed their connections")
    at_once([lambda: first_token_ms(topology)] * 2)
