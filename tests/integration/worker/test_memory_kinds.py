"""Prompt reuse where llama.cpp's memory is not a plain KV cache: it must be refused there, or change nothing."""

from pathlib import Path

import pytest

from daemons.worker.engine.llama.backend import LlamaBackend, LoadOptions
from daemons.worker.engine.request import (
    Embedded,
    EmbedRequest,
    GenerateRequest,
    SamplingParams,
    Started,
)
from tests.support.backend_calls import tokens_of
from tests.support.engine_driver import EngineDriver
from tests.support.tiny_models import embedding_model, recurrent_model, sliding_model

pytestmark = pytest.mark.real_llama

LONG = "The bees fly out over the clover. " * 6


def backend_of(path: Path) -> LlamaBackend:
    return LlamaBackend(LoadOptions(model_path=str(path), slots=2, ctx=512, batch=64))


def greedy(id: str, tokens: list[int], *, max_tokens: int = 12, cache: bool = True) -> GenerateRequest:
    return GenerateRequest(
        id=id,
        tokens=tuple(tokens),
        max_tokens=max_tokens,
        sampling=SamplingParams(temperature=0.0),
        ignore_eos=True,
        cache_prompt=cache,
    )


def check_reuse(driver: EngineDriver, name: str, tokens: list[int]) -> int:
    """Run with and without reuse: the same tokens; returns how many were reused."""
    driver.run(greedy(name, tokens))
    driver.run(greedy(f"{name} fresh", tokens, cache=False))
    reused, fresh = ([event.token for event in driver.tokens(id)] for id in (name, f"{name} fresh"))
    assert reused == fresh
    return driver.first(name, Started).cached_tokens


def test_recurrent_state_is_continued_from_its_end_only(tmp_path: Path) -> None:
    backend = backend_of(recurrent_model(tmp_path / "recurrent.gguf"))
    with EngineDriver(backend, slots=2, batch=64).loaded_context() as driver:
        prompt = tokens_of(backend, LONG)
        assert check_reuse(driver, "first", prompt) == 0
        assert check_reuse(driver, "same beginning", [*prompt, 70, 71]) == 0
        driver.run(greedy("turn", prompt))
        answer = [event.token for event in driver.tokens("turn")]
        assert check_reuse(driver, "next turn", [*prompt, *answer, 80]) == len(prompt) + len(answer) - 1


def test_sliding_window_is_not_gone_back_behind(tmp_path: Path) -> None:
    backend = backend_of(sliding_model(tmp_path / "sliding.gguf", window=32))
    with EngineDriver(backend, slots=2, batch=64).loaded_context() as driver:
        prompt = tokens_of(backend, LONG)
        assert check_reuse(driver, "first", prompt) == 0
        assert check_reuse(driver, "longer", [*prompt, 70, 71]) == len(prompt)
        assert check_reuse(driver, "far back", [*prompt[:60], 70, 71]) == 0


def test_sliding_window_is_copied_from_a_running_sequence(tmp_path: Path) -> None:
    backend = backend_of(sliding_model(tmp_path / "sliding.gguf", window=32))
    with EngineDriver(backend, slots=2, batch=64).loaded_context() as driver:
        prompt = tokens_of(backend, LONG)
        driver.submit(greedy("running", prompt, max_tokens=200))
        driver.until(lambda: driver.tokens("running"))
        driver.run(greedy("beside", [*prompt, 70]))
        driver.end("running")
        driver.run(greedy("fresh", [*prompt, 70], cache=False))
        assert [e.token for e in driver.tokens("beside")] == [e.token for e in driver.tokens("fresh")]


def test_embedding_model_embeds_whole_texts_and_generates_nothing(tmp_path: Path) -> None:
    backend = backend_of(embedding_model(tmp_path / "embedding.gguf"))
    with EngineDriver(backend, slots=2, batch=64).loaded_context() as driver:
        assert not backend.info.generates
        assert backend.info.ctx == backend.info.embedding_chunk == 64
        inputs = tuple(tuple(tokens_of(backend, text)) for text in ("a bee", "a bee", "the queen of the hive"))
        driver.run(EmbedRequest(id="e", inputs=inputs))
        end = driver.end("e")
        assert isinstance(end, Embedded)
        assert end.vectors[0] == pytest.approx(end.vectors[1])
        assert end.vectors[0] != pytest.approx(end.vectors[2], abs=0.01)
