"""What only llama.cpp with a real vocabulary can show: grammars, biases, penalties, embeddings in parts, bad files."""

import json
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as llama_cpp
import pytest

from daemons.contracts.errors import Code, RbeeError
from daemons.models.demo import DEMO_MODEL_PATH
from daemons.worker.engine.backend import Backend, DecodeStatus, SamplingFailed, Span
from daemons.worker.engine.llama.backend import LlamaBackend, LoadOptions
from daemons.worker.engine.llama.library import devices
from daemons.worker.engine.llama.sampler import DEEPEST_GRAMMAR, nesting
from daemons.worker.engine.request import SamplingParams
from tests.support.backend_calls import GREEDY, generate, tokens_of

pytestmark = pytest.mark.real_llama


@pytest.fixture(scope="module")
def loaded() -> Iterator[LlamaBackend]:
    backend = LlamaBackend(LoadOptions(model_path=str(DEMO_MODEL_PATH), slots=2, ctx=256, batch=128))
    backend.load(lambda _: True)
    yield backend
    backend.close()


@pytest.fixture
def llama(loaded: LlamaBackend) -> LlamaBackend:
    """The loaded backend with an empty memory."""
    loaded.truncate(0, 0)
    loaded.truncate(1, 0)
    return loaded


def text_of(backend: Backend, tokens: list[int]) -> str:
    return b"".join(map(backend.piece, tokens)).decode()


def until_end(backend: LlamaBackend, prompt: list[int], params: SamplingParams, limit: int = 100) -> str:
    sampler = backend.sampler(params, prompt, ignore_eos=False)
    assert backend.decode([Span(0, 0, prompt, True)]) is DecodeStatus.OK
    row, out = len(prompt) - 1, list[int]()
    while len(out) < limit:
        token = sampler.sample(row)
        if backend.is_end(token):
            break
        out.append(token)
        assert backend.decode([Span(0, len(prompt) + len(out) - 1, [token], True)]) is DecodeStatus.OK
        row = 0
    sampler.close()
    return text_of(backend, out)


@pytest.mark.parametrize("seed", range(4))
def test_schema_is_followed(llama: LlamaBackend, seed: int) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 12}, "bees": {"enum": [1, 2, 3]}},
        "required": ["name", "bees"],
        "additionalProperties": False,
    }
    grammar = llama.grammar_of_schema(json.dumps(schema))
    text = until_end(llama, tokens_of(llama), SamplingParams(temperature=1.0, seed=seed, grammar=grammar))
    answer = json.loads(text)
    assert set(answer) == {"name", "bees"}
    assert answer["bees"] in (1, 2, 3)


def test_strings_of_a_schema_hold_no_control_characters(llama: LlamaBackend) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string", "pattern": "^x.$"}}}
    grammar = llama.grammar_of_schema(json.dumps(schema))
    assert r"\x00-\x1F" in grammar
    assert r"[^\x0A\x0D]" not in grammar
    newline = llama.tokenize("\n", add_special=False, parse_special=False)[-1]
    forced = SamplingParams(
        temperature=0.0, grammar='root ::= "\\"" ' + _rule(grammar, "char") + "+", logit_bias=((newline, 100.0),)
    )
    assert "\n" not in until_end(llama, tokens_of(llama), forced, limit=8)


def _rule(grammar: str, name: str) -> str:
    return "(" + next(line for line in grammar.splitlines() if line.startswith(f"{name} ::= ")).split("::= ")[1] + ")"


def test_grammar_is_followed_by_greedy_too(llama: LlamaBackend) -> None:
    grammar = 'root ::= ("yes" | "no") "!"'
    text = until_end(llama, tokens_of(llama), SamplingParams(temperature=0.0, grammar=grammar))
    assert text in ("yes!", "no!")


def test_schema_that_makes_no_grammar_is_refused(llama: LlamaBackend) -> None:
    with pytest.raises(ValueError, match="KeyError|Unrecognized|ref"):
        llama.grammar_of_schema('{"$ref": "#/$defs/missing"}')


def nested(depth: int) -> str:
    return "root ::= " + "(" * depth + '"a"' + ")" * depth


