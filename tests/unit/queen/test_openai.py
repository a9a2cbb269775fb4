"""OpenAI's routes, as OpenAI's own Python client sees them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import openai
import pytest

from daemons.contracts.errors import Code, RbeeError
from tests.support.fake_hive import FakeHive, FakeWorker
from tests.support.queen_harness import INFER_KEY, QueenUnderTest, queen_and_hive, until

PROMPT: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "Hello"}]


@asynccontextmanager
async def _client(tmp_path: Path) -> AsyncIterator[tuple[openai.AsyncOpenAI, FakeWorker, QueenUnderTest, FakeHive]]:
    """OpenAI's client with an inference key, and the worker that will answer."""
    async with queen_and_hive(tmp_path) as (queen, hive):
        worker = await hive.add_worker()
        await until(lambda: queen.service.state.workers)
        async with openai.AsyncOpenAI(base_url=f"{queen.url}/v1", api_key=INFER_KEY, max_retries=0) as client:
            yield client, worker, queen, hive


async def test_models_are_listed_by_reference(tmp_path: Path) -> None:
    async with _client(tmp_path) as (client, _, _, _):
        assert [model.id async for model in client.models.list()] == ["demo"]


async def test_one_model_is_told_by_its_reference(tmp_path: Path) -> None:
    async with _client(tmp_path) as (client, _, _, hive):
        hive.model_refs.append("file:///data/models/bee.gguf")
        for ref in ("demo", "file:///data/models/bee.gguf"):
            model = await client.models.retrieve(ref)
            assert (model.id, model.object) == (ref, "model")
        for ref in ("gpt-4", "file:///data/models"):
            with pytest.raises(openai.NotFoundError) as caught:
                await client.models.retrieve(ref)
            assert (caught.value.code, caught.value.type) == ("MODEL_NOT_FOUND", "invalid_request_error")
        with pytest.raises(openai.BadRequestError) as refused:
            await client.models.retrieve("x\x1b[31m")
        assert (refused.value.code, "\x1b" in refused.value.message) == ("INVALID_REQUEST", False)


async def test_a_conversation_goes_on_with_the_message_that_came(tmp_path: Path) -> None:
    async with _client(tmp_path) as (client, worker, _, _):
        first = await client.chat.completions.create(model="demo", messages=PROMPT, max_tokens=2, temperature=None)
        said = first.choices[0].message.model_dump()
        await client.chat.completions.create(model="demo", messages=[*PROMPT, said, *PROMPT], max_tokens=2)  # type: ignore[list-item]
        messages = worker.requests[-1].messages
        assert messages is not None
        assert [message.text for message in messages] == ["Hello", "t0 t1 ", "Hello"]


async def test_a_whole_chat_answer(tmp_path: Path) -> None:
    async with _client(tmp_path) as (client, worker, _, _):
        answer = await client.chat.completions.create(model="demo", messages=PROMPT, max_tokens=3, temperature=0)
        (choice,) = answer.choices
        assert (choice.message.role, choice.message.content) == ("assistant", "t0 t1 t2 ")
        assert choice.finish_reason == "length"
        assert answer.usage is not None
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (3, 3, 6)
        (request,) = worker.requests
        assert request.messages is not None
        assert request.messages[0].content == "Hello"


