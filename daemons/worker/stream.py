"""The worker's event streams as bytes: tokens of a generation, progress of loading."""

from collections.abc import AsyncIterator
from json.encoder import encode_basestring

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.events import Done, EventType, Progress
from daemons.contracts.inference import FinishReason, Timings, Usage
from daemons.contracts.workers import Ready, WorkerState
from daemons.kit.logs import get_logger
from daemons.kit.sse import encode_event
from daemons.worker.bridge import Bridge, RequestEvent, Ticket
from daemons.worker.engine.backend import Vocabulary
from daemons.worker.engine.request import Embedded, Failed, Finished, PromptProgress, Started, Token, TokenLogprobs

PERCENT = 100.0


async def generation_chunks(bridge: Bridge, ticket: Ticket, request_id: str) -> AsyncIterator[bytes]:
    """Events of one generation up to its end; leaving early (the reader is gone) cancels it."""
    last: RequestEvent | None = None
    try:
        while not isinstance(last, Finished | Failed):
            events = await ticket.take()
            last = events[-1]
            yield b"".join(_encoded(event, bridge.backend, request_id) for event in events)
    finally:
        if not isinstance(last, Finished | Failed):
            get_logger().info("the client is gone, cancelling", id=ticket.id)
            bridge.cancel(ticket.id)


def _encoded(event: RequestEvent, vocabulary: Vocabulary, request_id: str) -> bytes:
    match event:
        case Token():
            return encode_token(event, vocabulary)
        case Finished():
            return encode_event(EventType.DONE, done_of(event))
        case Failed():
            return encode_event(EventType.ERROR, error_of(event).as_dict(request_id))
        case PromptProgress():
            done, total = float(event.done), float(event.total)
            return encode_event(EventType.PROGRESS, Progress(stage="prompt", done=done, total=total, unit="tokens"))
        case Started() | Embedded():
            return b""


def encode_token(event: Token, vocabulary: Vocabulary) -> bytes:
    """One token as an event. Written by hand: this is the only code that runs on the loop for each token."""
    extra = f',"logprobs":{_logprobs(event, event.logprobs, vocabulary)}' if event.logprobs else ""
    return (
        f'event: token\ndata: {{"token":{encode_basestring(event.text)},"index":{event.index}{extra}}}\n\n'
    ).encode()


def _logprobs(event: Token, given: TokenLogprobs, vocabulary: Vocabulary) -> str:
    """``{"id","logprob","top":[{"id","token","logprob"}]}``; natural logarithms, most likely first."""
    top = ",".join(
        f'{{"id":{token},"token":{_text(vocabulary, token)},"logprob":{logprob:.6f}}}' for token, logprob in given.top
    )
    return f'{{"id":{event.token},"logprob":{given.logprob:.6f},"top":[{top}]}}'


def _text(vocabulary: Vocabulary, token: int) -> str:
    return encode_basestring(vocabulary.piece(token).decode("utf-8", "replace"))


def done_of(event: Finished) -> Done:
    """The wire form of a finished generation."""
    timings = event.timings
    return Done(
        total_tokens=event.usage.completion_tokens,
        duration_ms=round(timings.queue_ms + timings.prompt_ms + timings.generation_ms, 3),
        finish_reason=FinishReason(event.reason.value),
        usage=Usage(
            prompt_tokens=event.usage.prompt_tokens,
            completion_tokens=event.usage.completion_tokens,
            cached_tokens=event.usage.cached_tokens,
        ),
        timings=Timings(
            queue_ms=round(timings.queue_ms, 3),
            prompt_ms=round(timings.prompt_ms, 3),
            generation_ms=round(timings.generation_ms, 3),
            ttft_ms=round(timings.ttft_ms, 3),
            tokens_per_second=round(timings.tokens_per_second, 3),
        ),
    )


def error_of(event: Failed) -> RbeeError:
    return RbeeError(event.code, event.message, details=event.details)


async def loading_chunks(bridge: Bridge) -> AsyncIterator[bytes]:
    """Progress in percent up to 100, then `ready` and `done`; or the error that ended the load."""
    told = -1.0
    async for state in bridge.states():
        if bridge.failure is not None:
            yield encode_event(EventType.ERROR, bridge.failure.as_dict())
            return
        if state is WorkerState.DRAINING and not bridge.loaded:
            yield encode_event(EventType.ERROR, _stopped_early().as_dict())
            return
        if bridge.progress > told:
            told = bridge.progress
            yield encode_event(
                EventType.PROGRESS, Progress(stage="loading", done=told * PERCENT, total=PERCENT, unit="percent")
            )
        if bridge.loaded:
            yield encode_event(EventType.READY, Ready(ready=True, state=state, model_loaded=True))
            yield encode_event(EventType.DONE, {"done": True})
            return


def _stopped_early() -> RbeeError:
    return RbeeError(Code.DRAINING, "the worker is stopping; its model was not loaded")
