"""Steps of features/145-hostile-requests.feature.

HOSTILE_REQUESTS and PUBLISHED_EXAMPLES in the environment ask for more than the usual number.
"""

import asyncio
import json
import os
import socket
from dataclasses import dataclass

import httpx
from pytest_bdd import parsers, scenarios, then, when

from daemons.contracts import routes
from daemons.contracts.routes import Role, routes_of
from tests.bdd.addressing import DAEMONS, Answers, api_of
from tests.bdd.conftest import Fill
from tests.support.harness_http import error_of
from tests.support.hostile_requests import HostileRequests, Tally, fault_of, parsed, send_all
from tests.support.process_sizes import rss_mib
from tests.support.published_requests import ask_at_random
from tests.support.topology import Topology

scenarios("145-hostile-requests.feature")

# --- V08

LARGE_BODY = 9 * 2**20


@when(parsers.re(r"(?P<daemon>the \w+) gets a body of 9 MiB (?P<how>.+)"), target_fixture="raw_answer")
def large_body(rbee: Topology, daemon: str, how: str) -> bytes:
    api = api_of(rbee, daemon)
    route = next(route for route in routes_of(DAEMONS[daemon]) if route.body and route.role is not Role.WORKER)
    url = httpx.URL(api.url)
    head = f"POST {route.path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.key}\r\n"
    framing = "Transfer-Encoding: chunked" if "chunks" in how else f"Content-Length: {LARGE_BODY}"
    with socket.create_connection((url.host, url.port or 80), timeout=20) as connection:
        connection.sendall(f"{head}{framing}\r\n\r\n".encode())
        if "headers" not in how:
            send_large(connection, chunked="chunks" in how)
        return whole_answer(connection)


def whole_answer(connection: socket.socket) -> bytes:
    """Head and body, however they are cut into packets."""
    answer = b""
    while not parsed(answer)[1].endswith(b"}}"):
        part = connection.recv(65_536)
        assert part, answer
        answer += part
    return answer


