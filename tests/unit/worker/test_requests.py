"""Wire requests become engine requests: BOS once, grammars, ids inside the vocabulary, deadlines."""

import time
from typing import Any

import pytest

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.inference import InferenceRequest, ResponseFormat
from daemons.worker.engine.request import GenerateRequest
from daemons.worker.requests import RequestReader, _schema_text, on_engine_clock
from tests.support.fake_backend import BOS, VOCAB_SIZE, FakeBackend, fake_tokens


def read(backend: FakeBackend | None = None, **body: Any) -> GenerateRequest:
    backend = backend or FakeBackend()
    request = InferenceRequest.model_validate({"id": "r-1", **body})
    return RequestReader(backend, backend.info).read(request, deadline=None)


def refused(**body: Any) -> RbeeError:
    with pytest.raises(RbeeError) as caught:
        read(**body)
    return caught.value


def test_prompt_is_tokenized_with_bos() -> None:
    assert read(prompt="hi").tokens == (BOS, *fake_tokens("hi"))


def test_template_writes_the_only_bos() -> None:
    tokens = read(messages=[{"role": "user", "content": "hi"}]).tokens
    assert tokens == (BOS, *fake_tokens("<user>hi\n<assistant>"))


def test_template_without_bos_gets_one() -> None:
    backend = FakeBackend(chat_template="{{ messages[0].content }}")
    assert read(backend, messages=[{"role": "user", "content": "hi"}]).tokens == (BOS, *fake_tokens("hi"))


def test_every_sampling_field_arrives() -> None:
    body: dict[str, Any] = {
        "temperature": 0.1, "top_k": 3, "top_p": 0.2, "min_p": 0.3, "typical_p": 0.4, "repeat_penalty": 1.1,
        "repeat_last_n": 5, "presence_penalty": 0.6, "frequency_penalty": 0.7, "dry_multiplier": 0.8, "dry_base": 1.9,
        "dry_allowed_length": 4, "dry_penalty_last_n": 6, "mirostat": 2, "mirostat_tau": 4.0, "mirostat_eta": 0.2,
        "seed": 7,
    }  # fmt: skip
    sampling = read(prompt="x", **body, logit_bias={"5": -2.0}, grammar='root ::= "x"').sampling
    assert {name: getattr(sampling, name) for name in body} == body
    assert sampling.logit_bias == ((5, -2.0),)
    assert sampling.grammar == 'root ::= "x"'


def test_limits_arrive() -> None:
    request = read(prompt="x", max_tokens=9, stop=["a", "b"], logprobs=2, ignore_eos=True, cache_prompt=False)
    assert (request.id, request.max_tokens, request.stop, request.logprobs) == ("r-1", 9, ("a", "b"), 2)
    assert request.ignore_eos
    assert not request.cache_prompt


@pytest.mark.parametrize(
    "format", [{"type": "json_object"}, {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}}]
)
def test_response_format_becomes_a_grammar(format: dict[str, Any]) -> None:
    assert read(prompt="x", response_format=format).sampling.grammar == "root ::= object"


def test_text_format_has_no_grammar() -> None:
    assert read(prompt="x", response_format={"type": "text"}).sampling.grammar is None


def test_schema_without_a_grammar_is_refused_with_its_field() -> None:
    error = refused(prompt="x", response_format={"type": "json_schema", "json_schema": {"type": "unsupported"}})
    assert error.code is Code.INVALID_REQUEST
    assert error.details["fields"][0]["field"] == "response_format.json_schema"


def test_schema_too_deep_to_be_written_is_refused() -> None:
    schema: dict[str, Any] = {"type": "object"}
    for _ in range(5000):
        schema = {"items": schema}
    with pytest.raises(ValueError, match="too deeply"):
        _schema_text(ResponseFormat.model_construct(type="json_schema", json_schema=schema))


def test_grammar_and_format_exclude_each_other() -> None:
    assert "either" in refused(prompt="x", grammar="root ::= x", response_format={"type": "json_object"}).message


def test_bias_of_a_token_outside_the_vocabulary_is_refused() -> None:
    error = refused(prompt="x", logit_bias={str(VOCAB_SIZE): 1.0})
    assert error.code is Code.INVALID_REQUEST
    assert str(VOCAB_SIZE - 1) in error.message


def test_detokenize_refuses_unknown_ids_and_replaces_broken_bytes() -> None:
    backend = FakeBackend()
    reader = RequestReader(backend, backend.info)
    assert reader.detokenize([*fake_tokens("bee"), fake_tokens("é")[0]]) == "bee�"
    with pytest.raises(RbeeError, match="outside"):
        reader.detokenize([-1])


def test_lone_surrogate_is_no_text() -> None:
    backend = FakeBackend()
    with pytest.raises(RbeeError, match="not Unicode"):
        RequestReader(backend, backend.info).tokenize("\ud800", add_special=False)


def test_embedding_model_does_not_generate() -> None:
    backend = FakeBackend(generates=False)
    with pytest.raises(RbeeError, match="embeddings only"):
        read(backend, prompt="x")


def test_deadline_is_moved_to_the_engines_clock() -> None:
    assert on_engine_clock(None) is None
    deadline = on_engine_clock(time.time() + 10)
    assert deadline is not None
    assert deadline - time.monotonic() == pytest.approx(10, abs=0.5)