@pytest.mark.parametrize("depth", [DEEPEST_GRAMMAR + 1, 30_000])
def test_grammar_that_would_end_the_parsers_stack_is_refused(llama: LlamaBackend, depth: int) -> None:
    with pytest.raises(SamplingFailed, match=f"too deeply: {depth} brackets"):
        llama.sampler(SamplingParams(temperature=0.0, grammar=nested(depth)), [1], ignore_eos=False)


def test_grammar_may_be_nested(llama: LlamaBackend) -> None:
    params = SamplingParams(temperature=0.0, grammar=nested(DEEPEST_GRAMMAR))
    assert until_end(llama, tokens_of(llama), params) == "a"


@pytest.mark.parametrize(
    ("grammar", "depth"),
    [
        ('root ::= "((" [((] # ((', 0),
        ('root ::= "\\"((" ("a")', 1),
        ('root ::= [\\](] ("a" | ("b"))', 2),
        ('# "\nroot ::= (("a"))', 2),
        ('root ::= <"> (("a")) <">', 2),
        ('root ::= ("a") ("b")', 1),
    ],
)
def test_only_brackets_that_group_count(grammar: str, depth: int) -> None:
    assert nesting(grammar) == depth


@pytest.mark.parametrize("part", ["<", "[", '"\\'])
def test_looking_for_brackets_takes_no_time(part: str) -> None:
    started = time.monotonic()
    nesting(part * 32_768)
    assert time.monotonic() - started < 1.0


def test_deep_schema_is_refused(llama: LlamaBackend) -> None:
    with pytest.raises(ValueError, match="too deeply"):
        llama.grammar_of_schema('{"items":' * 5000 + "{}" + "}" * 5000)


def test_bias_forces_and_forbids(llama: LlamaBackend) -> None:
    prompt = tokens_of(llama)
    chosen = generate(llama, 0, prompt, 1, GREEDY)[0]
    other = chosen + 1
    llama.truncate(0, 0)
    forced = SamplingParams(temperature=0.0, logit_bias=((other, 100.0),))
    assert generate(llama, 0, prompt, 3, forced) == [other] * 3
    llama.truncate(0, 0)
    assert generate(llama, 0, prompt, 1, SamplingParams(temperature=0.0, logit_bias=((chosen, -100.0),))) != [chosen]


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=0.9, seed=3, mirostat=1),
        SamplingParams(temperature=0.9, seed=3, mirostat=2),
        SamplingParams(temperature=0.9, seed=3, typical_p=0.9, top_k=0, top_p=1.0, min_p=0.0),
        SamplingParams(temperature=0.9, seed=3, dry_multiplier=0.8),
        SamplingParams(temperature=0.0, repeat_penalty=1.3, repeat_last_n=-1),
        SamplingParams(temperature=1.0, seed=3, frequency_penalty=1.0, presence_penalty=1.0),
    ],
)
def test_every_kind_of_sampling_is_seeded(llama: LlamaBackend, params: SamplingParams) -> None:
    prompt = tokens_of(llama)
    first = generate(llama, 0, prompt, 24, params)
    llama.truncate(0, 0)
    assert generate(llama, 0, prompt, 24, params) == first


def test_penalty_looks_back_on_the_prompt(llama: LlamaBackend) -> None:
    prompt = tokens_of(llama)
    favourite = generate(llama, 0, prompt, 1, GREEDY)[0]
    llama.truncate(0, 0)
    seen = [*prompt[:-1], *[favourite] * 8, prompt[-1]]
    sampler = llama.sampler(
        SamplingParams(temperature=0.0, frequency_penalty=2.0, presence_penalty=2.0), seen, ignore_eos=True
    )
    llama.decode([Span(0, 0, prompt, True)])
    assert sampler.sample(len(prompt) - 1) != favourite
    sampler.close()


def test_chunked_embedding_is_the_sum_of_its_parts(llama: LlamaBackend) -> None:
    tokens = tokens_of(llama)
    whole = llama.embed(Span(0, 0, tokens, False))
    llama.truncate(0, 0)
    cut = random.Random(7).randrange(2, len(tokens) - 2)
    head = llama.embed(Span(0, 0, tokens[:cut], False))
    tail = llama.embed(Span(0, cut, tokens[cut:], False))
    assert whole
    assert head
    assert tail
    difference = max(abs(a - (b + c)) for a, b, c in zip(whole, head, tail, strict=True))
    assert difference < 0.05 * max(map(abs, whole))