def send_large(connection: socket.socket, *, chunked: bool) -> None:
    part = b" " * 2**20
    for _ in range(LARGE_BODY // len(part)):
        connection.sendall(b"%x\r\n%s\r\n" % (len(part), part) if chunked else part)


@then(parsers.parse('the answer is {status:d} with the code "{code}" and both numbers'))
def raw_refused(raw_answer: bytes, status: int, code: str) -> None:
    found, body = parsed(raw_answer)
    assert (found, fault_of(found, body)) == (status, None), raw_answer
    error = json.loads(body)["error"]
    assert error["code"] == code
    assert (error["details"]["bytes"] > 8 * 2**20, error["details"]["limit"]) == (True, 8 * 2**20)


@then("that daemon answers the next request")
def answers_next(rbee: Topology) -> None:
    for api in (rbee.queen, rbee.hive, api_of(rbee, "the worker")):
        assert api.send("GET", "/health").status_code == 200


# --- V11


@when("one client floods the queen with bad requests", target_fixture="flood")
def flood(rbee: Topology) -> Answers:
    return [rbee.queen_for_inference.call(routes.TASK_CREATE, {}) for _ in range(60)]


@then("that client is answered 429 with a Retry-After")
def flood_refused(flood: Answers) -> None:
    assert [answer.status_code for answer in flood[:50]] == [400] * 50
    for answer in flood[50:]:
        assert (answer.status_code, error_of(answer)["code"]) == (429, "TOO_MANY_BAD_REQUESTS")
        assert 1 <= int(answer.headers["Retry-After"]) <= 10


@then("another client is answered meanwhile")
def others_served(rbee: Topology) -> None:
    assert rbee.queen_for_inference.call(routes.TASK_LIST).status_code == 429
    answer = rbee.queen.call(routes.TASK_CREATE, {"model": "demo", "prompt": "x", "max_tokens": 3})
    assert answer.status_code == 200
    assert "event: done" in answer.text


@when("that client floods the queen with requests that only the hive can refuse")
def flood_of_the_hive(rbee: Topology) -> None:
    """Another key's worth of the same: the queen takes each of them, and its hive refuses the file."""
    for _ in range(60):
        answer = rbee.queen.call(routes.TASK_CREATE, {"model": "file:///etc/passwd", "prompt": "x"})
        assert "MODEL_PATH_FORBIDDEN" in answer.text


@then("the node is reachable and loads a model for another client")
def hive_serves(rbee: Topology, fill: Fill) -> None:
    (node,) = rbee.queen.call(routes.NODE_LIST).json()["nodes"]
    assert node["status"] == "reachable"
    rbee.start_worker(fill("{f16 demo}"))


@when("a stranger guesses the hive's key", target_fixture="guesses")
def guess(rbee: Topology) -> Answers:
    stranger = rbee.api(rbee.hive.url, "rbee-a-guess")
    # A header of the stranger's own does not make it another client.
    return [
        stranger.call(routes.HIVE_WORKER_LIST, headers={"X-Forwarded-For": f"10.0.0.{number}"}) for number in range(60)
    ]


@then("the stranger is answered 429, and the queen still reaches its hive")
def stranger_refused(rbee: Topology, guesses: Answers) -> None:
    assert [answer.status_code for answer in guesses] == [401] * 50 + [429] * 10
    assert len(rbee.queen.call(routes.WORKER_HEALTH).json()["workers"]) == 2


@then("the flood is told in the logs of queen and hive, but not line by line")
def flood_told(rbee: Topology) -> None:
    for name in ("queen", "hive"):
        told = (rbee.home / "logs" / f"{name}.log").read_text().count("refusing a client for a while")
        assert 1 <= told <= 3, f"{name}: {told}"


# --- V10


def pid_of(rbee: Topology, daemon: str) -> int:
    if daemon == "the worker":
        return int(rbee.only_worker()["pid"])
    return rbee.run_of(daemon.removeprefix("the ")).identity.pid


@dataclass
class Stormed:
    """A daemon that random requests are sent to; `grown` in MiB of memory and lines of log."""

    daemon: str
    pid: int
    tally: Tally
    grown_mib: float = 0.0
    log_lines: int = 0


@when(parsers.re(r"(?P<daemon>the \w+) gets random requests by its own description"), target_fixture="stormed")
def by_description(rbee: Topology, daemon: str) -> Stormed:
    api, pid = api_of(rbee, daemon), pid_of(rbee, daemon)
    document = api.send("GET", "/openapi.json").json()
    assert api.key is not None
    examples = int(os.environ.get("PUBLISHED_EXAMPLES", "3"))
    tally = ask_at_random(document, api.url, api.key, examples=examples)
    assert tally.sent >= examples * len(routes_of(DAEMONS[daemon]))
    return Stormed(daemon, pid, tally)


@when(parsers.re(r"(?P<daemon>the \w+) gets hostile requests"), target_fixture="stormed")
def hostile(rbee: Topology, daemon: str) -> Stormed:
    """The first fifth warms up: what is remembered of a client, parsed once, or cached, is there by then."""
    api, pid = api_of(rbee, daemon), pid_of(rbee, daemon)
    assert api.key is not None
    count = int(os.environ.get("HOSTILE_REQUESTS", "10000"))
    url, requests = httpx.URL(api.url), iter(HostileRequests(DAEMONS[daemon], api.key, seed=count))
    first = asyncio.run(send_all(url.host, url.port or 80, requests, count // 5))
    before, lines = rss_mib(pid), log_lines(rbee)
    second = asyncio.run(send_all(url.host, url.port or 80, requests, count - count // 5))
    both = Tally(first.statuses + second.statuses, first.faults + second.faults)
    assert both.sent == count
    assert both.statuses[400] > count / 4  # most arrive well enough to be judged
    return Stormed(daemon, pid, both, rss_mib(pid) - before, log_lines(rbee) - lines)


def log_lines(rbee: Topology) -> int:
    return sum(path.read_bytes().count(b"\n") for path in rbee.home.glob("logs/*"))


@then("every failure was documented and told in five parts")
def documented(stormed: Stormed) -> None:
    assert stormed.tally.faults == [], "\n".join(stormed.tally.faults[:5])


@then("its memory and its log have not grown with them")
def not_grown(stormed: Stormed) -> None:
    # An arena of malloc is 1 MiB at least, and threads that read files or databases bring theirs; a leak of 1 KiB for
    # each of 8,000 requests would be 8 MiB.
    assert stormed.grown_mib < 8.0, f"{stormed.grown_mib:.1f} MiB more after {stormed.tally.sent} requests"
    # A task that is taken tells of itself, its refusal and its end; most of these requests are no task.
    assert stormed.log_lines < stormed.tally.sent / 4, f"{stormed.log_lines} lines for {stormed.tally.sent} requests"


@then("that daemon is the same process as before, and its log has no trace of a failure")
def survived(rbee: Topology, stormed: Stormed) -> None:
    assert pid_of(rbee, stormed.daemon) == stormed.pid
    assert api_of(rbee, stormed.daemon).send("GET", "/health").status_code == 200
    for path in rbee.home.glob("logs/*"):
        text = path.read_text(encoding="utf-8", errors="replace")
        assert "Traceback" not in text, f"{path}: {text[text.index('Traceback') - 300 :][:3000]}"
