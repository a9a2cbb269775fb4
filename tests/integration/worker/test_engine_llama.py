"""The engine on llama.cpp with the demo model: seeds, company in a batch, reuse of prompts, UTF-8, stop strings."""

from collections.abc import Iterator

import pytest

from daemons.models.demo import DEMO_MODEL_PATH
from daemons.worker.engine.llama.backend import LlamaBackend, LoadOptions
from daemons.worker.engine.request import (
    Embedded,
    EmbedRequest,
    Finished,
    FinishReason,
    GenerateRequest,
    SamplingParams,
    Started,
)
from tests.support.backend_calls import tokens_of
from tests.support.engine_driver import EngineDriver

pytestmark = pytest.mark.real_llama

SLOTS, CTX = 4, 1024


@pytest.fixture(scope="module")
def backend() -> LlamaBackend:
    return LlamaBackend(LoadOptions(model_path=str(DEMO_MODEL_PATH), slots=SLOTS, ctx=CTX, batch=128))


@pytest.fixture(scope="module")
def driver(backend: LlamaBackend) -> Iterator[EngineDriver]:
    with EngineDriver(backend, slots=SLOTS, batch=128).loaded_context() as running:
        yield running


def story(backend: LlamaBackend, id: str, prompt: str = "A bee named Luma", **options: object) -> GenerateRequest:
    values: dict[str, object] = {
        "max_tokens": 40,
        "sampling": SamplingParams(temperature=0.9, seed=11),
        "cache_prompt": False,
        **options,
    }
    return GenerateRequest(id=id, tokens=tuple(tokens_of(backend, prompt)), **values)  # type: ignore[arg-type]


def test_same_seed_gives_the_same_text_when_run_alone_twice(driver: EngineDriver, backend: LlamaBackend) -> None:
    driver.run(story(backend, "s1"))
    driver.run(story(backend, "s2"))
    driver.run(story(backend, "s3", sampling=SamplingParams(temperature=0.9, seed=12)))
    assert driver.text("s1") == driver.text("s2") != driver.text("s3")
    assert len(driver.text("s1")) > 20


def test_sampling_of_others_does_not_touch_a_request(driver: EngineDriver, backend: LlamaBackend) -> None:
    """Each neighbour has penalties, biases or a grammar of its own; greedy text beside them is greedy text alone.

    Rounding in llama.cpp's kernels may depend on the batch's shape, so the texts are compared to the first token
    whose two best candidates are closer than that: the demo model's greedy text has none in these prompts.
    """
    greedy = SamplingParams(temperature=0.0)
    driver.run(story(backend, "alone", sampling=greedy))
    neighbours = [
        SamplingParams(temperature=1.5, seed=1, frequency_penalty=2.0, repeat_penalty=1.5),
        SamplingParams(temperature=1.0, seed=2, logit_bias=((300, 100.0),)),
        SamplingParams(temperature=1.0, seed=3, grammar='root ::= "x"+'),
    ]
    others = [story(backend, f"n{n}", "Bees", sampling=params) for n, params in enumerate(neighbours)]
    driver.run(*others, story(backend, "beside", sampling=greedy))
    assert driver.text("beside") == driver.text("alone")


def test_second_request_reuses_the_prefix_in_its_slot_and_from_another(
    driver: EngineDriver, backend: LlamaBackend
) -> None:
    long = "The queen bee tells her hive where the clover grows. " * 30
    first = story(backend, "p1", long, cache_prompt=True, max_tokens=60, ignore_eos=True)
    driver.submit(first)
    driver.first("p1", Started)
    driver.until(lambda: driver.tokens("p1"))
    driver.run(story(backend, "p2", long + "Then", cache_prompt=True, max_tokens=4))  # p1 is still running
    driver.end("p1")
    driver.run(story(backend, "p3", long + "Now", cache_prompt=True, max_tokens=4))
    shared = len(first.tokens)
    for id in ("p2", "p3"):
        end = driver.end(id)
        assert isinstance(end, Finished)
        assert end.usage.cached_tokens >= shared - 2
    slow, fast = driver.end("p1"), driver.end("p3")
    assert isinstance(slow, Finished)
    assert isinstance(fast, Finished)
    assert fast.timings.ttft_ms < slow.timings.ttft_ms / 2


def test_text_after_a_reused_prefix_is_the_text_without_reuse(driver: EngineDriver, backend: LlamaBackend) -> None:
    greedy = SamplingParams(temperature=0.0)
    prompt = "The queen bee tells her hive where the clover grows. " * 8
    driver.run(story(backend, "fresh", prompt, sampling=greedy))
    driver.run(story(backend, "seed", prompt, sampling=greedy, cache_prompt=True))
    driver.run(story(backend, "reused", prompt, sampling=greedy, cache_prompt=True))
    assert driver.first("reused", Started).cached_tokens > 0
    assert driver.text("reused") == driver.text("fresh")


def test_characters_of_several_byte_tokens_are_whole(driver: EngineDriver, backend: LlamaBackend) -> None:
    grammar = SamplingParams(temperature=0.0, grammar='root ::= "日本 🐝 é!"')
    driver.run(story(backend, "utf8", sampling=grammar))
    assert driver.text("utf8") == "日本 🐝 é!"
    assert len(driver.tokens("utf8")) > len("日本 🐝 é!")
    assert "�" not in driver.text("utf8")


def test_stop_string_split_over_tokens(driver: EngineDriver, backend: LlamaBackend) -> None:
    grammar = SamplingParams(temperature=0.0, grammar='root ::= "one END two"')
    driver.run(story(backend, "stop", sampling=grammar, stop=(" END",)))
    assert driver.text("stop") == "one"
    end = driver.end("stop")
    assert isinstance(end, Finished)
    assert end.reason is FinishReason.STOP


def test_demo_model_ends_by_itself(driver: EngineDriver, backend: LlamaBackend) -> None:
    driver.run(story(backend, "ends", sampling=SamplingParams(temperature=0.0), max_tokens=600))
    end = driver.end("ends")
    assert isinstance(end, Finished)
    assert end.reason is FinishReason.STOP


def test_embeddings_beside_a_generation(driver: EngineDriver, backend: LlamaBackend) -> None:
    texts = ["How do I add a node?", "How can I add a node?", "The bee flew over the meadow in the morning sun."]
    inputs = tuple(tuple(tokens_of(backend, text * 5)) for text in texts)
    driver.run(story(backend, "g", max_tokens=30, ignore_eos=True), EmbedRequest(id="e", inputs=inputs))
    end = driver.end("e")
    assert isinstance(end, Embedded)

    def cosine(a: int, b: int) -> float:
        return sum(x * y for x, y in zip(end.vectors[a], end.vectors[b], strict=True))

    assert cosine(0, 1) > cosine(0, 2)
    assert cosine(0, 0) == pytest.approx(1.0)