# -- loading ---------------------------------------------------------------------------------------------------------


def load(path: Path, **options: object) -> None:
    LlamaBackend(LoadOptions(model_path=str(path), **options)).load(lambda _: True)  # type: ignore[arg-type]


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RbeeError) as caught:
        load(tmp_path / "none.gguf")
    assert caught.value.code is Code.MODEL_NOT_FOUND
    assert "none.gguf" in caught.value.message


def test_file_that_is_no_model_is_told_with_llamas_own_words(tmp_path: Path) -> None:
    path = tmp_path / "text.gguf"
    path.write_text("not a model")
    with pytest.raises(RbeeError) as caught:
        load(path)
    assert caught.value.code is Code.MODEL_INVALID
    assert "gave no reason" not in caught.value.message


def test_cut_off_file_is_invalid(tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    shutil.copy(DEMO_MODEL_PATH, path)
    with path.open("r+b") as file:
        file.truncate(DEMO_MODEL_PATH.stat().st_size // 2)
    with pytest.raises(RbeeError) as caught:
        load(path)
    assert caught.value.code is Code.MODEL_INVALID


def test_unknown_device_is_refused_not_replaced() -> None:
    with pytest.raises(RbeeError) as caught:
        load(DEMO_MODEL_PATH, device="CUDA77")
    assert caught.value.code is Code.DEVICE_NOT_FOUND


def test_load_stops_when_it_is_told_to() -> None:
    backend = LlamaBackend(LoadOptions(model_path=str(DEMO_MODEL_PATH)))
    with pytest.raises(RbeeError) as caught:
        backend.load(lambda _: False)
    assert caught.value.code is Code.CANCELLED
    backend.close()


def test_closed_backend_refuses_to_read_its_vocabulary() -> None:
    backend = LlamaBackend(LoadOptions(model_path=str(DEMO_MODEL_PATH), slots=1, ctx=64, batch=64))
    backend.load(lambda _: True)
    known = backend.tokenize("bee", add_special=False, parse_special=False)[0]
    piece = backend.piece(known)
    backend.close()
    assert backend.piece(known) == piece
    reads: tuple[Callable[[], object], ...] = (
        lambda: backend.piece(known + 1),
        lambda: backend.tokenize("bee", add_special=False, parse_special=False),
    )
    for read in reads:
        with pytest.raises(RbeeError) as caught:
            read()
        assert caught.value.code is Code.DRAINING


def test_model_is_freed_after_the_last_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = LlamaBackend(LoadOptions(model_path=str(DEMO_MODEL_PATH), slots=1, ctx=64, batch=64))
    backend.load(lambda _: True)
    freed, reading, go_on = threading.Event(), threading.Event(), threading.Event()
    free, tokenize = llama_cpp.llama_model_free, llama_cpp.llama_tokenize

    def slow(*arguments: Any) -> Any:
        reading.set()
        assert go_on.wait(10.0)
        assert not freed.is_set()
        return tokenize(*arguments)

    def told(model: Any) -> None:
        freed.set()
        free(model)

    monkeypatch.setattr(llama_cpp, "llama_tokenize", slow)
    monkeypatch.setattr(llama_cpp, "llama_model_free", told)
    with ThreadPoolExecutor(2) as threads:
        tokens = threads.submit(backend.tokenize, "bee", add_special=False, parse_special=False)
        assert reading.wait(10.0)
        closing = threads.submit(backend.close)
        assert not freed.wait(0.2)
        go_on.set()
        assert tokens.result(10.0)
        closing.result(10.0)
    assert freed.is_set()


def test_context_is_the_models_when_none_is_named() -> None:
    backend = LlamaBackend(LoadOptions(model_path=str(DEMO_MODEL_PATH), slots=1))
    backend.load(lambda _: True)
    assert backend.info.ctx == backend.info.ctx_train == 2048
    backend.close()


def test_a_cpu_is_among_the_devices_and_has_memory() -> None:
    cpus = [device for device in devices() if device.kind == "cpu"]
    assert cpus
    assert cpus[0].memory_total >= cpus[0].memory_free > 0
    assert cpus[0].name
