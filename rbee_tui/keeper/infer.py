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

    A full queue is tried again as the policy says (Retry-After wins), each wait narrated. When the caller is cancelled,
    or `on_event` raises, the queen is told to cancel. Raises RbeeError; when text had come by then it is in
    ``details["partial_file"]``, below `partials`.
    """
    started = time.monotonic()
    waits = session.policy.busy_retry.waits(session.policy.jitter)
    retries = 0
    while True:
        reading = _Reading()
        try:
            done = await _read_answer(session, request, reading, on_event)
            return _answer_of(reading, done, started)
        except RbeeError as error:
            wait = next(waits, None) if error.code in _BUSY and not reading.parts else None
            if wait is None:
                raise await _final(error, reading, request, retries, partials) from error
            wait = error.retry_after if error.retry_after is not None else wait
            retries += 1
            on_event(_retry_sentence(error, retries, session.policy.busy_tries, wait))
        except BaseException:
            await _cancel(session, reading.task_id)
            raise
        await asyncio.sleep(wait)


async def _read_answer(session: QueenSession, request: TaskRequest, reading: _Reading, on_event: OnEvent) -> Done:
    def on_headers(headers: Mapping[str, str]) -> None:
        reading.task_id = headers.get(TASK_ID_HEADER, "")

    policy = session.policy
    # The queen's pings count as bytes, so this much silence means that the queen is gone, not that a queue is long.
    silence_s = max(policy.inference_stall_s, 3 * policy.ping_s)
    async with session.stream(TASK_CREATE, body=request, silence_s=silence_s, on_headers=on_headers) as events:
        return await _read_events(events, session.name, reading, on_event)


async def _read_events(events: AsyncIterator[Event], name: str, reading: _Reading, on_event: OnEvent) -> Done:
    async for event in until_end(events, name):
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
        details |= {"tokens": reading.tokens, "max_tokens": request.max_tokens}
        so_far = f"the text so far ({reading.tokens} of at most {request.max_tokens} tokens)"
        try:
            path = await asyncio.to_thread(save_partial, partials, reading.task_id, reading.text)
        except (OSError, ValueError) as problem:
            message += f"; {so_far} could not be saved: {problem}"
        else:
            details["partial_file"] = str(path)
            message += f"; {so_far} is in {path}"
    final = RbeeError(error.code, message, details=details, hint=error.hint)
    final.request_id = error.request_id
    return final
