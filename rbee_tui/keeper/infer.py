"""One answer of a model: checked before any network, sent, read to its end, tried again while the queue is full."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.events import Done, EventType, Narration, Progress, Token
from daemons.contracts.inference import FinishReason
from daemons.contracts.routes import TASK_CANCEL, TASK_CREATE
from daemons.contracts.tasks import TaskRequest
from daemons.contracts.wire import parse_request
from daemons.kit.client import Event, error_in, until_end
from daemons.models.references import parse_model_ref
from rbee_tui.keeper.partials import save_partial
from rbee_tui.keeper.session import ACTOR, QueenSession, read_event

AnswerEvent = Narration | Progress | Token
OnEvent = Callable[[AnswerEvent], None]
"""Told everything that happens on the way to an answer, in order."""

TASK_ID_HEADER = "X-Task-Id"
CANCEL_LIMIT_S = 2.0
"""A cancel is told to the queen within this, or left to the closed connection, which cancels as well."""

PARTIAL_FILE = "partial_file"
"""Name of the detail, or of the narration's field, that holds the file with the text so far."""

_SHORTEST_S = 0.001
"""A request cannot have a shorter time limit."""

_BUSY = frozenset({Code.QUEUE_FULL, Code.ALL_SLOTS_BUSY})
_FORMS: Mapping[str, type[Narration] | type[Progress] | type[Token]] = {
    EventType.NARRATION: Narration,
    EventType.PROGRESS: Progress,
    EventType.TOKEN: Token,
}


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. `ttft_ms` is the keeper's own: from sending the request to the first token, start-up included."""

    task_id: str
    text: str
    done: Done
    ttft_ms: float


@dataclass(slots=True)
class _Reading:
    """What came so far of one try."""

    task_id: str = ""
    parts: list[str] = field(default_factory=list)
    tokens: int = 0
    first_token_at: float | None = None

    @property
    def text(self) -> str:
        return "".join(self.parts)

    def take(self, token: Token) -> None:
        if self.first_token_at is None:
            self.first_token_at = time.monotonic()
        self.parts.append(token.token)
        self.tokens = max(self.tokens, token.index) + 1


def build_request(model: str, fields: Mapping[str, Any]) -> TaskRequest:
    """A checked request for `model`; fields that are None are left to their defaults.

    Raises RbeeError: INVALID_MODEL_REF, INVALID_BACKEND, or INVALID_REQUEST naming every faulty field.
    """
    reference = str(parse_model_ref(model))
    given = {name: value for name, value in fields.items() if value is not None}
    if "prompt" in given:
        _check_encodable(given["prompt"])
    return parse_request(TaskRequest, {"model": reference, **given})


def _check_encodable(prompt: str) -> None:
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise RbeeError(
            Code.INVALID_REQUEST, f"prompt: not valid UTF-8 at character {error.start}", details={"at": error.start}
        ) from None


async def run_task(session: QueenSession, request: TaskRequest, on_event: OnEvent, *, partials: Path) -> Answer:
    """Have the queen answer `request`.

    A full queue is tried again as the policy says (Retry-After wins), each wait narrated; all tries together have the
    request's time limit. When the caller is cancelled, or `on_event` raises, the queen is told to cancel. Text of an
    answer that was cut off is kept in a file below `partials`: a failure names it in ``details["partial_file"]``, for
    a cancelled caller a narration does. Raises RbeeError.
    """
    started = time.monotonic()
    waits = session.policy.busy_retry.waits(session.policy.jitter)
    retries = 0
    while True:
        reading = _Reading()
        try:
            within = _rest_of(request, time.monotonic() - started) if retries else request
            done = await _read_in_time(session, within, reading, on_event)
            return _answer_of(reading, done, started)
        except RbeeError as error:
            wait = next(waits, None) if error.code in _BUSY and not reading.parts else None
            if wait is None:
                raise await _final(error, reading, request, retries, partials) from error
            wait = error.retry_after if error.retry_after is not None else wait
            if request.timeout_s is not None and time.monotonic() + wait - started >= request.timeout_s:
                raise _too_late(request.timeout_s, f"{error.message}, and the next try would come later") from error
            retries += 1
            on_event(_retry_sentence(error, retries, session.policy.busy_tries, wait))
        except asyncio.CancelledError:
            await _cancel(session, reading.task_id)
            await _tell_kept(reading, on_event, partials)
            raise
        except BaseException:
            await _cancel(session, reading.task_id)
            raise
        await asyncio.sleep(wait)


def _rest_of(request: TaskRequest, spent_s: float) -> TaskRequest:
    """The same request with what earlier tries left of its time."""
    if request.timeout_s is None:
        return request
    return request.model_copy(update={"timeout_s": max(request.timeout_s - spent_s, _SHORTEST_S)})


def _too_late(limit_s: float, why: str) -> RbeeError:
    return RbeeError(
        Code.DEADLINE_EXCEEDED, f"not answered within {limit_s:g} s: {why}", details={"timeout_s": limit_s}
    )


