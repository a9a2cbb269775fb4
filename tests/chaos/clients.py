"""The clients: each asks over a real socket in its own way, and writes down what it sees."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from httpx_sse import EventSource

from daemons.contracts import routes
from daemons.contracts.routes import Route
from daemons.kit.client import REQUEST_ID_HEADER
from daemons.queen.http.tasks import TASK_ID_HEADER
from tests.chaos.ledger import End, Ledger, Story
from tests.chaos.plan import Behaviour, Kind
from tests.support.harness_http import path_of
from tests.support.harness_keeper import Finished

CONNECT_S = 5.0
SILENCE_S = 30.0
"""The queen's pings come more often than this, so after so much silence a client gives its connection up."""

KEEPER_S = 150.0
COME_BACK_S = 60.0
"""How long a client of a detached task looks for a queen again."""

_LOOK_EACH_S = 0.1
_GREEDY = {"model": "demo", "temperature": 0.0, "ignore_eos": True}
_TASK_OF_CHUNK = re.compile(r"cmpl-(.+)")


@dataclass(frozen=True, slots=True)
class Queen:
    """The queen that runs now, as its run file tells, with the key for inference."""

    url: str
    key: str
    pid: int


FindQueen = Callable[[], Queen | None]
RunKeeper = Callable[..., Finished]
"""`rbee` with these arguments, waited for. Raises AssertionError when it takes too long."""


class Dropped(Exception):
    """The client closed the connection itself."""