async def test_a_streamed_chat_answer_with_usage(tmp_path: Path) -> None:
    async with _client(tmp_path) as (client, _, _, _):
        stream = await client.chat.completions.create(
            model="demo", messages=PROMPT, max_tokens=3, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        assert chunks[0].choices[0].delta.role == "assistant"
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "t0 t1 t2 "
        assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
        assert chunks[-1].choices == []
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.total_tokens == 6
        assert len({chunk.id for chunk in chunks}) == 1


async def test_chunks_come_as_they_are_generated(tmp_path: Path) -> None:
    async with queen_and_hive(tmp_path) as (queen, hive):
        hive.gated = True
        worker = await hive.add_worker()
        await until(lambda: queen.service.state.workers)
        async with openai.AsyncOpenAI(base_url=f"{queen.url}/v1", api_key=INFER_KEY, max_retries=0) as client:
            worker.step()
            stream = await client.chat.completions.create(model="demo", messages=PROMPT, max_tokens=2, stream=True)
            texts: list[str] = []
            collecting = asyncio.create_task(_collect(stream, texts))
            await until(lambda: "".join(texts) == "t0 ")
            assert worker.running == 1
            worker.step()
            await collecting
            assert "".join(texts) == "t0 t1 "


async def test_plain_completions_whole_and_streamed(tmp_path: Path) -> None:
    async with _client(tmp_path) as (client, worker, _, _):
        whole = await client.completions.create(model="demo", prompt="Once", max_tokens=2)
        assert (whole.choices[0].text, whole.choices[0].finish_reason) == ("t0 t1 ", "length")
        stream = await client.completions.create(model="demo", prompt="Once", max_tokens=2, stream=True)
        assert "".join([chunk.choices[0].text async for chunk in stream]) == "t0 t1 "
        assert [request.prompt for request in worker.requests] == ["Once", "Once"]


async def test_errors_come_in_openais_envelope(tmp_path: Path) -> None:
    async with _client(tmp_path) as (client, worker, _, _):
        with pytest.raises(openai.BadRequestError) as bad:
            await client.chat.completions.create(model="gpt-4", messages=PROMPT)
        assert bad.value.code == "INVALID_MODEL_REF"
        worker.refuse_with = RbeeError(Code.CONTEXT_OVERFLOW, "9000 tokens, context 2048")
        for stream in (False, True):
            with pytest.raises(openai.BadRequestError) as overflow:
                await client.chat.completions.create(model="demo", messages=PROMPT, stream=stream)
            assert overflow.value.code == "CONTEXT_OVERFLOW"
        wrong = client.with_options(api_key="wrong-key-0123456789")
        with pytest.raises(openai.AuthenticationError):
            await wrong.models.list()


async def test_a_failure_inside_a_stream_comes_as_an_error_chunk(tmp_path: Path) -> None:
    async with _client(tmp_path) as (client, worker, _, _):
        worker.end_with = RbeeError(Code.ENGINE_FAILED, "decode said -3")
        stream = await client.chat.completions.create(model="demo", messages=PROMPT, max_tokens=2, stream=True)
        texts: list[str] = []
        with pytest.raises(openai.APIError, match="decode said -3"):
            await _collect(stream, texts)
        assert "".join(texts) == "t0 t1 "


async def _collect(stream: openai.AsyncStream[openai.types.chat.ChatCompletionChunk], texts: list[str]) -> None:
    async for chunk in stream:
        texts += [choice.delta.content or "" for choice in chunk.choices]


async def test_what_cannot_be_honoured_is_refused(tmp_path: Path) -> None:
    async with _client(tmp_path) as (client, _, _, _):
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(model="demo", messages=PROMPT, n=2)
        assert caught.value.code == "INVALID_REQUEST"
        with pytest.raises(openai.BadRequestError):
            await client.chat.completions.create(model="demo\x1b[31m", messages=PROMPT)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_gives_up_frees_its_slot(tmp_path: Path, stream: bool) -> None:
    """Also while nothing has been sent yet."""
    async with queen_and_hive(tmp_path) as (queen, hive):
        hive.gated = True
        worker = await hive.add_worker()
        await until(lambda: queen.service.state.workers)
        async with openai.AsyncOpenAI(base_url=f"{queen.url}/v1", api_key=INFER_KEY, max_retries=0) as client:
            asking = asyncio.create_task(
                client.chat.completions.create(model="demo", messages=PROMPT, max_tokens=9, stream=stream)
            )
            await until(lambda: worker.running == 1)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        await until(lambda: worker.running == 0, limit_s=1.0)
        await until(lambda: not queen.service.state.tasks, limit_s=1.0)