async def _read_in_time(session: QueenSession, request: TaskRequest, reading: _Reading, on_event: OnEvent) -> Done:
    """The queen keeps the time limit; one that says nothing of it is given up a little later."""
    limit_s = request.timeout_s
    try:
        async with asyncio.timeout(None if limit_s is None else limit_s + session.policy.http_timeout_s):
            return await _read_answer(session, request, reading, on_event)
    except TimeoutError:
        assert limit_s is not None
        await _cancel(session, reading.task_id)
        raise _too_late(limit_s, f"{session.name} at {session.address.url} does not say what became of it") from None


async def _read_answer(session: QueenSession, request: TaskRequest, reading: _Reading, on_event: OnEvent) -> Done:
    def on_headers(headers: Mapping[str, str]) -> None:
        reading.task_id = headers.get(TASK_ID_HEADER, "")

    policy = session.policy
    # The queen's pings count as bytes, so this much silence means that the queen is gone, not that a queue is long.
    silence_s = max(policy.inference_stall_s, 3 * policy.ping_s)
    async with session.stream(TASK_CREATE, body=request, silence_s=silence_s, on_headers=on_headers) as events:
        return await _read_events(_while_queen_lives(events, session, silence_s), reading, on_event)


async def _while_queen_lives(
    events: AsyncIterator[Event], session: QueenSession, silence_s: float
) -> AsyncIterator[Event]:
    """Events up to the end. Raises RbeeError(QUEEN_UNREACHABLE): whoever breaks this stream is the queen itself."""
    queen = f"{session.name} at {session.address.url}"
    try:
        async for event in until_end(events, session.name):
            yield event
    except RbeeError as error:
        if error.code is Code.INFERENCE_STALLED:
            what = f"{queen} has sent nothing for {silence_s:g} s, not even a sign of life"
        elif error.code is Code.UPSTREAM_LOST:
            what = f"{queen} was lost before the answer was complete"
        else:
            raise
        raise RbeeError(Code.QUEEN_UNREACHABLE, what, details={"cause": error.message}) from error


async def _read_events(events: AsyncIterator[Event], reading: _Reading, on_event: OnEvent) -> Done:
    async for event in events:
        if event.type == EventType.DONE:
            return _completed(read_event(event, Done), reading)
        if failure := error_in(event):
            raise failure
        form = _FORMS.get(event.type)
        if form is None:
            continue  # a newer queen may say more than we understand
        told = read_event(event, form)
        if isinstance(told, Token):
            reading.take(told)
        on_event(told)
    raise AssertionError("unreachable: until_end yields a last event or raises")


def _completed(done: Done, reading: _Reading) -> Done:
    if done.finish_reason is FinishReason.CANCELLED:
        raise RbeeError(
            Code.CANCELLED,
            f"{reading.task_id or 'the task'} was cancelled by another client",
            details={"tokens": done.total_tokens},
        )
    return done


def _answer_of(reading: _Reading, done: Done, started: float) -> Answer:
    first = reading.first_token_at if reading.first_token_at is not None else time.monotonic()
    return Answer(reading.task_id, reading.text, done, (first - started) * 1000.0)


async def _cancel(session: QueenSession, task_id: str) -> None:
    if not task_id:
        return  # the queen had not answered: closing the connection was all there is to say
    try:
        await session.call(TASK_CANCEL, path={"id": task_id}, timeout_s=CANCEL_LIMIT_S, tries=1)
    except RbeeError:
        pass  # it ended meanwhile, or the queen is gone; the connection of an attached task is closed in any case


def _retry_sentence(error: RbeeError, retry: int, retries: int, wait_s: float) -> Narration:
    return Narration(
        actor=ACTOR,
        text=f"{error.message}; try {retry} of {retries} again in {wait_s:.1f} s",
        fields={"code": error.code.value, "retry": retry, "retries": retries, "wait_s": round(wait_s, 3)},
    )


async def _final(error: RbeeError, reading: _Reading, request: TaskRequest, retries: int, partials: Path) -> RbeeError:
    """The error as it is shown at last: with the retries there were, and the file that keeps the text so far."""
    message, details = error.message, dict(error.details)
    if retries:
        message += f" (after {retries} {'retry' if retries == 1 else 'retries'})"
        details["retries"] = retries
    if reading.parts:
        figures = f" ({reading.tokens} of at most {request.max_tokens} tokens)"
        kept, where = await _keep(reading, partials, "" if "tokens_done" in details else figures)
        message += f"; {kept}"
        details |= {"tokens": reading.tokens, "max_tokens": request.max_tokens, **where}
    final = RbeeError(error.code, message, details=details, hint=error.hint)
    final.request_id = error.request_id
    return final


async def _keep(reading: _Reading, partials: Path, figures: str = "") -> tuple[str, Mapping[str, str]]:
    """Save the text so far; the sentence that says where it is, or why it is nowhere, and the file as a field."""
    try:
        path = await asyncio.to_thread(save_partial, partials, reading.task_id, reading.text)
    except (OSError, ValueError) as problem:
        return f"the text so far{figures} could not be saved: {problem}", {}
    return f"the text so far{figures} is in {path}", {PARTIAL_FILE: str(path)}


async def _tell_kept(reading: _Reading, on_event: OnEvent, partials: Path) -> None:
    if reading.parts:
        kept, where = await _keep(reading, partials)
        on_event(Narration(actor=ACTOR, text=kept, fields=where))