class Client:
    """One client with its own connections. `ask` never raises for what the fleet does; it writes it down."""

    def __init__(self, ledger: Ledger, prompts: tuple[str, ...], find_queen: FindQueen, run_keeper: RunKeeper) -> None:
        self._ledger = ledger
        self._prompts = prompts
        self._find_queen = find_queen
        self._run_keeper = run_keeper
        timeout = httpx.Timeout(CONNECT_S, read=SILENCE_S)
        self._http = httpx.AsyncClient(timeout=timeout, trust_env=False, verify=False)
        self._ways = {
            Kind.ATTACHED: self._attached,
            Kind.VANISH: self._attached,
            Kind.CANCEL: self._attached,
            Kind.DEADLINE: self._attached,
            Kind.DETACHED: self._detached,
            Kind.OPENAI_STREAM: self._openai_stream,
            Kind.OPENAI_WHOLE: self._openai_whole,
            Kind.OPENAI_VANISH: self._openai_whole,
        }

    async def close(self) -> None:
        await self._http.aclose()

    async def ask(self, behaviour: Behaviour) -> None:
        """Make one request and see it to its end. Returns at once when there is no queen to ask."""
        prompt = self._prompts[behaviour.prompt]
        if behaviour.kind is Kind.KEEPER:
            await asyncio.to_thread(self._keeper, self._ledger.begins(behaviour, prompt))
            return
        queen = self._find_queen()
        if queen is None:
            return
        self._ledger.saw_queen(queen.pid)
        story = self._ledger.begins(behaviour, prompt)
        try:
            await self._ways[behaviour.kind](story, queen)
        except Dropped:
            story.ends(End.LEFT)
        except httpx.ReadTimeout:
            story.ends(End.SILENT, why=f"nothing came for {SILENCE_S:g} s")
        except (httpx.HTTPError, OSError) as error:
            story.ends(End.BROKEN if story.task_id else End.UNANSWERED, why=repr(error))

    # -- rbee's own routes ---------------------------------------------------------------------------------------------

    async def _attached(self, story: Story, queen: Queen) -> None:
        behaviour = story.behaviour
        limit = {"timeout_s": behaviour.patience_s} if behaviour.kind is Kind.DEADLINE else {}
        async with self._opened(story, queen, routes.TASK_CREATE, self._body(story) | limit) as response:
            if response.status_code != routes.TASK_CREATE.status:
                await _refused(story, response)
                return
            story.accepted(response.headers[TASK_ID_HEADER], queen.pid)
            await self._read(story, response, queen)
            if story.end is None:
                story.ends(End.BROKEN, why="the stream closed without done or error")

    def _body(self, story: Story) -> dict[str, Any]:
        body = {**_GREEDY, "prompt": story.prompt, "max_tokens": story.behaviour.max_tokens}
        return body | ({"node": story.behaviour.node} if story.behaviour.node else {})

    async def _read(self, story: Story, response: httpx.Response, queen: Queen) -> None:
        """Take events up to the end of the stream; after `act_after` tokens do what the client means to do."""
        acts = {Kind.VANISH: self._drop, Kind.DETACHED: self._drop, Kind.CANCEL: self._cancel}
        act = acts.get(story.kind) if not story.resumed else None
        if act is not None and not story.behaviour.act_after:
            await act(story, queen)
            act = None
        async for event in EventSource(response).aiter_sse():
            if not event.data:
                continue
            story.takes(int(event.id or 0), event.event, json.loads(event.data))
            if act is not None and story.tokens >= story.behaviour.act_after:
                await act(story, queen)
                act = None

    async def _drop(self, story: Story, _queen: Queen) -> None:
        if story.end is None:
            raise Dropped

    async def _cancel(self, story: Story, queen: Queen) -> None:
        if story.end is not None:
            return
        try:
            path = path_of(routes.TASK_CANCEL, story.task_id)
            answer = await self._http.delete(queen.url + path, headers={"Authorization": f"Bearer {queen.key}"})
        except (httpx.HTTPError, OSError) as error:
            story.why = f"not cancelled: {error!r}"
            return
        if answer.status_code != routes.TASK_CANCEL.status:
            story.faults.append(f"DELETE answered {answer.status_code}: {answer.text[:300]}")

    async def _detached(self, story: Story, queen: Queen) -> None:
        async with self._opened(
            story, queen, routes.TASK_CREATE, self._body(story), {"Prefer": "respond-async"}
        ) as response:
            if response.status_code != 202:
                await _refused(story, response)
                return
            await response.aread()
            story.accepted(response.json()["id"], queen.pid)
        await self._follow(story, queen)
        while story.end is None:
            found = await self._queen_again()
            if found is None:
                story.ends(End.BROKEN, why=f"no queen for {COME_BACK_S:g} s")
                return
            story.comes_back_to_another_queen(found.pid)
            await self._follow(story, found)

    async def _follow(self, story: Story, queen: Queen) -> None:
        """Read the events behind those that the client has, until the end, the connection's end, or its own drop."""
        headers = {"Last-Event-ID": str(story.last_id)} if story.last_id else {}
        try:
            async with self._opened(story, queen, routes.TASK_EVENTS, None, headers) as response:
                if story.last_id:
                    story.resumed.append(f"behind {story.last_id}: {response.status_code}")
                if response.status_code != routes.TASK_EVENTS.status:
                    await _refused(story, response)
                    return
                await self._read(story, response, queen)
        except Dropped:
            story.resumed.append(f"dropped at {story.last_number}")
        except (httpx.HTTPError, OSError) as error:
            story.resumed.append(f"lost at {story.last_number}: {type(error).__name__}")
            await asyncio.sleep(_LOOK_EACH_S)

    async def _queen_again(self) -> Queen | None:
        """The queen that runs now; waits for one, but not for ever."""
        for _ in range(int(COME_BACK_S / _LOOK_EACH_S)):
            queen = self._find_queen()
            if queen is not None:
                self._ledger.saw_queen(queen.pid)
                return queen
            await asyncio.sleep(_LOOK_EACH_S)
        return None

    # -- OpenAI's routes -----------------------------------------------------------------------------------------------

    async def _openai_stream(self, story: Story, queen: Queen) -> None:
        body = self._openai_body(story) | {"stream": True, "stream_options": {"include_usage": True}}
        async with self._opened(story, queen, routes.OPENAI_COMPLETIONS, body) as response:
            if response.status_code != 200:
                await _refused(story, response)
                return
            async for event in EventSource(response).aiter_sse():
                _take_chunk(story, queen, event.data)
            if story.end is None:
                story.ends(End.BROKEN, why="the stream closed without [DONE]")

    async def _openai_whole(self, story: Story, queen: Queen) -> None:
        leave_after = story.behaviour.patience_s if story.kind is Kind.OPENAI_VANISH else None
        try:
            async with asyncio.timeout(leave_after):
                async with self._opened(story, queen, routes.OPENAI_COMPLETIONS, self._openai_body(story)) as response:
                    if response.status_code != 200:
                        await _refused(story, response)
                        return
                    await response.aread()
        except TimeoutError:
            raise Dropped from None
        answer = response.json()
        story.accepted(_task_id(answer["id"]), queen.pid)
        choice, usage = answer["choices"][0], answer["usage"]
        story.parts, story.tokens = [choice["text"]], usage["completion_tokens"]
        story.done = {"total_tokens": usage["completion_tokens"], "finish_reason": choice["finish_reason"]}
        story.ends(End.DONE)

    def _openai_body(self, story: Story) -> dict[str, Any]:
        return {
            "model": "demo",
            "prompt": story.prompt,
            "max_tokens": story.behaviour.max_tokens,
            "temperature": 0.0,
        }

    # -- the keeper ----------------------------------------------------------------------------------------------------

    def _keeper(self, story: Story) -> None:
        behaviour = story.behaviour
        args = ["infer", "--model", "demo", "--prompt", story.prompt, "--max-tokens", str(behaviour.max_tokens)]
        args += ["--temperature", "0", "--json", *(["--node", behaviour.node] if behaviour.node else [])]
        try:
            finished = self._run_keeper(*args)
        except AssertionError as fault:
            story.ends(End.SILENT, why=str(fault)[-2000:])
            return
        if finished.code == 0:
            answer = json.loads(finished.out)
            story.accepted(answer["task_id"], 0)
            story.request_id, story.parts, story.tokens = answer["request_id"], [answer["text"]], answer["total_tokens"]
            story.done = {name: answer[name] for name in ("total_tokens", "finish_reason")}
            story.ends(End.DONE)
            return
        error = _error_printed(finished)
        story.request_id = error.get("request_id") or story.request_id
        story.ends(End.ERROR, error=error)
        if "Traceback" in finished.err or not error:
            story.faults.append(f"the keeper failed without a sentence: exit {finished.code}: {finished.err[-1500:]}")

    @asynccontextmanager
    async def _opened(
        self,
        story: Story,
        queen: Queen,
        route: Route,
        body: dict[str, Any] | None,
        headers: dict[str, str] | None = None,
    ) -> AsyncIterator[httpx.Response]:
        own = {"Authorization": f"Bearer {queen.key}", REQUEST_ID_HEADER: story.request_id}
        url = queen.url + path_of(route, story.task_id)
        async with self._http.stream(route.method, url, json=body, headers={**own, **(headers or {})}) as response:
            yield response


