"""What the engine relies on in a backend: the same tests for llama.cpp with the demo model and for the fake."""

import math
from collections.abc import Iterator

import pytest

from daemons.models.demo import DEMO_MODEL_PATH
from daemons.worker.engine.backend import Backend, DecodeStatus, SamplingFailed, Span
from daemons.worker.engine.llama.backend import LlamaBackend, LoadOptions
from daemons.worker.engine.request import SamplingParams
from tests.support.backend_calls import GREEDY, generate, tokens_of
from tests.support.fake_backend import FakeBackend

SLOTS, CTX, BATCH = 4, 256, 128


def _llama() -> Backend:
    options = LoadOptions(model_path=str(DEMO_MODEL_PATH), slots=SLOTS, ctx=CTX, batch=BATCH)
    return LlamaBackend(options)


def _fake() -> Backend:
    return FakeBackend(slots=SLOTS, ctx=CTX)


@pytest.fixture(
    params=[pytest.param(_llama, id="llama", marks=pytest.mark.real_llama), pytest.param(_fake, id="fake")],
    scope="module",
)
def loaded(request: pytest.FixtureRequest) -> Iterator[Backend]:
    backend: Backend = request.param()
    shares: list[float] = []

    def progress(fraction: float) -> bool:
        shares.append(fraction)
        return True

    backend.load(progress)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    yield backend
    backend.close()
    backend.close()


@pytest.fixture
def backend(loaded: Backend) -> Backend:
    """The loaded backend with an empty memory."""
    for sequence in range(SLOTS):
        assert loaded.truncate(sequence, 0)
    return loaded


def test_info_describes_model_and_context(backend: Backend) -> None:
    info = backend.info
    assert info.ctx == CTX
    assert info.cells >= SLOTS * CTX
    assert info.vocab_size > 256
    assert info.embedding_size > 0
    assert 0 < info.embedding_chunk <= BATCH
    assert info.add_bos
    assert info.bos
    assert info.chat_template
    assert info.generates


@pytest.mark.parametrize("text", ["plain words", "Zoë said: 🐝 — naïve", "  two  spaces\nand\ttabs", "日本語", ""])
def test_any_text_survives_tokens_and_pieces(backend: Backend, text: str) -> None:
    tokens = backend.tokenize(text, add_special=False, parse_special=False)
    assert b"".join(map(backend.piece, tokens)).decode() == text
    assert len(backend.tokenize(text, add_special=True, parse_special=False)) == len(tokens) + 1


def test_special_tokens_are_parsed_only_when_asked(backend: Backend) -> None:
    text = backend.info.bos
    assert len(backend.tokenize(text, add_special=False, parse_special=True)) == 1
    assert len(backend.tokenize(text, add_special=False, parse_special=False)) > 1


def test_greedy_is_the_same_twice_and_in_another_sequence(backend: Backend) -> None:
    prompt = tokens_of(backend)
    first = generate(backend, 0, prompt, 8, GREEDY)
    assert backend.truncate(0, 0)
    assert generate(backend, 0, prompt, 8, GREEDY) == first
    assert generate(backend, 3, prompt, 8, GREEDY) == first


def test_seed_decides_and_seeds_differ(backend: Backend) -> None:
    prompt = tokens_of(backend)
    texts = []
    for seed in (1, 1, 2, 3):
        texts.append(generate(backend, 0, prompt, 16, SamplingParams(temperature=1.5, top_p=1.0, min_p=0.0, seed=seed)))
        backend.truncate(0, 0)
    assert texts[0] == texts[1]
    assert len({tuple(text) for text in texts}) > 1


def test_prompt_in_chunks_gives_the_same_tokens(backend: Backend) -> None:
    prompt = tokens_of(backend)
    whole = generate(backend, 0, prompt, 6, GREEDY)
    assert backend.decode([Span(1, 0, prompt[:5], False)]) is DecodeStatus.OK
    assert generate(backend, 1, prompt, 6, GREEDY, start=5) == whole