async def _refused(story: Story, response: httpx.Response) -> None:
    await response.aread()
    try:
        error = response.json()["error"]
    except (ValueError, KeyError, TypeError):
        story.faults.append(f"HTTP {response.status_code} without an error object: {response.text[:300]}")
        error = {}
    story.ends(End.REFUSED, error={"status": response.status_code, **error})


def _take_chunk(story: Story, queen: Queen, data: str) -> None:
    """One line of OpenAI's stream."""
    if data == "[DONE]":
        if story.end is None:
            story.ends(End.DONE) if story.done else story.ends(End.BROKEN, why="[DONE] without a finish reason")
        return
    chunk = json.loads(data)
    if "error" in chunk:
        story.ends(End.ERROR, error=chunk["error"])
        return
    if not story.task_id:
        story.accepted(_task_id(chunk["id"]), queen.pid)
    if story.end is not None:
        story.faults.append(f"a chunk after the end: {data[:200]}")
    for choice in chunk["choices"]:
        story.parts.append(choice["text"])
        if choice["finish_reason"]:
            story.done["finish_reason"] = choice["finish_reason"]
    if chunk.get("usage"):
        story.done["total_tokens"] = story.tokens = chunk["usage"]["completion_tokens"]


def _task_id(openai_id: str) -> str:
    match = _TASK_OF_CHUNK.search(openai_id)
    return f"task-{match[1]}" if match else openai_id


def _error_printed(finished: Finished) -> dict[str, Any]:
    """The error object that a keeper with --json printed last on stderr; empty when there is none."""
    for line in reversed(finished.err.splitlines()):
        try:
            error = json.loads(line).get("error")
        except (ValueError, AttributeError):
            continue
        if isinstance(error, dict):
            return error
    return {}