def test_rows_of_several_sequences_in_one_batch(backend: Backend) -> None:
    prompts = [tokens_of(backend, text) for text in ("The hive was", "How do I add a node", "Bees")]
    alone = []
    for prompt in prompts:
        alone.append(generate(backend, 0, prompt, 1, GREEDY)[0])
        backend.truncate(0, 0)
    assert backend.decode([Span(n, 0, prompt, True) for n, prompt in enumerate(prompts)]) is DecodeStatus.OK
    row, together = -1, []
    for prompt in prompts:
        row += len(prompt)
        sampler = backend.sampler(GREEDY, prompt, ignore_eos=True)
        together.append(sampler.sample(row))
        sampler.close()
    assert together == alone


def test_truncated_sequence_goes_on_from_where_it_was_cut(backend: Backend) -> None:
    prompt = tokens_of(backend)
    fresh = generate(backend, 0, prompt, 4, GREEDY)
    assert backend.reusable(0, 10)
    assert backend.truncate(0, 10)
    assert generate(backend, 0, prompt, 4, GREEDY, start=10) == fresh


def test_copied_prefix_goes_on_like_a_computed_one(backend: Backend) -> None:
    prompt = tokens_of(backend)
    fresh = generate(backend, 0, prompt, 4, GREEDY)
    backend.copy(0, 2, 12)
    assert generate(backend, 2, prompt, 4, GREEDY, start=12) == fresh
    backend.truncate(0, 0)
    backend.copy(2, 0, len(prompt) - 1)
    backend.truncate(2, 0)  # the copy outlives its source
    assert generate(backend, 0, prompt, 4, GREEDY, start=len(prompt) - 1) == fresh


def test_empty_sequence_is_not_reusable(backend: Backend) -> None:
    assert not backend.reusable(0, 4)


def test_memory_that_is_full_is_said_and_changes_nothing(backend: Backend) -> None:
    chunk = (tokens_of(backend) * BATCH)[:BATCH]
    for position in range(0, CTX, BATCH):
        assert backend.decode([Span(0, position, chunk, False)]) is DecodeStatus.OK
    assert backend.decode([Span(0, CTX, chunk, True)]) is DecodeStatus.NO_CELLS
    assert backend.decode([Span(1, 0, chunk, True)]) is DecodeStatus.OK
    assert backend.truncate(0, CTX - BATCH)
    assert backend.decode([Span(0, CTX - BATCH, chunk, True)]) is DecodeStatus.OK


def test_logprobs_are_ranked_and_name_the_chosen_token(backend: Backend) -> None:
    prompt = tokens_of(backend)
    sampler = backend.sampler(GREEDY, prompt, ignore_eos=False)
    assert backend.decode([Span(0, 0, prompt, True)]) is DecodeStatus.OK
    chosen = sampler.sample(len(prompt) - 1)
    sampler.close()
    result = backend.logprobs(len(prompt) - 1, chosen, 5)
    values = [value for _, value in result.top]
    assert values == sorted(values, reverse=True)
    assert result.top[0] == (chosen, result.logprob)
    assert len(result.top) == 5
    assert sum(math.exp(value) for value in values) <= 1.0 + 1e-6


def test_ignored_end_of_text_is_never_sampled(backend: Backend) -> None:
    prompt = tokens_of(backend)
    params = SamplingParams(temperature=2.0, top_k=0, top_p=1.0, min_p=0.0, seed=5)
    assert not any(backend.is_end(token) for token in generate(backend, 0, prompt, 60, params))


def test_grammar_that_does_not_parse_is_refused(backend: Backend) -> None:
    with pytest.raises(SamplingFailed, match="does not parse"):
        backend.sampler(SamplingParams(grammar="not a grammar ("), [1], ignore_eos=False)


def test_embedding_of_the_same_text_is_the_same(backend: Backend) -> None:
    chunk = backend.info.embedding_chunk
    tokens = tokens_of(backend)[:chunk]
    first = backend.embed(Span(0, 0, tokens, False))
    backend.truncate(0, 0)
    second = backend.embed(Span(0, 0, tokens, False))
    backend.truncate(0, 0)
    other = backend.embed(Span(0, 0, tokens_of(backend, "How do I add a node?")[:chunk], False))
    assert first is not None
    assert len(first) == backend.info.embedding_size
    assert first == second != other
    backend.truncate(0, 0)
    prompt = tokens_of(backend)
    assert generate(backend, 0, prompt, 2, GREEDY)  # the context still generates
